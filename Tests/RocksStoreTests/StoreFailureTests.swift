import CZstd
import EventLog
import Foundation
import MarketModel
import Simulation
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import RocksStore

struct StoreFailureTests {
    private func fill(_ store: RocksStore, from: Int, count: Int) throws {
        _ = try store.apply(
            StoreTestData.rows(Self.ticks(from..<(from + count)), firstOffset: UInt64(from)),
            through: UInt64(from + count), of: StoreTestData.place)
    }

    /// The iterator must be gone before the store is closed.
    private func firstBlock(_ store: RocksStore, _ space: KeySpace) throws -> (key: [UInt8], value: [UInt8]) {
        let iterator = store.database.iterator(space, nil)
        iterator.seek([])
        try #require(try iterator.isValid())
        return (Array(iterator.key), Array(iterator.value))
    }

    /// Real updates, of one instrument.
    static func ticks(_ range: Range<Int>) -> [TestTick] {
        let encoder = TickEncoder(exchange: "XNAS", symbol: "SYM0", feed: "sim")
        return range.map { i in
            var tick = Tick(
                kind: i % 4 == 0 ? .trade : .quote, receivedTimeNs: 1_700_000_000_000_000_000 + Int64(i) * 1_000_003,
                publishTimeNs: 1_700_000_000_000_000_000 + Int64(i) * 1_000_003 + 77, epoch: 5, sequence: UInt64(i + 1))
            if i % 4 == 0 { tick.last = Int64(i) * 1_000_000 } else { tick.bid = Int64(i % 50) * 10_000_000 }
            var bytes = [UInt8](repeating: 0, count: encoder.lengthMax)
            let length = bytes.withUnsafeMutableBytes { encoder.encode(tick, into: $0) }
            return TestTick(
                instrument: 0, feed: "sim", epoch: 5, sequence: UInt64(i + 1), filingTimeNs: tick.receivedTimeNs,
                price: tick.last, size: 1, payload: Array(bytes[..<length]))
        }
    }

