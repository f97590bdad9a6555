import GRPC
import Glibc
import Synchronization
import TickStore

/// A call that waits for the store.
struct DirectJob: Sendable {
    let ticks: [DirectTick]
    /// nil: the rows are there for good.
    let done: @Sendable (StoreError?) -> Void

    var bytes: Int { ticks.reduce(0) { $0 + $1.bytes.count } }
}

/// Calls on their way from the loops to the thread.
final class DirectInbox: @unchecked Sendable {
    private struct State {
        var jobs: [DirectJob] = []
        var bytes = 0
        var isStopping = false
        var counters = DirectWriterCounters()
    }

    let limits: DirectWriterLimits
    private let state = Mutex(State())
    private let wakeUp = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init(limits: DirectWriterLimits) {
        self.limits = limits
        sem_init(wakeUp, 0, 0)
    }

    deinit {
        sem_destroy(wakeUp)
        wakeUp.deallocate()
    }

    var counters: DirectWriterCounters { state.withLock { $0.counters } }
    func countRefusal() { state.withLock { $0.counters.refused += 1 } }

    func countWrite(ticks: Int) {
        state.withLock {
            $0.counters.writes += 1
            $0.counters.ticks += UInt64(ticks)
        }
    }

    func countFailure(calls: Int) { state.withLock { $0.counters.failed += UInt64(calls) } }

    /// Why it is not taken; nil where it is.
    func add(_ job: DirectJob) -> GRPCStatus? {
        let refusal = state.withLock { state -> GRPCStatus? in
            if state.isStopping { return GRPCStatus(.unavailable, "the writer is stopping") }
            // One call of any size has room where nothing waits.
            guard state.jobs.isEmpty || state.bytes + job.bytes <= limits.waitingBytesMax else {
                state.counters.overloaded += 1
                return GRPCStatus(
                    .resourceExhausted, "\(state.bytes) bytes of ticks wait for the store; call again later")
            }
            state.jobs.append(job)
            state.bytes += job.bytes
            return nil
        }
        if refusal == nil { sem_post(wakeUp) }
        return refusal
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        sem_post(wakeUp)
    }

    /// Waits for calls, and takes as many as go together; nil when it is stopped and none is left.
    func next() -> [DirectJob]? {
        while true {
            let (jobs, isOver) = state.withLock { state -> ([DirectJob], Bool) in
                var count = 0
                var ticks = 0
                while count < state.jobs.count,
                    count == 0 || ticks + state.jobs[count].ticks.count <= limits.writeTicksMax
                {
                    ticks += state.jobs[count].ticks.count
                    count += 1
                }
                let jobs = Array(state.jobs[..<count])
                state.jobs.removeFirst(count)
                state.bytes -= jobs.reduce(0) { $0 + $1.bytes }
                return (jobs, state.isStopping && jobs.isEmpty)
            }
            if !jobs.isEmpty { return jobs }
            if isOver { return nil }
            while sem_wait(wakeUp) != 0 {}
        }
    }
}
