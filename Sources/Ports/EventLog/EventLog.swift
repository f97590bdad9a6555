/// The log that everything crosses: appended to by feeds and services, read by any number of readers at their own pace.
///
/// Threads: every call may come from any thread. Calls marked *blocking* wait for a file and are never made on an event
/// loop.
public protocol EventLog: AnyObject, Sendable {
    /// Which log this is and what earlier starts had to cut.
    var identity: LogIdentity { get }
    /// Whether feeds may go on with their epochs: the last stop was clean, or the machine has not booted since, and
    /// every instrument has published since the last start of which that was not true. When false, records that readers
    /// saw may be gone, and a live feed begins a new epoch, unless it asks ``LastPlace/generation`` by instrument.
    var isContinuous: Bool { get }
    /// The failure after which the log refuses appends; nil while it is healthy.
    var failure: LogError? { get }

    func partitionCount(_ topic: Topic) -> Int
    /// Where an instrument's records belong.
    func partition(of topic: Topic, exchange: String, symbol: String) -> UInt16

    /// Appends blocks (unstamped, from ``BlockBuilder``) of topics of one durability class, and commits the offsets
    /// that a log-to-log service consumed for them, as one transaction. *Blocking.*
    ///
    /// Ticks: written when it returns, so they survive the end of the process, and synced within the configured
    /// interval; where the log is a broker, they are in a bounded queue, and the broker has them soon after or the
    /// log counts them as lost. Orders and dead letters: synced, or acknowledged by the broker, when it returns. Throws
    /// when the disk is full or failed, or the queue full; then nothing of it was appended.
    @discardableResult
    func append(_ blocks: [Block], consumed: [GroupOffset]) throws(LogError) -> AppendReceipt

    /// Returns when everything appended before is synced, or acknowledged by the broker. *Blocking.*
    func sync() throws(LogError)

    /// The oldest offset that exists; equal to the end when there is none.
    func startOffset(_ place: TopicPartition) -> UInt64
    /// One past the newest offset that a reader of this visibility may see.
    func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64
    /// The offset where a reader begins. *Blocking* for `.time`, which finds the first record appended at or after it.
    func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64

    /// The block that holds `offset`, if it is in memory. Never blocks.
    func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult
    /// Like ``read(_:at:_:)``, but reads and verifies it from the files when it is no longer in memory; never answers
    /// `.onDisk`. *Blocking.*
    func readBlocking(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility
    ) throws(LogError) -> ReadResult
    /// Has a reader thread do what ``readBlocking(_:at:_:)`` does; `completion` is called on that thread.
    func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void)
    /// Waits until there is something at or after `offset`, the time is over, or the log stops. True when there is.
    /// *Blocking.*
    func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool
    /// Calls `notify` after records of a durability class became visible, from the thread that made them so: it must
    /// only wake someone up. Several appends may be one call.
    func addListener(_ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void)
        -> ListenerID
    /// As ``addListener(_:_:_:)``, with the blocks that became visible: from them a listener sees whether anybody has
    /// to be woken. nil where the log does not say which; then it may have been any.
    func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, ofBlocks notify: @escaping @Sendable ([Block]?) -> Void
    ) -> ListenerID
    func removeListener(_ id: ListenerID)

    /// The latest record that a feed published of an instrument, however old; nil where there is none.
    func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace?
    /// All of them, in the order of (exchange, symbol, feed).
    func lastPlaces(_ topic: Topic) -> [LastPlace]

    /// Where a consumer group goes on; nil for a group that never committed. A group whose effects lie in a store
    /// commits there. Waits for an append with offsets of the group that another process left unfinished, and fails as
    /// retryable where that takes too long.
    func committedOffset(group: String, _ place: TopicPartition) throws(LogError) -> UInt64?
    /// Ends appends with offsets that another log of the same name and instance has not finished, as one whose process
    /// was killed: whoever makes such appends calls it before it asks how far they went. *Blocking.*
    func fence() throws(LogError)
    func commit(_ offsets: [GroupOffset]) throws(LogError)
    /// Keeps retention from passing what a named reader has not finished, as far as the configured share of the disk
    /// allows. What had to be removed anyway is counted and reported by range.
    func hold(reader: String, _ place: TopicPartition, from offset: UInt64)

    /// Becomes a member of a consumer group that divides a topic's partitions among its members. *Blocking.*
    func join(group: String, _ topic: Topic) throws(LogError) -> any GroupMembership

    /// Ends readers' waits, syncs, and marks a clean stop. *Blocking.*
    func close() throws(LogError)
}

extension EventLog {
    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, ofBlocks notify: @escaping @Sendable ([Block]?) -> Void
    ) -> ListenerID { addListener(durability, visibility) { notify(nil) } }
}

