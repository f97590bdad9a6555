import CRdKafka
import EventLog
import Synchronization
import TimeSource

/// This process as a member of a consumer group.
///
/// The group's own client only takes part in it: it joins, is given partitions, which it keeps paused, beats, and
/// commits. Records are read by the log's ``PartitionCursor``s, which a rebalance does not disturb, and which can wait
/// as long as a store is away while the group is polled all the time. One thread owns the client.
final class KafkaMembership: GroupMembership, @unchecked Sendable {
    private static let closeNsMax: Int64 = 10_000_000_000
    private static let pollMs: Int32 = 250

    /// How far this member is in one of its partitions.
    private struct Progress {
        var finished: FinishedOffsets
        var committed: UInt64
        /// One past what was handed out, and since when not all of it is finished.
        var takenThrough: UInt64
        var outSinceNs: Int64?
        var isReported = false
    }

    private let group: String
    private let topic: Topic
    private let log: KafkaLog
    let handle: KafkaHandle
    private let limits: KafkaConfiguration.Group
    private let time: any TimeSource
    private let notify: KafkaReport
    private let topicName: String
    private var thread: WorkerThread?
    /// Of the thread that waits.
    private var seenReady: UInt64 = 0
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var assigned: Set<TopicPartition> = []
    private var revoking: Set<TopicPartition> = []
    /// What ``partitions()`` gave last: batches of these may be out.
    private var held: Set<TopicPartition> = []
    private var progress: [TopicPartition: Progress] = [:]
    private var failure: LogError?
    private var isLeaving = false
    private var committedNs: Int64 = 0

    init(_ group: String, _ topic: Topic, log: KafkaLog) throws(LogError) {
        self.group = group
        self.topic = topic
        self.log = log
        let configuration = log.configuration
        limits = configuration.group
        time = log.time
        notify = log.notify
        topicName = configuration.name(of: topic)
        handle = try KafkaHandle(
            .consumer, configuration, KafkaMembership.settings(group, configuration), report: log.notify
        ) { rd_kafka_conf_set_rebalance_cb($0, KafkaHandle.rebalance) }
        rd_kafka_poll_set_consumer(handle.rk)
        handle.context.rebalanced.withLock { rebalanced in
            rebalanced = { [unowned self] code, list in rebalance(code, list) }
        }
        let topics = PartitionList()
        topics.add(topicName, RD_KAFKA_PARTITION_UA, offset: Int64(RD_KAFKA_OFFSET_INVALID))
        let code = rd_kafka_subscribe(handle.rk, topics.list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw handle.fail("joining group \(group)", code) }
        thread = try WorkerThread("kafka-group") { [unowned self] in run() }
    }

    private static func settings(_ group: String, _ configuration: KafkaConfiguration) -> [(String, String)] {
        var settings = ConsumerSettings.common
        settings.append(("group.id", configuration.name(ofGroup: group)))
        if !configuration.group.instance.isEmpty {
            settings.append(("group.instance.id", configuration.group.instance))
        }
        // In the new protocol these are the broker's to choose.
        if !configuration.properties.contains(where: { $0.name == "group.protocol" && $0.value == "consumer" }) {
            settings.append(("partition.assignment.strategy", "cooperative-sticky"))
            settings.append(("session.timeout.ms", "\(configuration.group.sessionTimeoutMs)"))
            settings.append(("heartbeat.interval.ms", "\(max(configuration.group.sessionTimeoutMs / 15, 100))"))
        }
        return settings
    }

    private func report(_ line: String) { notify("kafka.group", line) }

    // MARK: GroupMembership

    func partitions() throws(LogError) -> [TopicPartition] {
        try monitor.locked { () throws(LogError) in
            if let failure { throw failure }
            held = assigned.subtracting(revoking)
            monitor.wakeAll()
            return held.sorted { $0.partition < $1.partition }
        }
    }

    func begin(_ place: TopicPartition, at offset: UInt64) {
        monitor.locked {
            // The group is told of it: a store may be further than what an earlier member lived to commit.
            progress[place] = Progress(
                finished: FinishedOffsets(from: offset), committed: 0, takenThrough: offset, outSinceNs: nil)
        }
        log.beginReading(place, at: offset)
    }

