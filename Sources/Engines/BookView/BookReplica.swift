// A client's view of a book: the whole book as its records say it, what of it is seen at a depth and a price grouping,
// and what changed in that since the client was last told. Fed by the edge with the records of `books.deltas`.

import MarketModel

/// The published book of one instrument of one feed, kept from its records.
public struct BookReplica: Sendable {
    /// Whether there is a book.
    public enum State: Sendable, Hashable {
        /// No: none was begun, or a record is missing; a snapshot will begin one.
        case waiting
        case live
        /// No: the feed does not vouch for it until its next snapshot.
        case stale
    }

    /// What a record did.
    public enum Outcome: Sendable, Hashable {
        /// The book is as after the record, or gone if that is what it says.
        case applied
        /// Nothing: the record is older than what is known, or changes a book that is not there.
        case ignored
        /// A record before this one is missing: the book is gone until the next snapshot.
        case gap
    }

    /// Levels kept a side; worse ones are dropped. What feeds publish is less deep.
    public static let depthMax = 10_000

    public private(set) var state = State.waiting
    /// Of the latest record; 0 before the first.
    public private(set) var epoch: UInt64 = 0
    public private(set) var sequence: UInt64 = 0
    /// The venue's number that the book stands at, and its time; 0 and nil where it gives none.
    public private(set) var venueSequence: UInt64 = 0
    public private(set) var eventTimeNs: Int64?
    /// The best level last: that is where books change.
    private(set) var bidLevels: [PriceLevel] = []
    private(set) var askLevels: [PriceLevel] = []

    public init() {}

    public var bidCount: Int { bidLevels.count }
    public var askCount: Int { askLevels.count }
    /// Best first.
    public func bids(_ count: Int) -> [PriceLevel] { bidLevels.suffix(count).reversed() }
    /// Best first.
    public func asks(_ count: Int) -> [PriceLevel] { askLevels.suffix(count).reversed() }

    /// Takes the next record of the instrument, in the log's order.
    public mutating func apply(_ record: BookRecord) -> Outcome {
        let head = record.head
        guard head.epoch > epoch || (head.epoch == epoch && head.sequence > sequence) else { return .ignored }
        let isNext = head.epoch == epoch && head.sequence == sequence &+ 1
        epoch = head.epoch
        sequence = head.sequence
        if head.state == .stale {
            clear(.stale)
        } else if head.isSnapshot {
            clear(.live)
            for level in record.bids.reversed() { BookReplica.set(level, in: &bidLevels) { $0 < $1 } }
            for level in record.asks.reversed() { BookReplica.set(level, in: &askLevels) { $0 > $1 } }
        } else {
            guard state == .live else { return .ignored }
            guard isNext else {
                clear(.waiting)
                return .gap
            }
            for level in record.bids { BookReplica.set(level, in: &bidLevels) { $0 < $1 } }
            for level in record.asks { BookReplica.set(level, in: &askLevels) { $0 > $1 } }
        }
        venueSequence = head.venueSequence
        eventTimeNs = head.eventTimeNs
        return .applied
    }

    private mutating func clear(_ state: State) {
        self.state = state
        bidLevels.removeAll(keepingCapacity: true)
        askLevels.removeAll(keepingCapacity: true)
    }

    /// A snapshot comes worst first, so that each of its levels is appended.
    @inline(__always)
    private static func set(
        _ level: PriceLevel, in levels: inout [PriceLevel], _ isWorse: (Int64, Int64) -> Bool
    ) {
        if level.size > 0, levels.count < depthMax, levels.last.map({ isWorse($0.price, level.price) }) ?? true {
            levels.append(level)
            return
        }
        var low = 0
        var high = levels.count
        while low < high {
            let middle = (low + high) / 2
            if isWorse(levels[middle].price, level.price) { low = middle + 1 } else { high = middle }
        }
        let exists = low < levels.count && levels[low].price == level.price
        if level.size <= 0 {
            if exists { levels.remove(at: low) }
        } else if exists {
            levels[low].size = level.size
        } else {
            levels.insert(level, at: low)
            if levels.count > depthMax { levels.removeFirst() }
        }
    }
}
