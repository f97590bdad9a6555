import CassandraStore
import Observability
import Synchronization
import TickStore

/// Asks every two seconds which records of the log are in Cassandra by now: an edge is asked for tokens that the log
/// has no more, and does not write the rows itself.
final class HeldOffsetsFollower: Sendable {
    private static let pauseNs: Int64 = 2_000_000_000
    private static let stepNs: Int64 = 50_000_000

    private let isStopping = Atomic<Bool>(false)
    private let thread = Mutex<ServiceThread?>(nil)

    /// nil for another store.
    init?(_ store: any TickStore, _ time: SystemTime, _ diagnostics: Diagnostics) {
        guard let store = store as? CassandraStore else { return nil }
        let thread = ServiceThread(name: "held", givesWay: true, ended: { _ in }) { [self] in
            while !isStopping.load(ordering: .acquiring) {
                do throws(StoreError) {
                    try store.refreshHeldOffsets()
                } catch {
                    diagnostics.log(.warning, "cassandra", kind: "held", error.message)
                }
                var waitedNs: Int64 = 0
                while waitedNs < HeldOffsetsFollower.pauseNs, !isStopping.load(ordering: .acquiring) {
                    time.sleep(ns: HeldOffsetsFollower.stepNs)
                    waitedNs += HeldOffsetsFollower.stepNs
                }
            }
        }
        self.thread.withLock { $0 = thread }
    }

    /// Waits for what is being asked.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        _ = thread.withLock { $0 }?.join(milliseconds: 15_000)
    }
}
