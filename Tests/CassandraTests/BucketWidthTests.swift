import CQLFrames
import EventLog
import Foundation
import MarketModel
import Repair
import RocksStore
import SegmentLog
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore
import TimeSource

@testable import CassandraStore

private let minuteNs: Int64 = 60_000_000_000
private let dayNs: Int64 = 1440 * minuteNs

/// Days since 1970 by the machine's clock.
private func today() -> Int64 { floorDivide(SystemClock().wallNs(), by: dayNs) }

/// Ticks of two instruments around the midnight that was last, in a log; `WIDE` has buckets of 5 minutes from there on.
private struct Midnight {
    static let place = TopicPartition(.ticksRaw, 0)
    static let wide = try! Instrument(exchange: "XNAS", symbol: "WIDE")
    static let plain = try! Instrument(exchange: "XNAS", symbol: "PLAIN")
    static let stepNs: Int64 = 20_000_000_000

    let day = today()
    let log: SegmentLog
    private(set) var rows: [Instrument: [RepairedRow]] = [:]

    init() throws {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.freeBytesMin = 0
        configuration.diskSharePercent = 100
        log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: RealTime(), configuration: configuration)
        let steps = 3 * 3600 / 20
        for start in stride(from: 0, to: steps, by: 100) {
            let builder = BlockBuilder(Midnight.place)
            for instrument in [Midnight.wide, Midnight.plain] {
                let key = builder.register(
                    BlockBuilder.Key(exchange: instrument.exchange, symbol: instrument.symbol, feed: "main"))
                for step in start..<min(start + 100, steps) {
                    let row = row(instrument, step)
                    rows[instrument, default: []].append(row)
                    row.update.withUnsafeBytes {
                        builder.append(key: key, epoch: row.epoch, sequence: row.sequence, payload: $0)
                    }
                }
            }
            try log.append([builder.build()], consumed: [])
        }
        try log.sync()
    }

    /// From an hour and a half before midnight to as long after it.
    private func row(_ instrument: Instrument, _ step: Int) -> RepairedRow {
        let timeNs = day * dayNs - 90 * minuteNs + Int64(step) * Midnight.stepNs
        var tick = Tick(
            kind: .quote, receivedTimeNs: timeNs, publishTimeNs: timeNs + 5, epoch: 4, sequence: UInt64(step + 1))
        tick.bid = Int64(100 + step) * 1_000_000_000
        let encoder = TickEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: "main")
        let update = [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
            count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
        }
        return RepairedRow(
            feed: Array("main".utf8), epoch: 4, sequence: tick.sequence, filingTimeNs: timeNs,
            appendTimeNs: SystemClock().wallNs(), update: update)
    }

    /// What the writer does.
    func store(into store: CassandraStore) throws {
        let end = log.endOffset(Midnight.place, .durable)
        while true {
            let offset = try store.nextOffset(Midnight.place) ?? 0
            guard offset < end, case .block(let block, _) = try log.readBlocking(Midnight.place, at: offset, .durable)
            else { break }
            var rows = TickRows()
            rows.blocks = [block]
            for record in 0..<block.recordCount {
                let reader = try TickReader(block.payload(record))
                rows.rows.append(
                    TickRows.Row(
                        block: 0, record: Int32(record), filingTimeNs: reader.filingTimeNs, tradePrice: nil,
                        tradeSize: 0))
            }
            _ = try store.apply(rows, through: block.endOffset, of: Midnight.place)
        }
        _ = try store.flush(Midnight.place)
    }

    /// The number of the bucket that a row belongs in, reckoned by hand.
    func number(_ instrument: Instrument, _ timeNs: Int64) -> Int64 {
        let minute = (timeNs % dayNs) / minuteNs
        return instrument == Midnight.wide && timeNs >= day * dayNs ? 50_000 + minute / 5 * 5 : minute / 60
    }

    /// Keys of partitions that there have to be: `WIDE 2026-11-27 50005`.
    var partitions: Set<String> {
        var keys: Set<String> = []
        for (instrument, rows) in rows {
            for row in rows {
                let date = CivilTime.date(day: floorDivide(row.filingTimeNs, by: dayNs))
                keys.insert("\(instrument.symbol) \(date) \(number(instrument, row.filingTimeNs))")
            }
        }
        return keys
    }

    func audit(_ store: any RepairableStore) throws -> TapeAudit {
        try TapeAudit(
            log: log, store: store, selection: RepairSelection(), wallNs: SystemClock().wallNs(), ticksAtOnceMax: 200)
    }
}

