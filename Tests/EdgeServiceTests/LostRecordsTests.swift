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

@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 1)))
struct LostRecordsTests {
    @Test func `After a power loss a token past the cut is told exactly what is gone, and its answer goes on`()
        async throws
    {
        var losses = 0
        var wholeLosses = 0
        for seed in 1...(Checkout.isSoak ? 2000 : 40) as ClosedRange<UInt64> {
            var random = SeededRandom(seed: seed)
            let world = try RestartWorld(seed: seed, partitions: 2)
            let running = world.stream()
            await world.waitForStart(running.stream)
            // Partition 1 gets its first records after the last sync on some seeds, so all of it may go.
            for _ in 0..<3 { try world.publish(seed % 2 == 0 ? ["A", "B"] : ["B"]) }
            try world.log.sync()
            let synced = world.ends
            for _ in 0..<Int.random(in: 1...6, using: &random) { try world.publish(["A", "B", "A"]) }
            let seen = world.ends
            await running.got.wait(for: Int(seen[0] + seen[1]))
            let generation = world.log.identity.generation
            try world.losePower()
            let token = try #require(running.stream.end?.resumeToken)
            #expect(try ResumeToken(decoding: token).offsets.map(\.offset) == seen, "seed \(seed)")
            let kept = world.ends
            #expect(zip(synced, kept).allSatisfy { $0 <= $1 }, "seed \(seed)")
            var expected: [String] = []
            for partition in [0, 1] where kept[partition] < seen[partition] {
                expected.append(
                    "ticks.raw/\(partition) \(kept[partition])-\(seen[partition]) cut by generation \(generation + 1)")
            }
            // A new epoch, longer than what was lost: the same offsets are given out again.
            for _ in 0..<20 { try world.publish(["A", "B"]) }
            if expected.isEmpty {
                try await checkRest(world, token, from: kept, seed)
                continue
            }
            losses += 1
            if kept[1] == 0 { wholeLosses += 1 }
            let end = try await world.end { $0.resumeToken = token }
            #expect(end.status.code == .dataLoss && end.reason == "RECORDS_MISSING", "seed \(seed): \(end)")
            #expect(end.missing == expected, "seed \(seed)")
            try await checkRest(world, try #require(end.resumeToken), from: kept, seed)
        }
        #expect(losses > 5 && wholeLosses > 0, "\(losses) losses, \(wholeLosses) of a whole partition")
    }

    /// A stream from the token brings the log from these offsets on, each record once.
    private func checkRest(_ world: RestartWorld, _ token: [UInt8], from offsets: [UInt64], _ seed: UInt64) async throws
    {
        let expected = zip(try world.records(), offsets).map { $0[Int($1)...] }
        let (stream, got) = world.stream { $0.resumeToken = token }
        await got.wait(for: expected[0].count + expected[1].count)
        let all = got.all
        #expect(all.count == expected[0].count + expected[1].count, "seed \(seed)")
        for partition in expected {
            let wanted = Set(partition)
            #expect(all.filter(wanted.contains) == Array(partition), "seed \(seed)")
        }
        stream.cancel()
    }

    @Test(arguments: RestartWorld.Medium.allCases)
    func `A token before what retention keeps is told what is missing, in every partition alone`(
        _ medium: RestartWorld.Medium
    ) async throws {
        let world = try RestartWorld(medium, partitions: 2) {
            $0.segmentBytes = 2 << 10
            $0.tipBytes = 1
            $0.retentions[.ticksRaw] = SegmentLog.Configuration.Retention(timeNs: 3_600_000_000_000)
        }
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        let old = world.token([5, 7])
        // Only a hole in one partition: the other goes on where the token stands.
        let half = world.token([5, 79])
        world.time.advance(ns: 7_200_000_000_000)
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        try world.log.pump()
        let oldest = [0, 1].map { world.log.startOffset(TopicPartition(.ticksRaw, UInt16($0))) }
        #expect(oldest.allSatisfy { $0 > 7 && $0 <= 79 }, "\(oldest)")
        for (token, from) in [(old, [5, 7]), (half, [5, 79])] as [([UInt8], [UInt64])] {
            let end = try await world.end { $0.resumeToken = token }
            #expect(end.status.code == .dataLoss)
            let missing = [0, 1].filter { from[$0] < oldest[$0] }
                .map { "ticks.raw/\($0) \(from[$0])-\(oldest[$0]) expired" }
            #expect(end.missing == missing)
            #expect(missing.allSatisfy { end.status.message.contains($0) })
            let next = try ResumeToken(decoding: try #require(end.resumeToken)).offsets.map(\.offset)
            #expect(next == zip(from, oldest).map { max($0, $1) })
            let (stream, got) = world.stream { $0.resumeToken = end.resumeToken ?? [] }
            let left = zip(world.ends, next).reduce(0) { $0 + Int($1.0 - $1.1) }
            await got.wait(for: left)
            #expect(got.all.count == left)
            stream.cancel()
        }
    }

    @Test func `A slow stream that retention overtakes ends with what is missing and where it goes on`() async throws {
        let world = try RestartWorld {
            $0.segmentBytes = 2 << 10
            $0.tipBytes = 1
            $0.retentions[.ticksRaw] = SegmentLog.Configuration.Retention(timeNs: 3_600_000_000_000)
        }
        for _ in 0..<40 { try world.publish(["A", "B"]) }
        let place = TopicPartition(.ticksRaw, 0)
        let tape = world.token([10])
        world.time.advance(ns: 7_200_000_000_000)
        try world.publish(["A"])
        try world.log.pump()
        let oldest = world.log.startOffset(place)
        let end = try await world.end {
            $0.resumeToken = tape
            $0.symbols = ["A"]
        }
        #expect(end.missing == ["ticks.raw/0 10-\(oldest) expired"])
        #expect(end.status.message.contains("goes on"))
    }

    @Test func `Tokens that are none are refused as such, whatever was done to them`() async throws {
        let world = try RestartWorld(partitions: 2)
        let identity = world.log.identity
        let other = ResumeToken(logID: identity.id ^ 1, generation: identity.generation, offsets: [(0, 0), (1, 0)])
        for _ in 0..<3 { try world.publish(["A", "B"]) }
        let good = world.token([1, 2])
        var bad: [(token: [UInt8], what: String)] = [(other.encoded(), "another log")]
        for length in 1..<good.count { bad.append((Array(good[..<length]), "")) }
        for index in good.indices {
            var token = good
            token[index] ^= 1 << UInt8(index % 8)
            bad.append((token, ""))
        }
        bad.append((Array("not a token at all, but text".utf8), "version"))
        bad.append(([UInt8](repeating: 255, count: 100_000), "version"))
        bad.append((good + [0], "do not fit"))
        bad.append((world.token([1, 4]), "past the end"))
        bad.append((world.token([1, 2, 0]), "partition 2 does not exist"))
        bad.append((world.token([.max, 0]), "past the end"))
        let newer = ResumeToken(logID: world.log.identity.id, generation: 9, offsets: [(0, 0), (1, 0)])
        bad.append((newer.encoded(), "newer"))
        for (token, what) in bad {
            let end = try await world.end { $0.resumeToken = token }
            #expect(end.status.code == .invalidArgument, "\(token.prefix(40)): \(end.status)")
            #expect(end.status.message.contains("resume_token"))
            #expect(end.status.message.contains(what), "\(end.status)")
        }
        let (stream, got) = world.stream { $0.resumeToken = good }
        await got.wait(for: 3)
        #expect(stream.end == nil)
        stream.cancel()
    }
}
