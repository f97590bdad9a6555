import Simulation
import Synchronization
import TimeSource

/// Virtual time that calls something when it has gone on long enough.
final class StoppingTime: TimeSource {
    private let inner: VirtualTime
    private let endNs: Int64
    private let end = Mutex<(@Sendable () -> Void)?>(nil)

    init(_ inner: VirtualTime, afterNs: Int64) {
        self.inner = inner
        endNs = inner.monotonicNs() + afterNs
    }

    var onEnd: (@Sendable () -> Void)? {
        get { end.withLock { $0 } }
        set { end.withLock { $0 = newValue } }
    }

    func wallNs() -> Int64 { inner.wallNs() }
    func monotonicNs() -> Int64 { inner.monotonicNs() }

    func sleep(ns: Int64) {
        inner.sleep(ns: ns)
        if inner.monotonicNs() >= endNs { onEnd?() }
    }
}
