import CQLFrames
import CassandraCQL
import EventLog
import Foundation
import MarketModel
import RocksStore
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore
import TimeSource

@testable import CassandraStore

/// Ticks by seed, of several instruments, feeds, epochs, hours and days, some late, some again, some with what columns
/// do not hold.
struct StoreWorld {
    static let place = TopicPartition(.ticksRaw, 3)
    static let instruments = try! (0..<5).map {
        try Instrument(exchange: $0 % 2 == 0 ? "XNAS" : "BINANCE", symbol: "SYM\($0)")
    }

    private var numbers: SeededNumbers
    private var sequences: [String: UInt64] = [:]
    private(set) var nextOffset: UInt64 = 100
    /// Just over an hour ago, so that hours and, at times, days change.
    private var nowNs: Int64
    /// What was made last, to be made again.
    private var former: [Made] = []

    private struct Made {
        let instrument: Instrument
        let feed: String
        let tick: Tick
        let payload: [UInt8]
        var name: String { "\(instrument) \(feed)" }
    }

    init(seed: UInt64) {
        numbers = SeededNumbers(seed: seed)
        nowNs = SystemClock().wallNs() - 30 * 3_600_000_000_000
    }

    private mutating func tick(_ name: String) -> Tick {
        let (epoch, start): (UInt64, UInt64) = numbers.below(20) == 0 ? (9, 1 << 39) : (8, 0)
        let known = sequences["\(name)/\(epoch)"] ?? start
        sequences["\(name)/\(epoch)"] = known + 1
        nowNs += Int64(numbers.below(400_000_000))
        if numbers.below(300) == 0 { nowNs += 2 * 3_600_000_000_000 }
        let late = numbers.below(30) == 0 ? Int64(numbers.below(7_000_000)) * 1_000_000 : 0
        let kind: TickKind = [.quote, .quote, .quote, .trade][numbers.below(4)]
        var tick = Tick(
            kind: kind, receivedTimeNs: nowNs, publishTimeNs: nowNs + 17, epoch: epoch, sequence: known + 1)
        if numbers.below(10) > 0 { tick.eventTimeNs = nowNs - late - Int64(numbers.below(1000)) }
        func price() -> Int64 {
            Int64(100_000_000_000 + numbers.below(1000) * 1_000_000 + (numbers.below(5) == 0 ? 7 : 0))
        }
        if kind == .trade {
            tick.last = price()
            tick.lastSize = Int64(numbers.below(1_000_000_000))
            tick.aggressorSide = [.buy, .sell, .unspecified][numbers.below(3)]
            tick.tradeID = numbers.below(2) == 0 ? UInt64(numbers.below(1 << 40)) : nil
        } else {
            tick.bid = numbers.below(10) == 0 ? nil : price()
            tick.ask = price() + 10_000
            tick.bidSize = Int64(numbers.below(5000)) * 1_000_000
            tick.askSize = Int64(numbers.below(100_000))
        }
        if numbers.below(8) == 0 { tick.venueSequence = numbers.next() }
        if numbers.below(50) == 0 { tick.state = .stale }
        return tick
    }

    /// The next rows, as a writer would apply them.
    mutating func rows(_ count: Int) -> TickRows {
        var result = TickRows()
        let builder = BlockBuilder(StoreWorld.place)
        var keys: [String: Int] = [:]
        func finish() {
            guard !builder.isEmpty else { return }
            let block = builder.build()
            block.stamp(firstOffset: nextOffset, appendTimeNs: SystemClock().wallNs()) { _ in Block.noOffset }
            nextOffset = block.endOffset
            keys = [:]
            result.blocks.append(block)
        }
        for _ in 0..<count {
            let made: Made
            if !former.isEmpty, numbers.below(40) == 0 {
                made = former[numbers.below(former.count)]
            } else {
                let instrument = StoreWorld.instruments[numbers.below(StoreWorld.instruments.count)]
                let feed = numbers.below(10) == 0 ? "other" : "main"
                let tick = tick("\(instrument)/\(feed)")
                let encoder = TickEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed)
                var bytes = [UInt8](repeating: 0, count: encoder.lengthMax)
                let length = bytes.withUnsafeMutableBytes { encoder.encode(tick, into: $0) }
                var payload = Array(bytes[..<length])
                // conditions = 27: what no column gives back byte for byte.
                if numbers.below(25) == 0 { payload += [0xda, 0x01, 0x02, 0x46, 0x49] }
                made = Made(instrument: instrument, feed: feed, tick: tick, payload: payload)
                former.append(made)
                if former.count > 200 { former.removeFirst() }
            }
            let key =
                keys[made.name]
                ?? builder.register(
                    BlockBuilder.Key(
                        exchange: made.instrument.exchange, symbol: made.instrument.symbol, feed: made.feed))
            keys[made.name] = key
            let filing = FilingTime.of(
                eventTimeNs: made.tick.eventTimeNs, receivedTimeNs: made.tick.receivedTimeNs
            ).ns
            result.rows.append(
                TickRows.Row(
                    block: Int32(result.blocks.count), record: Int32(builder.recordCount), filingTimeNs: filing,
                    tradePrice: made.tick.last, tradeSize: made.tick.lastSize ?? 0))
            made.payload.withUnsafeBytes {
                builder.append(key: key, epoch: made.tick.epoch, sequence: made.tick.sequence, payload: $0)
            }
            if builder.recordCount >= 100 { finish() }
        }
        finish()
        return result
    }
}