    func finish(_ offsets: Range<UInt64>, of place: TopicPartition) {
        let nowNs = time.monotonicNs()
        monitor.locked {
            // A partition that went to another member meanwhile is that one's to finish.
            guard var now = progress[place], assigned.contains(place) else { return }
            let through = now.finished.finish(offsets)
            now.outSinceNs = through >= now.takenThrough ? nil : nowNs
            now.isReported = false
            progress[place] = now
        }
    }

    /// Records up to `end` of a partition were handed to the service.
    func took(_ place: TopicPartition, through end: UInt64) {
        let nowNs = time.monotonicNs()
        monitor.locked {
            guard var now = progress[place], end > now.takenThrough else { return }
            now.takenThrough = end
            if now.outSinceNs == nil { now.outSinceNs = nowNs }
            progress[place] = now
        }
    }

    func isMember(of place: TopicPartition) -> Bool { monitor.locked { progress[place] != nil } }

    func wait(_ next: [(place: TopicPartition, offset: UInt64)], timeoutNs: Int64) {
        seenReady = log.ready.wait(beyond: seenReady, ns: timeoutNs)
    }

    func leave() {
        let wasLeaving = monitor.locked { () -> Bool in
            defer {
                isLeaving = true
                held = []
                monitor.wakeAll()
            }
            return isLeaving
        }
        guard !wasLeaving else { return }
        thread?.join()
        thread = nil
        handle.context.rebalanced.withLock { $0 = nil }
        handle.destroy()
        log.left(self)
    }

    // MARK: The thread

    private func run() {
        while !monitor.locked({ isLeaving }) {
            if let message = rd_kafka_consumer_poll(handle.rk, KafkaMembership.pollMs) {
                take(message)
                rd_kafka_message_destroy(message)
            }
            let nowNs = time.monotonicNs()
            reportHeld(nowNs)
            if nowNs - committedNs >= limits.commitIntervalNs {
                committedNs = nowNs
                commit(nil)
            }
        }
        commit(nil)
        close()
    }

    /// Partitions are paused, so that nothing but errors comes this way.
    private func take(_ message: UnsafeMutablePointer<rd_kafka_message_t>) {
        let code = message.pointee.err
        switch code {
        case RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR__PARTITION_EOF, RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET: return
        case RD_KAFKA_RESP_ERR__FATAL, RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
            RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
            let error = handle.fail("group \(group)", code)
            monitor.locked {
                failure = error
                monitor.wakeAll()
            }
            log.ready.set()
            report(error.message)
        default:
            let text = rd_kafka_message_errstr(message).map { String(cString: $0) } ?? ""
            report(handle.fail("group \(group)", code, detail: text).message)
        }
    }

    /// Closing waits for the brokers; a bound keeps one that is away from holding up the end of the process.
    private func close() {
        guard let queue = rd_kafka_queue_get_consumer(handle.rk) else { return }
        defer { rd_kafka_queue_destroy(queue) }
        if let error = rd_kafka_consumer_close_queue(handle.rk, queue) {
            report("group \(group): leaving: \(KafkaHandle.take(error).text)")
            return
        }
        let untilNs = time.monotonicNs() + KafkaMembership.closeNsMax
        while rd_kafka_consumer_closed(handle.rk) == 0 {
            guard time.monotonicNs() < untilNs else {
                return report("group \(group): the brokers did not answer the goodbye; its session will time out")
            }
            _ = rd_kafka_queue_poll_callback(queue, KafkaMembership.pollMs)
        }
    }

    private func reportHeld(_ nowNs: Int64) {
        let late = monitor.locked { () -> [(TopicPartition, Int64)] in
            var late: [(TopicPartition, Int64)] = []
            for (place, now) in progress {
                guard let since = now.outSinceNs, nowNs - since > limits.heldReportNs, !now.isReported else { continue }
                progress[place]?.isReported = true
                late.append((place, nowNs - since))
            }
            return late
        }
        for (place, ns) in late.sorted(by: { $0.0.partition < $1.0.partition }) {
            report("group \(group): a batch of \(place) is out since \(ns / 1_000_000) ms and not finished")
        }
    }

    // MARK: Rebalances

