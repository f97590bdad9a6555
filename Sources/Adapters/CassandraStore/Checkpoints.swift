import CQLFrames
import CassandraCQL
import EventLog
import EventLoop
import MarketModel
import Synchronization
import TickStore
import TimeSource

/// An instrument's record as a checkpoint has it.
struct ChangedRecord: Sendable {
    /// The instrument's number in the catalog.
    let number: Int
    let instrument: Instrument
    let record: InstrumentRecord
}

/// What follows rows to the tables once they are acknowledged: which records are filed, last ticks and day figures, and
/// then the offset that all of it goes through. As of one moment between two applies.
private struct Checkpoint {
    /// Of each place the offset that was applied.
    var offsets: [TopicPartition: UInt64]
    var runs: [TopicPartition: [FiledRecords]]
    var records: [ChangedRecord]
    let timestampMicroseconds: Int64
}

/// Writes checkpoints, one at a time: those that are due on a thread of its own, while more rows are applied; others
/// for who waits. Everything but the thread's own work is called with the store's apply lock held.
final class Checkpoints: @unchecked Sendable {
    private let session: BlockingSession
    private let window: WriteWindow
    private let applier: TickApplier
    private let held: HeldRecords
    private let configuration: CassandraStoreConfiguration
    private let time: any TimeSource
    private let recordInsert: CQLPrepared
    private let offsetInsert: CQLPrepared
    private let thread: EventLoop
    private let monitor = Monitor()
    // Guarded by the monitor.
    private var isWriting = false
    // Owned by the holder of the apply lock.
    private var nextNs: Int64 = .min
    private var lastTimestamp: Int64 = 0

    /// So many requests are on their way at a time: rows go between them.
    private static let requestsMax = 16

    init(
        _ session: BlockingSession, _ window: WriteWindow, _ applier: TickApplier, _ held: HeldRecords,
        _ configuration: CassandraStoreConfiguration, time: any TimeSource
    ) throws(StoreError) {
        self.session = session
        self.window = window
        self.applier = applier
        self.held = held
        self.configuration = configuration
        self.time = time
        recordInsert = try session.prepare(InstrumentRecord.insert(configuration.keyspace))
        offsetInsert = try session.prepare(
            "INSERT INTO \(configuration.keyspace).writer_offsets (log, topic, partition, next_offset) "
                + "VALUES (?, ?, ?, ?)")
        thread = EventLoop(name: "cass-checkpoint")
    }

    /// After the last call of the others. Not from the thread itself.
    func close() { thread.stop() }

    /// Begins one of these places, as far as they were applied, where it is time for it and none is being written.
    /// `written` hears of the places of which everything was acknowledged, and through where. What fails is tried again
    /// with the next.
    func begin(
        _ offsets: () -> [TopicPartition: UInt64], wallNs: () -> Int64,
        written: @escaping @Sendable ([TopicPartition: UInt64]) -> Void
    ) {
        let nowNs = time.monotonicNs()
        guard nowNs >= nextNs, !monitor.withLock({ isWriting }) else { return }
        let offsets = offsets()
        guard !offsets.isEmpty else { return }
        nextNs = nowNs &+ configuration.limits.flushIntervalNs
        let checkpoint = take(offsets, wallNs())
        monitor.withLock { isWriting = true }
        thread.execute { [self] in
            let limit = configuration.limits.stallMilliseconds
            if let offsets = try? write(checkpoint, milliseconds: limit, waitsForFailing: false) { written(offsets) }
            monitor.withLock {
                isWriting = false
                monitor.wake()
            }
        }
    }

    /// Writes one now; the places of which everything was acknowledged in time, and through where. Places with rows
    /// that cannot be written are waited for only where `waitsForFailing`.
    func write(
        _ offsets: [TopicPartition: UInt64], wallNs: Int64, milliseconds: Int, waitsForFailing: Bool
    ) throws(StoreError) -> [TopicPartition: UInt64] {
        try write(take(offsets, wallNs), milliseconds: milliseconds, waitsForFailing: waitsForFailing)
    }

