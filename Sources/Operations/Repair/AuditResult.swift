import MarketModel
import TickStore

/// Which ticks are compared and put right: by instrument, and by filing time in nanoseconds, `fromNs..<toNs`, to 100
/// ns.
public struct RepairSelection: Sendable, Hashable {
    /// nil: all.
    public var exchange: String?
    /// Empty: all.
    public var symbols: Set<String>
    public var fromNs: Int64
    public var toNs: Int64

    public init(
        exchange: String? = nil, symbols: Set<String> = [], fromNs: Int64 = .min, toNs: Int64 = .max
    ) {
        self.exchange = exchange
        self.symbols = symbols
        self.fromNs = fromNs
        self.toNs = toNs
    }

    func has(_ instrument: Instrument) -> Bool {
        (exchange ?? instrument.exchange) == instrument.exchange
            && (symbols.isEmpty || symbols.contains(instrument.symbol))
    }

    /// The last filing time of the range, where that is not empty.
    var throughNs: Int64 { max(fromNs, toNs == .min ? toNs : toNs - 1) }

    func has(_ key: TickRowIdentity) -> Bool { key.time >= RepairSelection.time(fromNs) && isBefore(key) }

    private func isBefore(_ key: TickRowIdentity) -> Bool { toNs == .max || key.time < RepairSelection.time(toNs) }

    private static func time(_ ns: Int64) -> UInt64 {
        (try? TickRowIdentity(filingTimeNs: ns, epoch: 0, sequence: 0, feedNumber: 0).time) ?? 0
    }
}

/// Log and store of a bucket of an instrument, or of many.
public struct AuditCounts: Sendable, Hashable {
    /// Different ticks in the log, and records that repeat one of them.
    public var logTicks = 0
    public var logRepeats = 0
    public var storeRows = 0
    /// Ticks whose row has the same bytes.
    public var matching = 0
    /// Ticks that the store should have and has not.
    public var missing = 0
    /// Rows under a tick's key with other content, or with none that can be made out.
    public var different = 0
    /// Rows under a key that no record stands for, though the log goes back that far.
    public var wrongKey = 0
    /// Rows whose records the log has no more: neither missing nor too many.
    public var expired = 0
    /// Rows of the feed `direct`, for which there never was a record.
    public var direct = 0
    /// Rows of feeds that this log has no record of, as those that another log brought.
    public var foreign = 0
    /// Ticks that the store has not been given yet, or whose time in the store is over.
    public var pending = 0
    /// Records that claim the key of an earlier one with other bytes; either is right.
    public var conflicting = 0
    /// Records that are no valid ticks: expected in the dead-letter topic.
    public var corrupt = 0
    /// Sums over the bytes of what both should have: equal for equal ticks. No protection against forgery.
    public var logDigest: UInt64 = 0
    public var storeDigest: UInt64 = 0

    public init() {}

    public var isEqual: Bool { missing == 0 && different == 0 && wrongKey == 0 }

    mutating func add(_ other: AuditCounts) {
        logTicks += other.logTicks
        logRepeats += other.logRepeats
        storeRows += other.storeRows
        matching += other.matching
        missing += other.missing
        different += other.different
        wrongKey += other.wrongKey
        expired += other.expired
        direct += other.direct
        foreign += other.foreign
        pending += other.pending
        conflicting += other.conflicting
        corrupt += other.corrupt
        logDigest &+= other.logDigest
        storeDigest &+= other.storeDigest
    }
}

/// One row on which log and store differ.
public struct AuditDifference: Sendable, Hashable {
    /// In which way.
    public enum Kind: String, Sendable { case missing, different, wrongKey = "wrong key" }

    public let kind: Kind
    public let bucket: StoredBucket
    public let key: TickRowIdentity
}

/// What a comparison found.
public struct AuditResult: Sendable, Hashable {
    public var total = AuditCounts()
    /// By instrument, ascending.
    public var instruments: [(Instrument, AuditCounts)] { counts.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }
    var counts: [Instrument: AuditCounts] = [:]
    /// Buckets that differ, ascending.
    public var differing: [StoredBucket] = []
    /// Blocks of the log that could not be read.
    public var damage: [String] = []
    /// Filing times of the ticks and rows that were compared; nil where there were none.
    public var timesNs: ClosedRange<Int64>?
    /// By how many microseconds a row was written later than its filing time, at most; nil where rows do not say.
    public var leadMicroseconds: Int64?
    public var bucketCount = 0

    public var isEqual: Bool { damage.isEmpty && total.isEqual }
}

extension TapeAudit {
    /// What is told while buckets are compared, in ascending order.
    public struct Listener {
        public var bucket: (StoredBucket, AuditCounts) -> Void
        public var difference: (AuditDifference) -> Void

        public init(
            bucket: @escaping (StoredBucket, AuditCounts) -> Void = { _, _ in },
            difference: @escaping (AuditDifference) -> Void = { _ in }
        ) {
            self.bucket = bucket
            self.difference = difference
        }
    }
}
