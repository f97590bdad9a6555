import DayFigures
import EventLog
import Foundation
import MarketModel
import RocksStore
import Simulation
import TestSupport
import Testing
import TickStore

struct StorePropertyTests {
    static func limits() -> RocksStoreLimits {
        var limits = RocksStoreLimits()
        limits.writeBufferBytes = 1 << 20
        limits.mergedRows = 50
        limits.freshRowsMax = 300
        limits.hasBackgroundWork = false
        limits.retentionNs = nil
        return limits
    }

    @Test(arguments: 1...(Checkout.isSoak ? 400 : 24) as ClosedRange<UInt64>)
    func `Any batches, merges and starts show what the obvious store shows`(seed: UInt64) throws {
        let directory = TemporaryDirectory()
        var generator = TickGenerator(seed: seed)
        var model = StoreModel()
        let simulated = SimulatedStore()
        func open() throws -> RocksStore {
            try RocksStore(directory: directory.path, time: StoppedTime(), limits: Self.limits())
        }
        var store = try open()
        var appliesSinceCheck = 0
        for step in 0..<60 {
            switch generator.below(10) {
            case 0...5:
                let ticks = (0..<(1 + generator.below(120))).map { _ in generator.next() }
                let rows = StoreTestData.rows(ticks, firstOffset: model.next, blockRows: 1 + generator.below(64))
                let next = model.next + UInt64(ticks.count)
                model.apply(ticks)
                _ = try store.apply(rows, through: next, of: StoreTestData.place)
                _ = try simulated.apply(rows, through: next, of: StoreTestData.place)
                appliesSinceCheck += 1
            case 6: try store.merge(all: generator.below(2) == 0)
            case 7 where generator.below(3) == 0:
                try store.close()
                store = try open()
            default:
                try Self.check(store, simulated, model, &generator, "seed \(seed) step \(step)")
            }
        }
        try Self.check(store, simulated, model, &generator, "seed \(seed) end")
        try store.merge(all: true)
        try Self.check(store, simulated, model, &generator, "seed \(seed) merged")
        #expect(try store.statistics().rowCount == UInt64(model.rows.values.reduce(0) { $0 + $1.count }))
        try store.close()
    }

    static func check(
        _ store: RocksStore, _ simulated: SimulatedStore, _ model: StoreModel, _ generator: inout TickGenerator,
        _ comment: String
    ) throws {
        let next = model.next == 0 ? nil : model.next
        #expect(try store.nextOffset(StoreTestData.place) == next, "\(comment)")
        #expect(try store.instruments() == simulated.instruments(), "\(comment)")
        for instrument in 0..<generator.instruments {
            #expect(
                try store.latest(StoreTestData.instrument(instrument))
                    == simulated.latest(StoreTestData.instrument(instrument)),
                "\(comment)")
            let all = model.scan(instrument, .min, .max)
            #expect(try StoreTestData.scan(store, instrument) == all, "\(comment)")
            #expect(try StoreTestData.scan(simulated, instrument) == all, "\(comment)")
            guard let times = model.rows[instrument]?.values.map({ $0.filingTimeNs }), !times.isEmpty else { continue }
            for _ in 0..<3 {
                let a = times[generator.below(times.count)] + Int64(generator.below(3)) - 1
                let b = times[generator.below(times.count)] + Int64(generator.below(150)) - 1
                #expect(
                    try StoreTestData.scan(store, instrument, min(a, b), max(a, b))
                        == model.scan(instrument, min(a, b), max(a, b)),
                    "\(comment)")
            }
        }
    }
}
