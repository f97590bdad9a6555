import Disk
import EventLog
import Glibc
import Synchronization
import TimeSource

/// What the log costs: appending and reading back through it, beside plain appends to a file with the same syncs.
public struct LogBench: Sendable {
    /// Payload of a record, bytes.
    static let recordLength = 100
    /// What a block, and a plain append, holds, bytes.
    static let blockLength = 64 << 10
    static let recordsPerBlock = blockLength / (recordLength + Block.framePrefixLength)
    static let syncIntervalNs: Int64 = 5_000_000

    let directory: String
    let time: any TimeSource
    let openLog: @Sendable (_ directory: String) throws -> any EventLog
    let openDisk: @Sendable (_ directory: String) throws -> any Disk
    let removeDirectory: @Sendable (_ directory: String) -> Void
    /// Records per run and side.
    let recordCount: Int

    /// `directory` is an empty folder on the disk to be measured; every run makes a log and a file in folders of it,
    /// and has `removeDirectory` remove them. `openLog` opens a log with default durability, `openDisk` the disk under
    /// it.
    public static func bench(
        directory: String, time: any TimeSource, recordCount: Int = 5_000_000,
        openLog: @escaping @Sendable (_ directory: String) throws -> any EventLog,
        openDisk: @escaping @Sendable (_ directory: String) throws -> any Disk,
        removeDirectory: @escaping @Sendable (_ directory: String) -> Void
    ) -> Bench {
        let bench = LogBench(
            directory: directory, time: time, openLog: openLog, openDisk: openDisk, removeDirectory: removeDirectory,
            recordCount: recordCount)
        return Bench(
            name: "log",
            method: """
                append_read: records/s of 100 bytes, 32 instruments, default durability. One thread encodes nothing: \
                it copies ready payloads into a block builder as a feed does and appends a block when it has 64 KiB; \
                another reads every record at `durable`. Closed loop, from the first append until the reader has the \
                last record. Beside it in turn (of "file"): 64 KiB appends to a file through the same disk, synced by \
                a second thread every 5 ms and at the end, bytes divided by 100.
                append_sync: `orders` durability, records/s, one record of 100 bytes per append, one appender: \
                written and synced (fdatasync) before append returns. append_sync_8: the same with 8 appenders, who \
                share syncs. Beside it (of "file"): one 100-byte append and sync after another.
                """
        ) { runs, progress in try bench.run(runs, progress) }
    }

    private func run(_ runs: Int, _ progress: (String) -> Void) throws -> [Figure] {
        var log: [Double] = []
        var file: [Double] = []
        var single: [Double] = []
        var shared: [Double] = []
        var fileSingle: [Double] = []
        // The first round warms up memory and the file system and is not counted.
        for number in 0...runs {
            let path = "\(directory)/bench-\(number)"
            let logRate = try measure(path) { try appendRead($0) }
            let fileRate = try measure(path) { try appendFile($0) }
            progress("append_read \(number): log \(Int(logRate)) records/s, file \(Int(fileRate))")
            let syncRates = try [1, 8].map { appenders in
                try measure(path) { try appendSync($0, appenders: appenders) }
            }
            let fileSync = try measure(path) { try appendFileSync($0) }
            progress("append_sync \(number): log \(syncRates.map(Int.init)) records/s, file \(Int(fileSync))")
            if number == 0 { continue }
            log.append(logRate)
            file.append(fileRate)
            single.append(syncRates[0])
            shared.append(syncRates[1])
            fileSingle.append(fileSync)
        }
        return [
            Figure(bench: "log", figure: "append_read", unit: "records/s", samples: log),
            Figure(bench: "log", figure: "append_read", unit: "records/s", of: "file", samples: file),
            Figure(bench: "log", figure: "append_sync", unit: "records/s", samples: single),
            Figure(bench: "log", figure: "append_sync", unit: "records/s", of: "file", samples: fileSingle),
            Figure(bench: "log", figure: "append_sync_8", unit: "records/s", samples: shared),
        ]
    }

    private func measure(_ path: String, _ body: (String) throws -> Double) throws -> Double {
        defer { removeDirectory(path) }
        return try body(path)
    }

    // MARK: Log

    private func appendRead(_ path: String) throws -> Double {
        let log = try openLog(path)
        let place = TopicPartition(.ticksRaw, 0)
        let blockCount = recordCount / LogBench.recordsPerBlock
        let total = UInt64(blockCount * LogBench.recordsPerBlock)
        let reader = BenchThread<UInt64> { LogBench.readAll(log, place, total) }
        let startNs = time.monotonicNs()
        try LogBench.appendAll(log, place, blockCount: blockCount)
        let sum = reader.join()
        let ns = time.monotonicNs() - startNs
        try log.close()
        guard sum == total else { throw BenchFailure(what: "\(sum) of \(total) records were read back") }
        return Double(total) * 1e9 / Double(ns)
    }

    private static func appendAll(_ log: any EventLog, _ place: TopicPartition, blockCount: Int) throws {
        let builder = BlockBuilder(place, capacity: blockLength)
        let keys = (0..<32).map { number in
            builder.register(BlockBuilder.Key(exchange: "BENCH", symbol: "SYM\(number)", feed: "bench"))
        }
        let payload = [UInt8](repeating: 0x55, count: recordLength)
        var sequence: UInt64 = 0
        for _ in 0..<blockCount {
            payload.withUnsafeBytes { bytes in
                for _ in 0..<recordsPerBlock {
                    sequence += 1
                    builder.append(
                        key: keys[Int(sequence & 31)], epoch: 1, sequence: sequence >> 5, lengthMax: recordLength
                    ) { buffer in
                        buffer.copyMemory(from: bytes)
                        return recordLength
                    }
                }
            }
            try log.append([builder.build()], consumed: [])
        }
    }

