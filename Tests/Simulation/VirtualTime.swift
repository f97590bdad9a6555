import Synchronization
import TimeSource

/// A clock that moves only when someone sleeps on it or it is told to.
public final class VirtualTime: TimeSource {
    private let now: Mutex<(wallNs: Int64, monotonicNs: Int64)>

    public init(wallNs: Int64 = 1_700_000_000_000_000_000) { now = Mutex((wallNs, 0)) }

    public func wallNs() -> Int64 { now.withLock { $0.wallNs } }
    public func monotonicNs() -> Int64 { now.withLock { $0.monotonicNs } }
    public func sleep(ns: Int64) { advance(ns: max(ns, 0)) }

    public func advance(ns: Int64) {
        now.withLock {
            $0.wallNs += ns
            $0.monotonicNs += ns
        }
    }

    /// Sets the wall clock, as an operator or NTP does.
    public func step(wallNs: Int64) { now.withLock { $0.wallNs = wallNs } }
}
