import EventLog
import GRPC
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TapedeckClient
import TestSupport
import Testing
import TickStore
import WriterService

@testable import EdgeService

/// Tokens of which the log has no more, and the store has.
@Suite(.timeLimit(.minutes(1)))
struct StoreResumeTests {
    private static let hoursNs: Int64 = 7_200_000_000_000

    private static func shortRetention(_ configuration: inout SegmentLog.Configuration) {
        configuration.segmentBytes = 2 << 10
        configuration.tipBytes = 1
        configuration.retentions[.ticksRaw] = SegmentLog.Configuration.Retention(timeNs: 3_600_000_000_000)
    }

    private static func oldest(_ world: RestartWorld, _ partitions: Int) -> [UInt64] {
        (0..<partitions).map { world.log.startOffset(TopicPartition(.ticksRaw, UInt16($0))) }
    }

    /// Lets so much time pass that retention takes what was published before, and publishes a little.
    private static func expire(_ world: RestartWorld) throws {
        world.time.advance(ns: hoursNs)
        release(world.log)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.log.pump()
    }

    /// The writer holds nothing back from retention.
    private static func release(_ log: SegmentLog) {
        for partition in 0..<log.partitionCount(.ticksRaw) {
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            log.hold(reader: WriterService.readerName, place, from: log.endOffset(place, .written))
        }
    }

    /// Sequences of each symbol in the order in which they came, those left out that came before.
    private static func sequences(_ messages: [[UInt8]]) throws -> (new: [String: [UInt64]], repeats: Int) {
        var new: [String: [UInt64]] = [:]
        var repeats = 0
        for message in messages {
            let update = try Proto.PriceUpdate(decoding: message)
            if update.sequence > new[update.symbol]?.last ?? 0 {
                new[update.symbol, default: []].append(update.sequence)
            } else {
                repeats += 1
            }
        }
        return (new, repeats)
    }

    @Test(arguments: [[], ["B"]], RestartWorld.Medium.allCases)
    func `What retention took comes from the store, then the log goes on; nothing is missing`(
        _ symbols: [String], _ medium: RestartWorld.Medium
    ) async throws {
        let world = try RestartWorld(medium, partitions: 2, Self.shortRetention)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.write()
        let token = world.token([5, 7])
        try Self.expire(world)
        let oldest = Self.oldest(world, 2)
        #expect(oldest.allSatisfy { $0 > 7 })
        let (stream, got) = world.stream {
            $0.resumeToken = token
            $0.symbols = symbols
        }
        // B is in partition 0 and A in 1: from sequences 6 and 8 on. The rows filed near them may come too.
        let wanted = symbols.isEmpty ? ["A", "B"] : symbols
        await RestartWorld.wait {
            guard let came = try? Self.sequences(got.all).new else { return false }
            return wanted.allSatisfy { came[$0]?.last == 80 }
        }
        let came = try Self.sequences(got.all)
        for symbol in wanted {
            let list = came.new[symbol] ?? []
            #expect(list == Array((list.first ?? 0)...80), "\(symbol)")
            #expect((list.first ?? .max) <= (symbol == "B" ? 6 : 8))
        }
        #expect(came.repeats <= 80)
        #expect(stream.fromStore == ["ticks.raw/0 5-\(oldest[0])", "ticks.raw/1 7-\(oldest[1])"])
        // Live again.
        try world.publish(["B"])
        await RestartWorld.wait { (try? Self.sequences(got.all).new["B"]?.last) == 81 }
        #expect(try Self.sequences(got.all).new["B"]?.last == 81)
        stream.cancel()
    }

    @Test func `What neither has is named, and the stream goes on behind it`() async throws {
        let world = try RestartWorld(.simulated, partitions: 1, Self.shortRetention)
        for _ in 0..<20 { try world.publish(["A", "B"]) }
        try world.write()
        // Stored up to 40; these are lost to the store, as if the writer had stood still for too long.
        for _ in 0..<20 { try world.publish(["A", "B"]) }
        try Self.expire(world)
        let oldest = Self.oldest(world, 1)[0]
        #expect(oldest > 40)
        let (stream, got) = world.stream { $0.resumeToken = world.token([10]) }
        await RestartWorld.wait { stream.end != nil }
        let end = try #require(stream.end)
        #expect(end.status.code == .dataLoss && end.reason == "RECORDS_MISSING")
        #expect(end.missing == ["ticks.raw/0 40-\(oldest) expired"])
        let came = try Self.sequences(got.all).new
        #expect(came["A"]?.last == 20 && came["B"]?.last == 20)
        #expect(came["A"]?.contains(6) == true && came["B"]?.contains(6) == true)
        let next = try #require(end.resumeToken)
        #expect(try ResumeToken(decoding: next).offsets.map(\.offset) == [oldest])
        // A token within the hole is told so at once, and the store is not asked.
        let within = try await world.end { $0.resumeToken = world.token([50]) }
        #expect(within.missing == ["ticks.raw/0 50-\(oldest) expired"])
        let (rest, more) = world.stream { $0.resumeToken = next }
        await more.wait(for: Int(world.ends[0] - oldest))
        #expect(more.all.count == Int(world.ends[0] - oldest))
        rest.cancel()
    }

