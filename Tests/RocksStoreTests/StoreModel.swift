import EventLog
import MarketModel
import TestSupport
import TickStore
import TimeSource

/// A tick as the tests make it.
struct TestTick: Hashable {
    var instrument: Int
    var feed: String
    var epoch: UInt64
    var sequence: UInt64
    var filingTimeNs: Int64
    var price: Int64?
    var size: Int64 = 0
    var payload: [UInt8]
}

/// The store, obviously: rows in a dictionary, sorted when asked for.
struct StoreModel {
    struct Key: Hashable, Comparable {
        var time: Int64
        var low: UInt64
        var epoch: UInt64
        var sequence: UInt64
        static func < (a: Key, b: Key) -> Bool {
            (a.time, a.low, a.epoch, a.sequence) < (b.time, b.low, b.epoch, b.sequence)
        }
    }

    var feeds = ["direct"]
    var rows: [Int: [Key: TestTick]] = [:]
    var applied: [TestTick] = []
    var next: UInt64 = 0

    mutating func apply(_ ticks: [TestTick]) {
        for tick in ticks {
            if !feeds.contains(tick.feed) { feeds.append(tick.feed) }
            let number = UInt64(feeds.firstIndex(of: tick.feed)! + 1)
            let key = Key(
                time: tick.filingTimeNs / 100 - (tick.filingTimeNs % 100 < 0 ? 1 : 0),
                low: (tick.epoch % 64) << 56 | (tick.sequence % (1 << 40)) << 16 | number, epoch: tick.epoch,
                sequence: tick.sequence)
            if rows[tick.instrument]?[key] == nil { rows[tick.instrument, default: [:]][key] = tick }
        }
        applied += ticks
        next += UInt64(ticks.count)
    }

    func scan(_ instrument: Int, _ from: Int64, _ to: Int64) -> [[UInt8]] {
        (rows[instrument] ?? [:]).filter { $0.value.filingTimeNs >= from && $0.value.filingTimeNs < to }
            .sorted { $0.key < $1.key }.map { $0.value.payload }
    }
}

enum StoreTestData {
    static let place = TopicPartition(.ticksRaw, 5)

    static func instrument(_ number: Int) -> Instrument {
        try! Instrument(exchange: number % 2 == 0 ? "XNAS" : "BINANCE", symbol: "SYM\(number)")
    }

    /// Blocks of at most `blockRows` ticks each, stamped from `firstOffset`, and their rows.
    static func rows(_ ticks: [TestTick], firstOffset: UInt64, blockRows: Int = 64, appendTimeNs: Int64 = 0) -> TickRows
    {
        var result = TickRows()
        let builder = BlockBuilder(place)
        var keys: [String: Int] = [:]
        var offset = firstOffset
        func finish() {
            guard !builder.isEmpty else { return }
            let block = builder.build()
            block.stamp(firstOffset: offset, appendTimeNs: appendTimeNs) { _ in Block.noOffset }
            offset = block.endOffset
            result.blocks.append(block)
        }
        for tick in ticks {
            let name = "\(tick.instrument)/\(tick.feed)"
            let key =
                keys[name]
                ?? builder.register(
                    BlockBuilder.Key(
                        exchange: instrument(tick.instrument).exchange, symbol: instrument(tick.instrument).symbol,
                        feed: tick.feed))
            keys[name] = key
            result.rows.append(
                TickRows.Row(
                    block: Int32(result.blocks.count), record: Int32(builder.recordCount),
                    filingTimeNs: tick.filingTimeNs, tradePrice: tick.price, tradeSize: tick.size))
            tick.payload.withUnsafeBytes {
                builder.append(key: key, epoch: tick.epoch, sequence: tick.sequence, payload: $0)
            }
            if builder.recordCount >= blockRows { finish() }
        }
        finish()
        return result
    }

    /// Payloads of gRPC frames.
    static func payloads(_ frames: UnsafeRawBufferPointer) -> [[UInt8]] {
        var result: [[UInt8]] = []
        var position = 0
        while position < frames.count {
            let length = Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
            result.append(Array(frames[(position + 5)..<(position + 5 + length)]))
            position += 5 + length
        }
        return result
    }

    static func scan(_ store: any TickStore, _ instrument: Int, _ from: Int64 = .min, _ to: Int64 = .max) throws
        -> [[UInt8]]
    {
        var result: [[UInt8]] = []
        try store.scan(Self.instrument(instrument), from: from, to: to) { batch in
            let payloads = payloads(batch.frames)
            if payloads.count != batch.count { result.append([0xff]) }
            result += payloads
            return true
        }
        return result
    }
}

/// SplitMix64: the same numbers from the same seed everywhere.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

/// A clock that stands where it is put.
final class StoppedTime: TimeSource, @unchecked Sendable {
    var nowNs: Int64
    init(_ nowNs: Int64 = 1_700_000_000_000_000_000) { self.nowNs = nowNs }
    func wallNs() -> Int64 { nowNs }
    func monotonicNs() -> Int64 { nowNs }
    func sleep(ns: Int64) {}
}

/// Ticks of several instruments and feeds: mostly in order, some late, some again, over hour and day boundaries.
struct TickGenerator {
    var random: SeededGenerator
    var instruments = 4
    var sequences: [String: UInt64] = [:]
    var epochs: [String: UInt64] = [:]
    var timeNs: Int64
    var history: [TestTick] = []

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
        timeNs = seed % 4 == 0 ? -7_200_000_000_000 : 1_700_000_000_000_000_000
    }

    mutating func below(_ bound: Int) -> Int { Int(random.next() % UInt64(bound)) }

    mutating func next() -> TestTick {
        if !history.isEmpty, below(15) == 0 { return history[below(history.count)] }
        timeNs += Int64(below(3) == 0 ? below(200_000_000) : below(300))
        if below(60) == 0 { timeNs += Int64(below(4_000_000)) * 1_000_000 }
        if below(400) == 0 { timeNs += 86_400_000_000_000 }
        let instrument = below(instruments)
        let feed = ["sim", "sim", "sim", "direct", "other"][below(5)]
        let name = "\(instrument)/\(feed)"
        if below(80) == 0 {
            epochs[name, default: 1] += UInt64(below(2) == 0 ? 1 : 64)
            sequences[name] = below(2) == 0 ? 0 : UInt64(below(5))
        }
        sequences[name, default: 0] += below(50) == 0 ? 5_000_000_000 : 1
        var filing = timeNs
        if below(6) == 0 { filing -= Int64(below(1_000_000_000)) }
        if below(50) == 0 { filing -= Int64(below(8_000)) * 1_000_000_000 }
        let tick = TestTick(
            instrument: instrument, feed: feed, epoch: epochs[name, default: 1], sequence: sequences[name]!,
            filingTimeNs: filing, price: below(2) == 0 ? Int64(below(1_000_000)) : nil, size: Int64(below(1000)),
            payload: (0..<below(120)).map { _ in UInt8(truncatingIfNeeded: below(8)) } + Array("\(history.count)".utf8))
        history.append(tick)
        return tick
    }
}
