import EventLog
import MarketModel
import Synchronization
import TickStore
import TimeSource

/// One loop on one thread for one topic that is no tick's: batch out of the log, rows into the store, then the group's
/// offset. What cannot be a row goes to the topic's dead letters, in one transaction with how far that went.
public final class ClassWriter: Sendable {
    /// Topics that have one.
    public static let topics = ClassDecoder.topics

    /// The group of a topic's writers: a group each, as a process has a member in each.
    public static func group(_ topic: Topic) -> String { "cassandra-writer.\(topic.name)" }

    /// The group under which the log keeps how far corrupt records are dead-lettered.
    static func deadLetterGroup(_ topic: Topic) -> String { "writer.dlq.\(topic.name)" }

    /// Records and bytes of a batch.
    private static let recordsMax = 1000
    private static let bytesMax = 1 << 20
    private static let retryNs: Int64 = 100_000_000
    private static let retryNsMax: Int64 = 5_000_000_000

    public let topic: Topic
    private let log: any EventLog
    private let store: any ClassStore
    private let time: any TimeSource
    private let stopsAtLostRecords: Bool
    private let report: @Sendable (String) -> Void
    private let state = Mutex(WriterCounters())
    private let stopping = Atomic<Bool>(false)

    /// With `stopsAtLostRecords`, records that retention took before they were stored end the writer, so that somebody
    /// decides. `report` takes a line for people when something went wrong.
    public init(
        _ topic: Topic, log: any EventLog, store: any ClassStore, time: any TimeSource, stopsAtLostRecords: Bool,
        report: @escaping @Sendable (String) -> Void
    ) {
        precondition(ClassWriter.topics.contains(topic), "\(topic) has no such writer")
        self.topic = topic
        self.log = log
        self.store = store
        self.time = time
        self.stopsAtLostRecords = stopsAtLostRecords
        self.report = report
    }

    /// May be read from any thread.
    public var counters: WriterCounters { state.withLock { $0 } }

    /// Asks ``run()`` to return after the batch at hand. From any thread.
    public func stop() { stopping.store(true, ordering: .releasing) }

    /// Where it is in one partition.
    private struct Partition {
        let place: TopicPartition
        var next: UInt64
        var deadLetteredThrough: UInt64
        /// As of `next`.
        var decoder = ClassDecoder()
        var waiting: WaitingPartition?
        var pauseNs: Int64 = 0
        var retryAtNs: Int64 = 0
    }

    /// Runs until ``stop()``; blocks the calling thread. Throws when the store or the log fails for good: nothing is
    /// lost then, the next start goes on at the stored offset.
    public func run() throws {
        do {
            let group = try log.join(group: ClassWriter.group(topic), topic)
            defer { group.leave() }
            try log.fence()
            var partitions: [Partition] = []
            while !stopping.load(ordering: .acquiring) {
                try settle(&partitions, group)
                var moved = false
                for index in partitions.indices { moved = try step(&partitions[index], group) || moved }
                if !moved { idle(partitions, group) }
            }
        } catch {
            state.withLock { $0.stoppedBy = "\(error)" }
            throw error
        }
    }

    private func settle(_ partitions: inout [Partition], _ group: any GroupMembership) throws {
        let places = try group.partitions()
        guard places != partitions.map(\.place) else { return }
        for partition in partitions where !places.contains(partition.place) { store.release(partition.place) }
        var settled: [Partition] = []
        for place in places {
            if let known = partitions.first(where: { $0.place == place }) {
                settled.append(known)
                continue
            }
            do {
                let partition = try begin(place)
                group.begin(place, at: partition.next)
                settled.append(partition)
            } catch let error as LogError where error.retryable {
                // It is asked again in the next pass.
                report("writer: where it goes on in \(place) is not known yet: \(error.message)")
            }
        }
        partitions = settled
        let waiting = partitions.compactMap(\.waiting)
        state.withLock { $0.waiting = waiting }
    }

    private func begin(_ place: TopicPartition) throws -> Partition {
        let next =
            try store.nextOffset(place) ?? log.committedOffset(group: ClassWriter.group(topic), place)
            ?? log.offset(of: .earliest, in: place)
        let letters = try log.committedOffset(group: ClassWriter.deadLetterGroup(topic), place) ?? 0
        return Partition(place: place, next: next, deadLetteredThrough: letters)
    }

    private func idle(_ partitions: [Partition], _ group: any GroupMembership) {
        let nowNs = time.monotonicNs()
        var waitNs = WriterService.idleNsMax
        for partition in partitions where partition.waiting != nil { waitNs = min(waitNs, partition.retryAtNs - nowNs) }
        guard waitNs > 0 else { return }
        let next = partitions.filter { $0.waiting == nil }.map { (place: $0.place, offset: $0.next) }
        if next.isEmpty { time.sleep(ns: waitNs) } else { group.wait(next, timeoutNs: waitNs) }
    }

