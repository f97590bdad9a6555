import BookEngine
import MarketModel
import TestSupport
import Testing

/// A book as one would write it down: a dictionary a side, sorted when asked.
struct ObviousBook {
    let depthMax: Int
    var bids: [Int64: Int64] = [:]
    var asks: [Int64: Int64] = [:]

    mutating func set(_ level: PriceLevel, isBid: Bool) {
        if isBid {
            bids[level.price] = level.size == 0 ? nil : level.size
            if bids.count > depthMax { bids[sortedBids.last!.price] = nil }
        } else {
            asks[level.price] = level.size == 0 ? nil : level.size
            if asks.count > depthMax { asks[sortedAsks.last!.price] = nil }
        }
    }

    var sortedBids: [PriceLevel] { bids.map { PriceLevel(price: $0, size: $1) }.sorted { $0.price > $1.price } }
    var sortedAsks: [PriceLevel] { asks.map { PriceLevel(price: $0, size: $1) }.sorted { $0.price < $1.price } }
    var isCrossed: Bool {
        guard let bid = bids.keys.max(), let ask = asks.keys.min() else { return false }
        return bid >= ask
    }
}

struct BookModelTests {
    private func expectEqual(_ book: Book, _ model: ObviousBook, _ label: String) {
        let (bids, asks) = (model.sortedBids, model.sortedAsks)
        let isEqual =
            book.bids(.max) == bids && book.asks(.max) == asks && book.bestBid == bids.first
            && book.bestAsk == asks.first && book.bidCount == bids.count && book.askCount == asks.count
            && book.isCrossed == model.isCrossed && book.isEmpty == (bids.isEmpty && asks.isEmpty)
            && [0, 1, 3, 10].allSatisfy { depth in
                book.bids(depth) == Array(bids.prefix(depth)) && book.asks(depth) == Array(asks.prefix(depth))
            }
        if !isEqual { Issue.record("\(label): the book is not the model's: \(book.bids(3)) \(book.asks(3))") }
    }

    @Test(arguments: 0..<60 as Range<UInt64>)
    func `Any operations leave the levels that the obvious book has`(_ seed: UInt64) {
        var random = SeededNumbers(seed: seed)
        let depthMax = [1, 2, 7, 40, 5000][random.below(5)]
        var book = Book(depthMax: depthMax)
        var model = ObviousBook(depthMax: depthMax)
        // Few prices make many hits; the extremes are prices too.
        let prices = (0..<(3 + random.below(60))).map { index in
            index == 0 ? Int64.max : index == 1 ? 1 : Int64(1000 + random.below(200))
        }
        for step in 0..<400 {
            let level = PriceLevel(
                price: prices.randomElement(using: &random)!,
                size: random.below(3) == 0 ? 0 : random.below(50) == 0 ? .max : Int64(1 + random.below(5)))
            let isBid = random.below(2) == 0
            if isBid { book.setBid(level) } else { book.setAsk(level) }
            model.set(level, isBid: isBid)
            if random.below(150) == 0 {
                book.removeAll()
                model = ObviousBook(depthMax: depthMax)
            }
            expectEqual(book, model, "seed \(seed), step \(step), depth \(depthMax)")
        }
    }

    @Test func `A level worse than a full side is not taken, and a better one drops the worst`() {
        var book = Book(depthMax: 2)
        for price in [10, 11, 9, 12] as [Int64] { book.setBid(PriceLevel(price: price, size: price)) }
        #expect(book.bids(5).map(\.price) == [12, 11])
        for price in [20, 19, 21, 18] as [Int64] { book.setAsk(PriceLevel(price: price, size: price)) }
        #expect(book.asks(5).map(\.price) == [18, 19])
        #expect(!book.isCrossed)
        book.setAsk(PriceLevel(price: 12, size: 1))
        #expect(book.isCrossed, "a locked book counts as crossed")
    }
}
