import CQLFrames
import CassandraCQL
import EventLog
import EventLoop
import Glibc
import Synchronization
import TickStore
import TimeSource

/// The bench `cassandra`: the driver alone, and the store behind it, on a node that is named.
public enum CassandraBench {
    public static let method = """
        One node, on the same machine. driver: prepared INSERTs of a text, an int and 100 bytes, one row each, 256 \
        in flight on one connection, closed loop, protocol v5; driver_batch: the same rows in unlogged batches of 100 \
        within a partition, 16 in flight; read: prepared SELECTs of one row by key, 256 in flight. writer: ticks of \
        50 instruments, as in the bench `store`, encoded beforehand and applied in batches of 4,096, as the writer's \
        grow to while it is behind, to an empty keyspace, to the end of a final sync; writer_v4 by protocol v4. Rates \
        count what was acknowledged; cpu is this process's user and system time per row or request. A warm-up of a \
        tenth precedes each of the driver's. Keyspaces that begin with `tapedeck_bench` are left behind.
        """

    /// How much is measured.
    public struct Size: Sendable {
        public var requests = 100_000
        public var ticks = 500_000
        public init() {}
    }

    /// `open` gives a session on a loop; `makeStore` a store on a new keyspace, once per run.
    public static func bench(
        time: any TimeSource, size: Size = Size(),
        open: @escaping @Sendable () throws -> (session: CassandraSession, close: @Sendable () -> Void),
        makeStore: @escaping @Sendable (_ run: Int, _ version: CQLVersion) throws -> any TickStore
    ) -> Bench {
        Bench(name: "cassandra", method: method) { runs, progress in
            var samples: [String: (unit: String, values: [Double])] = [:]
            var order: [String] = []
            func note(_ figure: String, _ unit: String, _ value: Double) {
                if samples[figure] == nil { order.append(figure) }
                samples[figure, default: (unit, [])].values.append(value)
            }
            let (session, close) = try open()
            defer { close() }
            let driver = try DriverLoad(session, time)
            progress("cassandra: encoding \(size.ticks) ticks")
            var tapeSize = StoreBench.Size()
            tapeSize.ticks = size.ticks
            // What the writer's batches grow to while it is behind.
            tapeSize.batchTicks = 4096
            let tape = StoreBench.Tape(tapeSize, appendTimeNs: time.wallNs())
            for run in 1...max(1, runs) {
                for kind in DriverLoad.Kind.allCases {
                    _ = try driver.run(kind, size.requests / 10)
                    let result = try driver.run(kind, size.requests)
                    note(kind.rateName, kind.unit, result.rate)
                    note(kind.cpuName, "us", result.cpuMicroseconds)
                }
                for version in [CQLVersion.v5, .v4] {
                    let store = try makeStore(run, version)
                    let (started, cpu) = (time.monotonicNs(), cpuNs())
                    for (rows, next) in tape.batches { _ = try apply(store, rows, next, tape.place, time) }
                    try store.close()
                    let elapsed = Double(time.monotonicNs() - started)
                    let name = version == .v5 ? "writer" : "writer_v4"
                    note(name + "_rate", "rows/s", Double(size.ticks) * 1e9 / elapsed)
                    note(name + "_cpu", "us", Double(cpuNs() - cpu) / 1000 / Double(size.ticks))
                }
                progress("cassandra: run \(run) of \(runs)")
            }
            return order.map { name in
                Figure(
                    bench: "cassandra", figure: name, unit: samples[name]?.unit ?? "",
                    samples: samples[name]?.values ?? [0])
            }
        }
    }

    /// As the writer applies: a store that is behind is waited for.
    private static func apply(
        _ store: any TickStore, _ rows: TickRows, _ next: UInt64, _ place: TopicPartition, _ time: any TimeSource
    ) throws -> UInt64 {
        while true {
            do throws(StoreError) {
                return try store.apply(rows, through: next, of: place)
            } catch {
                guard error.retryable else { throw error }
                time.sleep(ns: 10_000_000)
            }
        }
    }

    /// User and system time of this process, ns.
    static func cpuNs() -> Int64 {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        func ns(_ value: timeval) -> Int64 { Int64(value.tv_sec) * 1_000_000_000 + Int64(value.tv_usec) * 1000 }
        return ns(usage.ru_utime) + ns(usage.ru_stime)
    }
}

/// Requests in flight, each followed by the next, all on the session's loop.
private final class DriverLoad: @unchecked Sendable {
    enum Kind: CaseIterable {
        case insert, batch, read

        var rateName: String { self == .insert ? "driver_rate" : self == .batch ? "driver_batch_rate" : "read_rate" }
        var cpuName: String { self == .insert ? "driver_cpu" : self == .batch ? "driver_batch_cpu" : "read_cpu" }
        var unit: String { self == .batch ? "rows/s" : "requests/s" }
        var rowsPerRequest: Int { self == .batch ? 100 : 1 }
        var inFlight: Int { self == .batch ? 16 : 256 }
    }

    private let session: CassandraSession
    private let time: any TimeSource
    private let insert: CQLPrepared
    private let select: CQLPrepared
    private let blob = [UInt8](repeating: 7, count: 100)
    // Owned by the loop.
    private var left = 0
    private var open = 0
    private var number: Int32 = 0
    private var done: ((CQLRequestError?) -> Void)?
    private var failure: CQLRequestError?

