import Synchronization

/// Counts of one thread, which every other may read while it counts. Adding is a load, an addition and a store: no
/// lock, no bus, no allocation.
final class MetricCells: @unchecked Sendable {
    let count: Int
    private let cells: UnsafeMutablePointer<Atomic<UInt64>>

    init(count: Int) {
        self.count = count
        cells = .allocate(capacity: count)
        for index in 0..<count { (cells + index).initialize(to: Atomic(0)) }
    }

    deinit {
        cells.deinitialize(count: count)
        cells.deallocate()
    }

    /// By the one thread whose cells they are.
    func add(_ index: Int, _ amount: UInt64) {
        precondition(index >= 0 && index < count)
        let value = cells[index].load(ordering: .relaxed)
        cells[index].store(value &+ amount, ordering: .relaxed)
    }

    /// From any thread: a value that was true a moment ago.
    subscript(_ index: Int) -> UInt64 {
        precondition(index >= 0 && index < count)
        return cells[index].load(ordering: .relaxed)
    }
}