/// Which records a reader sees.
public enum Visibility: Sendable {
    /// Written, not necessarily synced: for the edge's tick cursors and the last-value memory alone.
    case written
    /// Synced: for every reader with effects.
    case durable
}

/// Where a new reader begins.
public enum StartPosition: Sendable, Hashable {
    case earliest
    case latest
    case offset(UInt64)
    /// Append time, nanoseconds since the epoch.
    case time(Int64)
}

/// What there is at an offset.
public enum ReadResult: Sendable {
    /// The block and the index in it of the record asked for; where the log has none of that offset (a broker's offsets
    /// have gaps after transactions and compaction), of the first one after it. Within a block there are no gaps.
    case block(Block, index: Int)
    /// Nothing there yet.
    case atEnd
    /// It exists, but has to be loaded.
    case onDisk
    /// It is gone: the oldest that exists is given. Someone must decide; it is never skipped in silence.
    case expired(oldest: UInt64)
    /// Its block is damaged: nothing can be had before `next`.
    case damaged(next: UInt64, reason: String)
}

/// Where an append went.
public struct AppendReceipt: Sendable {
    /// The first offset of each block, in order; empty where the log does not know them yet (ticks on a broker).
    public let firstOffsets: [UInt64]
    public let appendTimeNs: Int64

    public init(firstOffsets: [UInt64], appendTimeNs: Int64) {
        self.firstOffsets = firstOffsets
        self.appendTimeNs = appendTimeNs
    }
}

/// The next offset that a consumer group will process.
public struct GroupOffset: Hashable, Sendable {
    public let group: String
    public let place: TopicPartition
    public let offset: UInt64

    public init(group: String, place: TopicPartition, offset: UInt64) {
        self.group = group
        self.place = place
        self.offset = offset
    }
}

/// The latest record of an instrument that a feed published.
public struct LastPlace: Hashable, Sendable {
    public let feed: String
    public let exchange: String
    public let symbol: String
    public let place: TopicPartition
    public let offset: UInt64
    public let epoch: UInt64
    public let sequence: UInt64
    /// The log's generation when it was appended. A feed goes on with the epoch only if it is still
    /// ``LogIdentity/generation``: otherwise later records of the instrument may have been seen and lost, however many
    /// starts ago.
    public let generation: UInt32

    public init(
        feed: String, exchange: String, symbol: String, place: TopicPartition, offset: UInt64, epoch: UInt64,
        sequence: UInt64, generation: UInt32 = 1
    ) {
        self.feed = feed
        self.exchange = exchange
        self.symbol = symbol
        self.place = place
        self.offset = offset
        self.epoch = epoch
        self.sequence = sequence
        self.generation = generation
    }
}

/// Which log, and what its starts had to cut.
public struct LogIdentity: Hashable, Sendable {
    /// A generation began because a start cut a torn tail: in it, records of an earlier one at or past these ends are
    /// gone.
    public struct Cut: Hashable, Sendable {
        public let generation: UInt32
        /// Where the new generation begins, for each partition that had records.
        public let ends: [TopicPartition: UInt64]

        public init(generation: UInt32, ends: [TopicPartition: UInt64]) {
            self.generation = generation
            self.ends = ends
        }
    }

    /// Random, made with the log.
    public let id: UInt64
    /// Of this start; 1 for a new log.
    public let generation: UInt32
    /// Newest last.
    public let cuts: [Cut]

    public init(id: UInt64, generation: UInt32, cuts: [Cut]) {
        self.id = id
        self.generation = generation
        self.cuts = cuts
    }
}

/// Names a listener, to remove it by.
public struct ListenerID: Hashable, Sendable {
    public let number: UInt64
    public init(_ number: UInt64) { self.number = number }
}

/// Why the log cannot do something. `retryable` says whether the same call can succeed later.
public struct LogError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What kind of failure it is.
    public enum Code: String, Sendable {
        /// No space, or retention could not make any.
        case diskFull
        case readOnly
        /// Another process has the directory.
        case locked
        /// A sync failed: what was not synced may be lost, so nothing more is accepted until a restart.
        case stopped
        /// A file is not what it should be.
        case damaged
        /// Written by a newer version.
        case unknownFormat
        case tooLarge
        /// The call asks for what cannot be: a partition that does not exist, an offset past the end.
        case invalid
        /// A broker cannot be reached, or does not answer in time.
        case unavailable
        /// What was asked for may be done or not: it went out, and nobody said what became of it. Who tries again may
        /// have it twice.
        case uncertain
        /// A broker knows who asks and says no, or cannot know who asks.
        case denied
        /// What a reader has to read next is gone, by retention or because the log was cut: someone must decide where
        /// it goes on.
        case lost
        case closed
        case io
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
