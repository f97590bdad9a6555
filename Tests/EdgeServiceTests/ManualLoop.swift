import EventLoop
import Synchronization

/// A loop that does what it is told, in the thread that tells it, at a time of its own.
final class ManualLoop: Loop, @unchecked Sendable {
    private final class Timer: LoopTimer {
        var due: UInt64
        let every: UInt64?
        var body: (() -> Void)?

        init(due: UInt64, every: UInt64?, _ body: @escaping () -> Void) {
            self.due = due
            self.every = every
            self.body = body
        }

        func cancel() { body = nil }
    }

    private(set) var nowMilliseconds: UInt64 = 0
    private var timers: [Timer] = []
    private var turn: [() -> Void] = []
    private let jobs = Mutex<[@Sendable () -> Void]>([])

    var isCurrent: Bool { true }

    func execute(_ body: @escaping @Sendable () -> Void) { jobs.withLock { $0.append(body) } }

    func afterTurn(_ body: @escaping () -> Void) { turn.append(body) }

    func enqueue(_ job: consuming ExecutorJob) { job.runSynchronously(on: asUnownedTaskExecutor()) }

    func timer(afterMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(Timer(due: nowMilliseconds + UInt64(milliseconds), every: nil, body))
    }

    func repeatTimer(everyMilliseconds milliseconds: Int, _ body: @escaping () -> Void) -> any LoopTimer {
        add(Timer(due: nowMilliseconds + UInt64(milliseconds), every: UInt64(milliseconds), body))
    }

    private func add(_ timer: Timer) -> any LoopTimer {
        timers.append(timer)
        return timer
    }

    /// Turns in which something was done.
    private(set) var turnCount = 0

    /// Does everything that is to be done now, turn after turn: what is to be done after a turn still belongs to it.
    func run() {
        while true {
            let waiting = jobs.withLock { jobs in
                defer { jobs = [] }
                return jobs
            }
            if waiting.isEmpty, turn.isEmpty { return }
            turnCount += 1
            for job in waiting { job() }
            while !turn.isEmpty {
                let bodies = turn
                turn = []
                for body in bodies { body() }
            }
        }
    }

    /// Lets time pass, a millisecond at a time.
    func advance(milliseconds: Int) {
        for _ in 0..<milliseconds {
            nowMilliseconds += 1
            for timer in timers where timer.due <= nowMilliseconds {
                timer.body?()
                if let every = timer.every { timer.due += every } else { timer.body = nil }
            }
            timers.removeAll { $0.body == nil }
            run()
        }
    }
}
