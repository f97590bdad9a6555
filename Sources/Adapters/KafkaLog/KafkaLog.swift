// The log on Kafka: blocks out as records, records in as blocks. Fed by feeds and services through the EventLog port,
// feeds every reader of it; the brokers keep what the embedded log keeps in files.

import CRdKafka
import EventLog
import Synchronization
import TimeSource

/// A Kafka cluster as the log.
///
/// What is sent and read goes over connections of its own (`KafkaClient`), on a loop for each class of what is sent
/// (``KafkaProducer``), one that follows the tip for readers of everything (``TipReader``), and one that reads from
/// wherever it is asked to, for members of groups (``PartitionCursor``) and for others (``CatchUpReads``). Groups
/// (``KafkaMembership``), transactions and questions are librdkafka's, a client with a thread for each.
public final class KafkaLog: EventLog, @unchecked Sendable {
    public let configuration: KafkaConfiguration
    public let identity: LogIdentity
    let time: any TimeSource
    let notify: KafkaReport
    /// Something came for a member of a group.
    let ready = ReadySignal()
    /// Asks the brokers what is not read from them.
    let reader: KafkaHandle
    /// Bytes in the cursors' queues.
    let waiting = FetchQueue.Shared()
    let counts: [Topic: Int]
    let tip: TipReader?
    let cache: BlockCache
    var loads: LoadWorkers?
    let listenerNumber = Atomic<UInt64>(0)
    let state: Mutex<State>

    struct State {
        var producers: [DurabilityClass: KafkaProducer] = [:]
        var transactions: KafkaTransactions?
        var spill: TickSpill?
        var cursors: [TopicPartition: PartitionCursor] = [:]
        var fetching: FetchLoop?
        var catchUp: CatchUpReads?
        var memberships: [KafkaMembership] = []
        var starts: [TopicPartition: UInt64] = [:]
        /// The newest records of topics that are not followed, read when first asked for.
        var lastPlaces: [Topic: [LastPlace]] = [:]
        var isClosed = false
    }

