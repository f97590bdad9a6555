import CLinux
import Glibc

/// A lock that threads wait on for a condition. Never held over I/O.
final class Monitor: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    /// What those who wait wait for.
    private var awaited: [(number: UInt64, holds: () -> Bool)] = []
    private var waits: UInt64 = 0

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

    /// With the lock held: who waits for something that is so now goes on. Costs no switch of threads where nobody
    /// does.
    func wake() {
        if awaited.contains(where: { $0.holds() }) { pthread_cond_broadcast(condition) }
    }

    /// With the lock held: returns true once the condition holds, false when it does not within so many steps of 20 ms.
    /// Whoever holds the lock may ask the condition meanwhile.
    func wait(milliseconds: Int, until holds: () -> Bool) -> Bool {
        if holds() { return true }
        waits += 1
        let number = waits
        return withoutActuallyEscaping(holds) { holds in
            awaited.append((number, holds))
            defer { awaited.removeAll { $0.number == number } }
            var left = milliseconds
            while !holds() {
                if left <= 0 { return false }
                let step = min(left, 20)
                if clinux_condition_wait(condition, mutex, Int64(step) * 1_000_000) == ETIMEDOUT { left -= step }
            }
            return true
        }
    }
}
