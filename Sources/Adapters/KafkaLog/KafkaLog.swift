// The log on Kafka: blocks out as records, records in as blocks. Fed by feeds and services through the EventLog port,
// feeds every reader of it; the brokers keep what the embedded log keeps in files.

import CRdKafka
import EventLog
import Synchronization
import TimeSource

/// A Kafka cluster as the log.
///
/// Made of clients with a thread each: one for each class of what is sent (``KafkaProducer``), one that follows the
/// tip for readers of everything (``TipReader``), one that reads from wherever it is asked to (``PartitionCursor``),
/// and one for each group that this process is a member of (``KafkaMembership``).
public final class KafkaLog: EventLog, @unchecked Sendable {
    public let configuration: KafkaConfiguration
    public let identity: LogIdentity
    let time: any TimeSource
    let report: @Sendable (String) -> Void
    /// Something came for a member of a group.
    let ready = ReadySignal()
    let reader: KafkaHandle
    private let counts: [Topic: Int]
    private let tip: TipReader?
    private let cache: BlockCache
    private var loads: LoadWorkers?
    private let listenerNumber = Atomic<UInt64>(0)
    private let state: Mutex<State>

    private struct State {
        var producers: [DurabilityClass: KafkaProducer] = [:]
        var transactions: KafkaTransactions?
        var cursors: [TopicPartition: PartitionCursor] = [:]
        var memberships: [KafkaMembership] = []
        var starts: [TopicPartition: UInt64] = [:]
        var groups: [String: KafkaHandle] = [:]
        /// The newest records of topics that are not followed, read when first asked for.
        var lastPlaces: [Topic: [LastPlace]] = [:]
        var isClosed = false
    }

    /// Connects and learns the topics. *Blocking.* `report` takes lines for people, from any thread. Throws
    /// `.unavailable`, `.denied`, and `.invalid` for a setting or a topic that is not there.
    public init(
        _ configuration: KafkaConfiguration, time: any TimeSource, report: @escaping @Sendable (String) -> Void
    ) throws(LogError) {
        self.configuration = configuration
        self.time = time
        self.report = report
        cache = BlockCache(byteCountMax: configuration.cacheBytes)
        let reader = try KafkaHandle(
            .consumer, configuration,
            RecordQueue.settings + [
                ("fetch.min.bytes", "1024"), ("queued.min.messages", "10000"), ("queued.max.messages.kbytes", "2048"),
            ], report: report)
        self.reader = reader
        let cluster = KafkaCluster(reader, configuration)
        counts = try cluster.partitionCounts()
        let missing = configuration.topics.filter { [counts] in counts[$0] == nil }
        guard missing.isEmpty else {
            throw LogError(
                .invalid,
                "the brokers \(configuration.brokers) have no topic "
                    + missing.map { configuration.name(of: $0) }.joined(separator: ", ")
                    + "; `tapedeck topics apply` makes them")
        }
        identity = LogIdentity(id: try cluster.id(), generation: 1, cuts: [])
        let places = configuration.followed.flatMap { [counts] topic in
            (0..<(counts[topic] ?? 0)).map { TopicPartition(topic, UInt16($0)) }
        }
        let starts = try cluster.offsets(places, at: KafkaCluster.earliest)
        state = Mutex(State(starts: starts))
        tip =
            places.isEmpty
            ? nil
            : try TipReader(
                configuration,
                KafkaLog.backlog(places, starts, try cluster.offsets(places, at: KafkaCluster.latest), configuration),
                report: report)
        loads = try LoadWorkers(configuration, time: time) { [unowned self] in refreshStarts() }
    }

    deinit { try? close() }

    /// Where following begins: some records before the end.
    private static func backlog(
        _ places: [TopicPartition], _ starts: [TopicPartition: UInt64], _ ends: [TopicPartition: UInt64],
        _ configuration: KafkaConfiguration
    ) -> [(place: TopicPartition, from: UInt64, goal: UInt64)] {
        places.map { place in
            let start = starts[place] ?? 0
            let end = ends[place] ?? start
            return (place, max(start, end - min(end, configuration.tipBacklog)), end)
        }
    }

    /// The key of an instrument's records.
    static func key(exchange: String, symbol: String) -> [UInt8] {
        exchange.isEmpty ? Array(symbol.utf8) : Array("\(exchange)|\(symbol)".utf8)
    }

    var cluster: KafkaCluster { KafkaCluster(reader, configuration) }

