import BookView
import MarketModel
import TestSupport
import Testing

/// The view as one would first write it.
enum ObviousView {
    static func levels(_ levels: [PriceLevel], _ depth: Int, _ grouping: Int64, up: Bool) -> [PriceLevel] {
        var groups: [Int64: Int64] = [:]
        for level in levels {
            var price = level.price
            if grouping > 1 {
                price = price / grouping * grouping
                if up, price != level.price { price += grouping }
            }
            groups[price, default: 0] += level.size
        }
        let prices = groups.keys.sorted { up ? $0 < $1 : $0 > $1 }
        return prices.prefix(depth).map { PriceLevel(price: $0, size: groups[$0]!) }
    }
}

/// What a client keeps that is told of updates.
struct ViewClient {
    var bids: [Int64: Int64] = [:]
    var asks: [Int64: Int64] = [:]
    var isLive = false

    mutating func take(_ update: BookView.Update, _ view: BookView) {
        switch update {
        case .none: break
        case .stale:
            (bids, asks) = ([:], [:])
            isLive = false
        case .snapshot:
            bids = Dictionary(uniqueKeysWithValues: view.bids.map { ($0.price, $0.size) })
            asks = Dictionary(uniqueKeysWithValues: view.asks.map { ($0.price, $0.size) })
            isLive = true
        case .delta:
            for level in view.changedBids { bids[level.price] = level.size == 0 ? nil : level.size }
            for level in view.changedAsks { asks[level.price] = level.size == 0 ? nil : level.size }
        }
    }

    var bidLevels: [PriceLevel] { bids.keys.sorted(by: >).map { PriceLevel(price: $0, size: bids[$0]!) } }
    var askLevels: [PriceLevel] { asks.keys.sorted().map { PriceLevel(price: $0, size: asks[$0]!) } }
}

struct BookViewTests {
    private func head(_ sequence: UInt64, epoch: UInt64 = 1, snapshot: Bool = false) -> BookRecord.Head {
        var head = BookRecord.Head(epoch: epoch, sequence: sequence)
        head.isSnapshot = snapshot
        return head
    }

    private func delta(_ sequence: UInt64, epoch: UInt64 = 1, bids: [PriceLevel] = [], asks: [PriceLevel] = [])
        -> BookRecord
    {
        var record = BookRecord(head(sequence, epoch: epoch))
        record.bids = bids
        record.asks = asks
        return record
    }

    private func snapshot(_ sequence: UInt64, epoch: UInt64 = 1) -> BookRecord {
        var record = BookRecord(head(sequence, epoch: epoch, snapshot: true))
        record.bids = [PriceLevel(price: 100, size: 1), PriceLevel(price: 99, size: 2)]
        record.asks = [PriceLevel(price: 101, size: 3), PriceLevel(price: 103, size: 4)]
        return record
    }

    @Test(arguments: 1...(Checkout.isSoak ? 500 : 40) as ClosedRange<UInt64>)
    func `Snapshot and deltas are the view of the book at each point`(_ seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        var replica = BookReplica()
        var books: (bids: [Int64: Int64], asks: [Int64: Int64]) = ([:], [:])
        var views: [(view: BookView, client: ViewClient)] = [(1, 0), (3, 1), (5, 7), (40, 10), (1000, 3)].map {
            (BookView(depth: $0, grouping: $1), ViewClient())
        }
        var sequence: UInt64 = 0
        for step in 0..<300 {
            sequence += 1
            var record = BookRecord(head(sequence, snapshot: step == 0 || random.below(60) == 0))
            if random.below(40) == 0 { record.head.state = .stale }
            let isLive = replica.state == .live
            if record.head.isSnapshot || record.head.state == .stale { books = ([:], [:]) }
            for _ in 0..<random.below(12) where record.head.state == .live {
                let bid = PriceLevel(price: Int64(1 + random.below(60)), size: Int64(random.below(5)))
                let ask = PriceLevel(price: Int64(61 + random.below(60)), size: Int64(random.below(5)))
                // A price stands once in a record.
                if (record.bids + record.asks).contains(where: { [bid.price, ask.price].contains($0.price) }) {
                    continue
                }
                record.bids.append(bid)
                record.asks.append(ask)
                guard isLive || record.head.isSnapshot else { continue }
                books.bids[bid.price] = bid.size == 0 ? nil : bid.size
                books.asks[ask.price] = ask.size == 0 ? nil : ask.size
            }
            let outcome = replica.apply(record)
            #expect(outcome == (isLive || record.head.isSnapshot || record.head.state == .stale ? .applied : .ignored))
            let bids = books.bids.map { PriceLevel(price: $0.key, size: $0.value) }
            let asks = books.asks.map { PriceLevel(price: $0.key, size: $0.value) }
            for index in views.indices {
                let update = views[index].view.update(from: replica)
                views[index].client.take(update, views[index].view)
                let (view, client) = views[index]
                #expect(client.isLive == (replica.state == .live), "seed \(seed)")
                let expected = (
                    bids: ObviousView.levels(bids, view.depth, view.grouping, up: false),
                    asks: ObviousView.levels(asks, view.depth, view.grouping, up: true)
                )
                #expect(client.bidLevels == expected.bids && view.bids == expected.bids, "seed \(seed) step \(step)")
                #expect(client.askLevels == expected.asks && view.asks == expected.asks, "seed \(seed) step \(step)")
            }
        }
    }

