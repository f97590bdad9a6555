import EventLog
import GRPC
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TapedeckClient
import TestSupport
import Testing

@testable import EdgeService

@Suite(.timeLimit(.minutes(1)))
struct ResumeTests {
    @Test(arguments: RestartWorld.Medium.allCases)
    func `From every position of a tape the rest comes once and in order, before and after a restart`(
        _ medium: RestartWorld.Medium
    ) async throws {
        let world = try RestartWorld(medium)
        for size in [1, 7, 2, 1, 12, 3] { try world.publish((0..<size).map { $0 % 3 == 0 ? "B" : "A" }) }
        try await checkEveryPosition(world)
        try world.restartAll()
        // Nothing is in memory now: the streams read files.
        try await checkEveryPosition(world)
    }

    /// Full and filtered streams from every offset at once; a record published last shows that nothing came between.
    private func checkEveryPosition(_ world: RestartWorld) async throws {
        let records = try world.records()[0]
        var runs: [(stream: PriceStream, got: Received, expected: [[UInt8]])] = []
        for offset in 0...records.count {
            let token = world.token([UInt64(offset)])
            let rest = Array(records[offset...])
            let full = world.stream { $0.resumeToken = token }
            runs.append((full.stream, full.got, rest))
            let filtered = world.stream {
                $0.resumeToken = token
                $0.symbols = ["A"]
            }
            let wanted = try rest.filter { try Proto.PriceUpdate(decoding: $0).symbol == "A" }
            runs.append((filtered.stream, filtered.got, wanted))
        }
        for run in runs { await run.got.wait(for: run.expected.count) }
        for run in runs { await world.waitForStart(run.stream) }
        try world.publish(["A"])
        let last = try world.records()[0].last!
        for (number, run) in runs.enumerated() {
            await run.got.wait(for: run.expected.count + 1)
            #expect(
                run.got.all == run.expected + [last],
                "stream \(number) of \(runs.count), \(run.got.all.count) of \(run.expected.count + 1)")
            run.stream.cancel()
        }
    }

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func `Over several partitions a token covers all, and each instrument's order holds`(_ seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        let world = try RestartWorld(seed: seed, partitions: 3)
        let symbols = ["A", "B", "C", "D", "E"]
        for _ in 0..<40 {
            try world.publish(
                (0..<Int.random(in: 1...9, using: &random)).map { _ in symbols.randomElement(using: &random)! })
        }
        // A stop in the middle of each partition, then a clean restart, then the rest.
        let starts = world.ends.map { UInt64.random(in: 0...$0, using: &random) }
        let token = world.token(starts)
        let first = world.stream { $0.resumeToken = token }
        let records = try world.records()
        let expected = zip(records, starts).reduce(0) { $0 + $1.0.count - Int($1.1) }
        await first.got.wait(for: expected)
        world.stopEdge()
        await RestartWorld.wait { first.stream.end != nil }
        let next = try #require(first.stream.end?.resumeToken)
        #expect(try ResumeToken(decoding: next).offsets.map(\.offset) == world.ends, "seed \(seed)")
        try world.startEdge()
        let second = world.stream { $0.resumeToken = next }
        await world.waitForStart(second.stream)
        for _ in 0..<10 { try world.publish(symbols) }
        await second.got.wait(for: 50)
        try checkOrder(first.got.all + second.got.all, world.records(), from: starts, seed)
        second.stream.cancel()
    }

    /// Each partition's records from `starts` on, each once, and those of one instrument in their order.
    private func checkOrder(_ got: [[UInt8]], _ records: [[[UInt8]]], from starts: [UInt64], _ seed: UInt64) throws {
        let expected = zip(records, starts).map { $0[Int($1)...] }
        #expect(got.count == expected.reduce(0) { $0 + $1.count }, "seed \(seed)")
        for partition in expected {
            let wanted = Set(partition)
            #expect(got.filter(wanted.contains) == Array(partition), "seed \(seed)")
        }
    }

    @Test(arguments: [[], ["A"]])
    func `A token made by a loop that is ahead brings nothing twice from one that is behind`(_ symbols: [String])
        async throws
    {
        let world = try RestartWorld()
        let loops = EventLoopsApart(log: world.log)
        let edge = try EdgeService(
            log: loops.log, store: SimulatedStore(), time: world.time, loops: loops.group)
        defer { edge.stop(withinMilliseconds: 1000) }
        let target = "127.0.0.1:\(try edge.listen(host: "127.0.0.1", port: 0).port)"
        // The first connection goes to the first loop, the second to the other.
        let ahead = try MarketDataClient(target: target)
        let behind = try MarketDataClient(target: target)
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        subscription.symbols = symbols
        let first = Received()
        let firstStream = ahead.streamPrices(subscription) { first.add($0) }
        await world.waitForStart(firstStream)
        let unused = behind.streamPrices(subscription) { _ in }
        await world.waitForStart(unused)
        loops.isSecondHeld = true
        for _ in 0..<5 { try world.publish(["A"]) }
        await first.wait(for: 5)
        subscription.resumeToken = world.token(world.ends)
        let second = Received()
        let secondStream = behind.streamPrices(subscription) { second.add($0) }
        await world.waitForStart(secondStream)
        loops.isSecondHeld = false
        try world.publish(["A", "A"])
        await second.wait(for: 2)
        #expect(second.all == Array(try world.records()[0].suffix(2)), "\(symbols)")
        for stream in [firstStream, unused, secondStream] { stream.cancel() }
        ahead.close()
        behind.close()
    }

    @Test func `A repeated record stays out of a resumed stream too, and the end counts it`() async throws {
        let world = try EdgeWorld()
        let (full, all) = world.stream()
        let (filtered, some) = world.stream { $0.symbols = ["AAPL"] }
        await world.waitForStart(full)
        await world.waitForStart(filtered)
        let token = try #require(full.startToken)
        try world.publish(["X|AAPL", "X|MSFT"])
        try world.repeatLast("X|AAPL")
        try world.publish(["X|AAPL"])
        await all.wait(for: 3)
        await some.wait(for: 2)
        let (resumed, again) = world.stream {
            $0.symbols = ["AAPL"]
            $0.resumeToken = token
        }
        await again.wait(for: 2)
        try world.publish(["X|AAPL"])
        await again.wait(for: 3)
        #expect(again.all == [0, 2, 3].map { world.published[$0] })
        world.edge.stop(withinMilliseconds: 2000)
        for stream in [full, filtered, resumed] {
            while stream.end == nil { await Task.yield() }
            #expect(stream.end?.repeatsDropped == 1)
        }
    }
}