func frames(_ store: any TickStore, _ instrument: Instrument, _ from: Int64 = .min, _ to: Int64 = .max) throws
    -> [[UInt8]]
{
    var result: [[UInt8]] = []
    try store.scan(instrument, from: from, to: to) { batch in
        var position = 0
        while position < batch.frames.count {
            let length = Int(
                UInt32(bigEndian: batch.frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
            result.append(Array(batch.frames[(position + 5)..<(position + 5 + length)]))
            position += 5 + length
        }
        return true
    }
    return result
}

/// Blocking work of a test, on a thread of its own.
func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
}

func configuration(_ port: Int, _ keyspace: String) -> CassandraStoreConfiguration {
    var configuration = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
    configuration.keyspace = keyspace
    configuration.limits.openMilliseconds = 30_000
    return configuration
}

func makeTables(_ port: Int, _ keyspace: String) throws -> CassandraStoreConfiguration {
    let configuration = configuration(port, keyspace)
    _ = try SchemaTool(configuration, replication: nil).apply()
    return configuration
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(5)))
struct StoreTests {
    /// Scans over all and over ranges, last ticks and days: equal, byte for byte.
    static func expectSame(_ cassandra: any TickStore, _ rocks: any TickStore) throws {
        #expect(try cassandra.instruments() == rocks.instruments())
        for instrument in StoreWorld.instruments {
            let all = try frames(rocks, instrument)
            let found = try frames(cassandra, instrument)
            #expect(found == all, "\(instrument): \(found.count) and \(all.count)")
            let times = try all.map { payload in try payload.withUnsafeBytes { try TickReader($0).filingTimeNs } }
            let (from, to) = (times[times.count / 3], times[times.count * 2 / 3])
            let (part, wanted) = (try frames(cassandra, instrument, from, to), try frames(rocks, instrument, from, to))
            #expect(part == wanted && !wanted.isEmpty)
            #expect(try cassandra.latest(instrument) == rocks.latest(instrument))
        }
    }

