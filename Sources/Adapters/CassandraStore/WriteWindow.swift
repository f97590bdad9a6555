import CQLFrames
import CassandraCQL
import EventLog
import EventLoop
import MarketModel
import Synchronization
import TickStore
import TimeSource

/// A batch on its way to one partition.
final class PartitionWrite: @unchecked Sendable {
    let partition: TickPartition
    let frame: CQLBuffer
    /// What it holds in memory.
    let bytes: Int
    let rows: Int
    let source: WriteSource
    /// Where the statements lie in the frame: what can go together with others. Empty of what goes alone.
    let statements: Range<Int>
    /// Of the statements, as Cassandra counts them.
    var countedBytes: Int { statements.count + rows * TickRowEncoder.cellsMax * CassandraStoreLimits.cellBytes }
    /// When the ticks of its rows happened.
    let filingTimesNs: [Int64]
    /// How often its source was marked when it was handed over. Guarded by the window's monitor.
    fileprivate var markCount = 0
    // Owned by the loop.
    fileprivate var pauseMilliseconds = 0

    init(
        _ partition: TickPartition, _ frame: CQLBuffer, rows: Int, _ source: WriteSource,
        statements: Range<Int> = 0..<0, filingTimesNs: [Int64] = []
    ) {
        self.statements = statements
        self.filingTimesNs = filingTimesNs
        self.partition = partition
        self.frame = frame
        self.rows = rows
        self.source = source
        bytes = frame.heldBytes
    }
}

/// What of one partition of the log is not acknowledged yet. Guarded by the window's monitor.
final class WriteSource: @unchecked Sendable {
    fileprivate(set) var openWrites = 0
    fileprivate(set) var openBytes = 0
    /// How often it was marked, and what is open of before the last mark.
    fileprivate var markCount = 0
    fileprivate var openMarked = 0
    /// Partitions of Cassandra that its rows cannot be written to now.
    fileprivate(set) var failing = 0
}

/// The batches that are not acknowledged yet: bounded in bytes, in number and per partition, written again until they
/// are. A partition that fails waits alone, the others go on.
final class WriteWindow: @unchecked Sendable {
    /// Hears of partitions that fail, and of those that no longer do. On the session's loop.
    typealias Report = @Sendable (_ partition: FailingPartition, _ isOver: Bool) -> Void

    /// What is worth a copy to save a request.
    private static let joinedBytesMax = 16 << 10

    private let session: BlockingSession
    private let keyspace: String
    private let consistency: CQLConsistency
    private let limits: CassandraStoreLimits
    private let time: any TimeSource
    private let report: Report
    private let monitor = Monitor()
    // Guarded by the monitor.
    private var openBytes = 0
    private var openWrites = 0
    private var lastError: StoreError?
    private var fatal: StoreError?
    private var failing: [Int: (partition: FailingPartition, source: WriteSource)] = [:]
    private var sources: [TopicPartition: WriteSource] = [:]
    private var written = CassandraWriteCounters()
    private var latency = LatencyHistogram()
    // Owned by the loop.
    private var lanes: [Int: Lane] = [:]
    /// Lanes that may send, in the order in which they came to it; and writes whose pause is over, which go first.
    private var ready = Queue<Int>()
    private var retries = Queue<PartitionWrite>()
    private var inFlight = 0
    /// Of batches that were not sent yet.
    private var waitingRows = 0
    private var isPumping = false
    private var adaptive: AdaptiveWrites

    private struct Lane {
        var open = 0
        var waiting = Queue<PartitionWrite>()
        /// After a failure nothing new is begun until a batch is written.
        var isPaused = false
        var isReady = false
    }

    init(
        _ session: BlockingSession, _ configuration: CassandraStoreConfiguration, time: any TimeSource,
        report: @escaping Report
    ) {
        self.session = session
        keyspace = configuration.keyspace
        consistency = configuration.writeConsistency
        limits = configuration.limits
        self.time = time
        self.report = report
        adaptive = AdaptiveWrites(
            targetMilliseconds: UInt64(max(limits.latencyTargetMilliseconds, 1)), rowsMax: limits.batchRowsMax)
        written.inFlightMax = adaptive.inFlightMax
        written.batchRowsMax = adaptive.rowsMax
    }

    /// Partitions that fail now, and why.
    var failures: [FailingPartition] {
        monitor.withLock { failing.values.map(\.partition).sorted { $0.name < $1.name } }
    }

