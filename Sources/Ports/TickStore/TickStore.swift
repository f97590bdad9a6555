import EventLog
import MarketModel

/// Where ticks are kept and asked for: by filing time, with one row per tick identity however often it is written.
///
/// Threads: every call may come from any thread; `apply` of one place from one at a time. All may wait for a file and
/// are never made on an event loop.
public protocol TickStore: AnyObject, Sendable {
    /// Stores rows, last ticks and day figures, and the offset they go through, as one transaction. Rows that exist
    /// already stay as they are. Returns one past the highest offset of the place that is durable (a power cut keeps
    /// it).
    func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64

    /// The offset to go on at: what the last `apply` gave, or nil for a place never applied.
    func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64?

    /// Makes everything applied durable, now or as often as the store does that; returns what `apply` would.
    func sync(_ place: TopicPartition) throws(StoreError) -> UInt64

    /// Makes everything applied to the place durable now, before its writer stops; returns what `apply` would. Throws
    /// where that cannot be.
    func flush(_ place: TopicPartition) throws(StoreError) -> UInt64

    /// The writer of this process writes the place no more; another's may. What is known of it is asked for again when
    /// it comes back.
    func release(_ place: TopicPartition) throws(StoreError)

    /// All instruments that have a tick, sorted.
    func instruments() throws(StoreError) -> [Instrument]

    /// The newest tick of the instrument's primary feed, and its day.
    func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick?

    /// Calls `body` with rows in row order (filing time, then identity), filing times in `from..<to` (ns), until it
    /// returns false. Batches are valid during the call.
    func scan(_ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool) throws(StoreError)

    /// Which records of the log the store holds by their offsets: every row that they made is there. Never waits: may
    /// be called on an event loop.
    func heldOffsets(_ place: TopicPartition) -> HeldOffsets

    /// Where the rows of the held records among `offsets` are filed: runs that have all of these, ascending, and
    /// perhaps some before and after.
    func filed(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords]

    /// What the store holds, for people: rows are exact where the store counts them, else nil.
    func statistics() throws(StoreError) -> StoreStatistics

    func close() throws(StoreError)
}

// What a store does by itself that knows no offsets, and that one process has alone; and whose `sync` is at once.
extension TickStore {
    public func heldOffsets(_ place: TopicPartition) -> HeldOffsets { HeldOffsets() }

    public func filed(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords] { [] }

    public func release(_ place: TopicPartition) throws(StoreError) {}

    public func flush(_ place: TopicPartition) throws(StoreError) -> UInt64 { try sync(place) }
}

/// Rows to store: places in blocks of the log, with what the writer found in their fields.
public struct TickRows: Sendable {
    /// One row: which record it is, when it is filed, and the trade in it.
    public struct Row: Sendable {
        /// Index into ``TickRows/blocks``, and of the record in that block.
        public let block: Int32
        public let record: Int32
        public let filingTimeNs: Int64
        /// The trade the row reports, if any: price at 1e-9, size at 1e-8.
        public let tradePrice: Int64?
        public let tradeSize: Int64

        @inlinable
        public init(block: Int32, record: Int32, filingTimeNs: Int64, tradePrice: Int64?, tradeSize: Int64) {
            self.block = block
            self.record = record
            self.filingTimeNs = filingTimeNs
            self.tradePrice = tradePrice
            self.tradeSize = tradeSize
        }
    }

    public var blocks: [Block]
    public var rows: [Row]

    public init(blocks: [Block] = [], rows: [Row] = []) {
        self.blocks = blocks
        self.rows = rows
    }
}

/// Rows of one instrument as gRPC frames (`0`, length big endian, PriceUpdate), back to back, in row order.
public struct RowBatch {
    public let frames: UnsafeRawBufferPointer
    public let count: Int

    public init(frames: UnsafeRawBufferPointer, count: Int) {
        self.frames = frames
        self.count = count
    }
}

/// The newest tick of an instrument, as encoded, and the figures of its day.
public struct LatestTick: Sendable, Hashable {
    /// PriceUpdate bytes, without a frame.
    public let update: [UInt8]
    /// The offset in the log through which the figures go.
    public let nextOffset: UInt64
    public let day: DayRecord

    public init(update: [UInt8], nextOffset: UInt64, day: DayRecord) {
        self.update = update
        self.nextOffset = nextOffset
        self.day = day
    }
}

/// What the store holds.
public struct StoreStatistics: Sendable, Hashable {
    public var instrumentCount: Int
    public var rowCount: UInt64?
    public var diskBytes: UInt64

    public init(instrumentCount: Int, rowCount: UInt64?, diskBytes: UInt64) {
        self.instrumentCount = instrumentCount
        self.rowCount = rowCount
        self.diskBytes = diskBytes
    }
}

/// Why the store cannot do something. `retryable` says whether the same call can succeed later.
public struct StoreError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What kind of failure it is.
    public enum Code: String, Sendable {
        case diskFull, readOnly, locked, damaged, unknownFormat, unreachable, closed, io
        /// In which bucket rows of a date belong is not known.
        case bucketWidthUnknown
    }

    public let code: Code
    /// What happened, to which thing, and what to do next.
    public let message: String
    public let retryable: Bool

    public init(_ code: Code, _ message: String, retryable: Bool = false) {
        self.code = code
        self.message = message
        self.retryable = retryable
    }

    public var description: String { message }
}
