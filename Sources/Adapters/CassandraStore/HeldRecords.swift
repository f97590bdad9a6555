import CQLFrames
import CassandraCQL
import EventLog
import Synchronization
import TickStore

/// Which records of the log are in the tables, and where their rows are filed: what a resume token is answered by when
/// the log has no more what it names. A run of records is a row, written after its ticks and before the offset that
/// goes past them.
///
/// A writer adds what it applies; others ask now and then. From any thread.
final class HeldRecords: @unchecked Sendable {
    private struct State {
        /// What readers are told: written, and not over.
        var held: [TopicPartition: HeldOffsets] = [:]
        /// The run of each place that the next records may join.
        var open: [TopicPartition: FiledRecords] = [:]
        /// Runs that are not written yet, by their first offset.
        var pending: [TopicPartition: [UInt64: FiledRecords]] = [:]
    }

    private let session: BlockingSession
    private let configuration: CassandraStoreConfiguration
    private let insertRun: CQLPrepared
    private let insertHeld: CQLPrepared
    private let selectRuns: CQLPrepared
    private let selectHeld: CQLPrepared
    private let selectOldest: CQLPrepared
    private let state = Mutex(State())

    /// How many records one run can have: what is applied at once is one run.
    private static let runMax: UInt64 = 1 << 20
    private static let pageSize: Int32 = 5000

    init(_ session: BlockingSession, _ configuration: CassandraStoreConfiguration) throws(StoreError) {
        self.session = session
        self.configuration = configuration
        let keyspace = configuration.keyspace
        let place = "log = ? AND topic = ? AND partition = ?"
        insertRun = try session.prepare(
            "INSERT INTO \(keyspace).filed_records (log, topic, partition, first_offset, end_offset, times) "
                + "VALUES (?, ?, ?, ?, ?, ?)")
        insertHeld = try session.prepare(
            "INSERT INTO \(keyspace).held_offsets (log, topic, partition, first_offset, end_offset) "
                + "VALUES (?, ?, ?, ?, ?)")
        selectRuns = try session.prepare(
            "SELECT first_offset, end_offset, times FROM \(keyspace).filed_records WHERE \(place) "
                + "AND first_offset > ? AND first_offset < ?")
        selectHeld = try session.prepare(
            "SELECT first_offset, end_offset FROM \(keyspace).held_offsets WHERE \(place)")
        selectOldest = try session.prepare(
            "SELECT first_offset FROM \(keyspace).filed_records WHERE \(place) LIMIT 1")
    }

    // MARK: Writing

    /// Takes what an apply put on its way. One thread at a time.
    func add(_ rows: TickRows, from offset: UInt64, _ place: TopicPartition) {
        var times = FilingTimes()
        times.add(rows)
        state.withLock { state in
            for range in rows.offsets(from: offset) {
                let new = FiledRecords(offsets: range, times: times)
                let run = state.open[place]?.joined(by: new) ?? new
                state.open[place] = run
                state.pending[place, default: [:]][run.offsets.lowerBound] = run
            }
        }
    }

    /// What was added of these places and is not written yet.
    func take(_ places: some Sequence<TopicPartition>) -> [TopicPartition: [FiledRecords]] {
        state.withLock { state in
            var taken: [TopicPartition: [FiledRecords]] = [:]
            for place in places {
                guard let runs = state.pending[place], !runs.isEmpty else { continue }
                taken[place] = runs.values.sorted { $0.offsets.lowerBound < $1.offsets.lowerBound }
            }
            return taken
        }
    }

    /// Writes what was taken, all at once; all ticks of it are acknowledged. While more is added.
    func write(_ taken: [TopicPartition: [FiledRecords]]) throws(StoreError) {
        var requests: [BlockingSession.Request] = []
        var written: [(place: TopicPartition, runs: [FiledRecords], held: HeldOffsets)] = []
        for (place, runs) in taken {
            if state.withLock({ $0.held[place] == nil }) { try learn(place) }
            let known = offsets(place)
            var held = known
            for run in runs {
                held.insert(run.offsets)
                let values = key(place) + [number(run.offsets.lowerBound), number(run.offsets.upperBound)]
                requests.append(
                    try session.request(
                        insertRun, values + [.blob(HeldRecords.bytes(run.times))], configuration.writeConsistency))
            }
            for range in held.ranges where !known.ranges.contains(range) {
                let values = key(place) + [number(range.lowerBound), number(range.upperBound)]
                requests.append(try session.request(insertHeld, values, configuration.writeConsistency))
            }
            written.append((place, runs, held))
        }
        guard !requests.isEmpty else { return }
        for outcome in session.ask(requests, keyspace: configuration.keyspace) {
            if case .failure(let error) = outcome { throw session.failure(error, "write which records are filed") }
        }
        let done = written
        state.withLock { state in
            for (place, runs, held) in done {
                state.held[place] = held
                for run in runs where state.pending[place]?[run.offsets.lowerBound] == run {
                    state.pending[place]?[run.offsets.lowerBound] = nil
                }
            }
        }
    }

    /// The place goes to another writer.
    func forget(_ place: TopicPartition) {
        state.withLock { state in
            state.open[place] = nil
            state.pending[place] = nil
            state.held[place] = nil
        }
    }

