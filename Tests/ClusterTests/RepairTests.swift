import CQLFrames
import CassandraCQL
import CassandraStore
import EventLog
import EventLoop
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketModel
import Repair
import RocksStore
import Simulation
import TestSupport
import Testing
import TickCodec
import TickStore
import WriterService

/// What was appended: the ticks of a market, filed within less than an hour before now.
private struct Market {
    static let minuteNs: Int64 = 60_000_000_000

    struct Appended: Hashable {
        let instrument: Instrument
        let sequence: UInt64
        let filingTimeNs: Int64
        let update: [UInt8]
    }

    let fromNs: Int64
    private(set) var appended: [Appended] = []

    /// A tick of each instrument every `stepNs` of `minutes`, some of them twice, in a few blocks.
    init(_ log: any EventLog, minutes: Int, stepNs: Int64, symbols: Int = 6, epoch: UInt64 = 8) throws {
        fromNs = RealTime().wallNs() / Market.minuteNs * Market.minuteNs - Int64(minutes + 5) * Market.minuteNs
        let instruments = try (0..<symbols).map { try Instrument(exchange: "SIMX", symbol: "SYM\($0)") }
        let steps = Int64(minutes) * Market.minuteNs / stepNs
        for start in stride(from: 0, to: steps, by: 200) {
            var builders: [UInt16: BlockBuilder] = [:]
            for instrument in instruments {
                let (exchange, symbol) = (instrument.exchange, instrument.symbol)
                let partition = log.partition(of: .ticksRaw, exchange: exchange, symbol: symbol)
                let builder = builders[partition] ?? BlockBuilder(TopicPartition(.ticksRaw, partition))
                builders[partition] = builder
                let key = builder.register(BlockBuilder.Key(exchange: exchange, symbol: symbol, feed: "main"))
                for step in start..<min(start + 200, steps) {
                    let tick = tick(instrument, step, stepNs, epoch)
                    // Spilled ticks may come twice.
                    for _ in 0..<(step % 50 == 7 ? 2 : 1) {
                        tick.update.withUnsafeBytes {
                            builder.append(key: key, epoch: epoch, sequence: tick.sequence, payload: $0)
                        }
                    }
                    appended.append(tick)
                }
            }
            try log.append(builders.sorted { $0.key < $1.key }.map { $0.value.build() }, consumed: [])
        }
        try log.sync()
    }

    private func tick(
        _ instrument: Instrument, _ step: Int64, _ stepNs: Int64, _ epoch: UInt64
    ) -> Appended {
        let sequence = UInt64(step + 1)
        var tick = Tick(
            kind: step % 3 == 0 ? .trade : .quote, receivedTimeNs: fromNs + step * stepNs + 5_000,
            publishTimeNs: fromNs + step * stepNs + 6_000, epoch: epoch, sequence: sequence)
        tick.eventTimeNs = fromNs + step * stepNs
        if step % 3 == 0 {
            tick.last = 100_000_000_000 + step * 1_000_000
            tick.lastSize = 500_000_000
        } else {
            tick.bid = 100_000_000_000 + step * 1_000_000
            tick.ask = 100_010_000_000 + step * 1_000_000
        }
        var update = encoded(tick, instrument)
        // conditions = 27: what no column gives back byte for byte.
        if step % 40 == 3 { update += [0xda, 0x01, 0x02, 0x46, 0x49] }
        return Appended(
            instrument: instrument, sequence: sequence, filingTimeNs: fromNs + step * stepNs, update: update)
    }

    func ticks(_ from: Int64, _ to: Int64) -> [Appended] {
        appended.filter { $0.filingTimeNs >= fromNs + from && $0.filingTimeNs < fromNs + to }
    }
}

private func encoded(_ tick: Tick, _ instrument: Instrument) -> [UInt8] {
    let encoder = TickEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: "main")
    return [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
        count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
    }
}

