import EventLog
import Glibc
import MarketModel
import Synchronization
import TickCodec

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

    /// `slowestLagBytes`: what the slowest reader has still to take; nil while there is none.
    public init(log: any EventLog, plan: Plan, slowestLagBytes: @escaping @Sendable () -> UInt64?) {
        self.log = log
        self.plan = plan
        self.slowestLagBytes = slowestLagBytes
    }

    public func stop() { isStopped.store(true, ordering: .releasing) }

    /// Makes ticks until it is stopped. *Blocking.*
    public func run() throws {
        let maker = TickMaker(symbolCount: plan.symbolCount)
        // Every symbol has a price before anybody asks.
        try append(maker, plan.symbolCount)
        if let rate = plan.ticksPerSecond { try runOpenLoop(maker, rate) } else { try runClosedLoop(maker) }
    }

    private func runClosedLoop(_ maker: TickMaker) throws {
        while !isStopped.load(ordering: .acquiring) {
            guard let lag = slowestLagBytes() else {
                poll(nil, 0, 5)
                continue
            }
            guard lag < EdgeSource.lagBytesMax else {
                usleep(200)
                continue
            }
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
                usleep(UInt32(max(50, min(1000, 1_000_000 / rate))))
            }
        }
    }

    @discardableResult
    private func append(_ maker: TickMaker, _ count: Int) throws -> Int {
        let block = maker.block(count)
        try log.append([block], consumed: [])
        return block.recordsLength
    }
}

/// Random walks, one for each symbol. Confined to the source's thread.
private final class TickMaker {
    private struct Line {
        let encoder: TickEncoder
        let key: Int
        var sequence: UInt64 = 0
        var cents: Int64
    }

    private let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
    // One thread's, and nothing called from here comes back: no access needs a check.
    @exclusivity(unchecked) private var lines: [Line] = []
    @exclusivity(unchecked) private var next = 0
    @exclusivity(unchecked) private var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    private let epoch = UInt64(PlatformBench.wallNs())

    private static let names = [
        "AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AVGO", "COST", "NFLX", "AMD", "ADBE", "PEP", "CSCO",
        "INTC", "QCOM", "TXN", "AMGN", "INTU", "ISRG",
    ]

    init(symbolCount: Int) {
        lines = (0..<symbolCount).map { index in
            let symbol = TickMaker.symbol(index)
            return Line(
                encoder: TickEncoder(exchange: "NASDAQ", symbol: symbol, feed: EdgeSource.feed),
                key: builder.register(
                    BlockBuilder.Key(exchange: "NASDAQ", symbol: symbol, feed: EdgeSource.feed)),
                cents: 10_000 + Int64(random() % 40_000))
        }
    }

    /// The name of a symbol by its number.
    private static func symbol(_ index: Int) -> String {
        if index < names.count { return names[index] }
        var number = index - names.count
        var letters: [Character] = []
        for _ in 0..<4 {
            letters.insert(Character(UnicodeScalar(UInt8(ascii: "A") + UInt8(number % 26))), at: 0)
            number /= 26
        }
        return "Z" + String(letters)
    }

    private func random() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state >> 33
    }

    func block(_ count: Int) -> Block {
        let nowNs = PlatformBench.wallNs()
        lines.withUnsafeMutableBufferPointer { lines in
            for _ in 0..<count {
                append(&lines[next], nowNs)
                next = next + 1 == lines.count ? 0 : next + 1
            }
        }
        return builder.build()
    }

    @inline(__always)
    private func append(_ line: inout Line, _ nowNs: Int64) {
        let number = random()
        line.sequence += 1
        line.cents = max(100, line.cents + Int64(number % 5) - 2)
        var tick = Tick(
            kind: .trade, receivedTimeNs: nowNs, publishTimeNs: nowNs, epoch: epoch, sequence: line.sequence)
        tick.eventTimeNs = nowNs
        tick.last = line.cents * 10_000_000
        tick.lastSize = (1 + Int64(number >> 8) % 30) * 10 * 100_000_000
        tick.aggressorSide = number & 128 == 0 ? .buy : .sell
        builder.append(key: line.key, epoch: epoch, sequence: line.sequence, lengthMax: line.encoder.lengthMax) {
            line.encoder.encode(tick, into: $0)
        }
    }
}
