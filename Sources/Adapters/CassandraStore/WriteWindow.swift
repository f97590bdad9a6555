import CQLFrames
import CassandraCQL
import EventLoop
import TickStore
import TimeSource

/// A batch on its way to one partition.
final class PartitionWrite: @unchecked Sendable {
    let partition: TickPartition
    let frame: CQLBuffer
    /// What it holds in memory.
    let bytes: Int
    let apply: OpenApply
    /// When the ticks of its rows happened.
    let filingTimesNs: [Int64]
    // Owned by the loop.
    var pauseMilliseconds = 0

    init(_ partition: TickPartition, _ frame: CQLBuffer, _ apply: OpenApply, filingTimesNs: [Int64] = []) {
        self.filingTimesNs = filingTimesNs
        self.partition = partition
        self.frame = frame
        self.apply = apply
        bytes = frame.heldBytes
    }
}

/// What one apply wrote and is not acknowledged yet. Guarded by the window's monitor.
final class OpenApply: @unchecked Sendable {
    var writesLeft = 0
}

/// A partition whose rows cannot be written now.
public struct FailingPartition: Hashable, Sendable {
    /// Exchange, symbol, date and hour.
    public let name: String
    public let reason: String
    /// Monotonic milliseconds of the store's loop when it began.
    public let sinceMilliseconds: UInt64
    public var attempts: Int
}

/// The batches that are not acknowledged yet: bounded in bytes and per partition, written again until they are. A
/// partition that fails waits alone, the others go on.
final class WriteWindow: @unchecked Sendable {
    private let session: BlockingSession
    private let keyspace: String
    private let limits: CassandraStoreLimits
    private let time: any TimeSource
    private let monitor = Monitor()
    // Guarded by the monitor.
    private var openBytes = 0
    private var openWrites = 0
    private var lastError: StoreError?
    private var fatal: StoreError?
    private var failing: [Int: FailingPartition] = [:]
    private var latency = RowLatency()
    // Owned by the loop.
    private var partitions: [Int: Lane] = [:]

    private struct Lane {
        var open = 0
        var waiting: [PartitionWrite] = []
        /// Until when nothing new is begun, after a failure.
        var isPaused = false
    }

    init(_ session: BlockingSession, keyspace: String, limits: CassandraStoreLimits, time: any TimeSource) {
        self.time = time
        self.session = session
        self.keyspace = keyspace
        self.limits = limits
    }

    /// Partitions that fail now, and why.
    var failures: [FailingPartition] {
        monitor.withLock { failing.values.sorted { $0.name < $1.name } }
    }

    var rowLatency: RowLatency { monitor.withLock { latency } }

    /// Waits until there is room for an apply. Throws what keeps the store away, or what no retry mends.
    func waitForRoom() throws(StoreError) {
        let hasRoom = monitor.withLock {
            monitor.wait(milliseconds: limits.stallMilliseconds) { openBytes < limits.openBytesMax || fatal != nil }
        }
        try checkFatal()
        if !hasRoom { throw stalled("\(openBytes >> 20) MiB of rows wait to be acknowledged") }
    }

    /// Waits until everything is acknowledged; false when that takes longer.
    func drain(milliseconds: Int) throws(StoreError) -> Bool {
        let isEmpty = monitor.withLock {
            monitor.wait(milliseconds: milliseconds) { openWrites == 0 || fatal != nil }
        }
        try checkFatal()
        return isEmpty
    }

    func stalled(_ what: String) -> StoreError {
        let (error, failing) = monitor.withLock { (lastError, self.failing) }
        let name = failing.values.map(\.name).sorted().first.map { " of \($0)" } ?? ""
        let count = failing.count > 1 ? " (and \(failing.count - 1) more partitions)" : ""
        let why = error.map { "; the last failure\(name)\(count): \($0.message)" } ?? ""
        return StoreError(.unreachable, "Cassandra is behind: \(what)\(why)", retryable: true)
    }

    private func checkFatal() throws(StoreError) {
        if let fatal = monitor.withLock({ fatal }) { throw fatal }
    }

    /// Takes the batches of one apply.
    func submit(_ writes: [PartitionWrite]) {
        monitor.withLock {
            for write in writes {
                openBytes += write.bytes
                openWrites += 1
                write.apply.writesLeft += 1
            }
        }
        session.onLoop { [self] in for write in writes { enqueue(write) } }
    }

    private func enqueue(_ write: PartitionWrite) {
        let number = write.partition.number
        var lane = partitions[number] ?? Lane()
        if lane.open < limits.partitionBatchesMax, !lane.isPaused {
            lane.open += 1
            partitions[number] = lane
            send(write)
        } else {
            lane.waiting.append(write)
            partitions[number] = lane
        }
    }

    private func send(_ write: PartitionWrite) {
        var options = CQLCallOptions()
        options.isIdempotent = true
        let call = CQLCall(
            frame: write.frame, token: write.partition.token, keyspace: keyspace, options: options
        ) { [self] outcome in
            switch outcome {
            case .success: finished(write)
            case .failure(let error): failed(write, error)
            }
        }
        session.session.submitOnLoop(call)
    }

    private func finished(_ write: PartitionWrite) {
        let number = write.partition.number
        let nowNs = write.filingTimesNs.isEmpty ? 0 : time.wallNs()
        monitor.withLock {
            for filingTimeNs in write.filingTimesNs { latency.add(nowNs &- filingTimeNs) }
            openBytes -= write.bytes
            openWrites -= 1
            write.apply.writesLeft -= 1
            if !failing.isEmpty { failing[number] = nil }
            if openWrites == 0 { lastError = nil }
            monitor.broadcast()
        }
        guard var lane = partitions[number] else { return }
        lane.open -= 1
        lane.isPaused = false
        partitions[number] = lane
        advance(number)
    }

    private func advance(_ number: Int) {
        guard var lane = partitions[number] else { return }
        while lane.open < limits.partitionBatchesMax, !lane.waiting.isEmpty {
            lane.open += 1
            let next = lane.waiting.removeFirst()
            partitions[number] = lane
            send(next)
            // What is sent may be answered inside the call.
            lane = partitions[number] ?? Lane()
        }
        partitions[number] = lane.open == 0 && lane.waiting.isEmpty ? nil : lane
    }

    /// Tried again after a pause that grows; what no retry mends stops the store.
    private func failed(_ write: PartitionWrite, _ error: CQLRequestError) {
        let failure = session.failure(error, "write rows of \(write.partition.name)")
        let number = write.partition.number
        let now = session.session.loop.nowMilliseconds
        monitor.withLock {
            lastError = failure
            if !failure.retryable { fatal = failure }
            var known =
                failing[number]
                ?? FailingPartition(
                    name: write.partition.name, reason: error.message, sinceMilliseconds: now, attempts: 0)
            known.attempts += 1
            failing[number] = known
            monitor.broadcast()
        }
        guard failure.retryable else { return }
        write.pauseMilliseconds = min(
            max(limits.retryMilliseconds, write.pauseMilliseconds * 2), limits.retryMillisecondsMax)
        partitions[number]?.isPaused = true
        _ = session.session.loop.timer(afterMilliseconds: write.pauseMilliseconds) { [self] in send(write) }
    }
}
