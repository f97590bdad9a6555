import EventLog
import RocksStore
import Simulation
import TestSupport
import Testing
import TickStore

/// Where the store filed the records of the log.
struct FiledIndexTests {
    @Test(arguments: 1...(Checkout.isSoak ? 200 : 20) as ClosedRange<UInt64>)
    func `Runs hold every row of their records, held offsets are those applied, across starts`(_ seed: UInt64) throws {
        let directory = TemporaryDirectory()
        var generator = TickGenerator(seed: seed)
        func open() throws -> RocksStore {
            try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        }
        var store = try open()
        let simulated = SimulatedStore()
        var filed: [(offset: UInt64, time: Int64)] = []
        var applied = Set<UInt64>()
        var next: UInt64 = 0
        for _ in 0..<60 {
            // Sometimes records were lost before they were stored.
            if generator.below(8) == 0 { next += UInt64(1 + generator.below(50)) }
            let ticks = (0..<(1 + generator.below(120))).map { _ in generator.next() }
            let rows = StoreTestData.rows(ticks, firstOffset: next, blockRows: 1 + generator.below(64))
            for (index, tick) in ticks.enumerated() {
                filed.append((next + UInt64(index), tick.filingTimeNs))
                applied.insert(next + UInt64(index))
            }
            next += UInt64(ticks.count)
            _ = try store.apply(rows, through: next, of: StoreTestData.place)
            _ = try simulated.apply(rows, through: next, of: StoreTestData.place)
            if generator.below(10) == 0 {
                try store.close()
                store = try open()
            }
        }
        let held = store.heldOffsets(StoreTestData.place)
        #expect(held == simulated.heldOffsets(StoreTestData.place))
        for offset in 0...(next + 1) {
            #expect(held.range(at: offset)?.contains(offset) ?? false == applied.contains(offset), "seed \(seed)")
        }
        for _ in 0..<50 {
            let first = UInt64(generator.below(Int(next)))
            let end = first + UInt64(generator.below(200))
            let runs = try store.filed(StoreTestData.place, first..<end)
            for entry in filed where entry.offset >= first && entry.offset < end {
                let run = runs.first { $0.offsets.contains(entry.offset) }
                #expect(run?.times.ranges.contains { $0.contains(entry.time) } == true, "seed \(seed): \(entry)")
            }
            for run in runs { #expect(run.times.ranges.count <= FilingTimes.rangesMax) }
        }
        #expect(store.heldOffsets(TopicPartition(.ticksRaw, 0)) == HeldOffsets())
        #expect(try store.filed(TopicPartition(.ticksRaw, 0), 0..<100).isEmpty)
        try store.close()
    }

    @Test func `Records whose rows retention drops are held no more`() throws {
        let directory = TemporaryDirectory()
        let time = StoppedTime()
        var limits = StorePropertyTests.limits()
        limits.retentionNs = 86_400_000_000_000
        let hourNs: Int64 = 3_600_000_000_000
        func open() throws -> RocksStore { try RocksStore(directory: directory.path, time: time, limits: limits) }
        var store = try open()
        let start: Int64 = 1_700_000_000_000_000_000 / hourNs * hourNs
        for hour in 0..<6 as Range<Int64> {
            time.nowNs = start + hour * hourNs
            let tick = TestTick(
                instrument: 1, feed: "sim", epoch: 1, sequence: UInt64(hour + 1), filingTimeNs: time.nowNs, price: nil,
                payload: [1])
            let rows = StoreTestData.rows([tick], firstOffset: UInt64(hour), appendTimeNs: time.nowNs)
            _ = try store.apply(rows, through: UInt64(hour + 1), of: StoreTestData.place)
        }
        #expect(store.heldOffsets(StoreTestData.place).ranges == [0..<6])
        time.nowNs = start + 26 * hourNs + hourNs / 2
        try store.retain()
        let held = store.heldOffsets(StoreTestData.place)
        // The third has its ten minutes, by which ages are rounded up, and half an hour less to live.
        #expect(held.ranges == [3..<6])
        let first = try #require(held.ranges.first?.lowerBound)
        #expect(try store.filed(StoreTestData.place, 0..<6).map(\.offsets.lowerBound) == Array(first..<6))
        #expect(try StoreTestData.scan(store, 1).count == Int(6 - first))
        try store.close()
        store = try open()
        #expect(store.heldOffsets(StoreTestData.place) == held)
        try store.close()
    }

    @Test func `Held offsets join, part and stay in order, as a set of numbers does`() {
        for seed in 1...50 as ClosedRange<UInt64> {
            var random = SeededGenerator(seed: seed)
            var held = HeldOffsets()
            var model = Set<UInt64>()
            for _ in 0..<60 {
                let first = random.next() % 100
                let range = first..<(first + random.next() % 20)
                if random.next() % 3 == 0 {
                    held.remove(range)
                    model.subtract(range)
                } else {
                    held.insert(range)
                    model.formUnion(range)
                }
                #expect(Set(held.ranges.flatMap { Array($0) }) == model, "seed \(seed)")
                #expect(HeldOffsets(ranges: held.ranges) != nil, "seed \(seed): \(held)")
            }
        }
    }
}
