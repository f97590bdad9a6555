import CLinux
import Glibc

/// A lock that threads wait on for a condition. Never held over I/O.
final class Monitor: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func withLock<Value>(_ body: () -> Value) -> Value {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body()
    }

    /// Those who wait look again. With the lock held or without.
    func broadcast() { pthread_cond_broadcast(condition) }

    /// With the lock held: returns true once the condition holds, false when it does not within so many steps of 20 ms.
    func wait(milliseconds: Int, until holds: () -> Bool) -> Bool {
        var left = milliseconds
        while !holds() {
            if left <= 0 { return false }
            let step = min(left, 20)
            if clinux_condition_wait(condition, mutex, Int64(step) * 1_000_000) == ETIMEDOUT { left -= step }
        }
        return true
    }
}
