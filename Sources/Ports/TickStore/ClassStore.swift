import EventLog
import MarketModel

/// Where the classes of records that are not ticks are kept: executions, events, positions, books.
///
/// Every record has a key that follows from it alone, so that one that is written again changes nothing. Threads: calls
/// may come from any thread; of one place from one at a time. All may wait, and are never made on an event loop.
public protocol ClassStore: AnyObject, Sendable {
    /// The offset to go on at; nil for a place never written.
    func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64?

    /// Writes records of a place, whose offsets ascend, and then the offset they go through. All of it is durable, by
    /// the consistency of its class, when this returns. On an error some of the records may be there; the same call
    /// again completes them.
    func write(_ records: [ClassRecord], through next: UInt64, of place: TopicPartition) throws(StoreError)

    /// The writer of this process writes the place no more. What is known of it is asked for again when it comes back.
    func release(_ place: TopicPartition)

    func close()
}

/// A record and its place in the log.
public struct ClassRecord: Sendable, Hashable {
    /// What it says.
    public enum Body: Sendable, Hashable {
        case execution(StoredExecution)
        case event(StoredEvent)
        case position(StoredPosition)
        case book(StoredBook)
    }

    public let offset: UInt64
    public let body: Body

    public init(offset: UInt64, body: Body) {
        self.offset = offset
        self.body = body
    }
}

/// A trade of an account. Amounts in 1e-6, times in nanoseconds since the epoch.
public struct StoredExecution: Sendable, Hashable {
    public var account = ""
    public var executionID = ""
    public var orderID = ""
    public var symbol = ""
    public var exchange = ""
    public var venue = ""
    public var side = ""
    public var quantityMicros: Int64 = 0
    public var priceMicros: Int64 = 0
    public var feeMicros: Int64 = 0
    public var executionTimeNs: Int64 = 0

    public init() {}
}

/// Something that happened to an entity, with the bytes that say it.
public struct StoredEvent: Sendable, Hashable {
    /// `order`; of an audit event what it names.
    public var entityType = ""
    public var entityID = ""
    public var eventType = ""
    public var timeNs: Int64 = 0
    /// The protobuf message as it was in the log.
    public var payload: [UInt8] = []
    /// For who looks at rows; sorted by key.
    public var metadata: [(key: String, value: String)] = []

    public init() {}

    public static func == (a: StoredEvent, b: StoredEvent) -> Bool {
        a.entityType == b.entityType && a.entityID == b.entityID && a.eventType == b.eventType && a.timeNs == b.timeNs
            && a.payload == b.payload
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(entityID)
        hasher.combine(payload)
    }
}

/// What an account holds of an instrument after its latest execution. Amounts in 1e-6, prices at 1e-9 below that.
public struct StoredPosition: Sendable, Hashable {
    public var account = ""
    public var exchange = ""
    public var symbol = ""
    public var quantityMicros: Int64 = 0
    public var averagePriceMicros: Int64 = 0
    public var averagePriceNano: Int32 = 0
    public var realizedMicros: Int64 = 0
    public var unrealizedMicros: Int64 = 0
    /// Ascends with each update: a lower one never replaces a higher.
    public var sequence: UInt64 = 0
    public var executionID = ""
    public var executionTimeNs: Int64 = 0
    public var updateTimeNs: Int64 = 0

    public init() {}
}

/// An instrument's book in full.
public struct StoredBook: Sendable, Hashable {
    public var exchange = ""
    public var symbol = ""
    public var feed = ""
    /// When it was so: the venue's time, or the receive time where the venue gives none or one a day off. Nanoseconds
    /// since the epoch.
    public var timeNs: Int64 = 0
    public var epoch: UInt64 = 0
    /// The record of the epoch that it stands at: later ones go on from it.
    public var sequence: UInt64 = 0
    /// Best first.
    public var bids: [PriceLevel] = []
    public var asks: [PriceLevel] = []

    public init() {}

    /// As a record that a book begins with.
    public var record: BookRecord {
        var record = BookRecord(BookRecord.Head(epoch: epoch, sequence: sequence))
        record.head.isSnapshot = true
        record.bids = bids
        record.asks = asks
        return record
    }
}
