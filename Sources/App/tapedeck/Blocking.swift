import Glibc
import Synchronization

/// Async work from the main thread, which is not async: it takes the signals.
enum Blocking {
    /// Runs a task and waits for its result.
    static func wait<R: Sendable>(_ body: @escaping @Sendable () async -> R) -> R {
        let box = Box<R>()
        nonisolated(unsafe) let done = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
        sem_init(done, 0, 0)
        Task {
            let value = await body()
            box.result.withLock { $0 = value }
            sem_post(done)
        }
        while sem_wait(done) != 0 {}
        sem_destroy(done)
        done.deallocate()
        guard let value = box.result.withLock({ $0 }) else { preconditionFailure("the task gave no result") }
        return value
    }

    private final class Box<R: Sendable>: Sendable {
        let result = Mutex<R?>(nil)
    }
}