    /// Reads and writes one batch of a partition; false where there was nothing, or it waits.
    private func step(_ partition: inout Partition, _ group: any GroupMembership) throws -> Bool {
        guard partition.waiting == nil || partition.retryAtNs <= time.monotonicNs() else { return false }
        let from = partition.next
        var next = from
        var bytes = 0
        var records: [ClassRecord] = []
        var corrupt: [Batch.Corrupt] = []
        var decoder = partition.decoder
        reading: while records.count < ClassWriter.recordsMax, bytes < ClassWriter.bytesMax {
            switch try log.readBlocking(partition.place, at: next, .durable) {
            case .block(let block, let index):
                for record in index..<block.recordCount { take(block, record, partition, &decoder, &records, &corrupt) }
                bytes += block.recordsLength
                next = block.endOffset
            case .atEnd, .onDisk: break reading
            case .expired(let oldest):
                try lose(partition.place, next, oldest, "retention removed them before they were stored")
                next = oldest
            case .damaged(let end, let reason):
                try lose(partition.place, next, end, reason)
                next = end
            }
        }
        guard next > from else {
            // What it reads again is being fetched.
            if partition.waiting != nil { partition.retryAtNs = time.monotonicNs() + ClassWriter.retryNs }
            return false
        }
        if let last = corrupt.last {
            try DeadLetterRecord.append(
                corrupt, of: partition.place, to: log, group: ClassWriter.deadLetterGroup(topic),
                failedTimeNs: time.wallNs())
            partition.deadLetteredThrough = last.offset + 1
            state.withLock { $0.deadLetters += UInt64(corrupt.count) }
            report("writer: \(corrupt.count) records of \(partition.place) went to its dead letters: \(last.reason)")
        }
        do throws(StoreError) {
            try store.write(records, through: next, of: partition.place)
        } catch {
            guard error.retryable else { throw error }
            postpone(&partition, error)
            return false
        }
        resume(&partition)
        partition.next = next
        partition.decoder = decoder
        group.finish(from..<next, of: partition.place)
        state.withLock {
            $0.batches += 1
            $0.rows += UInt64(records.count)
            $0.batchRowsLargest = max($0.batchRowsLargest, records.count)
        }
        return true
    }

    private func take(
        _ block: Block, _ record: Int, _ partition: Partition, _ decoder: inout ClassDecoder,
        _ records: inout [ClassRecord], _ corrupt: inout [Batch.Corrupt]
    ) {
        let offset = block.firstOffset + UInt64(record)
        do throws(ClassDecoder.Refusal) {
            guard let body = try decoder.body(topic, block, record) else { return }
            records.append(ClassRecord(offset: offset, body: body))
        } catch {
            guard offset >= partition.deadLetteredThrough else { return }
            corrupt.append(
                Batch.Corrupt(
                    offset: offset, code: error.code, reason: error.reason, value: Array(block.payload(record))))
        }
    }

    private func lose(_ place: TopicPartition, _ from: UInt64, _ to: UInt64, _ reason: String) throws(WriterError) {
        if stopsAtLostRecords {
            throw WriterError(
                "writer: records \(from)..<\(to) of \(place) are gone: \(reason). Somebody must decide: "
                    + "`--lost-records skip` goes on behind them")
        }
        state.withLock { $0.recordsLost += to - from }
        report("writer: records \(from)..<\(to) of \(place) are lost to the store: \(reason)")
    }

    /// The store does not take the batch now: it is read again after a pause, and the other partitions go on.
    private func postpone(_ partition: inout Partition, _ error: StoreError) {
        let place = partition.place
        var waiting =
            partition.waiting
            ?? WaitingPartition(place: place, reason: error.message, sinceNs: time.wallNs(), attempts: 0)
        waiting.attempts += 1
        waiting.reason = error.message
        partition.waiting = waiting
        partition.pauseNs = min(max(partition.pauseNs * 2, ClassWriter.retryNs), ClassWriter.retryNsMax)
        partition.retryAtNs = time.monotonicNs() + partition.pauseNs
        let known = waiting
        state.withLock { state in
            state.retries += 1
            state.waiting.removeAll { $0.place == place }
            state.waiting.append(known)
            state.waiting.sort { $0.place.partition < $1.place.partition }
        }
        if waiting.attempts == 1 {
            report("writer: \(place) waits and is tried again, the others go on: \(error.message)")
        }
    }

    private func resume(_ partition: inout Partition) {
        guard let waiting = partition.waiting else { return }
        partition.waiting = nil
        partition.pauseNs = 0
        state.withLock { $0.waiting.removeAll { $0.place == waiting.place } }
        report("writer: \(waiting.place) goes on after \(waiting.attempts) attempts")
    }
}
