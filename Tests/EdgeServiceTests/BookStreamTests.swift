import MarketModel
import MarketProto
import Protobuf
import Simulation
import TestSupport
import Testing

@testable import EdgeService

@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 1)))
struct BookStreamTests {
    /// A book as a feed keeps and publishes it, in whole prices.
    private struct Feed {
        var bids: [Int64: Int64] = [:]
        var asks: [Int64: Int64] = [:]
        var epoch: UInt64 = 1
        var sequence: UInt64 = 0
        var isLive = false

        mutating func next(_ random: inout SeededRandom) -> BookRecord {
            if random.once(in: 60) {
                epoch += 1
                sequence = 0
            }
            sequence += 1
            var record = BookRecord(BookRecord.Head(epoch: epoch, sequence: sequence))
            record.head.receivedTimeNs = 1_700_000_000_000_000_000
            record.head.publishTimeNs = 1_700_000_000_000_000_000
            if sequence == 1 || !isLive || random.once(in: 20) {
                isLive = !random.once(in: 6)
                bids = [:]
                asks = [:]
                guard isLive else {
                    record.head.state = .stale
                    return record
                }
                record.head.isSnapshot = true
                for _ in 0..<10 { change(&random) }
                record.bids = Feed.levels(bids) { $0 > $1 }
                record.asks = Feed.levels(asks) { $0 < $1 }
                return record
            }
            let (oldBids, oldAsks) = (bids, asks)
            for _ in 0..<Int.random(in: 1...3, using: &random) { change(&random) }
            record.bids = Feed.difference(oldBids, bids).sorted { $0.price > $1.price }
            record.asks = Feed.difference(oldAsks, asks).sorted { $0.price < $1.price }
            return record
        }

        private mutating func change(_ random: inout SeededRandom) {
            let size = Int64.random(in: 0...3, using: &random) * 100_000_000
            if random.once(in: 2) {
                bids[Int64.random(in: 1...20, using: &random)] = size == 0 ? nil : size
            } else {
                asks[Int64.random(in: 21...40, using: &random)] = size == 0 ? nil : size
            }
        }

        static let unit: Int64 = 1_000_000_000

        private static func levels(_ side: [Int64: Int64], _ isBetter: (Int64, Int64) -> Bool) -> [PriceLevel] {
            side.keys.sorted(by: isBetter).map { PriceLevel(price: $0 * unit, size: side[$0]!) }
        }

        private static func difference(_ old: [Int64: Int64], _ new: [Int64: Int64]) -> [PriceLevel] {
            Set(old.keys).union(new.keys).filter { old[$0] != new[$0] }
                .map { PriceLevel(price: $0 * unit, size: new[$0] ?? 0) }
        }

        /// What a client that looks so deep, in groups of so many whole prices, has to see.
        func view(depth: Int, grouping: Int64) -> (bids: [Int64: Int64], asks: [Int64: Int64]) {
            func grouped(_ side: [Int64: Int64], _ group: (Int64) -> Int64) -> [Int64: Int64] {
                var sum: [Int64: Int64] = [:]
                for (price, size) in side { sum[group(price), default: 0] += size }
                return sum
            }
            let step = max(grouping, 1)
            let bids = grouped(bids) { $0 / step * step }
            let asks = grouped(asks) { ($0 + step - 1) / step * step }
            return (
                Dictionary(
                    uniqueKeysWithValues: bids.sorted { $0.key > $1.key }.prefix(depth).map { ($0.key, $0.value) }),
                Dictionary(
                    uniqueKeysWithValues: asks.sorted { $0.key < $1.key }.prefix(depth).map { ($0.key, $0.value) })
            )
        }
    }

    /// A book as a client has it that applies each update to the one before.
    private struct Mirror {
        var bids: [Int64: Int64] = [:]
        var asks: [Int64: Int64] = [:]
        var sequence: UInt64?
        var epoch: UInt64 = 0
        var isConsistent = false
        var isJoined = true

        mutating func apply(_ update: Proto.BookUpdate) {
            if update.snapshot {
                bids = [:]
                asks = [:]
                isJoined = isJoined && update.previousSequence == 0
            } else {
                isJoined = isJoined && update.previousSequence == sequence
            }
            for level in update.bids {
                bids[level.priceMicros / 1_000_000] = level.sizeMicros == 0 ? nil : level.sizeMicros
            }
            for level in update.asks {
                asks[level.priceMicros / 1_000_000] = level.sizeMicros == 0 ? nil : level.sizeMicros
            }
            sequence = update.sequence
            epoch = update.epoch
            isConsistent = update.consistent
        }
    }

    private static func shape(_ depth: UInt32, _ grouping: Int64, _ id: UInt64) -> Proto.AddBook {
        var add = Proto.AddBook()
        add.subscriptionId = id
        add.exchange = "X"
        add.symbol = "A"
        add.depth = depth
        add.groupingMicros = grouping * 1_000_000
        return add
    }

