import EventLog
import Glibc
import Synchronization

/// Ticks made for measuring the edge alone, each encoded into the log once: as fast as the slowest reader takes them,
/// or at a rate.
///
/// Threads: ``run()`` is one thread's; ``stop()`` may come from any.
public final class EdgeSource: Sendable {
    /// What is made.
    public struct Plan: Sendable {
        /// AAPL, MSFT and so on; past the first twenty ZAAAA, ZAAAB and so on.
        public var symbolCount = 1000
        /// Ticks appended at once.
        public var batch = 256
        /// Ticks a second, an open loop; nil: a closed loop with the slowest reader.
        public var ticksPerSecond: Int?

        public init() {}
    }

    /// The name that its ticks come under.
    public static let feed = "bench"

    private let log: any EventLog
    private let plan: Plan
    private let slowestLagBytes: @Sendable () -> UInt64?
    private let isStopped = Atomic(false)

    /// How far the slowest reader may be behind before the closed loop waits, in bytes.
    private static let lagBytesMax: UInt64 = 2 << 20
    /// What is appended between two looks at the readers, in bytes.
    private static let strideBytes = 512 << 10
    /// Between two looks at readers that are behind, in microseconds: twice as long each time, as a look wakes every
    /// loop. In the longest no reader takes what it may be behind.
    private static let waitMicroseconds: ClosedRange<UInt32> = 1000...8000
    /// Between two looks while there is no reader, in milliseconds: calls that are measured share the loops.
    private static let restMilliseconds: Int32 = 20
    /// How often the open loop looks for what is due, in microseconds: as the Rust peer does.
    private static let paceMicroseconds = 200

    /// `slowestLagBytes`: what the slowest reader has still to take; nil while there is none.
    public init(log: any EventLog, plan: Plan, slowestLagBytes: @escaping @Sendable () -> UInt64?) {
        self.log = log
        self.plan = plan
        self.slowestLagBytes = slowestLagBytes
    }

    public func stop() { isStopped.store(true, ordering: .releasing) }

    /// Makes ticks until it is stopped. *Blocking.*
    public func run() throws {
        let maker = TickMaker(symbolCount: plan.symbolCount, log: log)
        // Every symbol has a price before anybody asks.
        try append(maker, plan.symbolCount)
        if let rate = plan.ticksPerSecond { try runOpenLoop(maker, rate) } else { try runClosedLoop(maker) }
    }

    private func runClosedLoop(_ maker: TickMaker) throws {
        var wait = EdgeSource.waitMicroseconds.lowerBound
        while !isStopped.load(ordering: .acquiring) {
            guard let lag = slowestLagBytes() else {
                poll(nil, 0, EdgeSource.restMilliseconds)
                continue
            }
            guard lag < EdgeSource.lagBytesMax else {
                usleep(wait)
                wait = min(wait * 2, EdgeSource.waitMicroseconds.upperBound)
                continue
            }
            wait = EdgeSource.waitMicroseconds.lowerBound
            var bytes = 0
            while bytes < EdgeSource.strideBytes { bytes += try append(maker, plan.batch) }
        }
    }

    private func runOpenLoop(_ maker: TickMaker, _ rate: Int) throws {
        let startNs = PlatformBench.monotonicNs()
        var made = 0
        while !isStopped.load(ordering: .acquiring) {
            let due = Int((PlatformBench.monotonicNs() - startNs) / 1000 * Int64(rate) / 1_000_000)
            if due > made {
                try append(maker, min(due - made, plan.batch))
                made += min(due - made, plan.batch)
            } else {
                usleep(UInt32(max(EdgeSource.paceMicroseconds, min(1000, 1_000_000 / rate))))
            }
        }
    }

    @discardableResult
    private func append(_ maker: TickMaker, _ count: Int) throws -> Int {
        let blocks = maker.blocks(count)
        try log.append(blocks, consumed: [])
        return blocks.reduce(0) { $0 + $1.recordsLength }
    }
}