    // MARK: EventLog

    /// A feed on a broker begins a new epoch with each start.
    public var isContinuous: Bool { false }

    public var failure: LogError? {
        state.withLock { $0.producers.values.lazy.compactMap(\.failure).first }
    }

    /// What this process sent and read so far.
    public var counters: KafkaCounters {
        var counters = KafkaCounters()
        let (producers, cursors) = state.withLock { (Array($0.producers.values), Array($0.cursors.values)) }
        for producer in producers { producer.add(to: &counters) }
        tip?.add(to: &counters)
        for cursor in cursors {
            cursor.monitor.locked {
                counters.recordsRead += cursor.recordsRead
                counters.recordsMalformed += cursor.malformed
            }
        }
        return counters
    }

    public func partitionCount(_ topic: Topic) -> Int { counts[topic] ?? 0 }

    public func partition(of topic: Topic, exchange: String, symbol: String) -> UInt16 {
        let key = KafkaLog.key(exchange: exchange, symbol: symbol)
        return UInt16(clamping: key.withUnsafeBytes { Murmur2.partition($0, count: partitionCount(topic)) })
    }

    @discardableResult
    public func append(_ blocks: [Block], consumed: [GroupOffset]) throws(LogError) -> AppendReceipt {
        let nowNs = time.wallNs()
        guard !blocks.isEmpty || !consumed.isEmpty else { return AppendReceipt(firstOffsets: [], appendTimeNs: nowNs) }
        for block in blocks {
            let place = block.topicPartition
            guard Int(place.partition) < partitionCount(place.topic) else {
                throw LogError(
                    .invalid, "\(place) does not exist: the topic has \(partitionCount(place.topic)) partitions")
            }
        }
        guard consumed.isEmpty else {
            try transactions().append(blocks, consumed)
            return AppendReceipt(firstOffsets: [], appendTimeNs: nowNs)
        }
        let isAwaited = blocks.contains {
            $0.topicPartition.topic.durability == .orders || $0.topicPartition.topic.isDeadLetter
        }
        let producer = try producer(isAwaited ? .orders : .ticks)
        let ticket = try producer.enqueue(
            blocks,
            waitNs: isAwaited ? configuration.producer.othersDeadlineNs : configuration.producer.fullWaitNs)
        if isAwaited { try producer.wait(for: ticket) }
        return AppendReceipt(firstOffsets: [], appendTimeNs: nowNs)
    }

    public func sync() throws(LogError) {
        for producer in state.withLock({ Array($0.producers.values) }) {
            try producer.flush(timeoutNs: configuration.producer.ticksDeadlineNs)
        }
    }