    @Test func `A record that is missing costs the book, a repeated one nothing`() {
        var replica = BookReplica()
        #expect(replica.apply(delta(4, bids: [PriceLevel(price: 1, size: 1)])) == .ignored)
        #expect(replica.state == .waiting && replica.bidCount == 0)
        #expect(replica.apply(snapshot(5)) == .applied)
        #expect(replica.apply(snapshot(5)) == .ignored)
        #expect(replica.apply(delta(6, bids: [PriceLevel(price: 100, size: 9)])) == .applied)
        #expect(replica.bids(1) == [PriceLevel(price: 100, size: 9)])
        #expect(replica.apply(delta(8, bids: [PriceLevel(price: 98, size: 1)])) == .gap)
        #expect(replica.state == .waiting && replica.bidCount == 0 && replica.askCount == 0)
        #expect(replica.apply(delta(9, bids: [PriceLevel(price: 98, size: 1)])) == .ignored)
        #expect(replica.apply(delta(7)) == .ignored)
        #expect(replica.apply(snapshot(10)) == .applied && replica.state == .live)
        // Another epoch goes on with a snapshot only; an older one is over.
        #expect(replica.apply(delta(11, epoch: 2)) == .gap)
        #expect(replica.apply(snapshot(12, epoch: 1)) == .ignored)
        #expect(replica.apply(snapshot(12, epoch: 2)) == .applied && replica.epoch == 2)
    }

    @Test func `A stale book voids the view, the next snapshot begins it anew`() {
        var replica = BookReplica()
        var view = BookView(depth: 5)
        #expect(view.update(from: replica) == .none)
        _ = replica.apply(snapshot(1))
        #expect(view.update(from: replica) == .snapshot && view.bids.count == 2)
        #expect(view.update(from: replica) == .none)
        var stale = delta(2)
        stale.head.state = .stale
        #expect(replica.apply(stale) == .applied)
        #expect(view.update(from: replica) == .stale && view.bids.isEmpty && !view.isLive)
        #expect(view.update(from: replica) == .none)
        _ = replica.apply(snapshot(3))
        #expect(view.update(from: replica) == .snapshot && view.asks.count == 2)
    }

    @Test func `Groups at the ends of the range neither trap nor round to a better price`() {
        var replica = BookReplica()
        var record = BookRecord(head(1, snapshot: true))
        record.bids = [PriceLevel(price: .max, size: .max), PriceLevel(price: .max - 1, size: .max)]
        record.asks = [
            PriceLevel(price: 1, size: 1), PriceLevel(price: .max - 1, size: 2), PriceLevel(price: .max, size: 3),
        ]
        _ = replica.apply(record)
        var view = BookView(depth: 10, grouping: 1000)
        #expect(view.update(from: replica) == .snapshot)
        #expect(view.bids == [PriceLevel(price: .max - 807, size: .max)])
        #expect(view.asks == [PriceLevel(price: 1000, size: 1)])
        var whole = BookView(depth: 10, grouping: .max)
        _ = whole.update(from: replica)
        #expect(whole.bids.map(\.price) == [.max, 0])
        #expect(whole.asks == [PriceLevel(price: .max, size: 6)])
    }
}
