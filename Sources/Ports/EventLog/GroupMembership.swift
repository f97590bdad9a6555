/// A service's part in a consumer group: which partitions of a topic are its own to process now, and how far it is.
///
/// Threads: one thread calls ``partitions()``; the other calls may come from any.
public protocol GroupMembership: AnyObject, Sendable {
    /// The partitions that are this member's now, ascending. It is called when no batch is out: a partition that was
    /// there and is not any more belongs to somebody else from then on. Throws when the group cannot be taken part in.
    func partitions() throws(LogError) -> [TopicPartition]
    /// This member goes on with a partition at this offset.
    func begin(_ place: TopicPartition, at offset: UInt64)
    /// Everything that `offsets` covers is durable downstream. Ranges may come in any order: the group goes on where
    /// the finished part from ``begin(_:at:)`` on ends.
    func finish(_ offsets: Range<UInt64>, of place: TopicPartition)
    /// Waits until there may be something to read at one of these places, the partitions change, or the time is over.
    /// *Blocking.*
    func wait(_ next: [(place: TopicPartition, offset: UInt64)], timeoutNs: Int64)
    /// Commits what is finished and leaves. *Blocking.*
    func leave()
}

extension EventLog {
    /// By ``RecordKey/hash(exchange:symbol:)``.
    public func partition(of topic: Topic, exchange: String, symbol: String) -> UInt16 {
        let hash = RecordKey.hash(exchange: exchange.utf8, symbol: symbol.utf8)
        return UInt16(truncatingIfNeeded: hash % UInt64(max(partitionCount(topic), 1)))
    }

    /// The only member, with all partitions, for a log inside of one process.
    public func join(group: String, _ topic: Topic) throws(LogError) -> any GroupMembership {
        OnlyMember(log: self, topic: topic)
    }
}

/// Has all partitions for ever. Offsets are the store's.
private final class OnlyMember: GroupMembership {
    private let log: any EventLog
    private let places: [TopicPartition]

    init(log: any EventLog, topic: Topic) {
        self.log = log
        places = (0..<log.partitionCount(topic)).map { TopicPartition(topic, UInt16($0)) }
    }

    func partitions() throws(LogError) -> [TopicPartition] { places }
    func begin(_ place: TopicPartition, at offset: UInt64) {}
    func finish(_ offsets: Range<UInt64>, of place: TopicPartition) {}
    func leave() {}

    /// Of several partitions one is waited for, a short while.
    func wait(_ next: [(place: TopicPartition, offset: UInt64)], timeoutNs: Int64) {
        guard let first = next.first else { return }
        let shortNs = next.count == 1 ? timeoutNs : min(timeoutNs, 2_000_000)
        _ = log.wait(first.place, at: first.offset, .durable, timeoutNs: shortNs)
    }
}

/// Which offsets of a partition are finished, where ranges of them finish in any order.
public struct FinishedOffsets: Sendable, Hashable {
    /// Everything below is finished.
    public private(set) var through: UInt64
    /// Finished ranges past `through`, ascending, apart from each other.
    private var ranges: [Range<UInt64>] = []

    public init(from start: UInt64) { through = start }

    /// Ranges that wait for what lies before them.
    public var waitingCount: Int { ranges.count }

    /// Returns ``through``.
    @discardableResult
    public mutating func finish(_ range: Range<UInt64>) -> UInt64 {
        guard range.upperBound > through else { return through }
        var merged = max(range.lowerBound, through)..<range.upperBound
        ranges.removeAll { other in
            guard other.lowerBound <= merged.upperBound, other.upperBound >= merged.lowerBound else { return false }
            merged =
                min(other.lowerBound, merged.lowerBound)..<max(other.upperBound, merged.upperBound)
            return true
        }
        if merged.lowerBound <= through {
            through = merged.upperBound
            return through
        }
        let at = ranges.firstIndex { $0.lowerBound > merged.lowerBound } ?? ranges.count
        ranges.insert(merged, at: at)
        return through
    }
}
