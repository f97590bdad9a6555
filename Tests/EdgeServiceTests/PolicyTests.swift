import EventLog
import MarketProto
import Protobuf
import Simulation
import TestSupport
import Testing

@testable import EdgeService

@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 1)))
struct PolicyTests {
    private static let seeds = 1...(Checkout.isSoak ? 2000 : 60) as ClosedRange<UInt64>
    private static let symbols = ["A", "B", "C", "D"]

    /// Small enough that everything happens: pressure, collapses, messages of several frames.
    private static var limits: EdgeLimits {
        var limits = EdgeLimits()
        limits.pressureBytes = 400
        limits.stalenessBytesMax = 2000
        return limits
    }

    private static func changePolicy(
        _ subscription: inout Proto.PriceSubscription, _ random: inout SeededRandom
    ) {
        switch Int.random(in: 0..<4, using: &random) {
        case 0: subscription.policy = .all
        case 1: subscription.policy = .latest
        case 2:
            subscription.policy = .interval
            subscription.throttleMs = Int32.random(in: 1...30, using: &random)
        default:
            subscription.policy = .maxStaleness
            subscription.maxStalenessMs = UInt32.random(in: 1...40, using: &random)
        }
    }

    @Test(arguments: seeds)
    func `Whatever the policy, its changes and the reader's pace, every sequence comes or is accounted for once`(
        _ seed: UInt64
    ) throws {
        var random = SeededRandom(seed: seed)
        let world = try SubscribeWorld(limits: PolicyTests.limits)
        let client = world.open()
        #expect(
            client.add(1) {
                $0.symbols = ["A", "B"]
                PolicyTests.changePolicy(&$0, &random)
            }?.error == SubscribeErrors.none)
        #expect(client.add(2) { PolicyTests.changePolicy(&$0, &random) }?.error == SubscribeErrors.none)
        for _ in 0..<150 {
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<5:
                let count = Int.random(in: 1...20, using: &random)
                try world.publish((0..<count).map { _ in PolicyTests.symbols.randomElement(using: &random)! })
            case 5..<7: client.read(Int.random(in: 1...3000, using: &random))
            case 7: world.loop.advance(milliseconds: Int.random(in: 1...25, using: &random))
            case 8 where random.once(in: 3):
                world.beginEpoch(PolicyTests.symbols.randomElement(using: &random)!)
            case 9 where random.once(in: 2):
                var change = Proto.ChangeSubscription()
                change.subscriptionId = UInt64.random(in: 1...2, using: &random)
                var asked = Proto.PriceSubscription()
                PolicyTests.changePolicy(&asked, &random)
                change.policy = asked.policy
                change.throttleMs = asked.throttleMs
                change.maxStalenessMs = asked.maxStalenessMs
                client.send(.change(change))
            default: client.stream.heartbeatIsDue()
            }
        }
        for _ in 0..<3 {
            world.loop.advance(milliseconds: 40)
            client.readAll()
        }
        for symbol in PolicyTests.symbols {
            if symbol < "C" { try check(client.updates(1), symbol, world, "seed \(seed), subscription 1") }
            try check(client.updates(2), symbol, world, "seed \(seed), subscription 2")
        }
        #expect(client.heartbeats.count > 0 && client.end == nil, "seed \(seed)")
    }

    /// Every sequence of every epoch was delivered as it was published, or is in exactly one conflated range.
    private func check(
        _ updates: [Proto.PriceUpdate], _ symbol: String, _ world: SubscribeWorld, _ what: String
    ) throws {
        var counts: [UInt64: UInt64] = [:]
        var epoch: UInt64 = 0
        for update in updates where update.symbol == symbol {
            #expect(update.epoch >= epoch, "\(what), \(symbol)")
            epoch = update.epoch
            let next = (counts[epoch] ?? 0) + 1
            if let range = update.conflated {
                #expect(
                    range.firstSequence == next && range.lastSequence + 1 == update.sequence
                        && range.count == range.lastSequence - range.firstSequence + 1
                        && range.tradeCount == range.count && range.tradeVolume == Int64(range.count),
                    "\(what), \(symbol): \(range) before \(update.sequence), expected \(next)")
            } else {
                #expect(update.sequence == next, "\(what), \(symbol)")
            }
            counts[epoch] = update.sequence
            var plain = update
            plain.conflated = nil
            plain.stalenessViolationMs = 0
            let published = world.published[symbol]?[epoch] ?? []
            #expect(Int(update.sequence) <= published.count, "\(what), \(symbol)")
            if Int(update.sequence) <= published.count {
                #expect(try Proto.PriceUpdate(decoding: published[Int(update.sequence) - 1]) == plain, "\(what)")
            }
        }
        for (epoch, published) in world.published[symbol] ?? [:] {
            #expect(counts[epoch] ?? 0 == UInt64(published.count), "\(what), \(symbol), epoch \(epoch)")
        }
    }

    @Test(arguments: seeds)
    func `A token of any heartbeat goes on where it stands: nothing is missed, and under ALL nothing comes twice`(
        _ seed: UInt64
    ) throws {
        var random = SeededRandom(seed: seed)
        let world = try SubscribeWorld(limits: PolicyTests.limits)
        let client = world.open()
        let isAll = seed % 2 == 0
        _ = client.add(1) {
            if !isAll { PolicyTests.changePolicy(&$0, &random) } else { $0.symbols = ["A", "B", "C"] }
        }
        for _ in 0..<80 {
            try world.publish(
                (0..<Int.random(in: 1...9, using: &random)).map { _ in ["A", "B"].randomElement(using: &random)! })
            if random.once(in: 3) { client.stream.heartbeatIsDue() }
            if random.once(in: 2) { client.read(Int.random(in: 1...2000, using: &random)) }
            if random.once(in: 5) { world.loop.advance(milliseconds: 7) }
        }
        let places = client.responses.indices.filter {
            if case .heartbeat = client.responses[$0].event { return true }
            return false
        }
        let place = try #require(places.randomElement(using: &random))
        guard case .heartbeat(let heartbeat) = client.responses[place].event else { return }
        let second = world.open()
        let result = try #require(
            second.add(7) {
                $0.symbols = ["A", "B"]
                $0.resumeToken = heartbeat.resumeToken
            })
        #expect(result.error == SubscribeErrors.none && result.lost.isEmpty, "seed \(seed)")
        try world.publish(["A", "B"])
        second.readAll()
        for symbol in ["A", "B"] {
            let before = client.responses[..<place].flatMap(\.updates).filter { $0.symbol == symbol }
            let after = second.updates(7).filter { $0.symbol == symbol }
            let last = before.last?.sequence ?? 0
            let first = try #require(after.first?.sequence, "seed \(seed)")
            #expect(isAll ? first == last + 1 : first <= last + 1, "seed \(seed): \(first) after \(last)")
            #expect(after.map(\.sequence) == Array(first...UInt64(world.published[symbol]![1]!.count)), "seed \(seed)")
        }
    }

    @Test func `MAX_STALENESS leaves out nothing while the reader keeps up, and what it must to hold its bound`() throws
    {
        let world = try SubscribeWorld()
        let client = world.open()
        _ = client.add(1) {
            $0.policy = .maxStaleness
            $0.maxStalenessMs = 100
        }
        for _ in 0..<50 {
            try world.publish(["A", "B", "A"])
            world.loop.advance(milliseconds: 10)
            client.readAll()
        }
        #expect(client.updates(1).count == 150)
        #expect(client.updates(1).allSatisfy { $0.conflated == nil && $0.stalenessViolationMs == 0 })
        // Sixty milliseconds without reading: what waited longest is past half of the bound.
        for _ in 0..<6 {
            try world.publish(["A", "A", "B"])
            world.loop.advance(milliseconds: 10)
        }
        client.readAll()
        let late = client.updates(1).dropFirst(150)
        #expect(late.count == 2 && late.allSatisfy { $0.conflated != nil && $0.stalenessViolationMs == 0 })
        // A second without: not even the latest can hold the bound, and each says so.
        for _ in 0..<100 {
            try world.publish(["A", "B"])
            world.loop.advance(milliseconds: 10)
        }
        client.readAll()
        let violations = client.updates(1).dropFirst(152)
        #expect(violations.map(\.stalenessViolationMs) == [1000, 1000])
        var counters = EdgeCounters()
        world.tape.tally.add(to: &counters)
        let leftOut = client.updates(1).compactMap(\.conflated?.count).reduce(0, +)
        #expect(counters.late == 2 && counters.conflated["MAX_STALENESS"] == leftOut && leftOut > 200)
    }

    @Test func `A reader that never reads costs bounded memory, and under ALL its end and a token`() throws {
        var limits = EdgeLimits()
        limits.queueBytesMax = 20_000
        let world = try SubscribeWorld(limits: limits)
        let client = world.open()
        for (id, policy) in [(1, .all), (2, .latest), (3, .interval), (4, .maxStaleness)]
            as [(UInt64, Proto.DeliveryPolicy)]
        {
            let result = client.add(id) {
                $0.symbols = ["A", "B"]
                $0.policy = policy
                if policy == .interval { $0.throttleMs = 10 }
                if policy == .maxStaleness { $0.maxStalenessMs = 50 }
            }
            #expect(result?.error == SubscribeErrors.none)
        }
        for _ in 0..<500 {
            try world.publish(["A", "B", "A", "B"])
            world.loop.advance(milliseconds: 1)
            #expect(client.stream.waitingBytes <= limits.queueBytesMax + 200)
        }
        client.readAll()
        let end = try #require(client.subscriptionEnd(1))
        #expect(end.reason == Proto.EndReason.readerTooSlow)
        let before = client.updates(1).count
        _ = client.add(1) {
            $0.symbols = ["A", "B"]
            $0.resumeToken = end.resumeToken
        }
        #expect(client.updates(1).count == 2000 && before < 2000)
        for id in 2...4 as ClosedRange<UInt64> {
            world.loop.advance(milliseconds: 20)
            client.readAll()
            #expect(client.subscriptionEnd(id) == nil)
            for symbol in ["A", "B"] { try check(client.updates(id), symbol, world, "subscription \(id)") }
        }
    }
}

/// Shorter in expectations, where `.none` would be an optional's.
enum SubscribeErrors {
    static let none = Proto.SubscribeError.none
}