    /// Returns when none is being written.
    func waitUntilIdle() {
        while !monitor.withLock({ monitor.wait(milliseconds: 1000) { !isWriting } }) {}
    }

    private func take(_ offsets: [TopicPartition: UInt64], _ wallNs: Int64) -> Checkpoint {
        lastTimestamp = max(lastTimestamp + 1, floorDivide(wallNs, by: 1000))
        window.mark(Array(offsets.keys))
        return Checkpoint(
            offsets: offsets, runs: held.take(offsets.keys), records: applier.takeRecords(offsets),
            timestampMicroseconds: lastTimestamp)
    }

    // MARK: On the thread, or the one that waits

    private func write(
        _ checkpoint: Checkpoint, milliseconds: Int, waitsForFailing: Bool
    ) throws(StoreError) -> [TopicPartition: UInt64] {
        var checkpoint = checkpoint
        var left = checkpoint.records
        defer { applier.putBack(left) }
        let clean = try window.drainMarked(
            Array(checkpoint.offsets.keys), milliseconds: milliseconds, waitsForFailing: waitsForFailing)
        checkpoint.offsets = checkpoint.offsets.filter { clean.contains($0.key) }
        checkpoint.runs = checkpoint.runs.filter { clean.contains($0.key) }
        checkpoint.records.removeAll { !clean.contains($0.record.place) }
        guard !checkpoint.offsets.isEmpty else { return [:] }
        try held.write(checkpoint.runs)
        try write(checkpoint.records, checkpoint.timestampMicroseconds)
        left.removeAll { clean.contains($0.record.place) }
        try write(checkpoint.offsets)
        applier.counters.withLock { $0.flushes += 1 }
        return checkpoint.offsets
    }

    /// Together where every node keeps every row, as rows of ticks.
    private func write(_ records: [ChangedRecord], _ timestampMicroseconds: Int64) throws(StoreError) {
        guard !records.isEmpty else { return }
        let limits = configuration.limits
        let together = session.isOnEveryNode(configuration.keyspace) ? limits.mixedPartitionsMax : 1
        var frames: [(frame: CQLBuffer, token: Int64)] = []
        var index = 0
        while index < records.count {
            let frame = CQLBuffer(capacity: limits.mixedBytesMax)
            var batch = CQLBatchWriter(.unlogged, session.session.version, into: frame)
            var token: Int64 = 0
            repeat {
                let record = records[index]
                let values = try session.bind(
                    recordInsert,
                    [.text(record.instrument.exchange), .text(record.instrument.symbol)] + record.record.values
                        + [.bigint(timestampMicroseconds)])
                let cellBytes = (batch.count + 1) * InstrumentRecord.columns.count * CassandraStoreLimits.cellBytes
                if batch.count > 0, batch.byteCount + values.bytes.count + cellBytes > limits.mixedBytesMax { break }
                if batch.count == 0 { token = recordInsert.token(values) ?? 0 }
                batch.statement(recordInsert.id, values: values.count)
                frame.append(values.bytes)
                index += 1
            } while index < records.count && batch.count < together
            batch.finish(configuration.writeConsistency)
            frames.append((frame, token))
        }
        for start in stride(from: 0, to: frames.count, by: Checkpoints.requestsMax) {
            let part = Array(frames[start..<min(start + Checkpoints.requestsMax, frames.count)])
            try check(session.send(part, keyspace: configuration.keyspace), "write last ticks")
        }
    }

    private func write(_ offsets: [TopicPartition: UInt64]) throws(StoreError) {
        var requests: [BlockingSession.Request] = []
        for (place, next) in offsets.sorted(by: { $0.key.partition < $1.key.partition }) {
            let values: [CQLValue] = [
                .text(configuration.log), .int(Int32(place.topic.number)), .int(Int32(place.partition)),
                .bigint(Int64(bitPattern: next)),
            ]
            requests.append(try session.request(offsetInsert, values, configuration.writeConsistency))
        }
        try check(session.ask(requests, keyspace: configuration.keyspace), "write offsets")
    }

    private func check(_ outcomes: [CQLCall.Outcome], _ what: String) throws(StoreError) {
        for case .failure(let error) in outcomes { throw session.failure(error, what) }
    }
}
