import Synchronization
import TimeSource

/// Time that begins at a fixed moment and moves only by being slept: whoever sleeps on it makes the same times in every
/// run. It keeps pace with the machine's clock; where that is ahead, sleeping takes no time.
///
/// One thread sleeps; any may read.
final class SeededTime: TimeSource {
    /// 2024-01-02T14:30:00Z.
    static let startNs: Int64 = 1_704_205_800_000_000_000

    private let pace: any TimeSource
    private let pacedFromNs: Int64
    private let passedNs = Atomic<Int64>(0)

    init(pacedBy pace: any TimeSource) {
        self.pace = pace
        pacedFromNs = pace.monotonicNs()
    }

    func wallNs() -> Int64 { SeededTime.startNs + passedNs.load(ordering: .acquiring) }
    func monotonicNs() -> Int64 { passedNs.load(ordering: .acquiring) }

    func sleep(ns: Int64) {
        guard ns > 0 else { return }
        let due = passedNs.load(ordering: .acquiring) + ns
        let left = due - (pace.monotonicNs() - pacedFromNs)
        if left > 0 { pace.sleep(ns: left) }
        passedNs.store(due, ordering: .releasing)
    }
}