    init(_ session: CassandraSession, _ time: any TimeSource) throws {
        self.session = session
        self.time = time
        for statement in [
            "CREATE KEYSPACE IF NOT EXISTS tapedeck_bench WITH replication = "
                + "{'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE IF NOT EXISTS tapedeck_bench.rows (p text, n int, b blob, PRIMARY KEY (p, n))",
        ] { _ = try DriverLoad.wait(session, .query(statement, CQLParameters())) }
        insert = try DriverLoad.prepare(session, "INSERT INTO tapedeck_bench.rows (p, n, b) VALUES (?, ?, ?)")
        select = try DriverLoad.prepare(session, "SELECT b FROM tapedeck_bench.rows WHERE p = ? AND n = ?")
    }

    private static func prepare(_ session: CassandraSession, _ text: String) throws -> CQLPrepared {
        guard case .result(.prepared(let result)) = try wait(session, .prepare(text, keyspace: nil)).response else {
            throw StoreError(.io, "PREPARE was not answered by a statement")
        }
        return CQLPrepared(text, result)
    }

    /// Waits on this thread for one answer.
    private static func wait(_ session: CassandraSession, _ request: CQLRequest) throws -> CQLAnswer {
        let result = Mutex<CQLCall.Outcome?>(nil)
        session.submit([CQLCall(request, session.version) { outcome in result.withLock { $0 = outcome } }])
        while result.withLock({ $0 == nil }) { poll(nil, 0, 1) }
        return try result.withLock { $0 }!.get()
    }

    func run(_ kind: Kind, _ rows: Int) throws -> (rate: Double, cpuMicroseconds: Double) {
        let requests = max(1, rows / kind.rowsPerRequest)
        let result = Mutex<(isDone: Bool, error: CQLRequestError?)>((false, nil))
        let (started, cpu) = (time.monotonicNs(), CassandraBench.cpuNs())
        session.loop.execute { [self] in
            left = requests
            failure = nil
            done = { error in result.withLock { $0 = (true, error) } }
            for _ in 0..<min(kind.inFlight, requests) { next(kind) }
        }
        while !result.withLock({ $0.isDone }) { poll(nil, 0, 1) }
        if let error = result.withLock({ $0.error }) { throw error }
        let elapsed = Double(time.monotonicNs() - started)
        let count = Double(requests * kind.rowsPerRequest)
        let perUnit = Double(CassandraBench.cpuNs() - cpu) / 1000 / count
        return (count * 1e9 / elapsed, perUnit)
    }

    private func next(_ kind: Kind) {
        guard left > 0, failure == nil else {
            if open == 0, let done {
                self.done = nil
                done(failure)
            }
            return
        }
        left -= 1
        open += 1
        let buffer = CQLBuffer(capacity: kind == .batch ? 32 << 10 : 256)
        let token = kind == .read ? appendRead(buffer) : append(kind, buffer)
        var options = CQLCallOptions()
        options.isIdempotent = true
        let call = CQLCall(frame: buffer, token: token, keyspace: "tapedeck_bench", options: options) {
            [self] outcome in
            open -= 1
            if case .failure(let error) = outcome { failure = error }
            next(kind)
        }
        session.submitOnLoop(call)
    }

    private func key(_ partition: Int32) -> [UInt8] { Array("partition-\(partition)".utf8) }

    private func append(_ kind: Kind, _ buffer: CQLBuffer) -> Int64 {
        let name = key(number / 100 % 1000)
        if kind == .insert {
            let start = CQLFrameHeader(
                version: session.version, isResponse: false, flags: [], stream: 0, opcode: .execute, length: 0
            ).begin(buffer)
            appendExecute(insert, values: 3, buffer)
            appendRow(name, buffer)
            CQLFrameHeader.end(buffer, start)
            return Murmur3.token(of: [name])
        }
        let batch = CQLBatchWriter(.unlogged, session.version, into: buffer)
        var writer = batch
        for _ in 0..<kind.rowsPerRequest {
            writer.statement(insert.id, values: 3)
            appendRow(name, buffer)
        }
        writer.finish(.localOne)
        return Murmur3.token(of: [name])
    }

    private func appendRow(_ name: [UInt8], _ buffer: CQLBuffer) {
        name.withUnsafeBytes { buffer.append(value: $0) }
        buffer.append(value: number)
        blob.withUnsafeBytes { buffer.append(value: $0) }
        number &+= 1
    }

    private func appendRead(_ buffer: CQLBuffer) -> Int64 {
        number = (number &+ 7919) % 100_000
        let name = key(number / 100 % 1000)
        let start = CQLFrameHeader(
            version: session.version, isResponse: false, flags: [], stream: 0, opcode: .execute, length: 0
        ).begin(buffer)
        appendExecute(select, values: 2, buffer)
        name.withUnsafeBytes { buffer.append(value: $0) }
        buffer.append(value: number)
        CQLFrameHeader.end(buffer, start)
        return Murmur3.token(of: [name])
    }

    /// Id, consistency, flags and the number of values that follow.
    private func appendExecute(_ statement: CQLPrepared, values: Int, _ buffer: CQLBuffer) {
        buffer.append(shortBytes: statement.id)
        // Values, and no description of what is known.
        let flags: UInt8 = 0x03
        if session.version >= .v5 { buffer.append(shortBytes: statement.shape.metadataID ?? []) }
        buffer.append(bigEndian: CQLConsistency.localOne.rawValue)
        if session.version >= .v5 { buffer.append(bigEndian: UInt32(flags)) } else { buffer.append(byte: flags) }
        buffer.append(bigEndian: UInt16(values))
    }
}
