import EventLog
import EventLoop
import SegmentLog
import Synchronization

/// A log as two loops see it, of which the second can be kept from seeing what is new.
final class EventLoopsApart: EventLog {
    let group = EventLoopGroup(count: 2)
    private let log: SegmentLog
    private let isHeld = Atomic<Bool>(false)

    init(log: SegmentLog) { self.log = log }

    var isSecondHeld: Bool {
        get { isHeld.load(ordering: .sequentiallyConsistent) }
        set { isHeld.store(newValue, ordering: .sequentiallyConsistent) }
    }

    func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        isSecondHeld && group.loops[1].isCurrent ? .atEnd : log.read(place, at: offset, visibility)
    }

    var identity: LogIdentity { log.identity }
    var isContinuous: Bool { log.isContinuous }
    var failure: LogError? { log.failure }
    func partitionCount(_ topic: Topic) -> Int { log.partitionCount(topic) }
    func append(_ blocks: [Block], consumed: [GroupOffset]) throws(LogError) -> AppendReceipt {
        try log.append(blocks, consumed: consumed)
    }
    func sync() throws(LogError) { try log.sync() }
    func startOffset(_ place: TopicPartition) -> UInt64 { log.startOffset(place) }
    func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64 { log.endOffset(place, visibility) }
    func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64 {
        try log.offset(of: start, in: place)
    }
    func readBlocking(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility
    ) throws(LogError) -> ReadResult { try log.readBlocking(place, at: offset, visibility) }
    func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) { log.load(place, at: offset, visibility, completion: completion) }
    func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        log.wait(place, at: offset, visibility, timeoutNs: timeoutNs)
    }
    func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void
    ) -> ListenerID { log.addListener(durability, visibility, notify) }
    func removeListener(_ id: ListenerID) { log.removeListener(id) }
    func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace? {
        log.lastPlace(topic, feed: feed, exchange: exchange, symbol: symbol)
    }
    func lastPlaces(_ topic: Topic) -> [LastPlace] { log.lastPlaces(topic) }
    func committedOffset(group: String, _ place: TopicPartition) -> UInt64? {
        log.committedOffset(group: group, place)
    }
    func fence() { log.fence() }
    func commit(_ offsets: [GroupOffset]) throws(LogError) { try log.commit(offsets) }
    func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {
        log.hold(reader: reader, place, from: offset)
    }
    func close() throws(LogError) { try log.close() }
}