/// Stores everything that the log has.
private func write(_ log: any EventLog, into store: any TickStore) throws {
    let ends = (0..<log.partitionCount(.ticksRaw)).map { number in
        let place = TopicPartition(.ticksRaw, UInt16(number))
        return (place: place, end: log.endOffset(place, .durable))
    }
    let writer = WriterService(log: log, store: store, time: RealTime()) { Issue.record("\($0)") }
    let ended = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
        do { try writer.run() } catch { Issue.record("\(error)") }
        ended.signal()
    }
    #expect(
        try holds { try ends.allSatisfy { place, end in try end == 0 || store.nextOffset(place) ?? 0 >= end } })
    writer.stop()
    ended.wait()
}

extension Market.Appended {
    func row(sequence: UInt64? = nil, feed: String = "main", update: [UInt8]? = nil) -> RepairedRow {
        RepairedRow(
            feed: Array(feed.utf8), epoch: 8, sequence: sequence ?? self.sequence, filingTimeNs: filingTimeNs,
            appendTimeNs: RealTime().wallNs(), update: update ?? self.update)
    }

    var bucket: StoredBucket { StoredBucket(instrument, TickBucket(of: filingTimeNs)) }

    func key(_ store: any RepairableStore) throws -> TickRowIdentity {
        let number = try #require(store.feedNumbers()[Array("main".utf8)])
        return try TickRowIdentity(
            filingTimeNs: filingTimeNs, epoch: 8, sequence: sequence, feedNumber: number)
    }
}

/// What a writer with a bug did to 15 minutes: of each instrument, every fourth row has another price, every fifth is
/// missing, every seventh lies under a sequence that it has not, some in another hour too.
private struct Corruption {
    var altered = 0
    var missing = 0
    var moved = 0

    init(_ market: Market, _ store: any RepairableStore, _ stamp: RepairStamp) throws {
        for tick in market.ticks(10 * Market.minuteNs, 25 * Market.minuteNs) {
            let key = try tick.key(store)
            if tick.sequence % 4 == 0 {
                var other = try tick.update.withUnsafeBytes { try TickReader($0).tick() }
                other.last = 1
                other.bid = nil
                other.ask = 7_000_000_000
                try store.rewrite([tick.row(update: encoded(other, tick.instrument))], in: tick.bucket, stamp)
                altered += 1
            } else if tick.sequence % 5 == 0 {
                try store.remove([key], from: tick.bucket, stamp)
                missing += 1
            } else if tick.sequence % 7 == 0 {
                try store.remove([key], from: tick.bucket, stamp)
                try store.rewrite([tick.row(sequence: tick.sequence + 1_000_000)], in: tick.bucket, stamp)
                moved += 1
            }
        }
    }
}