    /// Reads every record's place, sequence and last byte; returns how many were right.
    private static func readAll(_ log: any EventLog, _ place: TopicPartition, _ total: UInt64) -> UInt64 {
        var offset: UInt64 = 0
        var right: UInt64 = 0
        while offset < total {
            switch try? log.readBlocking(place, at: offset, .durable) {
            case .block(let block, let index):
                for record in index..<block.recordCount {
                    let payload = block.payload(record)
                    offset += 1
                    if payload[payload.count - 1] == 0x55, block.sequence(of: record) == offset >> 5 { right += 1 }
                }
            case .atEnd:
                if !log.wait(place, at: offset, .durable, timeoutNs: 10_000_000_000) { return right }
            default: return right
            }
        }
        return right
    }

    private func appendSync(_ path: String, appenders: Int) throws -> Double {
        let log = try openLog(path)
        let perAppender = appenders == 1 ? 1000 : 500
        let startNs = time.monotonicNs()
        let threads = (0..<appenders).map { number in
            BenchThread<Int> { LogBench.appendOrders(log, number, count: perAppender) }
        }
        let appended = threads.reduce(0) { $0 + $1.join() }
        let ns = time.monotonicNs() - startNs
        try log.close()
        guard appended == appenders * perAppender else { throw BenchFailure(what: "an append failed") }
        return Double(appended) * 1e9 / Double(ns)
    }

    private static func appendOrders(_ log: any EventLog, _ number: Int, count: Int) -> Int {
        let builder = BlockBuilder(TopicPartition(.ordersCommands, 0), capacity: 4096)
        let key = builder.register(BlockBuilder.Key(exchange: "", symbol: "shard-\(number)", feed: "bench"))
        let payload = [UInt8](repeating: 0x55, count: recordLength)
        for sequence in 0..<count {
            payload.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: UInt64(sequence), payload: $0) }
            guard (try? log.append([builder.build()], consumed: [])) != nil else { return sequence }
        }
        return count
    }

    // MARK: File

    private func appendFile(_ path: String) throws -> Double {
        let disk = try openDisk(path)
        let file = try disk.open("file", create: true)
        let bytes = [UInt8](repeating: 0x55, count: LogBench.blockLength)
        let appendCount = recordCount * LogBench.recordLength / LogBench.blockLength
        let startNs = time.monotonicNs()
        let written = try withSyncs(of: file) {
            try bytes.withUnsafeBytes { bytes in
                for number in 0..<appendCount { try file.write(at: UInt64(number * bytes.count), [bytes]) }
                return appendCount * bytes.count
            }
        }
        let ns = time.monotonicNs() - startNs
        disk.close()
        return Double(written / LogBench.recordLength) * 1e9 / Double(ns)
    }

    /// Runs `body` while another thread syncs the file every 5 ms; syncs once more at the end.
    private func withSyncs(of file: any DiskFile, _ body: () throws -> Int) throws -> Int {
        let time = time
        let stop = BenchFlag()
        let syncer = BenchThread<Bool> {
            while !stop.isSet {
                time.sleep(ns: LogBench.syncIntervalNs)
                guard (try? file.sync()) != nil else { return false }
            }
            return true
        }
        let result = Result { try body() }
        stop.set()
        guard syncer.join() else { throw BenchFailure(what: "a sync failed") }
        try file.sync()
        return try result.get()
    }

    private func appendFileSync(_ path: String) throws -> Double {
        let disk = try openDisk(path)
        let file = try disk.open("file", create: true)
        let bytes = [UInt8](repeating: 0x55, count: LogBench.recordLength)
        let count = 1000
        let startNs = time.monotonicNs()
        for number in 0..<count {
            try bytes.withUnsafeBytes { try file.write(at: UInt64(number * $0.count), [$0]) }
            try file.sync()
        }
        let ns = time.monotonicNs() - startNs
        disk.close()
        return Double(count) * 1e9 / Double(ns)
    }
}

/// A bench that could not be run to its end.
struct BenchFailure: Error, CustomStringConvertible {
    let what: String
    var description: String { what }
}

final class BenchFlag: Sendable {
    private let flag = Atomic<Bool>(false)
    var isSet: Bool { flag.load(ordering: .relaxed) }
    func set() { flag.store(true, ordering: .relaxed) }
}

/// A thread with a result: benches measure blocking calls, which must not sit on the runtime's own threads.
final class BenchThread<Value: Sendable>: @unchecked Sendable {
    private let run: @Sendable () -> Value
    private var value: Value?
    private var thread = pthread_t()

    init(_ run: @escaping @Sendable () -> Value) {
        self.run = run
        let result = pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<AnyBenchThread>.fromOpaque(raw!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(AnyBenchThread { self.value = self.run() }).toOpaque())
        precondition(result == 0, "the system gives no thread")
    }

    /// Waits for the thread's end; once.
    func join() -> Value {
        pthread_join(thread, nil)
        return value!
    }
}

private final class AnyBenchThread {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
}
