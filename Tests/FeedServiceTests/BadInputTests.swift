import FeedService
import MarketModel
import SegmentLog
import TestSupport
import Testing

@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct BadInputTests {
    private static let lines = Result { () throws -> [[UInt8]] in
        let lines = try SharedData.lines("binance/spot_btcusdt_20240808.jsonl.gz").prefix(12_000)
        return try RecordingFaults.withSnapshots(Array(lines), every: 150)
    }

    private func play(_ lines: [[UInt8]]) throws -> (counters: FeedCounters, ticks: [PublishedTick]) {
        let folder = try TemporaryFolder()
        let path = try folder.write("tape.jsonl", Array(lines.joined(separator: [UInt8(ascii: "\n")])))
        let world = FeedWorld()
        let log = try world.open()
        let counters = try world.play(path, into: log)
        let records = try FeedWorld.records(log)
        FeedWorld.check(records)
        return (counters, try records.map { try #require(PublishedTick($0)) })
    }

    @Test(arguments: 1...(Checkout.isSoak ? 100 : 4) as ClosedRange<UInt64>)
    func `Of a recording with faults nothing wrong is published, and each kind is counted`(_ seed: UInt64) throws {
        let lines = try Self.lines.get()
        let clean = try play(lines)
        #expect(clean.counters.bad.isEmpty && clean.counters.violations.isEmpty, "\(clean.counters)")
        let quotes = Set(clean.ticks.filter { $0.kind == .quote && $0.state == .live }.map(\.quote))
        let trades = Set(clean.ticks.filter { $0.kind == .trade }.map(\.trade))
        var random = SeededNumbers(seed: seed)
        let faulty = RecordingFaults.put(
            RecordingFaults.Kind.allCases, count: 120, from: 20, into: lines, &random)
        let found = try play(faulty.lines)
        for tick in found.ticks where tick.state == .live {
            let isKnown = tick.kind == .trade ? trades.contains(tick.trade) : quotes.contains(tick.quote)
            #expect(isKnown, "seed \(seed): \(tick)")
        }
        let tradeIDs = found.ticks.filter { $0.kind == .trade }.compactMap(\.tradeID)
        #expect(Set(tradeIDs).count == tradeIDs.count, "seed \(seed): a trade twice")
        // What the faults leave is most of it: a fault costs its own message, or a book until the next snapshot.
        #expect(found.ticks.count > clean.ticks.count / 3, "seed \(seed): \(found.ticks.count) of \(clean.ticks.count)")
        for (fault, kind) in [
            (RecordingFaults.Kind.garbage, BadInput.line), (.noJSON, .json), (.tooFine, .number),
            (.outOfRange, .outOfRange), (.missingField, .field), (.otherKind, .unknownMessage),
            (.badSymbol, .instrument), (.crossedTicker, .ticker), (.emptyTrade, .trade), (.farLevel, .level),
        ] where faulty.kinds.contains(fault) {
            #expect(found.counters.bad[kind] ?? 0 > 0, "seed \(seed): \(fault) is not counted: \(found.counters)")
        }
    }

    @Test func `A recording cut anywhere plays up to there, or is refused`() throws {
        let lines = try Self.lines.get()
        let bytes = Array(lines.prefix(40).joined(separator: [UInt8(ascii: "\n")]))
        let whole = try play(lines.prefix(40).map { $0 })
        let known = Set(whole.ticks)
        let folder = try TemporaryFolder()
        for count in stride(from: 0, to: bytes.count, by: max(bytes.count / 300, 1)) {
            let path = try folder.write("cut.jsonl", Array(bytes[..<count]))
            let world = FeedWorld()
            let log = try world.open()
            guard let counters = try? world.play(path, into: log) else { continue }
            let ticks = try FeedWorld.records(log).compactMap { PublishedTick($0) }
            #expect(ticks.count == Int(counters.ticks))
            #expect(ticks.allSatisfy(known.contains), "cut at \(count)")
        }
    }
}