    private func rebalance(_ code: rd_kafka_resp_err_t, _ list: Partitions) {
        let places = places(list)
        if code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Read from elsewhere: here they stand still, at the end, so that nothing is fetched twice.
            for index in 0..<Int(list.pointee.cnt) { list.pointee.elems[index].offset = Int64(RD_KAFKA_OFFSET_END) }
            check(rd_kafka_incremental_assign(handle.rk, list))
            rd_kafka_pause_partitions(handle.rk, list)
            monitor.locked {
                assigned.formUnion(places)
                monitor.wakeAll()
            }
        } else {
            if rd_kafka_assignment_lost(handle.rk) == 0 {
                waitForBatches(places)
                commit(places)
            } else {
                report("group \(group): \(places.count) partitions of \(topic) were lost to other members")
            }
            monitor.locked {
                assigned.subtract(places)
                revoking.subtract(places)
                for place in places { progress[place] = nil }
            }
            for place in places { log.endReading(place) }
            check(rd_kafka_incremental_unassign(handle.rk, list))
        }
        log.ready.set()
    }

    private func check(_ error: OpaquePointer?) {
        guard let error else { return }
        report("group \(group): \(KafkaHandle.take(error).text)")
    }

    /// A batch that is out keeps its partition here until it is finished, within the bound.
    private func waitForBatches(_ places: Set<TopicPartition>) {
        let untilNs = time.monotonicNs() + limits.revokeWaitNs
        log.ready.set()
        let left = monitor.locked { () -> Set<TopicPartition> in
            revoking.formUnion(places)
            while !isLeaving, !held.isDisjoint(with: places) {
                let nowNs = time.monotonicNs()
                guard nowNs < untilNs else { break }
                _ = monitor.wait(ns: min(untilNs - nowNs, 1_000_000_000))
            }
            return isLeaving ? [] : held.intersection(places)
        }
        for place in left.sorted(by: { $0.partition < $1.partition }) {
            report("group \(group): \(place) goes to another member although a batch of it is still out")
        }
    }

    private func places(_ list: Partitions) -> Set<TopicPartition> {
        Set(
            (0..<Int(list.pointee.cnt)).map {
                TopicPartition(topic, UInt16(truncatingIfNeeded: list.pointee.elems[$0].partition))
            })
    }

    // MARK: Offsets

    /// Commits what is finished and not committed, of these places or of all. Waits for the brokers, so that what
    /// counts as committed is.
    private func commit(_ places: Set<TopicPartition>?) {
        let due = monitor.locked {
            progress.filter { place, now in
                now.finished.through > now.committed && assigned.contains(place) && places?.contains(place) != false
            }.mapValues(\.finished.through)
        }
        guard !due.isEmpty else { return }
        var code = commit(due)
        // While a group rebalances, its generation may change under a commit: one more time under the new one.
        for _ in 0..<KafkaMembership.commitRetries where places != nil && KafkaMembership.isOutdated(code) {
            time.sleep(ns: KafkaMembership.commitRetryNs)
            code = commit(due)
        }
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            // The next turn tries again, or another member reads again what is not committed.
            report(handle.fail("group \(group): committing offsets of \(due.count) partitions", code).message)
            return
        }
        monitor.locked {
            for (place, offset) in due {
                guard var now = progress[place] else { continue }
                now.committed = max(now.committed, offset)
                progress[place] = now
            }
        }
    }

    private static let commitRetries = 3
    private static let commitRetryNs: Int64 = 100_000_000

    private static func isOutdated(_ code: rd_kafka_resp_err_t) -> Bool {
        code == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION || code == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS
    }

    /// The first thing that went wrong.
    private func commit(_ offsets: [TopicPartition: UInt64]) -> rd_kafka_resp_err_t {
        let list = PartitionList(capacity: offsets.count)
        for (place, offset) in offsets { list.add(topicName, Int32(place.partition), offset: Int64(clamping: offset)) }
        let code = rd_kafka_commit(handle.rk, list.list, 0)
        let codes = [code] + (0..<list.count).map { list[$0].err }
        return codes.first { $0 != RD_KAFKA_RESP_ERR_NO_ERROR } ?? RD_KAFKA_RESP_ERR_NO_ERROR
    }
}
