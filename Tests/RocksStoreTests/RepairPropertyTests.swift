import EventLog
import MarketModel
import Repair
import RocksStore
import SegmentLog
import Simulation
import TestSupport
import Testing
import TickCodec
import TickStore

/// The embedded store, spoiled by seed and put right from the log.
struct RepairPropertyTests {
    private static let place = TopicPartition(.ticksRaw, 0)
    private static let startNs: Int64 = 1_700_000_000_000_000_000

    private struct Stored {
        let bucket: StoredBucket
        let row: RepairedRow
    }

    private static func open(_ seed: UInt64, _ disk: SimulatedDisk? = nil) throws -> SegmentLog {
        var configuration = SegmentLog.Configuration()
        configuration.segmentBytes = 4 << 10
        configuration.tipBytes = 1
        configuration.work = .manual
        configuration.freeBytesMin = 0
        configuration.diskSharePercent = 100
        return try SegmentLog(
            disk: disk ?? SimulatedDisk(seed: seed), time: VirtualTime(), configuration: configuration)
    }

    private static func update(_ instrument: Instrument, _ feed: String, _ tick: Tick) -> [UInt8] {
        let encoder = TickEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed)
        return [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
            count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    /// Ticks of three instruments and two feeds over some hours, in the log and the store; some of them twice.
    private static func fill(
        _ log: SegmentLog, _ store: RocksStore, _ numbers: inout SeededNumbers
    ) throws -> [Stored] {
        var all: [Stored] = []
        var timeNs = startNs
        var sequence: UInt64 = 0
        for _ in 0..<8 {
            let builder = BlockBuilder(place)
            var rows = TickRows()
            for _ in 0..<60 {
                sequence += 1
                timeNs += Int64(numbers.below(120_000)) * 1_000_000
                let instrument = try Instrument(exchange: "X", symbol: "S\(numbers.below(3))")
                let feed = numbers.below(5) == 0 ? "other" : "main"
                var tick = Tick(
                    kind: .trade, receivedTimeNs: timeNs, publishTimeNs: timeNs, epoch: 3, sequence: sequence)
                tick.last = Int64(1 + numbers.below(1_000_000)) * 1_000
                let update = update(instrument, feed, tick)
                let key = builder.register(
                    BlockBuilder.Key(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed))
                for _ in 0..<(numbers.below(10) == 0 ? 2 : 1) {
                    rows.rows.append(
                        TickRows.Row(
                            block: 0, record: Int32(builder.recordCount), filingTimeNs: timeNs, tradePrice: tick.last,
                            tradeSize: 0))
                    update.withUnsafeBytes { builder.append(key: key, epoch: 3, sequence: sequence, payload: $0) }
                }
                all.append(
                    Stored(
                        bucket: StoredBucket(instrument, TickBucket(of: timeNs)),
                        row: RepairedRow(
                            feed: Array(feed.utf8), epoch: 3, sequence: sequence, filingTimeNs: timeNs,
                            appendTimeNs: timeNs, update: update)))
            }
            try log.append([builder.build()], consumed: [])
            try log.sync()
            let offset = try store.nextOffset(place) ?? 0
            guard case .block(let block, _) = try log.readBlocking(place, at: offset, .durable) else {
                Issue.record("no block at \(offset)")
                break
            }
            rows.blocks = [block]
            _ = try store.apply(rows, through: block.endOffset, of: place)
            if numbers.below(3) == 0 { try store.merge(all: true) }
        }
        return all
    }

    private static func rows(_ store: RocksStore) throws -> [String: [[UInt8]]] {
        var rows: [String: [[UInt8]]] = [:]
        for instrument in try store.instruments() {
            try store.scan(instrument, from: .min, to: .max) { batch in
                var position = 0
                while position < batch.frames.count {
                    let length = Int(
                        UInt32(bigEndian: batch.frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
                    rows[instrument.symbol, default: []].append(
                        Array(batch.frames[(position + 5)..<(position + 5 + length)]))
                    position += 5 + length
                }
                return true
            }
        }
        return rows
    }

    @Test(arguments: (1...12).map { UInt64($0) })
    func `Whatever is spoiled is found to the row and put right`(_ seed: UInt64) throws {
        var numbers = SeededNumbers(seed: seed)
        let log = try Self.open(seed)
        defer { try? log.close() }
        let folder = try TemporaryFolder()
        let store = try RocksStore(directory: folder.path + "/store", time: VirtualTime())
        defer { try? store.close() }
        let all = try Self.fill(log, store, &numbers)
        let before = try Self.rows(store)
        let direct = all[7]
        var written = direct.row
        written.feed = Array(directFeed.utf8)
        written.sequence += 5000
        try store.rewrite([written], in: direct.bucket, RepairStamp(generation: 0))

        let feeds = try store.feedNumbers()
        let stamp = RepairStamp(generation: 0)
        var (altered, missing, wrong) = (0, 0, 0)
        for stored in all {
            let number = try #require(feeds[stored.row.feed])
            let key = try TickRowIdentity(
                filingTimeNs: stored.row.filingTimeNs, epoch: 3, sequence: stored.row.sequence, feedNumber: number)
            var other = stored.row
            switch numbers.below(8) {
            case 0:
                other.update[other.update.count - 1] ^= 1
                try store.rewrite([other], in: stored.bucket, stamp)
                altered += 1
            case 1:
                try store.remove([key], from: stored.bucket, stamp)
                missing += 1
            case 2:
                other.sequence += 10_000
                try store.rewrite([other], in: stored.bucket, stamp)
                wrong += 1
            default: break
            }
            if numbers.below(40) == 0 { try store.merge(all: true) }
        }
        let audit = try TapeAudit(
            log: log, store: store, selection: RepairSelection(), wallNs: Self.startNs,
            ticksAtOnceMax: 1 + numbers.below(400))
        let outcome = try RepairRun(audit, wallNs: { Self.startNs }).run { found in
            #expect(found.total.different == altered && found.total.missing == missing, "\(found.total)")
            #expect(found.total.wrongKey == wrong && found.total.direct == 1 && found.total.expired == 0)
            return true
        }
        #expect(outcome.repaired.written == altered + missing && outcome.repaired.removed == wrong)
        #expect(outcome.after?.isEqual == true && outcome.rounds == 1)
        #expect(outcome.after?.total.logDigest == outcome.after?.total.storeDigest)
        let directKey = try TickRowIdentity(
            filingTimeNs: written.filingTimeNs, epoch: 3, sequence: written.sequence, feedNumber: 1)
        try store.remove([directKey], from: direct.bucket, stamp)
        #expect(try Self.rows(store) == before)
        // Nothing is left to do, and nothing is asked.
        let again = try RepairRun(audit, wallNs: { Self.startNs }).run { _ in
            Issue.record("it asks where nothing differs")
            return true
        }
        #expect(again.after == nil && again.before.isEqual)
    }

    @Test func `Rows whose records damage took stay`() throws {
        var numbers = SeededNumbers(seed: 5)
        let disk = SimulatedDisk(seed: 5)
        let log = try Self.open(5, disk)
        defer { try? log.close() }
        let folder = try TemporaryFolder()
        let store = try RocksStore(directory: folder.path + "/store", time: VirtualTime())
        defer { try? store.close() }
        let all = try Self.fill(log, store, &numbers)
        let before = try Self.rows(store)
        let files = try disk.list("").filter { $0.hasPrefix("ticks") }.sorted()
        disk.corrupt(files[files.count / 2]) { $0[$0.count / 2] ^= 0xff }
        let audit = try TapeAudit(log: log, store: store, selection: RepairSelection(), wallNs: Self.startNs)
        let outcome = try RepairRun(audit, wallNs: { Self.startNs }).run { found in
            Issue.record("it would repair \(found.total)")
            return true
        }
        #expect(!outcome.before.damage.isEmpty && !outcome.before.isEqual && outcome.before.total.isEqual)
        #expect(outcome.before.total.expired > 0 && outcome.before.total.matching > 0)
        #expect(outcome.before.total.expired + outcome.before.total.matching == all.count)
        #expect(try Self.rows(store) == before)
    }

    @Test func `A range is compared by filing time, and by instrument`() throws {
        var numbers = SeededNumbers(seed: 99)
        let log = try Self.open(99)
        defer { try? log.close() }
        let folder = try TemporaryFolder()
        let store = try RocksStore(directory: folder.path + "/store", time: VirtualTime())
        defer { try? store.close() }
        let all = try Self.fill(log, store, &numbers)
        let (from, to) = (all[100].row.filingTimeNs / 100 * 100, all[300].row.filingTimeNs / 100 * 100)
        let inside = all.filter { $0.row.filingTimeNs >= from && $0.row.filingTimeNs < to }
        let victim = try #require(inside.first { $0.bucket.instrument.symbol == "S1" })
        let number = try #require(store.feedNumbers()[victim.row.feed])
        let key = try TickRowIdentity(
            filingTimeNs: victim.row.filingTimeNs, epoch: 3, sequence: victim.row.sequence, feedNumber: number)
        try store.remove([key], from: victim.bucket, RepairStamp(generation: 0))
        func compare(_ selection: RepairSelection) throws -> AuditResult {
            try TapeAudit(log: log, store: store, selection: selection, wallNs: Self.startNs).compare()
        }
        let range = try compare(RepairSelection(fromNs: from, toNs: to))
        #expect(range.total.logTicks == inside.count && range.total.missing == 1, "\(range.total)")
        #expect(range.differing == [victim.bucket])
        #expect(try compare(RepairSelection(symbols: ["S1"], fromNs: from, toNs: to)).total.missing == 1)
        #expect(try compare(RepairSelection(symbols: ["S0", "S2"])).isEqual)
        #expect(try compare(RepairSelection(exchange: "Y")).total.logTicks == 0)
        #expect(try compare(RepairSelection(toNs: from)).isEqual)
        #expect(try compare(RepairSelection(fromNs: to)).isEqual)
    }
}
