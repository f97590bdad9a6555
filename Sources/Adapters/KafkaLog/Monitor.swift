import CLinux
import EventLog
import Glibc

/// A mutex and its condition, for threads that may wait.
final class Monitor: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var waiters = 0

    init() {
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    @inline(__always)
    func locked<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body()
    }

    /// With the lock held: waits until woken or `ns` are over. False when the time is over.
    func wait(ns: Int64) -> Bool {
        waiters += 1
        defer { waiters -= 1 }
        return clinux_condition_wait(condition, mutex, max(ns, 0)) == 0
    }

    /// With the lock held. Costs nothing when nobody waits.
    func wakeAll() {
        if waiters > 0 { pthread_cond_broadcast(condition) }
    }

    /// With the lock held: wakes one of those who wait, where any of them will do.
    func wakeOne() {
        if waiters > 0 { pthread_cond_signal(condition) }
    }
}

/// A thread of the log's own.
final class WorkerThread: @unchecked Sendable {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private var thread = pthread_t()

    /// Throws when the system gives no thread. `name` has at most 15 bytes.
    init(_ name: String, _ run: @escaping @Sendable () -> Void) throws(LogError) {
        let body = Unmanaged.passRetained(Body(run))
        let result = pthread_create(
            &thread, nil,
            { raw in
                guard let raw else { return nil }
                Unmanaged<Body>.fromOpaque(raw).takeRetainedValue().run()
                return nil
            }, body.toOpaque())
        guard result == 0 else {
            body.release()
            throw LogError(
                .io, "the system gives no thread for \(name); raise the limit on processes", retryable: true)
        }
        clinux_thread_name(thread, name)
    }

    func join() { pthread_join(thread, nil) }

    /// Nobody waits for its end.
    func detach() { pthread_detach(thread) }
}
