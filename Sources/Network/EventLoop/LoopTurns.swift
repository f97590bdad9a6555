import Glibc
import Synchronization

/// How long a loop's turns took: from the first callback to its waiting again, when nothing else could be served.
///
/// Counted by the loop; read from any thread.
public final class LoopTurns: @unchecked Sendable {
    /// A turn is counted under the least power of two, in microseconds, that it did not pass; the last count is of
    /// longer ones.
    public static let boundCount = 24
    private let counts = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: LoopTurns.boundCount + 1)
    private let sumNs = Atomic<UInt64>(0)
    /// The loop's own; 0 between turns.
    private var startedNs: UInt64 = 0

    init() { for index in 0...LoopTurns.boundCount { (counts + index).initialize(to: Atomic(0)) } }

    deinit {
        counts.deinitialize(count: LoopTurns.boundCount + 1)
        counts.deallocate()
    }

    /// What was counted, and nanoseconds together.
    public var values: (counts: [UInt64], sumNs: UInt64) {
        ((0...LoopTurns.boundCount).map { counts[$0].load(ordering: .relaxed) }, sumNs.load(ordering: .relaxed))
    }

    /// At each callback of the loop.
    @inline(__always)
    func begin() { if startedNs == 0 { startedNs = LoopTurns.nowNs() } }

    /// Before the loop waits.
    func end() {
        guard startedNs != 0 else { return }
        let tookNs = LoopTurns.nowNs() &- startedNs
        startedNs = 0
        let index = min(UInt64.bitWidth - (tookNs / 1000).leadingZeroBitCount, LoopTurns.boundCount)
        LoopTurns.add(1, to: counts[index])
        LoopTurns.add(tookNs, to: sumNs)
    }

    /// One thread adds.
    private static func add(_ count: UInt64, to counter: borrowing Atomic<UInt64>) {
        counter.store(counter.load(ordering: .relaxed) &+ count, ordering: .relaxed)
    }

    private static func nowNs() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
    }
}
