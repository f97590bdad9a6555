import CLinux
import Glibc

/// A mutex with two conditions, for threads that may wait: those that wait for what is written and for what is synced.
final class Monitor: @unchecked Sendable {
    enum Condition: Int { case written, durable }

    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let conditions = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 2)
    private var waiters = (written: 0, durable: 0)

    init() {
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(conditions, nil)
        pthread_cond_init(conditions + 1, nil)
    }

    deinit {
        pthread_cond_destroy(conditions)
        pthread_cond_destroy(conditions + 1)
        pthread_mutex_destroy(mutex)
        conditions.deallocate()
        mutex.deallocate()
    }

    @inline(__always)
    func locked<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body()
    }

    /// With the lock held: waits until woken or `ns` are over (for ever when negative). False when the time is over.
    func wait(_ condition: Condition, ns: Int64 = -1) -> Bool {
        add(condition, 1)
        defer { add(condition, -1) }
        return clinux_condition_wait(conditions + condition.rawValue, mutex, ns) == 0
    }

    /// With the lock held. Costs nothing when nobody waits.
    func wake(_ condition: Condition) {
        let count = condition == .written ? waiters.written : waiters.durable
        if count > 0 { pthread_cond_broadcast(conditions + condition.rawValue) }
    }

    private func add(_ condition: Condition, _ change: Int) {
        if condition == .written { waiters.written += change } else { waiters.durable += change }
    }
}

/// A thread of the log's own, for waiting on files.
final class WorkerThread: @unchecked Sendable {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private var thread = pthread_t()

    /// nil when the system gives no thread. `name` has at most 15 bytes.
    init?(_ name: String, _ run: @escaping @Sendable () -> Void) {
        let body = Unmanaged.passRetained(Body(run))
        let result = pthread_create(
            &thread, nil,
            { raw in
                Unmanaged<Body>.fromOpaque(raw!).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        guard result == 0 else {
            body.release()
            return nil
        }
        clinux_thread_name(thread, name)
    }

    func join() { pthread_join(thread, nil) }
}