    @Test(arguments: 1...(Checkout.isSoak ? 1000 : 40) as ClosedRange<UInt64>)
    func `Wherever a client joins and however slowly it reads, it has the feed's book as it asked to see it`(
        _ seed: UInt64
    ) throws {
        var random = SeededRandom(seed: seed)
        let world = try SubscribeWorld()
        try world.publish(["A"])
        var feed = Feed()
        for _ in 0..<Int.random(in: 0...40, using: &random) { try world.publish("A", [feed.next(&random)]) }
        let client = world.open()
        var depth = UInt32.random(in: 0...8, using: &random)
        var grouping = Int64.random(in: 0...7, using: &random)
        #expect(client.ask(.addBook(BookStreamTests.shape(depth, grouping, 3)))?.error == SubscribeErrors.none)
        var seen = 0
        var mirror = Mirror()
        for _ in 0..<120 {
            let count = Int.random(in: 0...4, using: &random)
            if count > 0 { try world.publish("A", (0..<count).map { _ in feed.next(&random) }) }
            if random.once(in: 15) {
                depth = UInt32.random(in: 0...8, using: &random)
                grouping = Int64.random(in: 0...7, using: &random)
                let shape = BookStreamTests.shape(depth, grouping, 3)
                var change = Proto.ChangeBook()
                change.subscriptionId = 3
                change.depth = shape.depth
                change.groupingMicros = shape.groupingMicros
                client.send(.changeBook(change))
            }
            guard random.once(in: 2) else { continue }
            client.readAll()
            for response in client.responses[seen...] {
                if case .book(let update) = response.event { mirror.apply(update) }
            }
            seen = client.responses.count
            let expected = feed.view(depth: depth == 0 ? 1000 : Int(depth), grouping: grouping)
            #expect(mirror.isJoined && mirror.isConsistent == feed.isLive, "seed \(seed)")
            if feed.isLive {
                #expect(mirror.bids == expected.bids.mapValues { $0 / 100 }, "seed \(seed)")
                #expect(mirror.asks == expected.asks.mapValues { $0 / 100 }, "seed \(seed)")
            } else {
                #expect(mirror.bids.isEmpty && mirror.asks.isEmpty, "seed \(seed)")
            }
        }
    }

    @Test func `A record that is missing voids the book until the next snapshot`() throws {
        var random = SeededRandom(seed: 1)
        let world = try SubscribeWorld()
        try world.publish(["A"])
        let client = world.open()
        #expect(client.ask(.addBook(BookStreamTests.shape(0, 0, 1)))?.error == SubscribeErrors.none)
        func books() -> [Proto.BookUpdate] {
            client.readAll()
            return client.responses.compactMap { response -> Proto.BookUpdate? in
                if case .book(let update) = response.event { return update }
                return nil
            }
        }
        #expect(books().map(\.consistent) == [false])
        func record(_ sequence: UInt64, snapshot: Bool) -> BookRecord {
            var record = BookRecord(BookRecord.Head(epoch: 1, sequence: sequence))
            record.head.isSnapshot = snapshot
            record.head.receivedTimeNs = 1
            record.head.publishTimeNs = 1
            let size = Int64.random(in: 1...1_000_000, using: &random) * 100
            record.bids = [PriceLevel(price: 5_000_000_000, size: size)]
            return record
        }
        for (sequence, isSnapshot) in [(1, true), (2, false), (4, false), (5, false), (6, true)] as [(UInt64, Bool)] {
            try world.publish("A", [record(sequence, snapshot: isSnapshot)])
            _ = books()
        }
        #expect(books().map(\.consistent) == [false, true, true, false, true])
        #expect(books().map(\.snapshot) == [true, true, false, true, true])
        #expect(books().last?.sequence == 6)
    }

    @Test func `A book that nobody looks at any more costs nothing, and of what is unknown there is none`() throws {
        let world = try SubscribeWorld()
        let client = world.open()
        #expect(client.ask(.addBook(BookStreamTests.shape(0, 0, 1)))?.error == .instrumentUnknown)
        try world.publish(["A"])
        for id in 1...3 as ClosedRange<UInt64> {
            #expect(client.ask(.addBook(BookStreamTests.shape(0, 0, id)))?.error == SubscribeErrors.none)
        }
        #expect(world.books.bookCount == 1)
        let list = try #require(client.ask(.list(Proto.ListRequest()))?.list)
        #expect(list.subscriptions.map { $0.book?.depth } == [1000, 1000, 1000])
        for id in 1...3 as ClosedRange<UInt64> {
            var remove = Proto.RemoveSubscription()
            remove.subscriptionId = id
            #expect(client.ask(.remove(remove))?.error == SubscribeErrors.none)
        }
        #expect(world.books.bookCount == 0)
    }
}
