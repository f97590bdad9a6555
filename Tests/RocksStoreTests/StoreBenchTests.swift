import Bench
import Foundation
import RocksStore
import Simulation
import TestSupport
import Testing
import TimeSource

struct StoreBenchTests {
    @Test func `The bench gives its four figures`() throws {
        let isLong = ProcessInfo.processInfo.environment["TAPEDECK_STORE_BENCH"] == "1"
        var size = StoreBench.Size()
        if !isLong {
            size.ticks = 20_000
            size.lookups = 1000
        }
        let bench = StoreBench.bench(time: RealTime(), size: size) {
            let directory = TemporaryDirectory()
            let store = try RocksStore(directory: directory.path, time: RealTime())
            return StoreBench.Subject(store: store, settle: { try store.settle() }, remove: { directory.remove() })
        }
        let figures = try bench.run(isLong ? 3 : 1) { if isLong { print($0) } }
        if isLong { for figure in figures { print(figure.json) } }
        #expect(figures.map { $0.figure } == ["write", "last_quote", "scan", "disk_bytes"])
        #expect(figures.allSatisfy { $0.median > 0 })
    }
}
