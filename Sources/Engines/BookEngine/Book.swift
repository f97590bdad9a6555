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

    /// Sets a level, or removes it with size 0.
    public mutating func setBid(_ level: PriceLevel) {
        Book.set(level, in: &bidLevels, depthMax) { $0 < $1 }
    }

    /// Sets a level, or removes it with size 0.
    public mutating func setAsk(_ level: PriceLevel) {
        Book.set(level, in: &askLevels, depthMax) { $0 > $1 }
    }

    @inline(__always)
    private static func set(
        _ level: PriceLevel, in levels: inout [PriceLevel], _ depthMax: Int, _ isWorse: (Int64, Int64) -> Bool
    ) {
        // The first level that is not worse than this price.
        var low = 0
        var high = levels.count
        while low < high {
            let middle = (low + high) / 2
            if isWorse(levels[middle].price, level.price) { low = middle + 1 } else { high = middle }
        }
        let exists = low < levels.count && levels[low].price == level.price
        if level.size == 0 {
            if exists { levels.remove(at: low) }
        } else if exists {
            levels[low].size = level.size
        } else {
            levels.insert(level, at: low)
            if levels.count > depthMax { levels.removeFirst() }
        }
    }
}
