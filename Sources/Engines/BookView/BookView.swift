import MarketModel

/// What one client sees of a book: so many levels a side, grouped by price, and what changed since it was last told.
///
/// With a grouping, bids are counted at the next multiple of it below their price and asks at the next one above, so
/// that a group never looks better than what is in it. Sizes of a group add up; a sum past what a size can hold stays
/// at its maximum. An ask whose group no price can express is left out. The worst group of a book that is published
/// less deep than the client looks counts what is published.
///
/// A client that applies each delta to the snapshot before it has exactly ``bids`` and ``asks``.
public struct BookView: Sendable {
    /// What to tell the client.
    public enum Update: Sendable, Hashable {
        /// Nothing that it sees changed.
        case none
        /// The whole view, ``bids`` and ``asks``: there is a book, and it knows none, or a grouping of another.
        case snapshot
        /// ``changedBids`` and ``changedAsks``.
        case delta
        /// There is no book any more: what it knows is void until the next snapshot.
        case stale
    }

    /// The most levels a side that a client may ask for.
    public static let depthMax = 1000

    /// Levels a side, 1...``depthMax``.
    public let depth: Int
    /// In the unit of prices (1e-9); 0 or 1: each price is its own group.
    public let grouping: Int64
    /// What the client has once it knows of the latest update. Best first.
    public private(set) var bids: [PriceLevel] = []
    public private(set) var asks: [PriceLevel] = []
    /// Of the latest update, if it was a delta: levels with the size they have now, 0 where they are not seen any more.
    /// Best first.
    public private(set) var changedBids: [PriceLevel] = []
    public private(set) var changedAsks: [PriceLevel] = []
    /// The client has a view, and it is right.
    public private(set) var isLive = false
    private var spare: [PriceLevel] = []

    /// `grouping` is not below 0.
    public init(depth: Int, grouping: Int64 = 0) {
        precondition((1...BookView.depthMax).contains(depth) && grouping >= 0)
        self.depth = depth
        self.grouping = grouping
    }

    /// Looks at the book again.
    public mutating func update(from book: BookReplica) -> Update {
        changedBids.removeAll(keepingCapacity: true)
        changedAsks.removeAll(keepingCapacity: true)
        guard book.state == .live else {
            defer { isLive = false }
            bids.removeAll(keepingCapacity: true)
            asks.removeAll(keepingCapacity: true)
            return isLive ? .stale : .none
        }
        collect(book.bidLevels, rounding: floor)
        if isLive { BookView.compare(bids, spare, into: &changedBids) { $0 > $1 } }
        swap(&bids, &spare)
        collect(book.askLevels, rounding: ceiling)
        if isLive { BookView.compare(asks, spare, into: &changedAsks) { $0 < $1 } }
        swap(&asks, &spare)
        defer { isLive = true }
        if !isLive { return .snapshot }
        return changedBids.isEmpty && changedAsks.isEmpty ? .none : .delta
    }

    private func floor(_ price: Int64) -> Int64? {
        grouping > 1 ? price - price % grouping : price
    }

    private func ceiling(_ price: Int64) -> Int64? {
        guard grouping > 1, case let rest = price % grouping, rest != 0 else { return price }
        let (rounded, overflow) = price.addingReportingOverflow(grouping - rest)
        return overflow ? nil : rounded
    }

    /// The best groups of a side, best first, into `spare`. `levels` has the best level last, all prices above 0.
    private mutating func collect(_ levels: [PriceLevel], rounding: (Int64) -> Int64?) {
        spare.removeAll(keepingCapacity: true)
        var index = levels.count
        while index > 0 {
            index -= 1
            guard let price = rounding(levels[index].price) else { break }
            if let last = spare.last, last.price == price {
                let (sum, overflow) = last.size.addingReportingOverflow(levels[index].size)
                spare[spare.count - 1].size = overflow ? .max : sum
            } else {
                guard spare.count < depth else { break }
                spare.append(PriceLevel(price: price, size: levels[index].size))
            }
        }
    }

    /// What makes `new` of `old`; both best first.
    private static func compare(
        _ old: [PriceLevel], _ new: [PriceLevel], into changes: inout [PriceLevel], _ isBetter: (Int64, Int64) -> Bool
    ) {
        var a = 0
        var b = 0
        while a < old.count || b < new.count {
            if b == new.count || (a < old.count && isBetter(old[a].price, new[b].price)) {
                changes.append(PriceLevel(price: old[a].price, size: 0))
                a += 1
            } else if a == old.count || isBetter(new[b].price, old[a].price) {
                changes.append(new[b])
                b += 1
            } else {
                if old[a].size != new[b].size { changes.append(new[b]) }
                a += 1
                b += 1
            }
        }
    }
}
