// The order book by price level, and the rules by which a venue's messages are trusted. Fed by the feed with normalized
// messages; says when the best prices changed and when the book must be dropped.

import MarketModel

/// Bids and asks by price. Prices at 1e-9, sizes at 1e-8.
///
/// Each side is one sorted array with the best level last, because that is where books change.
public struct Book: Hashable, Sendable {
    /// Levels kept per side; the worst ones beyond are dropped.
    public let depthMax: Int
    private var bidLevels: [PriceLevel] = []
    private var askLevels: [PriceLevel] = []

    public init(depthMax: Int = 5000) {
        precondition(depthMax > 0)
        self.depthMax = depthMax
    }

    public var bestBid: PriceLevel? { bidLevels.last }
    public var bestAsk: PriceLevel? { askLevels.last }
    public var isEmpty: Bool { bidLevels.isEmpty && askLevels.isEmpty }
    /// Best bid at or above best ask.
    public var isCrossed: Bool {
        guard let bid = bestBid, let ask = bestAsk else { return false }
        return bid.price >= ask.price
    }
    public var bidCount: Int { bidLevels.count }
    public var askCount: Int { askLevels.count }

    /// Best first.
    public func bids(_ count: Int) -> [PriceLevel] { bidLevels.suffix(count).reversed() }
    /// Best first.
    public func asks(_ count: Int) -> [PriceLevel] { askLevels.suffix(count).reversed() }

    /// Empties both sides.
    public mutating func removeAll() {
        bidLevels.removeAll(keepingCapacity: true)
        askLevels.removeAll(keepingCapacity: true)
    }

    /// Appends the best levels of the side, best first.
    func appendBids(_ count: Int, to out: inout [PriceLevel]) {
        out.append(contentsOf: bidLevels.suffix(count).reversed())
    }
    func appendAsks(_ count: Int, to out: inout [PriceLevel]) {
        out.append(contentsOf: askLevels.suffix(count).reversed())
    }

    /// Size of the level at a price where it is among the best `depth`, else 0.
    func bidSize(_ price: Int64, within depth: Int) -> Int64 {
        Book.size(price, in: bidLevels, depth, Book.place(price, in: bidLevels) { $0 < $1 })
    }
    func askSize(_ price: Int64, within depth: Int) -> Int64 {
        Book.size(price, in: askLevels, depth, Book.place(price, in: askLevels) { $0 > $1 })
    }

    private static func size(_ price: Int64, in levels: [PriceLevel], _ depth: Int, _ place: Int) -> Int64 {
        guard place < levels.count, levels[place].price == price, levels.count - place <= depth else { return 0 }
        return levels[place].size
    }

    /// Sets a level, or removes it with size 0.
    public mutating func setBid(_ level: PriceLevel) {
        _ = Book.set(level, in: &bidLevels, depthMax) { $0 < $1 }
    }

    /// Sets a level, or removes it with size 0.
    public mutating func setAsk(_ level: PriceLevel) {
        _ = Book.set(level, in: &askLevels, depthMax) { $0 > $1 }
    }

    /// The same, and notes what it changed.
    mutating func setBid(_ level: PriceLevel, _ changes: inout BookChanges) {
        let edit = Book.set(level, in: &bidLevels, depthMax) { $0 < $1 }
        changes.noteBid(edit, level.price, bidLevels)
    }

    mutating func setAsk(_ level: PriceLevel, _ changes: inout BookChanges) {
        let edit = Book.set(level, in: &askLevels, depthMax) { $0 > $1 }
        changes.noteAsk(edit, level.price, askLevels)
    }

    /// What setting a level did to its side.
    struct Edit {
        enum Kind { case none, resized, inserted, removed }
        var kind = Kind.none
        /// Levels that are better.
        var rank = 0
        /// The worst level, which went because there were too many.
        var evicted: PriceLevel?
    }

    /// Where the first level is that is not worse than a price.
    @inline(__always)
    private static func place(_ price: Int64, in levels: [PriceLevel], _ isWorse: (Int64, Int64) -> Bool) -> Int {
        var low = 0
        var high = levels.count
        while low < high {
            let middle = (low + high) / 2
            if isWorse(levels[middle].price, price) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    @inline(__always)
    private static func set(
        _ level: PriceLevel, in levels: inout [PriceLevel], _ depthMax: Int, _ isWorse: (Int64, Int64) -> Bool
    ) -> Edit {
        let place = place(level.price, in: levels, isWorse)
        let exists = place < levels.count && levels[place].price == level.price
        var edit = Edit()
        if level.size == 0 {
            guard exists else { return edit }
            levels.remove(at: place)
            edit.kind = .removed
            edit.rank = levels.count - place
        } else if exists {
            guard levels[place].size != level.size else { return edit }
            levels[place].size = level.size
            edit.kind = .resized
            edit.rank = levels.count - 1 - place
        } else {
            edit.kind = .inserted
            edit.rank = levels.count - place
            levels.insert(level, at: place)
            if levels.count > depthMax { edit.evicted = levels.removeFirst() }
        }
        return edit
    }
}