    @Test func `A second opening of a directory is told that it is locked`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime())
        let error = #expect(throws: StoreError.self) { try RocksStore(directory: directory.path, time: StoppedTime()) }
        #expect(error?.code == .locked)
        try store.close()
        try RocksStore(directory: directory.path, time: StoppedTime()).close()
    }

    @Test func `A store of a newer version is refused by name`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime())
        let batch = WriteBatch(store.database)
        batch.put(.meta, MetaKey.format, [9, 0, 0, 0])
        try store.database.write(batch)
        try store.close()
        let error = #expect(throws: StoreError.self) { try RocksStore(directory: directory.path, time: StoppedTime()) }
        #expect(error?.code == .unknownFormat)
    }

    @Test func `A directory where nobody may write is refused by name`() throws {
        // Not even root makes files in sysfs.
        let error = #expect(throws: StoreError.self) {
            try RocksStore(directory: "/sys/kernel/tapedeck", time: StoppedTime())
        }
        #expect(error?.code == .readOnly, "\(String(describing: error))")
        #expect(error?.message.contains("/sys/kernel/tapedeck") == true)
    }

    @Test func `RocksDB's words for what went wrong become codes`() {
        func code(_ message: String) -> StoreError.Code { StoreFailure.of("d", message).code }
        #expect(code("IO error: No space left on device: While appending") == .diskFull)
        #expect(StoreFailure.of("d", "IO error: No space left on device").retryable)
        #expect(code("IO error: While mkdir: Read-only file system") == .readOnly)
        #expect(code("Corruption: block checksum mismatch") == .damaged)
        #expect(code("IO error: something") == .io)
    }

    @Test func `What a process that ended abruptly had applied is there again`() throws {
        let directory = TemporaryDirectory()
        let copy = TemporaryDirectory()
        copy.remove()
        var limits = StorePropertyTests.limits()
        limits.hasBackgroundWork = false
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: limits)
        for step in 0..<20 {
            try fill(store, from: step * 50, count: 50)
            if step % 7 == 3 { try store.merge(all: true) }
        }
        // Files as the end of the process would leave them: nothing was closed or synced.
        try FileManager.default.copyItem(atPath: directory.path, toPath: copy.path)
        let again = try RocksStore(directory: copy.path, time: StoppedTime(), limits: limits)
        #expect(try again.nextOffset(StoreTestData.place) == 1000)
        #expect(try StoreTestData.scan(again, 0) == Self.ticks(0..<1000).map { $0.payload })
        #expect(try again.latest(StoreTestData.instrument(0)) == store.latest(StoreTestData.instrument(0)))
        try again.close()
        try store.close()
    }

    @Test func `A power cut at any byte of the write-ahead log leaves a prefix of the applies`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        for step in 0..<20 { try fill(store, from: step * 20, count: 20) }
        let names = try FileManager.default.contentsOfDirectory(atPath: directory.path).filter { $0.hasSuffix(".log") }
        let log = try #require(names.max())
        let size = try #require(
            try FileManager.default.attributesOfItem(atPath: directory.path + "/" + log)[.size] as? Int)
        for cut in stride(from: size, to: 0, by: -max(1, size / 15)) {
            let copy = TemporaryDirectory()
            copy.remove()
            try FileManager.default.copyItem(atPath: directory.path, toPath: copy.path)
            truncate(copy.path + "/" + log, cut)
            let again = try RocksStore(directory: copy.path, time: StoppedTime(), limits: StorePropertyTests.limits())
            let next = Int(try again.nextOffset(StoreTestData.place) ?? 0)
            #expect(next % 20 == 0)
            #expect(try StoreTestData.scan(again, 0) == Self.ticks(0..<next).map { $0.payload })
            #expect(try again.latest(StoreTestData.instrument(0))?.update == Self.ticks(0..<next).last?.payload)
            try again.close()
        }
        try store.close()
    }

    @Test func `Applying an offset again changes nothing`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime())
        try fill(store, from: 0, count: 100)
        let before = try store.latest(StoreTestData.instrument(0))
        try fill(store, from: 0, count: 100)
        try fill(store, from: 20, count: 30)
        #expect(try store.latest(StoreTestData.instrument(0)) == before)
        // An apply that begins before the offset gives only what is new.
        try fill(store, from: 50, count: 100)
        #expect(try store.nextOffset(StoreTestData.place) == 150)
        #expect(try StoreTestData.scan(store, 0).count == 150)
        #expect(try store.statistics().rowCount == 150)
        try store.close()
    }

    @Test func `Values at the ends of their ranges are kept`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        var model = StoreModel()
        let times: [Int64] = [
            .min, .min + 1, -3_600_000_000_001, -1, 0, 1, 3_599_999_999_999, 3_600_000_000_000, .max - 1,
        ]
        var ticks: [TestTick] = []
        for time in times {
            for sequence in [0, 1, (1 << 40) - 1, 1 << 40, UInt64.max] as [UInt64] {
                for epoch in [0, 63, 64, UInt64.max] as [UInt64] {
                    ticks.append(
                        TestTick(
                            instrument: 0, feed: "f", epoch: epoch, sequence: sequence, filingTimeNs: time, price: .max,
                            size: .max, payload: Array("\(time) \(sequence) \(epoch)".utf8)))
                }
            }
        }
        model.apply(ticks)
        _ = try store.apply(
            StoreTestData.rows(ticks, firstOffset: 0), through: UInt64(ticks.count), of: StoreTestData.place)
        #expect(try StoreTestData.scan(store, 0) == model.scan(0, .min, .max))
        try store.merge(all: true)
        #expect(try StoreTestData.scan(store, 0) == model.scan(0, .min, .max))
        #expect(store.counters.conflictingRows > 0)
        try store.close()
    }

    @Test func `A checkpoint opens as a store of its own`() throws {
        let directory = TemporaryDirectory()
        let copy = TemporaryDirectory()
        copy.remove()
        let store = try RocksStore(directory: directory.path, time: StoppedTime())
        try fill(store, from: 0, count: 100)
        try store.checkpoint(to: copy.path)
        try fill(store, from: 100, count: 100)
        let restored = try RocksStore(directory: copy.path, time: StoppedTime())
        #expect(try restored.nextOffset(StoreTestData.place) == 100)
        #expect(try StoreTestData.scan(restored, 0).count == 100)
        #expect(throws: StoreError.self) { try store.checkpoint(to: copy.path) }
        try restored.close()
        try store.close()
    }

    @Test func `Hours go when their rows were appended long enough ago, and for the share of the disk`() throws {
        let directory = TemporaryDirectory()
        let time = StoppedTime()
        var limits = StorePropertyTests.limits()
        limits.retentionNs = 90 * 86_400_000_000_000
        let store = try RocksStore(directory: directory.path, time: time, limits: limits)
        // A recording of long ago, appended now, stays.
        let ticks = Self.ticks(0..<100).map { tick in
            var tick = tick
            tick.filingTimeNs = 1_000_000_000_000_000_000 + Int64(tick.sequence) * 60_000_000_000
            return tick
        }
        _ = try store.apply(
            StoreTestData.rows(ticks, firstOffset: 0, appendTimeNs: time.nowNs), through: 100, of: StoreTestData.place)
        try store.merge(all: true)
        try store.retain()
        #expect(try StoreTestData.scan(store, 0).count == 100)
        time.nowNs += 91 * 86_400_000_000_000
        _ = try store.apply(
            StoreTestData.rows(Self.ticks(100..<110), firstOffset: 100, appendTimeNs: time.nowNs), through: 110,
            of: StoreTestData.place)
        try store.retain()
        #expect(try StoreTestData.scan(store, 0).count == 10)
        #expect(store.counters.expiredHours >= 2)
        #expect(try store.latest(StoreTestData.instrument(0)) != nil)
        #expect(try store.nextOffset(StoreTestData.place) == 110)
        try store.close()

        limits.diskBytesMax = 1
        let small = try RocksStore(directory: directory.path, time: time, limits: limits)
        try small.retain()
        #expect(small.counters.evictedHours == 1)
        #expect(try StoreTestData.scan(small, 0).isEmpty)
        try small.close()
    }

    @Test func `Threads of the store sync and merge by themselves`() throws {
        let directory = TemporaryDirectory()
        var limits = StorePropertyTests.limits()
        limits.hasBackgroundWork = true
        limits.syncIntervalMs = 5
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: limits)
        let started = ContinuousClock.now
        var durable: UInt64 = 0
        var next = 0
        while durable == 0 || store.counters.merges == 0, started.duration(to: .now) < .seconds(20) {
            durable = try store.apply(
                StoreTestData.rows(Self.ticks(next..<(next + 50)), firstOffset: UInt64(next)),
                through: UInt64(next + 50),
                of: StoreTestData.place)
            next += 50
        }
        #expect(durable > 0 && store.counters.merges > 0)
        #expect(try StoreTestData.scan(store, 0) == Self.ticks(0..<next).map { $0.payload })
        try store.close()
    }

    @Test(arguments: 0..<2) func `A damaged block is an error that names the place, never a trap`(which: Int) throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        try fill(store, from: 0, count: 200)
        if which == 1 { try store.merge(all: true) }
        let space = which == 1 ? KeySpace.hours : .fresh
        let (key, value) = try firstBlock(store, space)
        let reader = RowBlockReader()
        var random = SeededGenerator(seed: 3)
        let hour = try #require(key.withUnsafeBytes { BlockKey($0) }).hour
        var refused = 0
        func read(_ bytes: [UInt8]) {
            do {
                try bytes.withUnsafeBytes { try reader.open($0, hour: hour) }
                try reader.readRows()
            } catch { refused += 1 }
        }
        let cuts = min(value.count, 600)
        for count in 0..<cuts { read(Array(value[..<count])) }
        #expect(refused == cuts)
        let rounds = Checkout.isSoak ? 2_000_000 : 3000
        for _ in 0..<rounds {
            var bytes = value
            for _ in 0...(random.next() % 3) {
                let position = Int(random.next() % (random.next() % 4 == 0 ? 120 : 1 << 40))
                bytes[position % bytes.count] = random.next() % 2 == 0 ? UInt8(truncatingIfNeeded: random.next()) : 0xff
            }
            // A right checksum leads past the first check.
            if random.next() % 8 != 0 {
                bytes.withUnsafeMutableBytes {
                    RowBlock.storeLE(RowBlock.crc(UnsafeRawBufferPointer($0)), $0.baseAddress!, RowBlock.Field.crc)
                }
            }
            read(bytes)
        }
        #expect(refused > cuts + rounds / 4)

        var damaged = value
        damaged[damaged.count / 2] ^= 0x10
        let batch = WriteBatch(store.database)
        batch.put(space, key, damaged)
        try store.database.write(batch)
        let error = #expect(throws: StoreError.self) { try StoreTestData.scan(store, 0) }
        #expect(error?.code == .damaged)
        #expect(error?.message.contains("hour") == true)
        try store.close()
    }

    @Test func `A damaged packed body is refused or read, never a trap`() throws {
        let directory = TemporaryDirectory()
        let store = try RocksStore(directory: directory.path, time: StoppedTime(), limits: StorePropertyTests.limits())
        try fill(store, from: 0, count: 200)
        try store.merge(all: true)
        let (key, value) = try firstBlock(store, .hours)
        try store.close()
        let header = try #require(value.withUnsafeBytes { RowBlock.Header($0) })
        #expect(header.codec == .planes)
        let packer = PlaneCodec()
        let reader = RowBlockReader()
        let hour = try #require(key.withUnsafeBytes { BlockKey($0) }).hour
        try value.withUnsafeBytes { try reader.open($0, hour: hour) }
        let frames = Array(reader.frames)
        var random = SeededGenerator(seed: 11)
        let out = Scratch()
        var keys = [UInt8](repeating: 0, count: header.rowCount * RowBlock.keyLength)
        let length = try #require(
            keys.withUnsafeBytes { keys in
                frames.withUnsafeBytes {
                    packer.pack(
                        keys: keys, frames: $0, rowCount: header.rowCount, areDerived: false, level: 1, into: out, at: 0
                    )
                }
            })
        let plain = PlaneCodec.plain(of: Array(out.bytes[..<length]))
        var target = [UInt8](repeating: 0, count: frames.count)
        var refused = 0
        let rounds = Checkout.isSoak ? 1_000_000 : 4000
        for _ in 0..<rounds {
            var bytes = plain
            for _ in 0...(random.next() % 3) {
                bytes[Int(random.next() % UInt64(random.next() % 2 == 0 ? 64 : bytes.count))] = UInt8(
                    truncatingIfNeeded: random.next())
            }
            let packed = PlaneCodec.packed(bytes)
            let result = packed.withUnsafeBytes { packed in
                keys.withUnsafeMutableBytes { keys in
                    target.withUnsafeMutableBytes {
                        packer.unpack(packed, keys: keys, frames: $0, rowCount: header.rowCount)
                    }
                }
            }
            if result == nil { refused += 1 }
        }
        #expect(refused > 0 && refused < rounds)
    }
}

extension PlaneCodec {
    /// The bytes behind zstd.
    static func plain(of packed: [UInt8]) -> [UInt8] {
        var plain = [UInt8](repeating: 0, count: Int(packed.withUnsafeBytes { RowBlock.loadLE($0, 0) as UInt32 }))
        let count = plain.count
        let length = plain.withUnsafeMutableBytes { out in
            packed.withUnsafeBytes { ZSTD_decompress(out.baseAddress!, count, $0.baseAddress! + 4, $0.count - 4) }
        }
        precondition(length == count)
        return plain
    }

    static func packed(_ plain: [UInt8]) -> [UInt8] {
        var out: [UInt8] = []
        out.appendLittleEndian(UInt32(plain.count))
        var body = [UInt8](repeating: 0, count: ZSTD_compressBound(plain.count))
        let bound = body.count
        let length = body.withUnsafeMutableBytes { body in
            plain.withUnsafeBytes { ZSTD_compress(body.baseAddress!, bound, $0.baseAddress!, $0.count, 1) }
        }
        return out + body[..<length]
    }
}
