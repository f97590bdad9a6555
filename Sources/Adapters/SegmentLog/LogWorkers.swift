import EventLog
import TimeSource

/// The log's threads: one syncs ticks, one looks at retention, some read for `load`.
final class LogWorkers: @unchecked Sendable {
    // Not the log itself: one that is let go without a close must find its threads ended.
    private let ticks: AppendStream
    private let orders: AppendStream
    private let configuration: SegmentLog.Configuration
    private let time: any TimeSource
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var reads: [@Sendable () -> Void] = []
    private var isStopping = false
    private var isRetentionDue = false
    private var threads: [WorkerThread] = []

    init(ticks: AppendStream, orders: AppendStream) throws(LogError) {
        self.ticks = ticks
        self.orders = orders
        configuration = ticks.configuration
        time = ticks.time
        for stream in [ticks, orders] { stream.didBeginSegment = { [weak self] in self?.hurryRetention() } }
        try start("log-sync") { $0.syncTicks() }
        try start("log-retention") { $0.keepRetention() }
        for number in 0..<max(configuration.readerThreads, 1) {
            try start("log-read-\(number)") { $0.serveReads() }
        }
    }

    private func start(_ name: String, _ run: @escaping @Sendable (LogWorkers) -> Void) throws(LogError) {
        guard let thread = WorkerThread(name, { [self] in run(self) }) else {
            stop()
            throw LogError(.io, "the system gives no thread for \(name); raise the limit on processes", retryable: true)
        }
        threads.append(thread)
    }

    /// Ends the threads after what they are doing; reads still queued are done.
    func stop() {
        monitor.locked {
            isStopping = true
            monitor.wake(.written)
            monitor.wake(.durable)
        }
        for stream in [ticks, orders] {
            stream.state.locked { stream.isClosing = true }
            stream.wakeAll()
        }
        for thread in threads { thread.join() }
        threads = []
    }

    /// Queues a read; the error when there are too many.
    func submit(_ read: @escaping @Sendable () -> Void) -> LogError? {
        monitor.locked {
            guard reads.count < configuration.queuedReadsMax, !isStopping else {
                return isStopping
                    ? LogError(.closed, "the log is closed")
                    : LogError(.io, "\(reads.count) reads are waiting already; try again later", retryable: true)
            }
            reads.append(read)
            monitor.wake(.written)
            return nil
        }
    }

    private func serveReads() {
        while true {
            let read: (@Sendable () -> Void)? = monitor.locked {
                while reads.isEmpty {
                    if isStopping { return nil }
                    _ = monitor.wait(.written)
                }
                return reads.removeFirst()
            }
            guard let read else { return }
            read()
        }
    }

    private func hurryRetention() {
        monitor.locked {
            isRetentionDue = true
            monitor.wake(.durable)
        }
    }

    private func keepRetention() {
        while true {
            let stopping = monitor.locked {
                if !isStopping, !isRetentionDue {
                    _ = monitor.wait(.durable, ns: configuration.retentionIntervalNs)
                }
                isRetentionDue = false
                return isStopping
            }
            if stopping { return }
            for stream in [ticks, orders] { stream.enforceRetention() }
        }
    }

    /// The time that a sync takes is taken off the wait before it, so that a tick is on disk within the interval.
    private func syncTicks() {
        let stream = ticks
        let intervalNs = configuration.syncIntervalNs
        var syncNs: Int64 = 0
        while true {
            let stopping = stream.state.locked {
                while !stream.isClosing, stream.health.failure == nil, stream.writtenNumber == stream.durableNumber {
                    _ = stream.state.wait(.written)
                }
                return stream.isClosing || stream.health.failure != nil
            }
            if stopping { return }
            time.sleep(ns: max(intervalNs - syncNs, intervalNs / 4))
            let startNs = time.monotonicNs()
            // A failure is kept in `health`, where every append meets it.
            try? stream.sync()
            syncNs += (time.monotonicNs() - startNs - syncNs) / 4
        }
    }
}