    private func producer(_ durability: DurabilityClass) throws(LogError) -> KafkaProducer {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.producers[durability] { return known }
            let made = try KafkaProducer(durability, configuration, time: time, report: report)
            state.producers[durability] = made
            return made
        }
    }

    private func transactions() throws(LogError) -> KafkaTransactions {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.transactions { return known }
            let made = try KafkaTransactions(configuration, report: report)
            state.transactions = made
            return made
        }
    }

    // MARK: Reading

    public func startOffset(_ place: TopicPartition) -> UInt64 {
        if let known = state.withLock({ $0.starts[place] }) { return known }
        return (try? cluster.offsets([place], at: KafkaCluster.earliest)[place]) ?? 0
    }

    public func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64 {
        if let end = tip?.end(place) { return end }
        var low: Int64 = 0
        var high: Int64 = 0
        let name = configuration.name(of: place.topic)
        if state.withLock({ $0.cursors[place] != nil }),
            rd_kafka_get_watermark_offsets(reader.rk, name, Int32(place.partition), &low, &high)
                == RD_KAFKA_RESP_ERR_NO_ERROR, high >= 0
        {
            return UInt64(high)
        }
        return (try? cluster.offsets([place], at: KafkaCluster.latest)[place]) ?? 0
    }

    public func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64 {
        switch start {
        case .earliest: return try oldest(place)
        case .latest: return try cluster.offsets([place], at: KafkaCluster.latest)[place] ?? 0
        case .offset(let offset): return offset
        case .time(let timeNs):
            let timeMs = timeNs / 1_000_000 + (timeNs % 1_000_000 > 0 ? 1 : 0)
            if let found = try cluster.offsets([place], at: max(timeMs, 0))[place] { return found }
            return try cluster.offsets([place], at: KafkaCluster.latest)[place] ?? 0
        }
    }

    /// Asks the brokers.
    private func oldest(_ place: TopicPartition) throws(LogError) -> UInt64 {
        let start = try cluster.offsets([place], at: KafkaCluster.earliest)[place] ?? 0
        state.withLock { $0.starts[place] = start }
        return start
    }

    private func refreshStarts() {
        let places = state.withLock { Array($0.starts.keys) }
        guard !places.isEmpty, let starts = try? cluster.offsets(places, at: KafkaCluster.earliest) else { return }
        state.withLock { $0.starts.merge(starts) { $1 } }
    }

    public func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        guard let found = tip?.read(place, at: offset) else { return .onDisk }
        guard case .onDisk = found else { return found }
        let start = state.withLock { $0.starts[place] ?? 0 }
        return offset < start ? .expired(oldest: start) : cache.find(place, offset) ?? .onDisk
    }

    public func readBlocking(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) throws(LogError)
        -> ReadResult
    {
        let known = read(place, at: offset, visibility)
        if case .atEnd = known, let failure = tip?.failure(place) { throw failure }
        guard case .onDisk = known else { return known }
        let member = state.withLock { $0.memberships.first { $0.isMember(of: place) } }
        let cursor = try cursor(place)
        func find(through end: UInt64) throws(LogError) -> PartitionCursor.Found {
            try cursor.monitor.locked { () throws(LogError) in
                try cursor.read(
                    at: offset, timeoutNs: configuration.requestTimeoutNs, isPatient: member == nil, through: end)
            }
        }
        var found = try find(through: 0)
        // A member comes again and again; whoever else asks is told for certain.
        if member == nil, case .end = found { found = try find(through: try self.offset(of: .latest, in: place)) }
        switch found {
        case .block(let block):
            member?.took(place, through: block.endOffset)
            if tip?.follows(place) == true { cache.add(block, from: min(offset, block.firstOffset)) }
            return .block(block, index: Int(max(offset, block.firstOffset) - block.firstOffset))
        case .end: return .atEnd
        case .outOfRange:
            let oldest = try oldest(place)
            if offset < oldest { return .expired(oldest: oldest) }
            let end = try self.offset(of: .latest, in: place)
            guard offset > end else { return .atEnd }
            throw LogError(
                .lost,
                "\(place) ends at offset \(end), before \(offset) where its reader is to go on: the topic was cut or "
                    + "made anew. `tapedeck groups reset` decides where the group goes on")
        }
    }

    private func cursor(_ place: TopicPartition) throws(LogError) -> PartitionCursor {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.cursors[place] { return known }
            let made = PartitionCursor(
                place, reader, topic: try reader.topic(configuration.name(of: place.topic)), time: time,
                ready: Unmanaged.passUnretained(ready).toOpaque())
            state.cursors[place] = made
            return made
        }
    }

    /// A member goes on with a partition: its fetch is begun, so that many begin at once.
    func beginReading(_ place: TopicPartition, at offset: UInt64) {
        do throws(LogError) {
            let cursor = try cursor(place)
            try cursor.monitor.locked { () throws(LogError) in try cursor.begin(at: offset) }
        } catch {
            report(error.message)
        }
    }

    /// A partition went to another member: nothing of it is fetched any more.
    func endReading(_ place: TopicPartition) {
        guard let cursor = state.withLock({ $0.cursors.removeValue(forKey: place) }) else { return }
        cursor.monitor.locked { cursor.close() }
    }

    public func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) {
        let refusal = loads?.submit { [self] in
            do throws(LogError) {
                completion(.success(try readBlocking(place, at: offset, visibility)))
            } catch {
                completion(.failure(error))
            }
        }
        if let refusal { completion(.failure(refusal)) }
    }

    public func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        let untilNs = time.monotonicNs() + timeoutNs
        if let tip, tip.follows(place) { return tip.wait(place, at: offset, untilNs: untilNs, time: time) }
        guard let cursor = try? cursor(place) else { return false }
        return cursor.monitor.locked { (try? cursor.wait(at: offset, timeoutNs: timeoutNs)) ?? false }
    }

    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void
    ) -> ListenerID {
        let id = ListenerID(listenerNumber.add(1, ordering: .relaxed).newValue)
        tip?.addListener(id, durability, notify)
        return id
    }

    public func removeListener(_ id: ListenerID) { tip?.removeListener(id) }

    /// Waits until what the followed topics had when this log was opened is in memory. False when the time is over.
    public func waitUntilCaughtUp(timeoutNs: Int64) -> Bool {
        tip?.waitUntilCaughtUp(untilNs: time.monotonicNs() + timeoutNs, time: time) ?? true
    }

    // MARK: The newest records

    public func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace? {
        if let tip, configuration.followed.contains(topic) {
            return tip.lastPlace(
                topic, feed: feed, exchange: exchange, symbol: symbol, count: partitionCount(topic))
        }
        return lastPlaces(topic).first { $0.feed == feed && $0.exchange == exchange && $0.symbol == symbol }
    }

    public func lastPlaces(_ topic: Topic) -> [LastPlace] {
        if let tip, configuration.followed.contains(topic) { return KafkaLog.sorted(tip.lastPlaces(topic)) }
        if let known = state.withLock({ $0.lastPlaces[topic] }) { return known }
        let found = KafkaLog.sorted(readLastPlaces(topic))
        state.withLock { $0.lastPlaces[topic] = found }
        return found
    }

    private static func sorted(_ places: [LastPlace]) -> [LastPlace] {
        places.sorted { ($0.exchange, $0.symbol, $0.feed) < ($1.exchange, $1.symbol, $1.feed) }
    }

    /// Reads the ends of a topic's partitions once. What cannot be read is reported, and counts as not there.
    private func readLastPlaces(_ topic: Topic) -> [LastPlace] {
        let places = (0..<partitionCount(topic)).map { TopicPartition(topic, UInt16($0)) }
        guard !places.isEmpty else { return [] }
        do throws(LogError) {
            let starts = try cluster.offsets(places, at: KafkaCluster.earliest)
            let ends = try cluster.offsets(places, at: KafkaCluster.latest)
            let tail = try TipReader(
                configuration, KafkaLog.backlog(places, starts, ends, configuration), report: report)
            defer { tail.stop() }
            let untilNs = time.monotonicNs() + configuration.requestTimeoutNs
            if !tail.waitUntilCaughtUp(untilNs: untilNs, time: time) {
                report("the newest records of \(topic) could not all be read in time")
            }
            return tail.lastPlaces(topic)
        } catch {
            report("the newest records of \(topic) cannot be read: \(error.message)")
            return []
        }
    }

    // MARK: Groups

    public func join(group: String, _ topic: Topic) throws(LogError) -> any GroupMembership {
        let made = try KafkaMembership(group, topic, log: self)
        state.withLock { $0.memberships.append(made) }
        return made
    }

    func left(_ membership: KafkaMembership) {
        state.withLock { $0.memberships.removeAll { $0 === membership } }
    }

    public func committedOffset(group: String, _ place: TopicPartition) -> UInt64? {
        do throws(LogError) {
            return try cluster.committed(try groupHandle(group), [place])[place]
        } catch {
            report("where group \(group) is in \(place) cannot be read: \(error.message)")
            return nil
        }
    }

    public func commit(_ offsets: [GroupOffset]) throws(LogError) {
        for group in Set(offsets.map(\.group)) {
            try cluster.commit(try groupHandle(group), offsets.filter { $0.group == group })
        }
    }

    /// A client that speaks for a group without being a member of it.
    private func groupHandle(_ group: String) throws(LogError) -> KafkaHandle {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.groups[group] { return known }
            let made = try KafkaHandle(
                .consumer, configuration,
                RecordQueue.settings + [("group.id", configuration.name(ofGroup: group))], report: report)
            state.groups[group] = made
            return made
        }
    }

    /// Retention is the brokers' own.
    public func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {}

    public func close() throws(LogError) {
        let open = state.withLock { state in
            defer {
                state.isClosed = true
                state.producers = [:]
                state.transactions = nil
                state.cursors = [:]
                state.groups = [:]
            }
            return state.isClosed ? nil : state
        }
        guard let open else { return }
        for membership in open.memberships { membership.leave() }
        loads?.stop()
        tip?.stop()
        for cursor in open.cursors.values { cursor.monitor.locked { cursor.close() } }
        for group in open.groups.values { group.destroy() }
        open.transactions?.close()
        var failure: LogError?
        for producer in open.producers.values {
            do throws(LogError) {
                try producer.close(timeoutNs: configuration.producer.othersDeadlineNs)
            } catch {
                failure = failure ?? error
            }
        }
        reader.destroy()
        if let failure { throw failure }
    }
}