    @Test func `Who asks how far a partition is while its first rows are applied does not make it forget them`()
        async throws
    {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            let store = try CassandraStore(try makeTables(port, "asked"), time: SystemClock())
            defer { try? store.close() }
            var world = StoreWorld(seed: 3)
            let asked = Atomic<Int>(0)
            let answered = Atomic<Int>(0)
            let isOver = Atomic<Bool>(false)
            let ended = DispatchSemaphore(value: 0)
            Thread.detachNewThread {
                while !isOver.load(ordering: .relaxed) {
                    let number = UInt16(asked.load(ordering: .relaxed))
                    _ = try? store.nextOffset(TopicPartition(.ticksRaw, number))
                    answered.add(1, ordering: .relaxed)
                }
                ended.signal()
            }
            var ends: [UInt64] = []
            for number in UInt16(0)..<60 {
                asked.store(Int(number), ordering: .relaxed)
                let rows = world.rows(20)
                _ = try store.apply(rows, through: world.nextOffset, of: TopicPartition(.ticksRaw, number))
                ends.append(world.nextOffset)
                // Whoever asked before it was applied has an answer.
                let before = answered.load(ordering: .relaxed)
                var looks = 0
                while answered.load(ordering: .relaxed) <= before + 1, looks < 1_000_000_000 { looks += 1 }
            }
            isOver.store(true, ordering: .relaxed)
            ended.wait()
            for (number, end) in ends.enumerated() {
                #expect(try store.nextOffset(TopicPartition(.ticksRaw, UInt16(number))) == end, "\(number)")
            }
        }
    }

    @Test(arguments: [(1, CQLVersion.v5, CQLCompression.none), (2, .v4, .lz4)])
    func `Scans and last ticks are those of the embedded store`(
        _ seed: Int, _ version: CQLVersion, _ compression: CQLCompression
    ) async throws {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            let folder = try TemporaryFolder()
            let rocks = try RocksStore(directory: folder.path + "/store", time: SystemClock())
            var configuration = try makeTables(port, "same\(seed)")
            configuration.version = version
            configuration.compression = compression
            configuration.limits.batchRowsMax = 60
            configuration.limits.flushIntervalNs = 20_000_000
            let place = StoreWorld.place
            var world = StoreWorld(seed: UInt64(seed))
            var store = try CassandraStore(configuration, time: SystemClock())
            #expect(try store.nextOffset(place) == nil)
            for round in 0..<12 {
                let rows = world.rows(300)
                let next = world.nextOffset
                _ = try rocks.apply(rows, through: next, of: place)
                let durable = try store.apply(rows, through: next, of: place)
                #expect(durable <= next)
                #expect(try store.nextOffset(place) == next)
                // An offset that was applied is passed over.
                if round == 3 { _ = try store.apply(rows, through: next, of: place) }
                guard round == 6 else { continue }
                try store.close()
                store = try CassandraStore(configuration, time: SystemClock())
                #expect(try store.nextOffset(place) == next)
            }
            #expect(store.counters.wholeRows > 0 && store.counters.refusedRows == 0)
            try Self.expectSame(store, rocks)
            try store.close()
            // Another process sees the same.
            let reader = try CassandraStore(configuration, time: SystemClock())
            try Self.expectSame(reader, rocks)
            #expect(try reader.statistics().instrumentCount == StoreWorld.instruments.count)
            try reader.close()
            try rocks.close()
        }
    }

    @Test func `Rows written twice are one row, and say when they end`() async throws {
        let node = try await SharedCassandra.shared.node()
        try await onThread {
            var configuration = try makeTables(node.port, "twice")
            var world = StoreWorld(seed: 5)
            let rows = world.rows(500)
            for log in ["one", "two"] {
                // A log of another name: this writer knows nothing of the first.
                configuration.log = log
                let store = try CassandraStore(configuration, time: SystemClock())
                _ = try store.apply(rows, through: world.nextOffset, of: StoreWorld.place)
                try store.close()
            }
            let store = try CassandraStore(configuration, time: SystemClock())
            var stored = 0
            for instrument in StoreWorld.instruments { stored += try frames(store, instrument).count }
            try store.close()
            let session = try BlockingSession(configuration)
            let counted = try session.query("SELECT count(*) FROM twice.tick_data")
            let distinct = Set(
                rows.rows.map { row -> [UInt8] in
                    let block = rows.blocks[Int(row.block)]
                    return Array(block.payload(Int(row.record)))
                }
            ).count
            #expect(counted.first?.first?.integer == Int64(distinct) && stored == distinct && distinct < 500)
            // USING TIMESTAMP is the filing time, TTL what is left of 90 days.
            let times = try session.query(
                "SELECT writetime(detail), ttl(detail), detail.event_time_ns, detail.receive_time_ns "
                    + "FROM twice.tick_data")
            for row in times {
                let event = row[2].integer
                let filing = FilingTime.of(eventTimeNs: event, receivedTimeNs: row[3].integer ?? 0).ns
                #expect(row[0].integer == floorDivide(filing, by: 1000))
                let left = row[1].integer ?? 0
                #expect(left <= 7_776_000 && left > 7_776_000 - 600)
            }
            session.close()
        }
    }

    /// The machine's clocks, with a wall clock that somebody sets.
    private final class SetClock: TimeSource {
        let offsetNs = Atomic<Int64>(0)
        func wallNs() -> Int64 { SystemClock().wallNs() + offsetNs.load(ordering: .relaxed) }
        func monotonicNs() -> Int64 { SystemClock().monotonicNs() }
        func sleep(ns: Int64) { SystemClock().sleep(ns: ns) }
    }

    @Test func `A wall clock that is set ahead or back ends no row early and holds back no last tick`() async throws {
        let node = try await SharedCassandra.shared.node()
        try await onThread {
            let configuration = try makeTables(node.port, "clocks")
            var world = StoreWorld(seed: 6)
            let clock = SetClock()
            var store = try CassandraStore(configuration, time: clock)
            let dayNs: Int64 = 86_400_000_000_000
            for offset in [100 * dayNs, 0, -100 * dayNs] {
                clock.offsetNs.store(offset, ordering: .relaxed)
                _ = try store.apply(world.rows(100), through: world.nextOffset, of: StoreWorld.place)
                _ = try store.sync(StoreWorld.place)
            }
            clock.offsetNs.store(200 * dayNs, ordering: .relaxed)
            _ = try store.apply(world.rows(100), through: world.nextOffset, of: StoreWorld.place)
            try store.close()
            let session = try BlockingSession(configuration)
            let times = try session.query("SELECT ttl(detail) FROM clocks.tick_data")
            #expect(times.count > 300)
            for row in times { #expect((row[0].integer ?? 0) > 7_776_000 - 600) }
            // Another writer, whose clock is right, goes on.
            store = try CassandraStore(configuration, time: SystemClock())
            #expect(try store.nextOffset(StoreWorld.place) == world.nextOffset)
            _ = try store.apply(world.rows(100), through: world.nextOffset, of: StoreWorld.place)
            try store.close()
            let written = try session.query("SELECT writetime(next_offset) FROM clocks.latest_ticks")
            let nowMicroseconds = SystemClock().wallNs() / 1000
            #expect(!written.isEmpty)
            for row in written { #expect((row[0].integer ?? .max) < nowMicroseconds + 600_000_000) }
            session.close()
        }
    }

    @Test func `A record among a block's that names no instrument stops no row of the others`() async throws {
        let node = try await SharedCassandra.shared.node()
        try await onThread {
            let configuration = try makeTables(node.port, "unnamed")
            let builder = BlockBuilder(StoreWorld.place)
            let none = builder.register(BlockBuilder.Key(exchange: "", symbol: "", feed: ""))
            let key = builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: "AAPL", feed: "main"))
            let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "main")
            var tick = Tick(
                kind: .trade, receivedTimeNs: SystemClock().wallNs(), publishTimeNs: SystemClock().wallNs(), epoch: 1,
                sequence: 1)
            tick.last = 5_000_000_000
            tick.lastSize = 100_000_000
            [UInt8]([1, 2, 3]).withUnsafeBytes { builder.append(key: none, epoch: 0, sequence: 0, payload: $0) }
            builder.append(key: key, epoch: 1, sequence: 1, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
            let block = builder.build()
            block.stamp(firstOffset: 0, appendTimeNs: SystemClock().wallNs()) { _ in Block.noOffset }
            func row(_ record: Int32) -> TickRows.Row {
                TickRows.Row(
                    block: 0, record: record, filingTimeNs: tick.receivedTimeNs, tradePrice: nil, tradeSize: 0)
            }
            let store = try CassandraStore(configuration, time: SystemClock())
            // What the writer must not give is refused by name, and nothing of it is written.
            let refused = #expect(throws: StoreError.self) {
                try store.apply(TickRows(blocks: [block], rows: [row(1), row(0)]), through: 2, of: StoreWorld.place)
            }
            #expect(refused?.message.contains("ticks.raw/3 at offset 0") == true)
            _ = try store.apply(TickRows(blocks: [block], rows: [row(1)]), through: 2, of: StoreWorld.place)
            try store.close()
            let reader = try CassandraStore(configuration, time: SystemClock())
            #expect(try frames(reader, Instrument(exchange: "XNAS", symbol: "AAPL")).count == 1)
            #expect(store.rowLatency.counts.reduce(0, +) == 1)
            try reader.close()
        }
    }

    @Test func `A node that goes away while rows are written loses none of them`() async throws {
        let node = try await CassandraNode.start(["--set", "commitlog_sync=batch"])
        let place = StoreWorld.place
        let port = node.port
        let reports = Mutex<[StoreError]>([])
        let isWriting = Atomic<Int>(0)
        let path = NSTemporaryDirectory() + "tapedeck-" + UUID().uuidString
        defer { try? FileManager.default.removeItem(atPath: path) }
        async let writing: Void = onThread {
            let rocks = try RocksStore(directory: path, time: SystemClock())
            var configuration = try makeTables(port, "outage")
            configuration.limits.stallMilliseconds = 300
            configuration.limits.requestMilliseconds = 1500
            configuration.limits.openBytesMax = 200_000
            configuration.limits.flushIntervalNs = 100_000_000
            let store = try CassandraStore(configuration, time: SystemClock())
            var world = StoreWorld(seed: 7)
            for round in 0..<60 {
                let rows = world.rows(200)
                _ = try rocks.apply(rows, through: world.nextOffset, of: place)
                // As the writer does.
                while true {
                    do throws(StoreError) {
                        _ = try store.apply(rows, through: world.nextOffset, of: place)
                        break
                    } catch {
                        guard error.retryable else { throw error }
                        reports.withLock { $0.append(error) }
                        SystemClock().sleep(ns: 100_000_000)
                    }
                }
                isWriting.store(round + 1, ordering: .releasing)
            }
            try StoreTests.expectSame(store, rocks)
            #expect(store.failingPartitions.isEmpty)
            try store.close()
            let reader = try CassandraStore(configuration, time: SystemClock())
            #expect(try reader.nextOffset(place) == world.nextOffset)
            try StoreTests.expectSame(reader, rocks)
            try reader.close()
            try rocks.close()
        }
        await until { isWriting.load(ordering: .acquiring) >= 10 }
        try await node.kill()
        await until { !reports.withLock { $0.isEmpty } }
        try await node.restart()
        await until { isWriting.load(ordering: .acquiring) >= 40 }
        try await writing
        let first = try #require(reports.withLock { $0.first })
        #expect(first.code == .unreachable && first.message.contains("Cassandra"), "\(first)")
        node.stop()
    }
}
