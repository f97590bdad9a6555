import EventLog
import TimeSource

/// Threads that wait for brokers on behalf of `load`, and one of which learns now and then where partitions begin.
final class LoadWorkers: @unchecked Sendable {
    private static let refreshNs: Int64 = 30_000_000_000

    private let configuration: KafkaConfiguration
    private let time: any TimeSource
    private let refresh: @Sendable () -> Void
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var jobs: [@Sendable () -> Void] = []
    private var head = 0
    private var isStopping = false
    private var threads: [WorkerThread] = []

    init(
        _ configuration: KafkaConfiguration, time: any TimeSource, refresh: @escaping @Sendable () -> Void
    ) throws(LogError) {
        self.configuration = configuration
        self.time = time
        self.refresh = refresh
        for number in 0..<max(configuration.loadThreads, 1) {
            threads.append(try WorkerThread("kafka-load-\(number)") { [unowned self] in serve() })
        }
        threads.append(try WorkerThread("kafka-starts") { [unowned self] in learnStarts() })
    }

    /// Ends the threads; what is queued is done first.
    func stop() {
        monitor.locked {
            isStopping = true
            monitor.wakeAll()
        }
        for thread in threads { thread.join() }
        threads = []
    }

    /// The error when there are too many.
    func submit(_ job: @escaping @Sendable () -> Void) -> LogError? {
        monitor.locked {
            if isStopping { return LogError(.closed, "the log is closed") }
            guard jobs.count - head < configuration.queuedLoadsMax else {
                return LogError(
                    .io, "\(jobs.count - head) reads are waiting already; try again later", retryable: true)
            }
            jobs.append(job)
            monitor.wakeAll()
            return nil
        }
    }

    private func serve() {
        while true {
            let job = monitor.locked { () -> (@Sendable () -> Void)? in
                while head == jobs.count {
                    if isStopping { return nil }
                    _ = monitor.wait(ns: 1_000_000_000)
                }
                let job = jobs[head]
                head += 1
                if head == jobs.count || head > 1024 {
                    jobs.removeFirst(head)
                    head = 0
                }
                return job
            }
            guard let job else { return }
            job()
        }
    }

    private func learnStarts() {
        var dueNs = time.monotonicNs() + LoadWorkers.refreshNs
        while true {
            let isDue = monitor.locked { () -> Bool? in
                if isStopping { return nil }
                _ = monitor.wait(ns: 1_000_000_000)
                return isStopping ? nil : time.monotonicNs() >= dueNs
            }
            guard let isDue else { return }
            guard isDue else { continue }
            refresh()
            dueNs = time.monotonicNs() + LoadWorkers.refreshNs
        }
    }
}