/// Keys of partitions of these symbols as Cassandra has them.
private func partitions(_ configuration: CassandraStoreConfiguration, _ symbols: String...) throws -> [String] {
    let session = try BlockingSession(configuration)
    defer { session.close() }
    return try session.query("SELECT DISTINCT symbol, trade_date, bucket, exchange FROM buckets.tick_data").map {
        ($0[0].string ?? "", "\($0[0].string ?? "") \($0[1].string ?? "") \($0[2].integer ?? -1)")
    }.filter { symbols.contains($0.0) }.map { $0.1 }
}

private func query(_ configuration: CassandraStoreConfiguration, _ statements: String...) throws {
    let session = try BlockingSession(configuration)
    defer { session.close() }
    for statement in statements { _ = try session.query(statement) }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(5)))
struct BucketWidthTests {
    /// Sets a width whatever the date, as nobody should.
    private static func set(
        _ configuration: CassandraStoreConfiguration, _ instrument: Instrument, _ day: Int64, _ minutes: Int
    ) throws {
        try query(
            configuration,
            "INSERT INTO \(configuration.keyspace).bucket_widths (exchange, symbol, trade_date, minutes) VALUES "
                + "('\(instrument.exchange)', '\(instrument.symbol)', '\(CivilTime.date(day: day))', \(minutes))")
    }

