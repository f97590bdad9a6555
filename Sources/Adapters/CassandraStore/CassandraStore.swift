import CQLFrames
import CassandraCQL
import DayFigures
import EventLog
import MarketModel
import Synchronization
import TickCodec
import TickStore
import TimeSource

/// A ``TickStore`` on a Cassandra keyspace whose tables `tapedeck schema apply` made. Any number of processes may use
/// one keyspace; of writers, one per partition of the log.
///
/// `apply` returns when its rows are on their way; what it and ``sync(_:)`` return is the offset that a writer would go
/// on at. It is written after all rows below it are acknowledged, by a checkpoint that begins once a second and that
/// neither call waits for. Until then a batch that fails is written again; an outage fills the window, and then `apply`
/// throws a retryable error.
public final class CassandraStore: TickStore, @unchecked Sendable {
    let configuration: CassandraStoreConfiguration
    let session: BlockingSession
    let window: WriteWindow
    let time: any TimeSource
    private let nodeClock: NodeClock
    private let applyLock = Mutex<Void>(())
    // Owned by the holder of applyLock.
    private let applier: TickApplier
    let held: HeldRecords
    private let checkpoints: Checkpoints
    private let shared = Shared()
    private let selectLatest: CQLPrepared
    let selectRows: CQLPrepared

    /// Statements of `verify` and `repair`, prepared when first needed.
    let repairing = Mutex<RepairStatements?>(nil)

    private final class Shared: Sendable {
        private let state = Mutex(State())

        func withLock<Value>(_ body: (inout sending State) -> sending Value) -> sending Value { state.withLock(body) }
    }

    private struct State {
        var isClosed = false
        /// What the writer of this process has applied, and what is written of it.
        var applied: [TopicPartition: UInt64] = [:]
        var durable: [TopicPartition: UInt64] = [:]
        /// What other processes have written, as of a moment.
        var offsets: [TopicPartition: UInt64] = [:]
        var offsetsNs: Int64?
    }

    /// What a store did since it was opened.
    public struct Counters: Sendable, Hashable {
        public var rows: UInt64 = 0
        public var batches: UInt64 = 0
        /// Rows whose bytes the columns cannot give back, kept whole beside them.
        public var wholeRows: UInt64 = 0
        public var flushes: UInt64 = 0
        /// Records of another epoch whose key an earlier one has.
        public var refusedRows: UInt64 = 0
    }

    /// Opens the store. Throws `.unreachable` where no node answers, `.io` where the tables are not there.
    /// `report` hears of the cluster, `reportPartition` of partitions whose rows cannot be written, and of those whose
    /// rows can be again. Both are called on the store's loop.
    public init(
        _ configuration: CassandraStoreConfiguration, time: any TimeSource,
        report: @escaping @Sendable (CQLSessionEvent) -> Void = { _ in },
        reportPartition: @escaping @Sendable (_ partition: FailingPartition, _ isOver: Bool) -> Void = { _, _ in }
    ) throws(StoreError) {
        self.configuration = configuration
        self.time = time
        let session = try BlockingSession(configuration, report: report)
        self.session = session
        window = WriteWindow(session, configuration, time: time, report: reportPartition)
        do {
            try CassandraStore.checkVersion(session, configuration.keyspace)
            nodeClock = try NodeClock(session, time)
            applier = try TickApplier(session, window, configuration, nodeNs: nodeClock.nowNs)
            held = try HeldRecords(session, configuration)
            selectLatest = try session.prepare(InstrumentRecord.select(configuration.keyspace))
            selectRows = try session.prepare(TickScan.select(configuration.keyspace))
            // The last that can fail: it has a thread.
            checkpoints = try Checkpoints(session, window, applier, held, configuration, time: time)
        } catch {
            session.close()
            throw error
        }
    }

    deinit { try? close() }

    static func checkVersion(_ session: BlockingSession, _ keyspace: String) throws(StoreError) {
        let rows = try session.query(
            "SELECT version FROM \(keyspace).schema_versions WHERE scope = 'tapedeck'")
        let version = rows.compactMap { $0.first?.integer }.max() ?? 0
        guard version != CassandraSchema.version else { return }
        let what =
            version > CassandraSchema.version
            ? "was made by a newer version; start that" : "is older; `tapedeck schema apply` brings it up to date"
        throw StoreError(
            .unknownFormat,
            "keyspace \(keyspace) has schema \(version), this one knows \(CassandraSchema.version): it \(what)")
    }

    public var counters: Counters { applier.counters.withLock { $0 } }

    /// From ticks' events to their rows' acknowledgement, by this machine's wall clock.
    public var rowLatency: LatencyHistogram { window.rowLatency }

