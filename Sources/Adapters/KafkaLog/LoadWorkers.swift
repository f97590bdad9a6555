import EventLog
import TimeSource

/// Threads that decode for readers behind the tip, and one that learns now and then where partitions begin.
final class LoadWorkers: @unchecked Sendable {
    private static let refreshNs: Int64 = 30_000_000_000

    private let configuration: KafkaConfiguration
    private let time: any TimeSource
    private let refresh: @Sendable () -> Void
    private let everySecond: @Sendable () -> Void
    private let monitor = Monitor()
    /// Waited for by the thread that does things now and then, which jobs do not wake.
    private let pause = Monitor()
    // Guarded by `monitor`.
    private var jobs: [@Sendable () -> Void] = []
    private var head = 0
    private var isStopping = false
    private var threads: [WorkerThread] = []

    init(
        _ configuration: KafkaConfiguration, time: any TimeSource, refresh: @escaping @Sendable () -> Void,
        everySecond: @escaping @Sendable () -> Void
    ) throws(LogError) {
        self.configuration = configuration
        self.time = time
        self.refresh = refresh
        self.everySecond = everySecond
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
        pause.locked { pause.wakeAll() }
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
            monitor.wakeOne()
            return nil
        }
    }

    /// Does something that others are not to be refused for: there are few of these. False when the threads end.
    func perform(_ job: @escaping @Sendable () -> Void) -> Bool {
        monitor.locked {
            guard !isStopping else { return false }
            jobs.append(job)
            monitor.wakeOne()
            return true
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
            pause.locked {
                if !monitor.locked({ isStopping }) { _ = pause.wait(ns: 1_000_000_000) }
            }
            if monitor.locked({ isStopping }) { return }
            everySecond()
            guard time.monotonicNs() >= dueNs else { continue }
            refresh()
            dueNs = time.monotonicNs() + LoadWorkers.refreshNs
        }
    }
}