    var counters: CassandraWriteCounters {
        monitor.withLock {
            var counters = written
            counters.openBytes = openBytes
            return counters
        }
    }

    /// Rows that a batch may have now.
    var batchRowsMax: Int { monitor.withLock { written.batchRowsMax } }

    func source(_ place: TopicPartition) -> WriteSource {
        monitor.withLock {
            if let known = sources[place] { return known }
            let made = WriteSource()
            sources[place] = made
            return made
        }
    }

    var rowLatency: LatencyHistogram { monitor.withLock { latency } }

    /// Waits until there is room for an apply of the place. Throws what keeps the store away, or what no retry mends. A
    /// place with a partition that fails has a part of the room, so that the others have the rest.
    func waitForRoom(_ place: TopicPartition) throws(StoreError) {
        let source = source(place)
        var isHeld = false
        let hasRoom = monitor.withLock {
            monitor.wait(milliseconds: limits.stallMilliseconds) {
                isHeld = source.failing > 0 && source.openBytes >= limits.failingBytesMax
                return isHeld || openBytes < limits.openBytesMax || fatal != nil
            }
        }
        try checkFatal()
        if isHeld { throw stalled("rows of \(place) wait to be acknowledged", source) }
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

    /// What of these places is on its way now is what ``drainMarked(_:milliseconds:waitsForFailing:)`` waits for.
    func mark(_ places: [TopicPartition]) {
        let marked = places.map(source)
        monitor.withLock {
            for source in marked {
                source.markCount += 1
                source.openMarked = source.openWrites
            }
        }
    }

    /// Waits until what was marked of these places is acknowledged, but not for partitions that fail unless that is
    /// asked for; returns the places of which everything is.
    func drainMarked(
        _ places: [TopicPartition], milliseconds: Int, waitsForFailing: Bool
    ) throws(StoreError) -> Set<TopicPartition> {
        let waited = places.map(source)
        let clean = monitor.withLock {
            _ = monitor.wait(milliseconds: milliseconds) {
                fatal != nil || waited.allSatisfy { $0.openMarked == 0 || ($0.failing > 0 && !waitsForFailing) }
            }
            return Set(zip(places, waited).filter { $0.1.openMarked == 0 }.map(\.0))
        }
        try checkFatal()
        return clean
    }

    /// `source`: whose partitions are named; nil for all.
    func stalled(_ what: String, _ source: WriteSource? = nil) -> StoreError {
        let (error, failing) = monitor.withLock {
            (lastError, self.failing.values.filter { source == nil || $0.source === source }.map(\.partition))
        }
        let first = failing.min { $0.name < $1.name }
        let name = first.map { " of \($0.name) since \(CivilTime.text(ns: $0.sinceNs))" } ?? ""
        let count = failing.count > 1 ? " (and \(failing.count - 1) more partitions)" : ""
        let why = (first?.reason ?? error?.message).map { "; the last failure\(name)\(count): \($0)" } ?? ""
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
                write.source.openWrites += 1
                write.source.openBytes += write.bytes
                write.markCount = write.source.markCount
            }
            written.openBytesMost = max(written.openBytesMost, openBytes)
        }
        session.onLoop { [self] in
            for write in writes {
                waitingRows += write.rows
                lanes[write.partition.number, default: Lane()].waiting.append(write)
                offer(write.partition.number)
            }
            pump()
        }
    }

    // MARK: The loop

    private var now: UInt64 { session.session.loop.nowMilliseconds }

    /// Puts a lane where it is sent from, if it may send.
    private func offer(_ number: Int) {
        guard var lane = lanes[number] else { return }
        if lane.open == 0, lane.waiting.isEmpty {
            lanes[number] = nil
        } else if !lane.isReady, !lane.isPaused, lane.open < limits.partitionBatchesMax, !lane.waiting.isEmpty {
            lane.isReady = true
            lanes[number] = lane
            ready.append(number)
        }
    }

    private func pump() {
        // What is sent may be answered inside the call.
        guard !isPumping else { return }
        isPumping = true
        defer { isPumping = false }
        let mixes = limits.mixedPartitionsMax > 1 && session.session.isOnEveryNode(keyspace: keyspace)
        while inFlight < adaptive.inFlightMax {
            if let write = retries.next() {
                send([write])
                continue
            }
            // What comes until one of those on their way is answered goes with it.
            if mixes, inFlight >= limits.mixedInFlight, waitingRows < limits.mixedPartitionsMax { return }
            guard let first = take() else { return }
            var writes = [first]
            var bytes = first.countedBytes
            while mixes, !first.statements.isEmpty, writes.count < limits.mixedPartitionsMax,
                let next = take(within: limits.mixedBytesMax - bytes)
            {
                writes.append(next)
                bytes += next.countedBytes
            }
            send(writes)
        }
    }

    /// The next batch that may be sent; `countedBytes`: if it is no longer than that and can go with others.
    private func take(within countedBytes: Int? = nil) -> PartitionWrite? {
        while let number = ready.first {
            guard var lane = lanes[number], !lane.isPaused, let first = lane.waiting.first else {
                _ = ready.next()
                lanes[number]?.isReady = false
                continue
            }
            if let countedBytes, first.statements.isEmpty || first.countedBytes > countedBytes { return nil }
            _ = ready.next()
            let taken = takeAlike(&lane, countedBytes ?? WriteWindow.joinedBytesMax)
            let write = taken.count == 1 ? first : one(of: taken)
            lane.isReady = false
            lane.open += 1
            lanes[number] = lane
            waitingRows -= write.rows
            offer(number)
            return write
        }
        return nil
    }

    /// The first batch of a lane, and small ones that wait behind it and can be one with it: where a node is slower
    /// than rows come, each of its requests takes more of them.
    private func takeAlike(_ lane: inout Lane, _ bytesMax: Int) -> [PartitionWrite] {
        guard let first = lane.waiting.next() else { return [] }
        var (taken, rows, bytes) = ([first], first.rows, first.countedBytes)
        while !first.statements.isEmpty, let next = lane.waiting.first, next.source === first.source,
            !next.statements.isEmpty, rows + next.rows <= adaptive.rowsMax, bytes + next.countedBytes <= bytesMax
        {
            rows += next.rows
            bytes += next.countedBytes
            taken.append(next)
            _ = lane.waiting.next()
        }
        return taken
    }

    /// Batches of one partition as one.
    private func one(of writes: [PartitionWrite]) -> PartitionWrite {
        let (frame, statements) = joined(writes)
        let (first, source) = (writes[0], writes[0].source)
        let made = PartitionWrite(
            first.partition, frame, rows: writes.reduce(0) { $0 + $1.rows }, source, statements: statements,
            filingTimesNs: writes.flatMap(\.filingTimesNs))
        let heldBytes = writes.reduce(0) { $0 + $1.bytes }
        monitor.withLock {
            // Those that were marked came before those that were not: it is waited for with them.
            made.markCount = first.markCount
            source.openMarked -= max(writes.count { $0.markCount < source.markCount } - 1, 0)
            source.openWrites += 1 - writes.count
            source.openBytes += made.bytes - heldBytes
            openWrites += 1 - writes.count
            openBytes += made.bytes - heldBytes
        }
        return made
    }

    /// Sends batches as one request.
    private func send(_ writes: [PartitionWrite]) {
        inFlight += 1
        let sentMilliseconds = now
        let sentNs = time.monotonicNs()
        var options = CQLCallOptions()
        options.isIdempotent = true
        let first = writes[0]
        let call = CQLCall(
            frame: writes.count == 1 ? first.frame : joined(writes).frame,
            token: first.partition.token, keyspace: keyspace, options: options
        ) { [self] outcome in
            let isFull = inFlight >= adaptive.inFlightMax
            inFlight -= 1
            switch outcome {
            case .success:
                let milliseconds = now &- sentMilliseconds
                adaptive.answered(after: milliseconds, at: now, isFull: isFull)
                finished(writes, latencyNs: time.monotonicNs() - sentNs)
            case .failure(let error):
                if error.isOverload { adaptive.refused(at: now) }
                if writes.count == 1 { failed(first, error) } else { failedTogether(writes) }
            }
            pump()
        }
        session.session.submitOnLoop(call)
    }

    /// One frame of all their statements.
    private func joined(_ writes: [PartitionWrite]) -> (frame: CQLBuffer, statements: Range<Int>) {
        let buffer = CQLBuffer(capacity: writes.reduce(64) { $0 + $1.statements.count })
        var writer = CQLBatchWriter(.unlogged, session.session.version, into: buffer)
        for write in writes {
            writer.append(
                statements: UnsafeRawBufferPointer(rebasing: write.frame.bytes[write.statements]), count: write.rows)
        }
        let statements = writer.statements
        writer.finish(consistency)
        return (buffer, statements)
    }

    private func finished(_ writes: [PartitionWrite], latencyNs: Int64) {
        let nowNs = writes[0].filingTimesNs.isEmpty ? 0 : time.wallNs()
        let over = monitor.withLock { () -> [FailingPartition] in
            var over: [FailingPartition] = []
            var rows = 0
            for write in writes {
                for filingTimeNs in write.filingTimesNs { latency.add(nowNs &- filingTimeNs) }
                openBytes -= write.bytes
                openWrites -= 1
                write.source.openWrites -= 1
                if write.markCount < write.source.markCount { write.source.openMarked -= 1 }
                write.source.openBytes -= write.bytes
                rows += write.rows
                if !failing.isEmpty, let known = failing.removeValue(forKey: write.partition.number) {
                    known.source.failing -= 1
                    over.append(known.partition)
                }
            }
            written.count(latencyNs: latencyNs, rows: rows)
            keepBounds()
            if openWrites == 0 { lastError = nil }
            monitor.wake()
            return over
        }
        for partition in over { report(partition, true) }
        for write in writes {
            let number = write.partition.number
            guard var lane = lanes[number] else { continue }
            lane.open -= 1
            lane.isPaused = false
            lanes[number] = lane
            offer(number)
        }
    }

    /// With the monitor's lock held.
    private func keepBounds() {
        written.inFlightMax = adaptive.inFlightMax
        written.batchRowsMax = adaptive.rowsMax
    }

    /// Which of them it was shows when each goes alone, a little later: the node may have too much to do.
    private func failedTogether(_ writes: [PartitionWrite]) {
        monitor.withLock {
            written.errors += 1
            keepBounds()
        }
        _ = session.session.loop.timer(afterMilliseconds: limits.retryMilliseconds) { [self] in
            for write in writes { retries.append(write) }
            pump()
        }
    }

    /// Tried again after a pause that grows; what no retry mends stops the store.
    private func failed(_ write: PartitionWrite, _ error: CQLRequestError) {
        let failure = session.failure(error, "write rows of \(write.partition.name)")
        let number = write.partition.number
        let sinceNs = time.wallNs()
        let begun = monitor.withLock { () -> FailingPartition? in
            lastError = failure
            if !failure.retryable { fatal = failure }
            written.errors += 1
            keepBounds()
            let isNew = failing[number] == nil
            var known =
                failing[number]
                ?? (
                    FailingPartition(
                        name: write.partition.name, reason: error.message, sinceNs: sinceNs, attempts: 0), write.source
                )
            known.partition.attempts += 1
            known.partition.reason = error.message
            failing[number] = known
            if isNew { known.source.failing += 1 }
            monitor.wake()
            return isNew ? known.partition : nil
        }
        if let begun { report(begun, false) }
        guard failure.retryable else { return }
        write.pauseMilliseconds = min(
            max(limits.retryMilliseconds, write.pauseMilliseconds * 2), limits.retryMillisecondsMax)
        lanes[number]?.isPaused = true
        _ = session.session.loop.timer(afterMilliseconds: write.pauseMilliseconds) { [self] in
            retries.append(write)
            pump()
        }
    }
}

extension CQLRequestError {
    /// The node has more to do than it can, as far as one can tell from outside.
    fileprivate var isOverload: Bool {
        switch code {
        case .timeout, .overloaded: return true
        case .server:
            switch server?.detail {
            case .overloaded, .writeTimeout: return true
            default: return false
            }
        default: return false
        }
    }
}

/// First in, first out. What was taken is not kept.
struct Queue<Element> {
    private var elements: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == elements.count }
    var first: Element? { head < elements.count ? elements[head] : nil }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func next() -> Element? {
        guard head < elements.count else { return nil }
        let element = elements[head]
        elements[head] = nil
        head += 1
        if head == elements.count {
            elements.removeAll(keepingCapacity: head <= 64)
            head = 0
        } else if head >= 64, head * 2 >= elements.count {
            elements.removeFirst(head)
            head = 0
        }
        return element
    }
}