    /// Partitions whose rows cannot be written now, and why.
    public var failingPartitions: [FailingPartition] { window.failures }

    /// How its rows were written.
    public var writeCounters: CassandraWriteCounters { window.counters }

    private func checkOpen() throws(StoreError) {
        if shared.withLock({ $0.isClosed }) { throw StoreError(.closed, "the store is closed") }
    }

    // MARK: Writing

    public func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        try applyLock.withLock { _ throws(StoreError) -> UInt64 in
            try checkOpen()
            let applied = shared.withLock { $0.applied[place] }
            if let applied, next <= applied { return durable(place) }
            try window.waitForRoom(place)
            try applier.apply(rows, from: applied ?? 0, of: place, wallNs: nodeClock.nowNs)
            held.add(rows, from: applied ?? 0, place)
            shared.withLock { $0.applied[place] = next }
            beginCheckpoint()
            return durable(place)
        }
    }

    /// The offset that a writer would go on at.
    private func durable(_ place: TopicPartition) -> UInt64 { shared.withLock { $0.durable[place] ?? 0 } }

    /// What was applied and is not written through its offset. A checkpoint that is being written may be of it.
    private var behind: [TopicPartition: UInt64] {
        shared.withLock { state in state.applied.filter { state.durable[$0.key] != $0.value } }
    }

    /// Where it is time. With applyLock held.
    private func beginCheckpoint() {
        checkpoints.begin({ behind }, wallNs: { nodeClock.nowNs }) { [shared] written in
            shared.withLock { $0.durable.merge(written) { _, new in new } }
        }
    }

    /// Writes all that is behind now; throws where some of it is left. Places with rows that cannot be written are
    /// waited for only where `waitsForFailing`. With applyLock held.
    private func flush(milliseconds: Int, waitsForFailing: Bool = false) throws(StoreError) {
        checkpoints.waitUntilIdle()
        let behind = behind
        guard !behind.isEmpty else { return }
        let written = try checkpoints.write(
            behind, wallNs: nodeClock.nowNs, milliseconds: milliseconds, waitsForFailing: waitsForFailing)
        shared.withLock { $0.durable.merge(written) { _, new in new } }
        if written.count < behind.count { throw window.stalled("rows wait to be acknowledged") }
    }

    public func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? {
        if let applied = shared.withLock({ $0.applied[place] }) { return applied }
        return try applyLock.withLock { _ throws(StoreError) -> UInt64? in
            try checkOpen()
            // Something was applied while this waited.
            if let applied = shared.withLock({ $0.applied[place] }) { return applied }
            let rows = try session.query(
                "SELECT next_offset FROM \(configuration.keyspace).writer_offsets "
                    + "WHERE log = ? AND topic = ? AND partition = ?",
                [
                    (.text(configuration.log), .text), (.int(Int32(place.topic.number)), .int),
                    (.int(Int32(place.partition)), .int),
                ], configuration.readConsistency)
            let next = rows.first?.first?.integer.map { UInt64(bitPattern: $0) }
            try held.learn(place)
            shared.withLock { shared in
                shared.applied[place] = next
                shared.durable[place] = next
            }
            return next
        }
    }

    public func release(_ place: TopicPartition) throws(StoreError) {
        try applyLock.withLock { _ throws(StoreError) in
            try checkOpen()
            defer {
                applier.forget(place)
                held.forget(place)
                shared.withLock { shared in
                    shared.applied[place] = nil
                    shared.durable[place] = nil
                }
            }
            do throws(StoreError) {
                try flush(milliseconds: configuration.limits.stallMilliseconds)
            } catch {
                guard shared.withLock({ $0.durable[place] == $0.applied[place] }) else { throw error }
            }
        }
    }

    public func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try applyLock.withLock { _ throws(StoreError) -> UInt64 in
            try checkOpen()
            beginCheckpoint()
            return durable(place)
        }
    }

    public func flush(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try applyLock.withLock { _ throws(StoreError) -> UInt64 in
            try checkOpen()
            do throws(StoreError) {
                try flush(milliseconds: configuration.limits.requestMilliseconds)
            } catch {
                // Of other places something may be left.
                guard shared.withLock({ $0.durable[place] == $0.applied[place] }) else { throw error }
            }
            return durable(place)
        }
    }

    public func close() throws(StoreError) {
        let wasClosed = shared.withLock { shared in
            defer { shared.isClosed = true }
            return shared.isClosed
        }
        if wasClosed { return }
        defer {
            checkpoints.close()
            session.close()
        }
        try applyLock.withLock { _ throws(StoreError) in
            try flush(
                milliseconds: configuration.limits.closeMilliseconds, waitsForFailing: true)
        }
    }

    // MARK: Reading

    public func instruments() throws(StoreError) -> [Instrument] {
        try checkOpen()
        try applyLock.withLock { _ throws(StoreError) in
            try flush(milliseconds: configuration.limits.requestMilliseconds)
        }
        let rows = try session.query(
            "SELECT exchange, symbol FROM \(configuration.keyspace).latest_ticks", [], configuration.readConsistency)
        return rows.compactMap { row in
            guard let exchange = row[0].string, let symbol = row[1].string else { return nil }
            return try? Instrument(exchange: exchange, symbol: symbol)
        }.sorted()
    }

    public func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick? {
        try checkOpen()
        if let (record, place) = applier.record(instrument) {
            let applied = shared.withLock { $0.applied[place] } ?? record.nextOffset
            return CassandraStore.latest(record, through: applied)
        }
        // The offsets first: a record that is read later goes as far at least.
        let offsets = try writtenOffsets()
        let key: [CQLValue] = [.text(instrument.exchange), .text(instrument.symbol)]
        let request = try session.request(selectLatest, key, configuration.readConsistency)
        switch session.ask([request], keyspace: configuration.keyspace)[0] {
        case .failure(let error): throw session.failure(error, "read the last tick of \(instrument)")
        case .success(let answer):
            guard case .result(.rows(let rows)) = answer.response, let row = try? rows.values().first else {
                return nil
            }
            guard let record = InstrumentRecord(row) else {
                throw StoreError(.damaged, "the last tick of \(instrument) in Cassandra is damaged")
            }
            return CassandraStore.latest(record, through: max(record.nextOffset, offsets[record.place] ?? 0))
        }
    }

    /// How far the writers of this log are, by what they wrote a second ago at most.
    private func writtenOffsets() throws(StoreError) -> [TopicPartition: UInt64] {
        let nowNs = time.monotonicNs()
        let (known, sinceNs) = shared.withLock { ($0.offsets, $0.offsetsNs) }
        if let sinceNs, nowNs - sinceNs < 1_000_000_000 { return known }
        var offsets: [TopicPartition: UInt64] = [:]
        let topic = Topic.ticksRaw
        for row in try session.query(
            "SELECT partition, next_offset FROM \(configuration.keyspace).writer_offsets WHERE log = ? AND topic = ?",
            [(.text(configuration.log), .text), (.int(Int32(topic.number)), .int)], configuration.readConsistency)
        {
            guard let partition = row[0].integer.flatMap({ UInt16(exactly: $0) }), let next = row[1].integer else {
                continue
            }
            offsets[TopicPartition(topic, partition)] = UInt64(bitPattern: next)
        }
        let found = offsets
        shared.withLock { shared in
            shared.offsets = found
            shared.offsetsNs = nowNs
        }
        return found
    }

    private static func latest(_ record: InstrumentRecord, through next: UInt64) -> LatestTick? {
        guard record.figures.newest != nil else { return nil }
        return LatestTick(update: record.update, nextOffset: next, day: record.figures.record)
    }

    public func scan(_ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool) throws(StoreError) {
        try checkOpen()
        guard from < to else { return }
        // What this process has applied is to be seen, as in any store.
        try applyLock.withLock { _ throws(StoreError) in
            guard try window.drain(milliseconds: configuration.limits.requestMilliseconds) else {
                throw window.stalled("rows wait to be acknowledged")
            }
        }
        try TickScan(self, instrument, from: from, to: to).run(body)
    }

    public func heldOffsets(_ place: TopicPartition) -> HeldOffsets { held.offsets(place) }

    public func filed(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords] {
        try checkOpen()
        return try held.runs(place, offsets)
    }

    /// Asks which records of `ticks.raw` the writers of this log have stored by now: what ``heldOffsets(_:)`` tells,
    /// for a process that does not write them itself. Waits.
    public func refreshHeldOffsets() throws(StoreError) {
        try checkOpen()
        try held.refresh(.ticksRaw)
    }

    public func statistics() throws(StoreError) -> StoreStatistics {
        let count = try instruments().count
        // Since 4.0 a node says what its tables take.
        let usage = try? session.query(
            "SELECT mebibytes FROM system_views.disk_usage WHERE keyspace_name = ? AND table_name = ?",
            [(.text(configuration.keyspace), .text), ("tick_data", .text)])
        let mebibytes = usage?.first?.first?.integer ?? 0
        return StoreStatistics(instrumentCount: count, rowCount: nil, diskBytes: UInt64(max(0, mebibytes)) << 20)
    }
}
