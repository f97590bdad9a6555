import EventLog
import Foundation
import RocksStore
import Simulation
import Synchronization
import TestSupport
import Testing
import TickStore

struct StoreConcurrencyTests {
    @Test func `Readers see whole applies, each row once, while rows are applied and merged`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        let applies = 150
        let expected = StoreFailureTests.ticks(0..<(applies * 40)).map { $0.payload }
        let isDone = Atomic(false)
        let problems = Mutex<[String]>([])
        DispatchQueue.concurrentPerform(iterations: 4) { role in
            do {
                switch role {
                case 0:
                    defer { isDone.store(true, ordering: .releasing) }
                    for step in 0..<applies {
                        let range = (step * 40)..<(step * 40 + 40)
                        _ = try store.apply(
                            StoreTestData.rows(
                                StoreFailureTests.ticks(range), firstOffset: UInt64(range.lowerBound)),
                            through: UInt64(range.upperBound), of: StoreTestData.place)
                    }
                case 1:
                    while !isDone.load(ordering: .acquiring) { try store.merge(all: true) }
                default:
                    while !isDone.load(ordering: .acquiring) {
                        let least = Int(try store.nextOffset(StoreTestData.place) ?? 0)
                        let rows = try StoreTestData.scan(store, 0)
                        let isRight =
                            rows.count % 40 == 0 && rows.count >= least
                            && rows.elementsEqual(expected.prefix(rows.count))
                        if !isRight { problems.withLock { $0.append("\(rows.count) rows, at least \(least)") } }
                        if let latest = try store.latest(StoreTestData.instrument(0)), latest.nextOffset < UInt64(least)
                        {
                            problems.withLock { $0.append("latest through \(latest.nextOffset), not \(least)") }
                        }
                    }
                }
            } catch { problems.withLock { $0.append("\(error)") } }
        }
        #expect(problems.withLock { $0 }.isEmpty)
        #expect(try StoreTestData.scan(store, 0) == expected)
        try store.close()
    }
}
