import EventLoop
import Glibc
import Synchronization

/// A loop in virtual time: runs what is ready, then jumps to the next timer. Runs on the thread that calls
/// ``run(until:turnsMax:)``, and nothing happens beside it, so a seed gives the same run again.
public final class SimulatedLoop: Loop, @unchecked Sendable {
    private enum Job {
        case closure(@Sendable () -> Void)
        case swift(UnownedJob)
    }

    private let jobs = Mutex<[Job]>([])
    private let thread = Mutex<pthread_t?>(nil)
    private var local: [() -> Void] = []
    private var timers: [SimulatedTimer] = []
    private var timerCount = 0
    public private(set) var nowMilliseconds: UInt64 = 1000

    /// Timers that were neither cancelled nor fired for the last time.
    public var openTimers: Int { timers.count { !$0.isCancelled } }

    public init() {}

    public var isCurrent: Bool { thread.withLock { $0.map { pthread_equal($0, pthread_self()) != 0 } ?? false } }

    public func execute(_ body: @escaping @Sendable () -> Void) { jobs.withLock { $0.append(.closure(body)) } }

    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        jobs.withLock { $0.append(.swift(job)) }
    }

    public func afterTurn(_ body: @escaping () -> Void) { local.append(body) }

    public func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(milliseconds, every: nil, body)
    }

    public func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(max(1, milliseconds), every: UInt64(max(1, milliseconds)), body)
    }

    private func add(_ milliseconds: Int, every: UInt64?, _ body: @escaping () -> Void) -> SimulatedTimer {
        timerCount += 1
        let timer = SimulatedTimer(
            at: nowMilliseconds + UInt64(max(0, milliseconds)), number: timerCount, every: every, body)
        timers.append(timer)
        return timer
    }

    /// Runs turns until the condition holds. False where nothing is left to do, or after so many turns: a hang.
    public func run(until condition: () -> Bool, turnsMax: Int = 1_000_000) -> Bool {
        thread.withLock { $0 = pthread_self() }
        defer { thread.withLock { $0 = nil } }
        for _ in 0..<turnsMax {
            if condition() { return true }
            if !turn() { return condition() }
        }
        return false
    }

    /// One turn; false where there was nothing to do.
    private func turn() -> Bool {
        let ready = jobs.withLock { jobs in
            defer { jobs = [] }
            return jobs
        }
        for job in ready {
            switch job {
            case .closure(let body): body()
            case .swift(let job): job.runSynchronously(on: asUnownedTaskExecutor())
            }
        }
        var didSomething = !ready.isEmpty || !local.isEmpty
        while !local.isEmpty {
            let bodies = local
            local = []
            for body in bodies { body() }
        }
        if !jobs.withLock({ $0.isEmpty }) { return true }
        if fireNext() { didSomething = true }
        return didSomething
    }

    /// Fires the timers of the next time at which there are any.
    private func fireNext() -> Bool {
        timers.removeAll { $0.isCancelled }
        guard let next = timers.map(\.at).min() else { return false }
        nowMilliseconds = max(nowMilliseconds, next)
        let due = timers.filter { $0.at == next }.sorted { $0.number < $1.number }
        timers.removeAll { $0.at == next && $0.every == nil }
        for timer in due { timer.fire() }
        return true
    }
}

/// A timer in virtual time.
final class SimulatedTimer: LoopTimer {
    private(set) var at: UInt64
    let number: Int
    let every: UInt64?
    private var body: (() -> Void)?

    init(at: UInt64, number: Int, every: UInt64?, _ body: @escaping () -> Void) {
        self.at = at
        self.number = number
        self.every = every
        self.body = body
    }

    var isCancelled: Bool { body == nil }

    func cancel() { body = nil }

    func fire() {
        let body = body
        if let every { at += every } else { self.body = nil }
        body?()
    }
}
