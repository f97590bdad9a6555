import EventLog
import Foundation
import MarketModel
import RocksStore
import TestSupport
import Testing
import TickStore
import TimeSource

/// A directory that is removed with the value's owner.
final class TemporaryDirectory: Sendable {
    let path: String
    init() {
        path = NSTemporaryDirectory() + "rocks-store-\(UUID().uuidString)"
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    func remove() { try? FileManager.default.removeItem(atPath: path) }
    deinit { remove() }
}

struct RocksStoreTests {
    @Test func `What is applied is scanned, latest and remembered across a start`() throws {
        let directory = TemporaryDirectory()
        var ticks: [TestTick] = []
        for i in 0..<1000 {
            ticks.append(
                TestTick(
                    instrument: i % 3, feed: "sim", epoch: 9, sequence: UInt64(i / 3 + 1),
                    filingTimeNs: 1_700_000_000_000_000_000 + Int64(i) * 10_000_000_000,
                    price: i % 2 == 0 ? Int64(i) * 1000 : nil, size: 5, payload: Array("tick \(i)".utf8)))
        }
        var model = StoreModel()
        model.apply(ticks)
        func check(_ store: RocksStore) throws {
            for instrument in 0..<3 {
                #expect(try StoreTestData.scan(store, instrument) == model.scan(instrument, .min, .max))
                let latest = try #require(try store.latest(StoreTestData.instrument(instrument)))
                #expect(latest.update == ticks.last { $0.instrument == instrument }!.payload)
                #expect(latest.nextOffset == 1000)
                #expect(latest.day.tradeCount > 0)
            }
            #expect(try store.nextOffset(StoreTestData.place) == 1000)
            #expect(try store.nextOffset(TopicPartition(.ticksRaw, 6)) == nil)
            #expect(try store.instruments().count == 3)
        }
        do {
            let store = try RocksStore(directory: directory.path, time: StoppedTime())
            for start in stride(from: 0, to: 1000, by: 100) {
                let rows = StoreTestData.rows(Array(ticks[start..<(start + 100)]), firstOffset: UInt64(start))
                _ = try store.apply(rows, through: UInt64(start + 100), of: StoreTestData.place)
            }
            #expect(try store.sync(StoreTestData.place) == 1000)
            try check(store)
            try store.close()
            #expect(throws: StoreError.self) { try store.instruments() }
        }
        let store = try RocksStore(directory: directory.path, time: StoppedTime())
        try check(store)
        try store.close()
    }
}
