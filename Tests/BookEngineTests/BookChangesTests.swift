import MarketModel
import TestSupport
import Testing

@testable import BookEngine

struct BookChangesTests {
    /// A book as a reader keeps it who sees nothing but changes.
    private struct Reader {
        var bids: [Int64: Int64] = [:]
        var asks: [Int64: Int64] = [:]

        mutating func take(_ changes: BookChanges) {
            if changes.isWhole { (bids, asks) = ([:], [:]) }
            for level in changes.bids { bids[level.price] = level.size == 0 ? nil : level.size }
            for level in changes.asks { asks[level.price] = level.size == 0 ? nil : level.size }
        }

        func levels(_ side: [Int64: Int64], bestFirst: (Int64, Int64) -> Bool) -> [PriceLevel] {
            side.keys.sorted(by: bestFirst).map { PriceLevel(price: $0, size: side[$0]!) }
        }
    }

    @Test(arguments: 1...(Checkout.isSoak ? 500 : 40) as ClosedRange<UInt64>)
    func `Whoever sees the changes alone has the best levels of the book`(_ seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        let depth = 1 + random.below(6)
        var book = Book(depthMax: depth + random.below(3))
        var reader = Reader()
        var changes = BookChanges(depth: depth)
        for _ in 0..<400 {
            changes.begin(isWhole: random.below(50) == 0)
            if changes.isWhole { book.removeAll() }
            for _ in 0..<(1 + random.below(5)) {
                let size = Int64(random.below(4))
                if random.below(2) == 0 {
                    book.setBid(PriceLevel(price: Int64(1 + random.below(14)), size: size), &changes)
                } else {
                    book.setAsk(PriceLevel(price: Int64(20 + random.below(14)), size: size), &changes)
                }
            }
            changes.settle(book)
            reader.take(changes)
            #expect(reader.levels(reader.bids) { $0 > $1 } == book.bids(depth), "seed \(seed)")
            #expect(reader.levels(reader.asks) { $0 < $1 } == book.asks(depth), "seed \(seed)")
            #expect(Set(changes.bids.map(\.price)).count == changes.bids.count, "seed \(seed): a price twice")
        }
    }

    @Test func `What changes nothing among the best levels is no change`() {
        var machine = BookMachine(.unchecked)
        var changes = BookChanges(depth: 2)
        var snapshot = VenueMessage(.snapshot, exchange: "X", symbol: "Y")
        snapshot.bids = [3, 2, 1].map { PriceLevel(price: $0, size: 5) }
        snapshot.asks = [4, 5, 6].map { PriceLevel(price: $0, size: 5) }
        #expect(machine.receive(snapshot, &changes) == .applied)
        #expect(changes.isWhole && changes.bids.map(\.price) == [3, 2] && changes.asks.map(\.price) == [4, 5])
        func delta(_ bids: [PriceLevel]) -> VenueMessage {
            var delta = VenueMessage(.delta, exchange: "X", symbol: "Y")
            delta.bids = bids
            return delta
        }
        for level in [PriceLevel(price: 1, size: 7), PriceLevel(price: 3, size: 5), PriceLevel(price: 9, size: 0)] {
            #expect(machine.receive(delta([level]), &changes) == .applied)
            #expect(changes.isEmpty && !changes.isWhole, "\(level)")
        }
        // The third comes up when the second goes.
        #expect(machine.receive(delta([PriceLevel(price: 2, size: 0)]), &changes) == .applied)
        #expect(changes.bids == [PriceLevel(price: 2, size: 0), PriceLevel(price: 1, size: 7)])
    }
}
