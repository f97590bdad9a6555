import EventLog
import MarketModel
import TickCodec

/// Random walks, one for each symbol, each in the partition that is its own. Confined to one thread.
final class TickMaker {
    private struct Line {
        let encoder: TickEncoder
        let builder: BlockBuilder
        let key: Int
        var sequence: UInt64 = 0
        var cents: Int64
    }

    private let builders: [BlockBuilder]
    // One thread's, and nothing called from here comes back: no access needs a check.
    @exclusivity(unchecked) private var lines: [Line] = []
    @exclusivity(unchecked) private var next = 0
    @exclusivity(unchecked) private var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    private let epoch = UInt64(PlatformBench.wallNs())

    private static let names = [
        "AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AVGO", "COST", "NFLX", "AMD", "ADBE", "PEP", "CSCO",
        "INTC", "QCOM", "TXN", "AMGN", "INTU", "ISRG",
    ]

    init(symbolCount: Int, log: any EventLog) {
        let builders = (0..<log.partitionCount(.ticksRaw)).map {
            BlockBuilder(TopicPartition(.ticksRaw, UInt16(clamping: $0)))
        }
        self.builders = builders
        lines = (0..<symbolCount).map { index in
            let symbol = TickMaker.symbol(index)
            let builder = builders[Int(log.partition(of: .ticksRaw, exchange: "NASDAQ", symbol: symbol))]
            return Line(
                encoder: TickEncoder(exchange: "NASDAQ", symbol: symbol, feed: EdgeSource.feed), builder: builder,
                key: builder.register(
                    BlockBuilder.Key(exchange: "NASDAQ", symbol: symbol, feed: EdgeSource.feed)),
                cents: 10_000 + Int64(random() % 40_000))
        }
        // In no order, as the peers' symbols are: ticks of neighbours, which one client asks for, would come all at
        // once.
        for last in lines.indices.dropFirst().reversed() { lines.swapAt(last, Int(random() % UInt64(last + 1))) }
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

    /// The next ticks of as many symbols in turn, a block for each partition that has some.
    func blocks(_ count: Int) -> [Block] {
        let nowNs = PlatformBench.wallNs()
        lines.withUnsafeMutableBufferPointer { lines in
            for _ in 0..<count {
                append(&lines[next], nowNs)
                next = next + 1 == lines.count ? 0 : next + 1
            }
        }
        return builders.compactMap { $0.isEmpty ? nil : $0.build() }
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
        line.builder.append(
            key: line.key, epoch: epoch, sequence: line.sequence, lengthMax: line.encoder.lengthMax,
            figures: RecordFigures(tick)
        ) { line.encoder.encode(tick, into: $0) }
    }
}
