import MarketModel

/// A store whose rows can be held against the log one by one, and put right. `tapedeck verify` and `repair` use it.
///
/// Rows lie in buckets of filing time, each under a key. A row may lie under a key that its content does not have: then
/// something wrote it wrongly. Threads: as ``TickStore``; nothing here is called on an event loop.
public protocol RepairableStore: TickStore {
    /// The numbers of feeds in keys, by name. 1 is ``directFeed``'s.
    func feedNumbers() throws(StoreError) -> [[UInt8]: UInt16]

    /// How long a row stays, counted from when its record was appended; nil where nothing ends by itself.
    var rowLifetimeNs: Int64? { get }

    /// All instruments that have rows, also those without a last tick. In any order.
    func storedInstruments() throws(StoreError) -> [Instrument]

    /// The widths of buckets, of instruments that have or had another than an hour. As they are now.
    func bucketWidths() throws(StoreError) -> [Instrument: BucketWidths]

    /// The buckets in which the instrument has rows, of those in which filing times from `fromNs` to `throughNs`, both
    /// included, lie; ascending.
    func storedBuckets(
        _ instrument: Instrument, from fromNs: Int64, through throughNs: Int64
    ) throws(StoreError) -> [TickBucket]

    /// Calls `body` with each row of a bucket, whatever it holds, ascending by key. Rows are valid during the call.
    func forEachRow(_ bucket: StoredBucket, _ body: (AuditedRow) -> Void) throws(StoreError)

    /// Writes rows over what lies under their keys, if anything, so that they win over it. Durable when it returns.
    func rewrite(_ rows: [RepairedRow], in bucket: StoredBucket, _ stamp: RepairStamp) throws(StoreError)

    /// Deletes single rows. Durable when it returns.
    func remove(_ keys: [TickRowIdentity], from bucket: StoredBucket, _ stamp: RepairStamp) throws(StoreError)
}

/// The feed of rows that were written through `TickWriterService`: no record of the log stands for them.
public let directFeed = "direct"

/// A bucket of an instrument.
public struct StoredBucket: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let instrument: Instrument
    public let bucket: TickBucket

    public init(_ instrument: Instrument, _ bucket: TickBucket) {
        self.instrument = instrument
        self.bucket = bucket
    }

    public static func < (a: StoredBucket, b: StoredBucket) -> Bool {
        a.bucket != b.bucket ? a.bucket < b.bucket : a.instrument < b.instrument
    }

    /// `XNAS|AAPL 2024-08-08 09`.
    public var description: String { "\(instrument) \(bucket)" }
}

/// A row as it lies in the store.
public struct AuditedRow {
    public let key: TickRowIdentity
    /// The tick that it holds; nil where that cannot be made out.
    public let update: UnsafeRawBufferPointer?
    /// The newest write time of its parts, in microseconds; nil in a store that keeps none.
    public let writtenMicroseconds: Int64?

    public init(key: TickRowIdentity, update: UnsafeRawBufferPointer?, writtenMicroseconds: Int64?) {
        self.key = key
        self.update = update
        self.writtenMicroseconds = writtenMicroseconds
    }
}

/// A row to be written again, from its record in the log.
public struct RepairedRow: Sendable {
    public var feed: [UInt8]
    public var epoch: UInt64
    public var sequence: UInt64
    public var filingTimeNs: Int64
    public var appendTimeNs: Int64
    /// PriceUpdate bytes, without a frame.
    public var update: [UInt8]

    public init(
        feed: [UInt8], epoch: UInt64, sequence: UInt64, filingTimeNs: Int64, appendTimeNs: Int64, update: [UInt8]
    ) {
        self.feed = feed
        self.epoch = epoch
        self.sequence = sequence
        self.filingTimeNs = filingTimeNs
        self.appendTimeNs = appendTimeNs
        self.update = update
    }
}

/// With which write time a repair writes: filing time plus the generation, so that it wins over every row that was
/// found, and stays among the rows of its time.
public struct RepairStamp: Sendable, Hashable {
    /// Microseconds beyond the filing time.
    public var generation: Int64
    /// At least this, microseconds: past deletions, whose write times nobody can see.
    public var floorMicroseconds: Int64

    public init(generation: Int64, floorMicroseconds: Int64 = .min) {
        self.generation = generation
        self.floorMicroseconds = floorMicroseconds
    }

    /// Of a row that is filed then, in microseconds.
    public func timestamp(filingTimeNs: Int64) -> Int64 {
        let (sum, overflow) = floorDivide(filingTimeNs, by: 1000).addingReportingOverflow(generation)
        return max(overflow ? .max : sum, floorMicroseconds)
    }
}