    @Test func `A hole before what the store has is named, and its end is where the store begins`() async throws {
        let world = try RestartWorld(.simulated, partitions: 1, Self.shortRetention)
        for _ in 0..<20 { try world.publish(["A", "B"]) }
        world.time.advance(ns: Self.hoursNs)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.log.pump()
        let first = Self.oldest(world, 1)[0]
        #expect(first > 10)
        try world.write()
        try Self.expire(world)
        let oldest = Self.oldest(world, 1)[0]
        #expect(oldest > first)
        let end = try await world.end { $0.resumeToken = world.token([10]) }
        #expect(end.missing == ["ticks.raw/0 10-\(first) expired"])
        let next = try #require(end.resumeToken)
        #expect(try ResumeToken(decoding: next).offsets.map(\.offset) == [first])
        let (stream, got) = world.stream { $0.resumeToken = next }
        await RestartWorld.wait { (try? Self.sequences(got.all).new["B"]?.last) == 100 }
        let came = try Self.sequences(got.all).new
        for symbol in ["A", "B"] {
            let list = came[symbol] ?? []
            #expect(list == Array((list.first ?? 0)...100))
            #expect((list.first ?? .max) <= first / 2 + 1)
        }
        stream.cancel()
    }

    @Test(arguments: [Proto.DeliveryPolicy.all, .latest, .maxStaleness])
    func `Subscribe says what comes from the store, and a failing store ends the subscription`(
        _ policy: Proto.DeliveryPolicy
    ) async throws {
        let world = try SubscribeWorld(partitions: 1, Self.shortRetention)
        let first = world.open()
        first.stream.heartbeatIsDue()
        first.readAll()
        let token = try #require(first.heartbeats.first?.resumeToken)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.write()
        world.time.advance(ns: Self.hoursNs)
        Self.release(world.log)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.log.pump()
        let oldest = world.log.startOffset(TopicPartition(.ticksRaw, 0))
        try #require(oldest > 0)
        func subscribe(_ client: SubscribeClient) -> Proto.RequestResult? {
            client.add(1) {
                $0.symbols = ["A"]
                $0.policy = policy
                $0.maxStalenessMs = policy == .maxStaleness ? 60_000 : 0
                $0.resumeToken = token
            }
        }
        let client = world.open()
        let result = try #require(subscribe(client))
        #expect(result.error == .none && result.lost.isEmpty)
        #expect(result.fromStore.map { [$0.firstOffset, $0.lastOffset] } == [[0, oldest - 1]])
        #expect(result.fromStore.first?.topic == "ticks.raw")
        await world.run(client) { client.updates(1).last?.sequence == 80 }
        var next: UInt64 = 1
        for update in client.updates(1) where update.sequence >= next {
            #expect((update.conflated?.firstSequence ?? update.sequence) <= next)
            next = update.sequence + 1
        }
        #expect(next == 81)
        let list = client.ask(.list(Proto.ListRequest()))?.list
        #expect(list?.subscriptions.first?.catchingUp == false)
        let other = world.open()
        world.store.fail(with: StoreError(.io, "no disk"))
        _ = subscribe(other)
        await world.run(other) { other.subscriptionEnd(1) != nil }
        let end = other.subscriptionEnd(1)
        #expect(end?.reason == .logFailed)
        #expect(end?.message.contains("no disk") == true)
        #expect(try end.map { try ResumeToken(decoding: $0.resumeToken).offsets.map(\.offset) } == [0])
    }
}

/// Rows of the store in the order of their sequences.
struct StoreWalkTests {
    private static let instrument = try! Instrument(exchange: "X", symbol: "A")

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func `Rows that were filed late come in their place, whatever the size of pieces`(_ seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let store = SimulatedStore()
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "A", feed: "f"))
        var rows = TickRows()
        let count = 6000
        for sequence in 1...count {
            var update = Proto.PriceUpdate()
            (update.exchange, update.symbol, update.feedHandlerId) = ("X", "A", "f")
            (update.sequence, update.epoch) = (UInt64(sequence), sequence <= 3000 ? 1 : 2)
            let late = Int64.random(in: 0..<StoreWalk.latenessNs, using: &random)
            // Ten a second, and up to a minute late.
            let time = Int64(sequence) * 100_000_000 + (random.once(in: 5) ? late : 0)
            var received = WellKnown.Timestamp()
            received.seconds = time / 1_000_000_000
            received.nanos = Int32(time % 1_000_000_000)
            update.receivedTime = received
            update.eventTimeSource = .received
            update.tradeId = String(repeating: "x", count: Int.random(in: 0...200, using: &random))
            let bytes = update.encodedBytes()
            bytes.withUnsafeBytes {
                builder.append(key: key, epoch: update.epoch, sequence: update.sequence, payload: $0)
            }
            rows.rows.append(
                TickRows.Row(
                    block: 0, record: Int32(sequence - 1), filingTimeNs: time, tradePrice: nil, tradeSize: 0))
        }
        let block = builder.build()
        block.stamp(firstOffset: 0, appendTimeNs: 0) { _ in Block.noOffset }
        rows.blocks = [block]
        _ = try store.apply(rows, through: UInt64(count), of: TopicPartition(.ticksRaw, 0))
        var times = FilingTimes()
        for run in try store.filed(TopicPartition(.ticksRaw, 0), 0..<UInt64(count)) { times.add(run.times) }
        var walk = StoreWalk(instruments: [Self.instrument], times: times)
        var sequences: [UInt64] = []
        var pieces = 0
        while !walk.isDone {
            let frames = try walk.next(store)
            pieces += frames.isEmpty ? 0 : 1
            frames.withUnsafeBytes { frames in
                for message in MessageSequence(frames: frames) {
                    if let update = try? Proto.PriceUpdate(decoding: message) { sequences.append(update.sequence) }
                }
            }
        }
        #expect(sequences == Array(1...UInt64(count)), "seed \(seed)")
        #expect(pieces > 1)
    }
}
