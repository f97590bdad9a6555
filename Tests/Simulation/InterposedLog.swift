import EventLog
import MarketModel
import Synchronization
import TimeSource

/// A log some of whose reads are answered by somebody else.
public final class InterposedLog: EventLog {
    /// nil: the log's own answer.
    public typealias Answer = @Sendable (_ place: TopicPartition, _ offset: UInt64) -> ReadResult?

    private let log: any EventLog
    private let read: Answer
    private let fetched: FetchedReads?

    public init(_ log: any EventLog, read: @escaping Answer) {
        self.log = log
        self.read = read
        fetched = nil
    }

    /// Blocking reads are those of a log that is fetched from elsewhere.
    public init(_ log: any EventLog, fetched: FetchedReads) {
        self.log = log
        read = { _, _ in nil }
        self.fetched = fetched
    }

    public func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        read(place, offset) ?? log.read(place, at: offset, visibility)
    }
    public func readBlocking(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility
    ) throws(LogError) -> ReadResult {
        if let found = fetched?.answer(place, offset) { return found }
        return try log.readBlocking(place, at: offset, visibility)
    }

    public var identity: LogIdentity { log.identity }
    public var isContinuous: Bool { log.isContinuous }
    public var failure: LogError? { log.failure }
    public func partitionCount(_ topic: Topic) -> Int { log.partitionCount(topic) }
    public func append(_ blocks: [Block], consumed: [GroupOffset]) throws(LogError) -> AppendReceipt {
        try log.append(blocks, consumed: consumed)
    }
    public func sync() throws(LogError) { try log.sync() }
    public func startOffset(_ place: TopicPartition) -> UInt64 { log.startOffset(place) }
    public func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64 {
        log.endOffset(place, visibility)
    }
    public func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64 {
        try log.offset(of: start, in: place)
    }
    public func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) { log.load(place, at: offset, visibility, completion: completion) }
    public func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        fetched?.wait(place, timeoutNs: timeoutNs) ?? log.wait(place, at: offset, visibility, timeoutNs: timeoutNs)
    }
    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void
    ) -> ListenerID { log.addListener(durability, visibility, notify) }
    public func removeListener(_ id: ListenerID) { log.removeListener(id) }
    public func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace? {
        log.lastPlace(topic, feed: feed, exchange: exchange, symbol: symbol)
    }
    public func lastPlaces(_ topic: Topic) -> [LastPlace] { log.lastPlaces(topic) }
    public func committedOffset(group: String, _ place: TopicPartition) throws(LogError) -> UInt64? {
        try log.committedOffset(group: group, place)
    }
    public func fence() throws(LogError) { try log.fence() }
    public func commit(_ offsets: [GroupOffset]) throws(LogError) { try log.commit(offsets) }
    public func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {
        log.hold(reader: reader, place, from: offset)
    }
    public func close() throws(LogError) { try log.close() }
}

/// Reads as of a log that is fetched from elsewhere: who goes on where it was has what comes next, who begins at
/// another offset finds nothing there until it was fetched.
public final class FetchedReads: Sendable {
    private struct Cursor {
        var next: UInt64
        var readyNs: Int64
    }
    private struct State {
        var cursors: [TopicPartition: Cursor] = [:]
        var emptyReads = 0
    }

    private let log: any EventLog
    private let time: any TimeSource
    private let fetchNs: Int64
    private let state = Mutex(State())

    public init(_ log: any EventLog, _ time: any TimeSource, fetchNs: Int64 = 5_000_000) {
        self.log = log
        self.time = time
        self.fetchNs = fetchNs
    }

    /// Reads that found nothing, as it was not fetched yet.
    public var emptyReads: Int { state.withLock { $0.emptyReads } }

    /// Sleeps until what is being fetched is there; nil where nothing is.
    fileprivate func wait(_ place: TopicPartition, timeoutNs: Int64) -> Bool? {
        let leftNs = state.withLock { $0.cursors[place]?.readyNs }.map { $0 - time.monotonicNs() } ?? 0
        guard leftNs > 0 else { return nil }
        time.sleep(ns: min(leftNs, timeoutNs))
        return leftNs <= timeoutNs
    }

    fileprivate func answer(_ place: TopicPartition, _ offset: UInt64) -> ReadResult? {
        let nowNs = time.monotonicNs()
        let isReady = state.withLock { state in
            if state.cursors[place]?.next != offset {
                state.cursors[place] = Cursor(next: offset, readyNs: nowNs + fetchNs)
            }
            // Who looks without pause, so that no time passes, is to end, too.
            guard let cursor = state.cursors[place], nowNs < cursor.readyNs, state.emptyReads < 100_000 else {
                return true
            }
            state.emptyReads += 1
            return false
        }
        guard isReady else { return .atEnd }
        guard let found = try? log.readBlocking(place, at: offset, .durable), case .block(let block, _) = found else {
            return nil
        }
        state.withLock { $0.cursors[place] = Cursor(next: block.endOffset, readyNs: 0) }
        return found
    }
}