    // MARK: Reading

    func offsets(_ place: TopicPartition) -> HeldOffsets { state.withLock { $0.held[place] ?? HeldOffsets() } }

    /// Asks what is written of every place that some writer of the log has. Waits.
    func refresh(_ topic: Topic) throws(StoreError) {
        let partitions = try session.query(
            "SELECT partition FROM \(configuration.keyspace).writer_offsets WHERE log = ? AND topic = ?",
            [(.text(configuration.log), .text), (.int(Int32(topic.number)), .int)], configuration.readConsistency)
        for row in partitions {
            guard let partition = row[0].integer.flatMap({ UInt16(exactly: $0) }) else { continue }
            try learn(TopicPartition(topic, partition))
        }
    }

    /// Asks what is written of a place. Waits.
    func learn(_ place: TopicPartition) throws(StoreError) {
        let outcomes = session.ask(
            [
                try session.request(
                    selectHeld, key(place), configuration.readConsistency, pageSize: HeldRecords.pageSize),
                try session.request(selectOldest, key(place), configuration.readConsistency),
            ], keyspace: configuration.keyspace)
        let held = try HeldRecords.held(try rows(outcomes[0]), try rows(outcomes[1]))
        state.withLock { $0.held[place] = held }
    }

    func runs(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords] {
        guard !offsets.isEmpty else { return [] }
        let before = offsets.lowerBound > HeldRecords.runMax ? offsets.lowerBound - HeldRecords.runMax : 0
        // Offsets are counted from 0 on: one below is not taken.
        let after: CQLValue = before == 0 ? .bigint(-1) : number(before)
        var runs: [FiledRecords] = []
        var state: [UInt8]?
        repeat {
            let request = try session.request(
                selectRuns, key(place) + [after, number(offsets.upperBound)], configuration.readConsistency,
                pageSize: HeldRecords.pageSize, from: state)
            let page = try page(session.ask([request], keyspace: configuration.keyspace)[0])
            for row in page.rows {
                guard row.count == 3, let first = row[0].integer, let end = row[1].integer,
                    case .blob(let bytes) = row[2],
                    first >= 0, end > first, let times = HeldRecords.times(bytes)
                else { throw StoreError(.damaged, "a row of filed_records is damaged") }
                let range = UInt64(first)..<UInt64(end)
                if range.overlaps(offsets) { runs.append(FiledRecords(offsets: range, times: times)) }
            }
            state = page.next
        } while state != nil
        return runs
    }

    // MARK: Small things

    private func key(_ place: TopicPartition) -> [CQLValue] {
        [.text(configuration.log), .int(Int32(place.topic.number)), .int(Int32(place.partition))]
    }

    private func number(_ offset: UInt64) -> CQLValue { .bigint(Int64(clamping: offset)) }

    private func page(_ outcome: CQLCall.Outcome) throws(StoreError) -> (rows: [[CQLValue]], next: [UInt8]?) {
        switch outcome {
        case .failure(let error): throw session.failure(error, "read which records are filed")
        case .success(let answer):
            guard case .result(.rows(let rows)) = answer.response else { return ([], nil) }
            do {
                return (try rows.values(), rows.metadata.pagingState)
            } catch {
                throw StoreError(.damaged, "unreadable rows of which records are filed: \(error)")
            }
        }
    }

    private func rows(_ outcome: CQLCall.Outcome) throws(StoreError) -> [[CQLValue]] { try page(outcome).rows }

    /// Ranges as they were written, without what was before the oldest run: that is over.
    private static func held(_ ranges: [[CQLValue]], _ oldest: [[CQLValue]]) throws(StoreError) -> HeldOffsets {
        var held = HeldOffsets()
        guard let oldest = oldest.first?.first?.integer, oldest >= 0 else { return held }
        for row in ranges {
            guard row.count == 2, let first = row[0].integer, let end = row[1].integer, first >= 0, end > first else {
                throw StoreError(.damaged, "a row of held_offsets is damaged")
            }
            held.insert(UInt64(first)..<UInt64(end))
        }
        held.remove(0..<UInt64(oldest))
        return held
    }

    /// Pairs of first and last time, little endian.
    static func bytes(_ times: FilingTimes) -> [UInt8] {
        var bytes: [UInt8] = []
        for range in times.ranges {
            for time in [range.lowerBound, range.upperBound] {
                withUnsafeBytes(of: time.littleEndian) { bytes.append(contentsOf: $0) }
            }
        }
        return bytes
    }

    /// nil for what is none.
    static func times(_ bytes: [UInt8]) -> FilingTimes? {
        guard bytes.count % 16 == 0 else { return nil }
        var ranges: [ClosedRange<Int64>] = []
        for position in stride(from: 0, to: bytes.count, by: 16) {
            func time(_ position: Int) -> Int64 {
                bytes.withUnsafeBytes {
                    Int64(littleEndian: $0.loadUnaligned(fromByteOffset: position, as: Int64.self))
                }
            }
            let (first, last) = (time(position), time(position + 8))
            guard first <= last else { return nil }
            ranges.append(first...last)
        }
        return FilingTimes(ranges: ranges)
    }
}