private func openStore(_ node: CassandraNode, _ keyspace: String, _ log: any EventLog) throws -> CassandraStore {
    var configuration = CassandraStoreConfiguration(
        contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
    configuration.keyspace = keyspace
    configuration.limits.openMilliseconds = 30_000
    configuration.log = String(log.identity.id, radix: 16)
    _ = try SchemaTool(configuration, replication: nil).apply()
    return try CassandraStore(configuration, time: RealTime())
}

/// All rows of all instruments, as a reader gets them.
private func storedRows(_ store: any TickStore, _ market: Market) throws -> [[UInt8]] {
    var rows: [[UInt8]] = []
    for instrument in Set(market.appended.map(\.instrument)).sorted() {
        try store.scan(instrument, from: .min, to: .max) { batch in
            rows += frames(batch.frames).map { Array($0) }
            return true
        }
    }
    return rows
}

/// A time of the command line.
private func utc(_ ns: Int64) -> String {
    let formatter = ISO8601DateFormatter()
    return formatter.string(from: Date(timeIntervalSince1970: Double(ns) / 1e9))
}

extension ClusterTests {
    @Suite(.serialized, .timeLimit(.minutes(5))) struct RepairTests {
        private static func audit(
            _ log: any EventLog, _ store: any RepairableStore, _ selection: RepairSelection = RepairSelection(),
            ticksAtOnceMax: Int = 1_000_000
        ) throws -> TapeAudit {
            try TapeAudit(
                log: log, store: store, selection: selection, wallNs: RealTime().wallNs(),
                ticksAtOnceMax: ticksAtOnceMax)
        }

        /// A tape that a writer stored, rows that are in no log, and what the writer with a bug did then.
        private static func spoil(_ node: CassandraNode) throws -> (Tape, Market, Corruption) {
            let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 3)
            let log = try tape.open()
            defer { try? log.close() }
            let market = try Market(log, minutes: 40, stepNs: 3_000_000_000)
            let store = try openStore(node, "repair_15", log)
            defer { try? store.close() }
            try write(log, into: store)
            // What somebody wrote by WriteTick, which is in no log.
            let direct = market.appended[100]
            try store.rewrite(
                [direct.row(sequence: 9_999, feed: directFeed)], in: direct.bucket, RepairStamp(generation: 0))
            // And what another log brought.
            try store.rewrite(
                [direct.row(sequence: 8_888, feed: "elsewhere")], in: direct.bucket, RepairStamp(generation: 0))
            let clean = try audit(log, store).compare()
            #expect(clean.isEqual && clean.total.direct == 1 && clean.total.pending == 0, "\(clean.total)")
            #expect(clean.total.foreign == 1 && clean.total.storeRows == market.appended.count + 2)
            #expect(clean.total.matching == market.appended.count && clean.total.logRepeats > 0)
            #expect(clean.total.logDigest == clean.total.storeDigest)
            let corruption = try Corruption(market, store, RepairStamp(generation: 3))
            #expect(corruption.altered > 100 && corruption.missing > 100 && corruption.moved > 50)
            return (tape, market, corruption)
        }

        @Test func `A writer corrupted 15 minutes: found, repaired, equal, and no second set of rows`() async throws {
            let node = try await SharedCassandra.shared.node()
            let (tape, market, corruption) = try await apart { try Self.spoil(node) }
            let (fromNs, toNs) = (market.fromNs + 10 * Market.minuteNs, market.fromNs + 25 * Market.minuteNs)
            let command =
                [
                    "--brokers", tape.broker.brokers, "--topic-prefix", tape.configuration.prefix, "--store",
                    "cassandra",
                    "--contact-points", "127.0.0.1:\(node.port)", "--keyspace", "repair_15", "--from", utc(fromNs),
                    "--to",
                    utc(toNs),
                ]
            let verify = try await EngineProcess.run([Program.path, "verify"] + command)
            #expect(verify.status == 1 && verify.output.contains("log and store differ"), "\(verify.output)")
            let unasked = try await EngineProcess.run([Program.path, "repair", "--dry-run"] + command)
            #expect(unasked.status == 1 && unasked.output.contains("nothing was changed"), "\(unasked.output)")
            try await apart {
                let log = try tape.open()
                defer { try? log.close() }
                let store = try openStore(node, "repair_15", log)
                defer { try? store.close() }
                var listed: [AuditDifference.Kind: Int] = [:]
                // Of few ticks at once: several slices.
                let audit = try Self.audit(log, store, ticksAtOnceMax: 500)
                let found = try audit.compare(
                    TapeAudit.Listener(difference: { listed[$0.kind, default: 0] += 1 }))
                #expect(found.total.different == corruption.altered)
                #expect(found.total.missing == corruption.missing + corruption.moved)
                #expect(found.total.wrongKey == corruption.moved && found.total.expired == 0)
                #expect(
                    listed == [
                        .different: corruption.altered, .missing: corruption.missing + corruption.moved,
                        .wrongKey: corruption.moved,
                    ])
                #expect(found.total.logDigest != found.total.storeDigest && found.leadMicroseconds == 3)
            }
            let repair = try await EngineProcess.run([Program.path, "repair", "--yes", "--json"] + command)
            #expect(repair.status == 0, "\(repair.output)")
            let written = corruption.altered + corruption.missing + corruption.moved
            #expect(
                repair.output.contains(
                    "\"written\":\(written),\"deleted\":\(corruption.moved),\"rounds\":1,\"generation_us\":4"),
                "\(repair.output.suffix(2000))")
            #expect(
                repair.output.split(separator: "\n").count { $0.contains("\"row\":\"wrong key\"") } == corruption.moved)
            let after = try await EngineProcess.run([Program.path, "verify"] + command)
            #expect(after.status == 0 && after.output.contains("log and store agree"), "\(after.output)")
            let again = try await EngineProcess.run([Program.path, "repair"] + command)
            #expect(again.status == 0 && !again.output.contains("rows written"), "\(again.output)")
            #expect(try await Self.rowCount(node, "repair_15") == market.appended.count + 2)
            try await apart { try Self.expectRepaired(tape, market, node) }
        }

        /// As Cassandra itself counts.
        private static func rowCount(_ node: CassandraNode, _ keyspace: String) async throws -> Int? {
            let loop = EventLoop(name: "count")
            defer { loop.stop() }
            let session = try await CassandraSession.open(
                CQLSessionOptions(contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)]), on: loop)
            let rows = try await session.query("SELECT count(*) FROM \(keyspace).tick_data").values()
            await session.closeAndWait()
            return rows.first?.first?.integer.map { Int($0) }
        }

        /// Log and store agree, and readers get every tick once, byte for byte.
        private static func expectRepaired(_ tape: Tape, _ market: Market, _ node: CassandraNode) throws {
            let log = try tape.open()
            defer { try? log.close() }
            let store = try openStore(node, "repair_15", log)
            defer { try? store.close() }
            let result = try audit(log, store).compare()
            #expect(result.isEqual && result.total.direct == 1 && result.total.foreign == 1)
            #expect(result.total.logDigest == result.total.storeDigest)
            // One tick has rows of other feeds with the same bytes beside its own.
            let twice = market.appended[100].update
            let stored = try storedRows(store, market).filter { $0 != twice }
            let wanted = market.appended.map(\.update).filter { $0 != twice }
            #expect(Set(stored) == Set(wanted) && stored.count == wanted.count)
        }

        @Test func `A deletion that is younger than the rows is written over too`() async throws {
            let node = try await SharedCassandra.shared.node()
            let tape = try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter])
                let log = try tape.open()
                defer { try? log.close() }
                _ = try Market(log, minutes: 2, stepNs: 1_000_000_000, symbols: 1)
                let store = try openStore(node, "repair_young", log)
                defer { try? store.close() }
                try write(log, into: store)
                return tape
            }
            // By hand: with the time of now.
            let rows = try await node.execute(
                "SELECT exchange, symbol, trade_date, bucket FROM repair_young.tick_partitions")
            let words = try #require(rows.split(separator: "\n").last).split(separator: "\t").map(String.init)
            try #require(words.count == 4, "\(rows)")
            try await node.execute(
                "DELETE FROM repair_young.tick_data WHERE exchange = '\(words[0])' AND symbol = '\(words[1])' "
                    + "AND trade_date = '\(words[2])' AND bucket = \(words[3])")
            try await apart {
                let log = try tape.open()
                defer { try? log.close() }
                let store = try openStore(node, "repair_young", log)
                defer { try? store.close() }
                let outcome = try RepairRun(Self.audit(log, store), wallNs: { RealTime().wallNs() }).run { _ in true }
                #expect(outcome.before.total.missing > 0)
                #expect(
                    outcome.rounds == 2 && outcome.after?.isEqual == true, "\(String(describing: outcome.after?.total))"
                )
            }
        }

        @Test func `What is appended and stored while log and store are compared is no row too many`() async throws {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                let market = try Market(log, minutes: 2, stepNs: 1_000_000_000, symbols: 3)
                let store = try openStore(node, "repair_live", log)
                defer { try? store.close() }
                try write(log, into: store)
                // The platform goes on once the log has been read, before each comparison.
                var later = 0
                func goOn() {
                    guard later < 40 else { return }
                    later += 20
                    do {
                        let more = try Market(log, minutes: 1, stepNs: 3_000_000_000, symbols: 3, epoch: UInt64(later))
                        #expect(more.appended.count == 60)
                        try write(log, into: store)
                    } catch {
                        Issue.record("\(error)")
                    }
                }
                let audit = try TapeAudit(
                    log: log, store: store, selection: RepairSelection(), wallNs: RealTime().wallNs(),
                    progress: { what, _, _ in if what.hasPrefix("comparing: buckets") { goOn() } })
                let live = try audit.compare()
                #expect(live.isEqual && live.total.matching == market.appended.count, "\(live.total)")
                #expect(live.total.wrongKey == 0 && live.total.storeRows == market.appended.count)
                #expect(later > 0)
                // With a row that no record made, found and removed while the platform goes on.
                let tick = market.appended[7]
                try store.rewrite(
                    [tick.row(sequence: 1_000_007)], in: tick.bucket, RepairStamp(generation: 0))
                later = 0
                let outcome = try RepairRun(audit, wallNs: { RealTime().wallNs() }).run { _ in true }
                #expect(outcome.before.total.wrongKey == 1 && outcome.repaired.removed == 1)
                #expect(outcome.after?.isEqual == true, "\(String(describing: outcome.after?.total))")
                let after = try Self.audit(log, store).compare()
                #expect(after.isEqual && after.total.missing == 0, "\(after.total)")
            }
        }

        @Test func `Rows whose records retention took are neither missing nor too many, and stay`() async throws {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter])
                let log = try tape.open()
                defer { try? log.close() }
                let market = try Market(log, minutes: 5, stepNs: 1_000_000_000, symbols: 2)
                let store = try openStore(node, "repair_gone", log)
                defer { try? store.close() }
                try write(log, into: store)
                try tape.keepTicks(milliseconds: 1000)
                let place = TopicPartition(.ticksRaw, 0)
                let end = try log.offset(of: .latest, in: place)
                #expect(
                    try holds {
                        try log.append([tickBlock(log, symbol: "LATER", from: 1, count: 1)], consumed: [])
                        try log.sync()
                        RealTime().sleep(ns: 200_000_000)
                        return try log.offset(of: .earliest, in: place) >= end
                    })
                let again = try tape.open()
                defer { try? again.close() }
                let selection = RepairSelection(symbols: ["SYM0", "SYM1"])
                let outcome = try RepairRun(Self.audit(again, store, selection), wallNs: { RealTime().wallNs() })
                    .run { _ in true }
                #expect(outcome.before.isEqual && outcome.before.total.expired == market.appended.count)
                #expect(outcome.before.total.missing == 0 && outcome.after == nil)
                #expect(try storedRows(store, market).count == market.appended.count)
            }
        }

        @Test func `The embedded store is held against Kafka and repaired the same way`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                let market = try Market(log, minutes: 40, stepNs: 3_000_000_000, symbols: 3)
                let folder = NSTemporaryDirectory() + "tapedeck-repair-" + UUID().uuidString
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                defer { try? FileManager.default.removeItem(atPath: folder) }
                let store = try RocksStore(directory: folder + "/store", time: RealTime())
                defer { try? store.close() }
                try write(log, into: store)
                let clean = try Self.audit(log, store).compare()
                #expect(clean.isEqual && clean.total.matching == market.appended.count, "\(clean.total)")
                let before = try storedRows(store, market)
                let corruption = try Corruption(market, store, RepairStamp(generation: 0))
                try store.merge(all: true)
                let outcome = try RepairRun(Self.audit(log, store), wallNs: { RealTime().wallNs() }).run { _ in true }
                #expect(outcome.before.total.different == corruption.altered)
                #expect(outcome.before.total.missing == corruption.missing + corruption.moved)
                #expect(outcome.before.total.wrongKey == corruption.moved)
                #expect(outcome.repaired.removed == corruption.moved && outcome.rounds == 1)
                #expect(outcome.after?.isEqual == true)
                #expect(try storedRows(store, market) == before)
            }
        }
    }
}