    @Test func `Rows around a change of width lie in its buckets, are read, verified, spoiled and repaired`()
        async throws
    {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            let midnight = try Midnight()
            defer { try? midnight.log.close() }
            let configuration = try makeTables(port, "buckets")
            try Self.set(configuration, Midnight.wide, midnight.day, 5)
            let store = try CassandraStore(configuration, time: SystemClock())
            defer { try? store.close() }
            try midnight.store(into: store)
            let keys = try partitions(configuration, "WIDE", "PLAIN")
            #expect(Set(keys) == midnight.partitions && keys.count == midnight.partitions.count)
            #expect(keys.count { $0.contains(" 50") } == 18 && keys.count == 18 + 2 + 4)
            try Self.expectRead(store, midnight)
            let before = try midnight.audit(store).compare()
            #expect(before.isEqual && before.bucketCount == keys.count, "\(before.total)")
            #expect(before.total.matching == 1080 && before.total.logDigest == before.total.storeDigest)
            let moved = try Self.spoil(store, midnight)
            let outcome = try RepairRun(midnight.audit(store), wallNs: { SystemClock().wallNs() }).run { found in
                #expect(found.total.different == 40 && found.total.missing == 40 + moved, "\(found.total)")
                #expect(found.total.wrongKey == moved)
                // Named by their range.
                let text = AuditText.table(found).joined(separator: "\n")
                let date = CivilTime.date(day: midnight.day)
                #expect(text.contains("differs: XNAS|WIDE \(date) 00:05-00:10\n"), "\(text)")
                #expect(text.contains("differs: XNAS|PLAIN \(date) 00h\n"), "\(text)")
                return true
            }
            #expect(outcome.repaired.written == 80 + moved && outcome.repaired.removed == moved)
            #expect(outcome.after?.isEqual == true && outcome.rounds == 1)
            try Self.expectRead(store, midnight)
            let last = try #require(midnight.rows[Midnight.wide]?.last)
            #expect(try store.latest(Midnight.wide)?.update == last.update)
            // A replay into empty tables, and one more over what is there then.
            try query(configuration, "TRUNCATE buckets.tick_data", "TRUNCATE buckets.tick_partitions")
            for _ in 0..<2 {
                #expect(try TapeReplay(midnight.log, RepairSelection()).run(into: store).replayed == 1080)
                let found = try partitions(configuration, "WIDE", "PLAIN")
                #expect(Set(found) == midnight.partitions && found.count == keys.count)
                try Self.expectRead(store, midnight)
            }
        }
    }

    /// All rows, and ranges that begin and end at and beside the change.
    private static func expectRead(_ store: CassandraStore, _ midnight: Midnight) throws {
        let midnightNs = midnight.day * dayNs
        let spans: [(Int64, Int64)] = [
            (.min, .max), (midnightNs - minuteNs, midnightNs + 7 * minuteNs), (midnightNs, midnightNs + 1),
            (midnightNs - 1, midnightNs), (midnightNs + 5 * minuteNs, midnightNs + 10 * minuteNs),
            (midnightNs - 80 * minuteNs, midnightNs - 1), (.min, midnightNs), (midnightNs, .max),
        ]
        for (instrument, rows) in midnight.rows {
            for (from, to) in spans {
                let wanted = rows.filter { $0.filingTimeNs >= from && $0.filingTimeNs < to }.map(\.update)
                #expect(try frames(store, instrument, from, to) == wanted, "\(instrument) \(from) \(to)")
            }
        }
    }

    /// Of both instruments after midnight: 20 rows altered, 20 deleted, and some moved into the bucket before; of the
    /// one with buckets of 5 minutes all rows of ten minutes, into the hour's bucket of a writer that knows no width.
    private static func spoil(_ store: CassandraStore, _ midnight: Midnight) throws -> Int {
        let stamp = RepairStamp(generation: 2)
        let feed = try #require(store.feedNumbers()[Array("main".utf8)])
        var moved = 0
        for (instrument, rows) in midnight.rows {
            let after = rows.filter { $0.filingTimeNs >= midnight.day * dayNs }
            func key(_ row: RepairedRow) throws -> TickRowIdentity {
                try TickRowIdentity(
                    filingTimeNs: row.filingTimeNs, epoch: row.epoch, sequence: row.sequence, feedNumber: feed)
            }
            func place(_ row: RepairedRow) throws -> StoredBucket {
                let number = midnight.number(instrument, row.filingTimeNs)
                return StoredBucket(instrument, try #require(TickBucket(day: midnight.day, number: number)))
            }
            for row in after[..<20] {
                var other = row
                other.update[other.update.count - 1] ^= 1
                try store.rewrite([other], in: place(row), stamp)
            }
            for row in after[20..<40] { try store.remove([key(row)], from: place(row), stamp) }
            for row in after[60..<90] {
                let wrong =
                    instrument == Midnight.wide
                    ? TickBucket(of: row.filingTimeNs) : TickBucket(of: row.filingTimeNs - 60 * minuteNs)
                try store.remove([key(row)], from: place(row), stamp)
                try store.rewrite([row], in: StoredBucket(instrument, wrong), stamp)
                moved += 1
            }
        }
        return moved
    }

    @Test func `Scans and last ticks are those of the embedded store, whatever the widths`() async throws {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            var random = SeededRandom(seed: 2)
            let folder = try TemporaryFolder()
            let rocks = try RocksStore(directory: folder.path + "/store", time: SystemClock())
            let configuration = try makeTables(port, "buckets_same")
            for instrument in StoreWorld.instruments {
                for day in today() - 1...today() {
                    let width = BucketWidth.all.randomElement(using: &random) ?? .hour
                    try Self.set(configuration, instrument, day, width.minutes)
                }
            }
            var world = StoreWorld(seed: 2)
            let store = try CassandraStore(configuration, time: SystemClock())
            for _ in 0..<6 {
                let rows = world.rows(300)
                _ = try rocks.apply(rows, through: world.nextOffset, of: StoreWorld.place)
                _ = try store.apply(rows, through: world.nextOffset, of: StoreWorld.place)
            }
            try StoreTests.expectSame(store, rocks)
            try store.close()
            let reader = try CassandraStore(configuration, time: SystemClock())
            try StoreTests.expectSame(reader, rocks)
            try reader.close()
            try rocks.close()
        }
    }

    /// The machine's clocks, of which the monotonic one runs ahead at will.
    private final class FastClock: TimeSource {
        let aheadNs = Atomic<Int64>(0)
        func wallNs() -> Int64 { SystemClock().wallNs() }
        func monotonicNs() -> Int64 { SystemClock().monotonicNs() + aheadNs.load(ordering: .relaxed) }
        func sleep(ns: Int64) { SystemClock().sleep(ns: ns) }
    }

    private static func tick(_ timeNs: Int64, _ offset: UInt64) -> TickRows {
        var tick = Tick(kind: .trade, receivedTimeNs: timeNs, publishTimeNs: timeNs, epoch: 1, sequence: offset + 1)
        tick.last = 1_000_000_000
        let encoder = TickEncoder(exchange: "XNAS", symbol: "FAR", feed: "main")
        let update = [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
            count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
        }
        let builder = BlockBuilder(Midnight.place)
        let key = builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: "FAR", feed: "main"))
        update.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: offset + 1, payload: $0) }
        let block = builder.build()
        block.stamp(firstOffset: offset, appendTimeNs: SystemClock().wallNs()) { _ in Block.noOffset }
        var rows = TickRows()
        rows.blocks = [block]
        rows.rows = [
            TickRows.Row(block: 0, record: 0, filingTimeNs: timeNs, tradePrice: tick.last, tradeSize: 0)
        ]
        return rows
    }

    @Test func `A writer that cannot read the widths files no row of a date that they may have been set for`()
        async throws
    {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            var configuration = try makeTables(port, "buckets")
            // Of no other test.
            configuration.log = "unread"
            let clock = FastClock()
            let store = try CassandraStore(configuration, time: clock)
            defer { try? store.close() }
            try query(configuration, "DROP TABLE buckets.bucket_widths")
            clock.aheadNs.store(10 * minuteNs, ordering: .relaxed)
            let startNs = today() * dayNs
            // Of two days, if midnight passes meanwhile.
            _ = try store.apply(Self.tick(startNs + dayNs, 0), through: 1, of: Midnight.place)
            let far = Self.tick(startNs + 3 * dayNs + 61 * minuteNs, 1)
            let error = #expect(throws: StoreError.self) { try store.apply(far, through: 2, of: Midnight.place) }
            #expect(error?.code == .bucketWidthUnknown && error?.retryable == true, "\(error!)")
            #expect(try store.nextOffset(Midnight.place) == 1 && store.flush(Midnight.place) == 1)
            #expect(try store.counters.rows == 1 && partitions(configuration, "FAR").count == 1)
            _ = try SchemaTool(configuration, replication: nil).apply()
            try Self.set(configuration, Instrument(exchange: "XNAS", symbol: "FAR"), today() + 2, 15)
            _ = try store.apply(far, through: 2, of: Midnight.place)
            #expect(try store.flush(Midnight.place) == 2)
            let date = CivilTime.date(day: floorDivide(startNs, by: dayNs) + 3)
            #expect(try partitions(configuration, "FAR").contains("FAR \(date) 150060"))
        }
    }

    @Test func `A row of the table that says no width is named`() async throws {
        let port = try await SharedCassandra.shared.node().port
        try await onThread {
            let configuration = try makeTables(port, "buckets")
            try Self.set(configuration, Midnight.plain, 20_000, 7)
            let error = #expect(throws: StoreError.self) { try CassandraStore(configuration, time: SystemClock()) }
            try query(configuration, "TRUNCATE buckets.bucket_widths")
            #expect(error?.code == .damaged)
            #expect(
                error?.message == "bucket_widths of keyspace buckets has a row of 'XNAS' 'PLAIN' from '2024-10-04' "
                    + "with 7 minutes, which is no width; delete it with cqlsh")
        }
    }

    // MARK: The command

    @Test func `Widths are set from a date that is far enough away, and listed`() async throws {
        let port = try await SharedCassandra.shared.node().port
        let configuration = try await onThread {
            let configuration = try makeTables(port, "buckets")
            try query(configuration, "TRUNCATE buckets.bucket_widths")
            return configuration
        }
        func buckets(_ words: String...) async throws -> (status: Int32, output: String) {
            try await EngineProcess.run(
                [PlatformTests.program, "buckets"] + words
                    + ["--contact-points", "127.0.0.1:\(port)", "--keyspace", "buckets"])
        }
        let empty = try await buckets("list")
        #expect(empty.status == 0 && empty.output == "no width was set: buckets are an hour\n")
        let before = BucketWidthTable.firstDay(nowNs: SystemClock().wallNs())
        let made = try await buckets("set", "AAPL", "MSFT", "--exchange", "XNAS", "--minutes", "10")
        // Eleven in the evening may pass meanwhile.
        let first = try #require(
            [before, before + 1].map { CivilTime.date(day: $0) }.first { made.output.contains($0) }, "\(made.output)")
        #expect(made.status == 0)
        #expect(
            made.output == "XNAS|AAPL: buckets are 10 minutes from \(first) on\n"
                + "XNAS|MSFT: buckets are 10 minutes from \(first) on\n")
        let far = CivilTime.date(day: before + 30)
        let json = try await buckets("set", "AAPL", "--exchange", "XNAS", "--minutes", "60", "--from", far, "--json")
        let object = "{\"exchange\":\"XNAS\",\"symbol\":\"AAPL\",\"trade_date\":\"\(far)\",\"minutes\":60"
        #expect(json.status == 0 && json.output == object + "}\n", "\(json.output)")
        try await onThread { try Self.set(configuration, Midnight.wide, today() - 3, 15) }
        try await onThread { try Self.set(configuration, Midnight.wide, today() - 1, 5) }
        let list = try await buckets("list")
        #expect(
            list.output == "XNAS|AAPL from \(first) on: 10 minutes, not yet in force\n"
                + "XNAS|AAPL from \(far) on: an hour, not yet in force\n"
                + "XNAS|MSFT from \(first) on: 10 minutes, not yet in force\n"
                + "XNAS|WIDE from \(CivilTime.date(day: today() - 3)) on: 15 minutes, over\n"
                + "XNAS|WIDE from \(CivilTime.date(day: today() - 1)) on: 5 minutes, in force\n", "\(list.output)")
        let some = try await buckets("list", "AAPL", "--json")
        #expect(some.output.split(separator: "\n").last.map(String.init) == object + ",\"state\":\"pending\"}")
        // In place of what was set for the date.
        #expect(try await buckets("set", "MSFT", "--exchange", "XNAS", "--minutes", "2", "--from", far).status == 0)
        #expect(try await buckets("set", "MSFT", "--exchange", "XNAS", "--minutes", "3", "--from", far).status == 0)
        #expect(try await buckets("list", "MSFT").output.contains("MSFT from \(far) on: 3 minutes"))
        try await Self.expectRefused(buckets, configuration, first: first)
    }

    private static func expectRefused(
        _ buckets: (String...) async throws -> (status: Int32, output: String),
        _ configuration: CassandraStoreConfiguration, first: String
    ) async throws {
        let tomorrow = CivilTime.date(day: today() + 1)
        let soon = try await buckets("set", "IBM", "--exchange", "XNAS", "--minutes", "5", "--from", tomorrow)
        #expect(
            soon.status == 1
                && soon.output.contains(
                    "XNAS|IBM: no width can begin at \(tomorrow) any more: writers have to know it a day and an hour "
                        + "before, as they may file ticks of it; the first date is "),
            "\(soon.output)")
        let seven = try await buckets("set", "IBM", "--exchange", "XNAS", "--minutes", "7")
        #expect(seven.status == 2 && seven.output.contains("one of 1, 2, 3, 4, 5, 6, 10"), "\(seven.output)")
        let time = try await buckets(
            "set", "IBM", "--exchange", "XNAS", "--minutes", "5", "--from", first + "T09:00:00Z")
        #expect(time.status == 1 && time.output.contains("a width begins with a trade date"), "\(time.output)")
        let nobody = try await buckets("set", "--exchange", "XNAS", "--minutes", "5")
        #expect(nobody.status == 1 && nobody.output.contains("say which instruments"), "\(nobody.output)")
        let word = try await buckets("get")
        #expect(word.status == 1 && word.output.contains("it knows list and set"), "\(word.output)")
        let late = CivilTime.date(day: today() + 40)
        try await onThread {
            try query(
                configuration,
                "INSERT INTO buckets.tick_partitions (exchange, symbol, trade_date, bucket) "
                    + "VALUES ('XNAS', 'IBM', '\(late)', 3)")
        }
        let rows = try await buckets("set", "IBM", "--exchange", "XNAS", "--minutes", "5")
        #expect(rows.status == 1 && rows.output.contains("XNAS|IBM: there are rows of \(late)"), "\(rows.output)")
        let after = CivilTime.date(day: today() + 41)
        #expect(try await buckets("set", "IBM", "--exchange", "XNAS", "--minutes", "5", "--from", after).status == 0)
        #expect(try await buckets("list", "IBM").output == "XNAS|IBM from \(after) on: 5 minutes, not yet in force\n")
        try await onThread {
            try query(configuration, "DELETE FROM buckets.schema_versions WHERE scope = 'tapedeck'")
        }
        let old = try await buckets("list")
        #expect(old.status == 1 && old.output.contains("`tapedeck schema apply` brings it up to date"), "\(old.output)")
    }
}