    /// Connects and learns the topics. *Blocking.* `report` takes lines for people, from any thread. Throws
    /// `.unavailable`, `.denied`, and `.invalid` for a setting or a topic that is not there.
    public init(
        _ configuration: KafkaConfiguration, time: any TimeSource, report: @escaping KafkaReport
    ) throws(LogError) {
        self.configuration = configuration
        self.time = time
        notify = report
        cache = BlockCache(byteCountMax: configuration.cacheBytes)
        let reader = try KafkaHandle(
            .consumer, configuration, ConsumerSettings.common, report: report)
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
                time: time, report: report)
        loads = try LoadWorkers(configuration, time: time) { [unowned self] in
            refreshStarts()
        } everySecond: { [unowned self] in
            state.withLock { $0.catchUp }?.tick()
        }
    }

    deinit { try? close() }

    /// Where following begins: some records before the end.
    static func backlog(
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

    func report(_ line: String) { notify("kafka.log", line) }

    /// librdkafka's version, a byte each for major, minor, revision and what comes before a release (0xff for one).
    public static var libraryVersion: Int32 { rd_kafka_version() }

    // MARK: EventLog

    /// A feed on a broker begins a new epoch with each start.
    public var isContinuous: Bool { false }

    /// Brokers that do not take records now may do so later.
    public var failure: LogError? { nil }

    /// What this process sent and read so far.
    public var counters: KafkaCounters {
        var counters = KafkaCounters()
        let (producers, cursors) = state.withLock { (Array($0.producers.values), Array($0.cursors.values)) }
        let catchUp = state.withLock { $0.catchUp }?.counters
        counters.recordsRead += catchUp?.recordsRead ?? 0
        counters.recordsMalformed += catchUp?.malformed ?? 0
        state.withLock { $0.spill }?.add(to: &counters)
        for producer in producers { producer.add(to: &counters) }
        tip?.add(to: &counters)
        for cursor in cursors {
            cursor.monitor.locked {
                counters.recordsRead += cursor.recordsRead
                counters.recordsMalformed += cursor.malformed
                counters.readLatency.add(cursor.latency)
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
        if isAwaited {
            try producer.wait(for: try producer.enqueue(blocks, waitNs: configuration.producer.othersDeadlineNs))
        } else {
            try appendTicks(blocks, producer)
        }
        return AppendReceipt(firstOffsets: [], appendTimeNs: nowNs)
    }

    private func appendTicks(_ blocks: [Block], _ producer: KafkaProducer) throws(LogError) {
        guard let spill = state.withLock({ $0.spill }) else {
            _ = try producer.enqueue(blocks, waitNs: configuration.producer.fullWaitNs)
            return
        }
        if try spill.append(blocks) { return }
        do throws(LogError) {
            _ = try producer.enqueue(
                blocks, waitNs: min(configuration.producer.fullWaitNs, configuration.spillAfterNs))
        } catch {
            guard error.code == .unavailable, producer.fullNs >= configuration.spillAfterNs else { throw error }
            try spill.begin(with: blocks)
        }
    }

    /// Has ticks and books go to a log on this machine while the brokers do not take them. It has as many partitions
    /// of both topics as the brokers have, and nobody else appends to it. Before the first append. One thread appends
    /// ticks from then on.
    public func spill(into log: any EventLog) throws(LogError) {
        for topic in [Topic.ticksRaw, .booksDeltas] where log.partitionCount(topic) < partitionCount(topic) {
            throw LogError(
                .invalid,
                "the spill has \(log.partitionCount(topic)) partitions of \(topic), and the brokers have "
                    + "\(partitionCount(topic))"
            )
        }
        let made = try TickSpill(log, try producer(.ticks), configuration, time: time, report: notify)
        state.withLock { $0.spill = made }
    }

    public func sync() throws(LogError) {
        let (spill, producers) = state.withLock { ($0.spill, Array($0.producers.values)) }
        let timeoutNs = max(configuration.producer.ticksDeadlineNs, configuration.requestTimeoutNs)
        try spill?.waitUntilDrained(timeoutNs: timeoutNs)
        for producer in producers {
            try producer.flush(timeoutNs: timeoutNs)
        }
    }

    func producer(_ durability: DurabilityClass) throws(LogError) -> KafkaProducer {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.producers[durability] { return known }
            let made = try KafkaProducer(durability, configuration, time: time, report: notify)
            state.producers[durability] = made
            return made
        }
    }

    func transactions() throws(LogError) -> KafkaTransactions {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.transactions { return known }
            let made = try KafkaTransactions(configuration, time: time, report: notify)
            state.transactions = made
            return made
        }
    }

    /// Retention is the brokers' own.
    public func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {}

    /// What the brokers do not take in time is for the spill, and the next process.
    private func closeTicks(_ producer: KafkaProducer?, _ spill: TickSpill) throws(LogError) {
        defer { spill.stop() }
        guard let producer else { return }
        do throws(LogError) {
            try producer.flush(timeoutNs: configuration.spillAfterNs)
        } catch {
            guard error.code == .unavailable else { throw error }
            try spill.begin(with: [])
        }
    }

    public func close() throws(LogError) {
        let open = state.withLock { state in
            defer {
                state.isClosed = true
                state.producers = [:]
                state.transactions = nil
                state.cursors = [:]
                state.fetching = nil
                state.catchUp = nil
            }
            return state.isClosed ? nil : state
        }
        guard let open else { return }
        for membership in open.memberships { membership.leave() }
        open.catchUp?.close()
        loads?.stop()
        tip?.stop()
        for cursor in open.cursors.values { cursor.monitor.locked { cursor.close() } }
        open.fetching?.stop()
        open.transactions?.close()
        var failure: LogError?
        if let spill = open.spill {
            do throws(LogError) { try closeTicks(open.producers[.ticks], spill) } catch { failure = error }
        }
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
