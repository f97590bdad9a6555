import CQLFrames
import TickStore
import TimeSource

/// What time it is for the nodes, which end rows and order what was written twice: theirs when the store was opened,
/// and what has passed since. This machine's wall clock may be set meanwhile, by days: no row ends early for it, and
/// nothing is written in the name of a time that has not come.
struct NodeClock {
    private let startNs: Int64
    private let startMonotonicNs: Int64
    private let time: any TimeSource

    init(_ session: BlockingSession, _ time: any TimeSource) throws(StoreError) {
        let rows = try session.query("SELECT toUnixTimestamp(now()) FROM system.local")
        startMonotonicNs = time.monotonicNs()
        startNs = rows.first?.first?.integer.map { $0 &* 1_000_000 } ?? time.wallNs()
        self.time = time
    }

    var nowNs: Int64 { startNs &+ (time.monotonicNs() &- startMonotonicNs) }
}
