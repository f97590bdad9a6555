import EventLog
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TestSupport
import Testing

@testable import EdgeService

@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 1)))
struct FillTests {
    private static func range(
        _ symbol: String, _ first: UInt64, _ last: UInt64, epoch: UInt64 = 0, feed: String = ""
    ) -> Proto.FillRange {
        var range = Proto.FillRange()
        range.exchange = "X"
        range.symbol = symbol
        range.epoch = epoch
        range.feedHandlerId = feed
        range.firstSequence = first
        range.lastSequence = last
        return range
    }

    private static func fill(_ ranges: [Proto.FillRange]) -> Proto.SubscribeRequest.OneOf_Request {
        var fill = Proto.FillRequest()
        fill.ranges = ranges
        return .fill(fill)
    }

    /// Where the sequences asked for are: in memory, in files, in the store alone, in part in each, or nowhere.
    enum Medium: CaseIterable {
        case memory, files, store, both, expired
    }

    @Test(arguments: Medium.allCases, 1...(Checkout.isSoak ? 100 : 6) as ClosedRange<UInt64>)
    func `A fill brings exactly what exists, in order, and says what does not`(
        _ medium: Medium, _ seed: UInt64
    ) async throws {
        var random = SeededRandom(seed: seed)
        let world = try SubscribeWorld {
            $0.segmentBytes = 4 << 10
            if medium != .memory { $0.tipBytes = 1 }
            $0.retentions[.ticksRaw] = .init(timeNs: 3_600_000_000_000)
        }
        func publish(_ count: Int) throws {
            for _ in 0..<count {
                let size = Int.random(in: 1...8, using: &random)
                try world.publish((0..<size).map { _ in ["A", "B", "C", "D"].randomElement(using: &random)! })
                if random.once(in: 25) { world.beginEpoch("A") }
            }
        }
        try publish(60)
        if medium == .store || medium == .both { try world.write() }
        if medium == .store || medium == .both || medium == .expired {
            world.time.advance(ns: 7_200_000_000_000)
            try world.publish(["A", "B"])
            try world.log.pump()
        }
        if medium == .both { try publish(40) }
        let client = world.open()
        var requests: [UInt64: [Proto.FillRange]] = [:]
        for _ in 0..<3 {
            var ranges: [Proto.FillRange] = []
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let symbol = ["A", "B", "C"].randomElement(using: &random)!
                let epoch = world.published[symbol]!.keys.sorted().randomElement(using: &random)!
                let first = UInt64.random(in: 1...60, using: &random)
                ranges.append(
                    FillTests.range(symbol, first, first + UInt64.random(in: 0...80, using: &random), epoch: epoch))
            }
            requests[client.send(FillTests.fill(ranges))] = ranges
        }
        await world.run(client) { requests.keys.allSatisfy { client.fillEnd($0) != nil } }
        for (id, ranges) in requests {
            let end = try #require(client.fillEnd(id), "\(medium), seed \(seed)")
            #expect(end.outcome == .completed && end.results.compactMap(\.range?.symbol) == ranges.map(\.symbol))
            var updates = client.filled(id)[...]
            for result in end.results {
                try check(
                    result, updates.prefix(Int(result.count)), world, isExpired: medium == .expired, "seed \(seed)")
                updates = updates.dropFirst(Int(result.count))
            }
            #expect(updates.isEmpty, "\(medium), seed \(seed)")
        }
    }

    private func check(
        _ result: Proto.FillResult, _ updates: ArraySlice<Proto.PriceUpdate>, _ world: SubscribeWorld,
        isExpired: Bool, _ what: String
    ) throws {
        let range = try #require(result.range)
        let published = world.published[range.symbol]![range.epoch] ?? []
        var digest = FNV1a()
        var covered: [UInt64] = []
        for update in updates {
            #expect(update.symbol == range.symbol && update.epoch == range.epoch, "\(what)")
            let bytes = published[Int(update.sequence) - 1]
            bytes.withUnsafeBytes { digest.add($0) }
            #expect(update.encodedBytes() == bytes, "\(what)")
            covered.append(update.sequence)
        }
        #expect(digest.value == result.digest && covered == covered.sorted(), "\(what)")
        for missing in result.missing {
            for sequence in missing.firstSequence...missing.lastSequence {
                covered.append(sequence)
                let exists = sequence <= UInt64(published.count)
                #expect(!exists || isExpired, "\(what): \(sequence) of \(range) is there")
            }
        }
        #expect(covered.sorted() == Array(range.firstSequence...range.lastSequence), "\(what)")
    }

    @Test func `What the feed has not published is told apart from what is gone`() async throws {
        let world = try SubscribeWorld(partitions: 1) {
            $0.segmentBytes = 2 << 10
            $0.tipBytes = 1
            $0.retentions[.ticksRaw] = .init(timeNs: 3_600_000_000_000)
        }
        for _ in 0..<100 { try world.publish(["A"]) }
        world.time.advance(ns: 7_200_000_000_000)
        try world.publish(["A"])
        try world.log.pump()
        let oldest = world.log.startOffset(TopicPartition(.ticksRaw, 0)) + 1
        let client = world.open()
        let id = client.send(FillTests.fill([FillTests.range("A", 1, 120)]))
        await world.run(client) { client.fillEnd(id) != nil }
        let missing = try #require(client.fillEnd(id)?.results.first).missing
        #expect(oldest > 1 && missing.map(\.reason) == [.gone, .notPublished])
        #expect(missing.map(\.firstSequence) == [1, 102] && missing.map(\.lastSequence) == [oldest - 1, 120])
        #expect(client.filled(id).map(\.sequence) == Array(oldest...101))
    }

    @Test func `Fills are refused by name, bounded in number, cancelled, and given up at the end`() async throws {
        var limits = EdgeLimits()
        limits.fillsMax = 2
        let world = try SubscribeWorld(limits: limits)
        for _ in 0..<3000 { try world.publish(["A"]) }
        let client = world.open()
        for (ranges, error) in [
            ([], .invalidArgument), ([FillTests.range("A", 0, 1)], .invalidArgument),
            ([FillTests.range("A", 2, 1)], .invalidArgument), ([FillTests.range("A|", 1, 1)], .invalidArgument),
            ([FillTests.range("A", 1, 100_001)], .fillTooLarge), ([FillTests.range("A", 1, .max)], .fillTooLarge),
            ([FillTests.range("A", 1, .max), FillTests.range("A", 1, .max)], .fillTooLarge),
            ([Proto.FillRange](repeating: FillTests.range("A", 1, 1), count: 65), .fillTooLarge),
            ([FillTests.range("NONE", 1, 1)], .instrumentUnknown),
            ([FillTests.range("A", 1, 1, feed: "other")], .instrumentUnknown),
        ] as [([Proto.FillRange], Proto.SubscribeError)] {
            #expect(client.ask(FillTests.fill(ranges))?.error == error, "\(ranges)")
        }
        let first = client.send(FillTests.fill([FillTests.range("A", 1, 3000)]))
        let second = client.send(FillTests.fill([FillTests.range("A", 1, 3000), FillTests.range("A", 5, 6)]))
        let third = client.send(FillTests.fill([FillTests.range("A", 1, 1)]))
        for _ in 0..<10_000 where client.filled(first).isEmpty {
            world.loop.run()
            client.read(500)
        }
        #expect(!client.filled(first).isEmpty)
        var cancel = Proto.CancelFill()
        cancel.fillRequestId = first
        client.send(.cancelFill(cancel))
        client.stream.end()
        await world.run(client) { client.end != nil }
        let refused = client.responses.compactMap { response -> Proto.RequestResult? in
            if case .result(let result) = response.event { return result }
            return nil
        }
        #expect(refused.first { $0.requestId == third }?.error == .tooManyFills)
        for id in [first, second] {
            let end = try #require(client.fillEnd(id))
            #expect(end.outcome == .cancelled)
            let sent = client.filled(id).map(\.sequence)
            #expect(sent == Array(1...UInt64(max(sent.count, 1))).prefix(sent.count).map { $0 } && sent.count < 3000)
            #expect(end.results[0].missing.map(\.reason) == [.notReached])
            #expect(end.results[0].missing[0].firstSequence == UInt64(sent.count) + 1)
        }
        #expect(client.fillEnd(second)?.results.count == 2)
    }
}
