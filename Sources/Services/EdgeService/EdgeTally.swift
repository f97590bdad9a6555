import Synchronization
import TimeSource

/// What the edge left out for its readers, and why it ended their streams, since its start.
public struct EdgeCounters: Hashable, Sendable {
    /// Updates that were left out because a later one stands for them, by the policy of the subscription.
    public var conflated: [String: UInt64] = [:]
    /// Updates handed over later than their MAX_STALENESS allows; each says so.
    public var late: UInt64 = 0
    /// Streams, and subscriptions of `Subscribe`, that the server ended, by the reason that the client was told.
    public var ended: [String: UInt64] = [:]
    /// From a loop's reading records of the log to its having given them to its streams, by turn.
    public var turnLatency = LatencyHistogram()

    public init() {}
}

/// ``EdgeCounters`` of one loop. Counted there; read from any thread.
final class EdgeTally: Sendable {
    private let latest = Atomic<UInt64>(0)
    private let interval = Atomic<UInt64>(0)
    private let maxStaleness = Atomic<UInt64>(0)
    private let late = Atomic<UInt64>(0)
    private let ended = Mutex<[StreamEnd.Reason: UInt64]>([:])
    private let turnLatency = Mutex(LatencyHistogram())

    func conflated(_ count: UInt64, _ policy: StreamPolicy) {
        switch policy {
        case .all: break
        case .latest: EdgeTally.add(latest, count)
        case .interval: EdgeTally.add(interval, count)
        case .maxStaleness: EdgeTally.add(maxStaleness, count)
        }
    }

    func wasLate() { EdgeTally.add(late, 1) }

    func ended(_ reason: StreamEnd.Reason) { ended.withLock { $0[reason, default: 0] += 1 } }

    func turned(_ latencyNs: Int64) { turnLatency.withLock { $0.add(latencyNs) } }

    /// One thread adds.
    private static func add(_ counter: borrowing Atomic<UInt64>, _ count: UInt64) {
        counter.store(counter.load(ordering: .relaxed) &+ count, ordering: .relaxed)
    }

    /// Adds what was counted here.
    func add(to counters: inout EdgeCounters) {
        counters.conflated["LATEST", default: 0] += latest.load(ordering: .relaxed)
        counters.conflated["INTERVAL", default: 0] += interval.load(ordering: .relaxed)
        counters.conflated["MAX_STALENESS", default: 0] += maxStaleness.load(ordering: .relaxed)
        counters.late += late.load(ordering: .relaxed)
        counters.turnLatency.add(turnLatency.withLock { $0 })
        let ended = ended.withLock { $0 }
        for reason in StreamEnd.Reason.allCases {
            counters.ended[reason.rawValue, default: 0] += ended[reason] ?? 0
        }
    }
}
