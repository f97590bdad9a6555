import Foundation
import Glibc
import TestSupport
import Testing
import TickStore

@testable import RocksStore

/// A file system of a few MiB, where the system lets the tests mount one.
enum SmallDisk {
    static let isPossible: Bool = {
        let probe = TemporaryDirectory()
        guard mount("tmpfs", probe.path, "tmpfs", 0, "size=1m") == 0 else { return false }
        return umount2(probe.path, Int32(MNT_DETACH)) == 0
    }()

    static func with(bytes: Int, _ body: (String) throws -> Void) throws {
        let directory = TemporaryDirectory()
        try #require(mount("tmpfs", directory.path, "tmpfs", 0, "size=\(bytes)") == 0)
        defer { umount2(directory.path, Int32(MNT_DETACH)) }
        try body(directory.path)
    }
}

struct FullDiskTests {
    /// Several rounds: what RocksDB's threads are doing when the disk fills is another thing each time.
    @Test(
        .enabled(if: SmallDisk.isPossible, "no file system can be mounted here"),
        arguments: 1...(Checkout.isSoak ? 40 : 3))
    func `A full disk is an error, what was applied stays, and with space again the store goes on`(_: Int) throws {
        try SmallDisk.with(bytes: 48 << 20) { path in
            var limits = StorePropertyTests.limits()
            limits.syncIntervalMs = 10
            let store = try RocksStore(directory: path + "/store", time: StoppedTime(), limits: limits)
            let filler = path + "/filler"
            try Data(count: 14 << 20).write(to: URL(fileURLWithPath: filler))
            var next = 0
            func apply() throws {
                let ticks = StoreFailureTests.ticks(next..<(next + 500))
                _ = try store.apply(
                    StoreTestData.rows(ticks, firstOffset: UInt64(next)), through: UInt64(next + 500),
                    of: StoreTestData.place)
                next += 500
            }
            var failure: StoreError?
            while failure == nil, next < 1_000_000 {
                do { try apply() } catch { failure = error as? StoreError }
            }
            #expect(failure?.code == .diskFull && failure?.retryable == true)
            #expect(try store.nextOffset(StoreTestData.place) == UInt64(next))
            #expect(try StoreTestData.scan(store, 0).count == next)

            try FileManager.default.removeItem(atPath: filler)
            let started = ContinuousClock.now
            var goesOn = false
            while !goesOn, started.duration(to: .now) < .seconds(15) {
                do {
                    try apply()
                    goesOn = true
                } catch { #expect((error as? StoreError)?.code == .diskFull) }
            }
            #expect(goesOn, "the store has to be opened again")
            #expect(try StoreTestData.scan(store, 0) == StoreFailureTests.ticks(0..<next).map { $0.payload })
            try store.close()
            // A line of it that finds no room would end the process.
            #expect(!FileManager.default.fileExists(atPath: path + "/store/LOG"))
        }
    }
}
