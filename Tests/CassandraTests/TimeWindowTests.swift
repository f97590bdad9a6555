import CassandraCQL
import EventLog
import MarketModel
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import CassandraStore

/// Ticks in Cassandra's time windows, of a minute in place of an hour: they are filed minutes ago, and so are their
/// write times. The short form ends with closed windows; the long one waits for rows to end.
@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(8)))
struct TimeWindowTests {
    private static let keyspace = "windows"
    private static let place = TopicPartition(.ticksRaw, 0)
    private static let minuteNs: Int64 = 60_000_000_000
    private static let rowsPerWindow = 200
    /// The first window's rows end so long after the test's beginning: what comes before takes half of that.
    private static let waitNs: Int64 = 140_000_000_000

    /// Ticks of all windows, by their minutes.
    private struct Market {
        let windows: Int
        /// Where the first window begins, and how long rows live from when their window began.
        let startNs: Int64
        let lifetimeSeconds: Int64

        /// The minutes before now.
        init(windows: Int, nowNs: Int64) {
            self.windows = windows
            startNs = floorDivide(nowNs, by: minuteNs) * minuteNs - Int64(windows) * minuteNs
            lifetimeSeconds = (nowNs - startNs + waitNs) / 1_000_000_000
        }

        /// When the first window's rows end.
        var endNs: Int64 { startNs + lifetimeSeconds * 1_000_000_000 }

        func updates(_ window: Int) -> [(sequence: UInt64, timeNs: Int64)] {
            (0..<rowsPerWindow).map { index in
                (
                    UInt64(window * rowsPerWindow + index + 1),
                    startNs + Int64(window) * minuteNs + Int64(index) * (minuteNs / Int64(rowsPerWindow))
                )
            }
        }

        /// Rows of some of a window's ticks of two symbols: one that has all windows, and the window's own.
        func rows(_ window: Int, _ part: Range<Int>, offset: UInt64) -> TickRows {
            var result = TickRows()
            let builder = BlockBuilder(place)
            for symbol in ["ALL", "W\(window)"] {
                let key = builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: symbol, feed: "main"))
                for (sequence, timeNs) in updates(window)[part] {
                    let bytes = Market.bytes(symbol, sequence, timeNs)
                    result.rows.append(
                        TickRows.Row(
                            block: 0, record: Int32(builder.recordCount), filingTimeNs: timeNs,
                            tradePrice: 1_000_000_000, tradeSize: 100_000_000))
                    bytes.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: sequence, payload: $0) }
                }
            }
            let block = builder.build()
            // As live ticks are: appended when they were filed.
            block.stamp(firstOffset: offset, appendTimeNs: startNs + Int64(window) * minuteNs) { _ in Block.noOffset }
            result.blocks = [block]
            return result
        }

        static func bytes(_ symbol: String, _ sequence: UInt64, _ timeNs: Int64) -> [UInt8] {
            let encoder = TickEncoder(exchange: "XNAS", symbol: symbol, feed: "main")
            var tick = Tick(kind: .trade, receivedTimeNs: timeNs, publishTimeNs: timeNs, epoch: 1, sequence: sequence)
            tick.last = 1_000_000_000
            tick.lastSize = 100_000_000
            var bytes = [UInt8](repeating: 0, count: encoder.lengthMax)
            let length = bytes.withUnsafeMutableBytes { encoder.encode(tick, into: $0) }
            return Array(bytes[..<length])
        }
    }

    private static func configuration(_ node: CassandraNode, _ market: Market, log: String)
        -> CassandraStoreConfiguration
    {
        var configuration = CassandraTests.configuration(node.port, keyspace)
        configuration.log = log
        configuration.timeToLiveSeconds = market.lifetimeSeconds
        return configuration
    }

    /// Writes rows by the store, and has the node write them to files.
    private static func store(
        _ node: CassandraNode, _ market: Market, log: String, _ parts: [(window: Int, part: Range<Int>)]
    ) async throws {
        try await onThread {
            let store = try CassandraStore(configuration(node, market, log: log), time: SystemClock())
            var offset = try store.nextOffset(place) ?? 0
            for (window, part) in parts {
                let rows = market.rows(window, part, offset: offset)
                offset += UInt64(rows.rows.count)
                _ = try store.apply(rows, through: offset, of: place)
            }
            try store.close()
        }
        _ = try await node.nodetool(["flush", keyspace, "tick_data"])
    }

    /// Files of a symbol's rows: what `nodetool getsstables` says of its partitions.
    private static func files(_ node: CassandraNode, _ market: Market, _ window: Int) async throws -> Set<String> {
        let bucket = TickBucket(of: market.startNs + Int64(window) * minuteNs)
        let key = "XNAS:W\(window):\(CivilTime.date(day: bucket.day)):\(bucket.number)"
        let output = try await node.nodetool(["getsstables", keyspace, "tick_data", key])
        return Set(
            output.split(separator: "\n").compactMap { line in
                line.hasSuffix("-Data.db") ? line.split(separator: "/").last.map(String.init) : nil
            })
    }

    private static func waitForFiles(_ node: CassandraNode, _ count: Int) async {
        await until { node.dataFiles(keyspace, "tick_data").count == count }
        #expect(node.dataFiles(keyspace, "tick_data").count == count)
    }

    /// Each window's rows lie in one file, and no two windows in the same.
    private static func expectOneEach(_ node: CassandraNode, _ market: Market) async throws -> [Set<String>] {
        var all: [Set<String>] = []
        for window in 0..<market.windows { all.append(try await files(node, market, window)) }
        #expect(all.allSatisfy { $0.count == 1 } && Set(all).count == market.windows, "\(all)")
        return all
    }

    private static func count(
        _ node: CassandraNode, _ market: Market, _ symbol: String, _ from: Int64 = .min, _ to: Int64 = .max
    ) async throws -> Int {
        try await onThread {
            let store = try CassandraStore(configuration(node, market, log: "count"), time: SystemClock())
            defer { try? store.close() }
            var count = 0
            try store.scan(try Instrument(exchange: "XNAS", symbol: symbol), from: from, to: to) { batch in
                count += batch.count
                return true
            }
            return count
        }
    }

    @Test func `A closed window is one file, a read of four touches four, and a window that ends goes whole`()
        async throws
    {
        let windows = Checkout.isSoak ? 5 : 2
        let node = try await SharedCassandra.shared.node()
        let market = Market(windows: windows, nowNs: SystemClock().wallNs())
        _ = try await onThread { try makeTables(node.port, Self.keyspace) }
        try await node.execute(
            "ALTER TABLE windows.tick_data WITH gc_grace_seconds = 0 AND compaction = "
                + "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'MINUTES', "
                + "'compaction_window_size': '1', 'expired_sstable_check_frequency_seconds': '1'}")
        // Two files of each window, as a memtable is written out twice in it.
        let half = Self.rowsPerWindow / 2
        for window in 0..<windows {
            try await Self.store(node, market, log: "live", [(window, 0..<half)])
            try await Self.store(node, market, log: "live", [(window, half..<Self.rowsPerWindow)])
        }
        try await Self.closeLast(node, market)
        await Self.waitForFiles(node, windows + 1)
        guard Checkout.isSoak else {
            _ = try await Self.expectOneEach(node, market)
            return
        }
        try await Self.expectFourTouched(node, market)
        // Again from the log, by a writer that knows of nothing; and some rows of one window by a repair.
        for window in 0..<windows {
            try await Self.store(node, market, log: "again", [(window, 0..<Self.rowsPerWindow)])
        }
        try await Self.repair(node, market, window: 1)
        await Self.waitForFiles(node, windows + 1)
        let files = try await Self.expectOneEach(node, market)
        // And the one of now.
        #expect(try await Self.count(node, market, "ALL") == windows * Self.rowsPerWindow + 1)
        try await Self.expectEnding(node, market, files)
    }

    /// A row of the minute of now: windows before it are closed by that.
    private static func closeLast(_ node: CassandraNode, _ market: Market) async throws {
        try await store(node, market, log: "now", [(market.windows, 0..<1)])
    }

    /// What a read of four windows opens, as the node traces it. A partition is a window's, as an hour's is of hours.
    private static func expectFourTouched(_ node: CassandraNode, _ market: Market) async throws {
        _ = try await node.nodetool(["settraceprobability", "1"])
        for window in 1...4 { #expect(try await count(node, market, "W\(window)") == rowsPerWindow) }
        _ = try await node.nodetool(["settraceprobability", "0"])
        var touched: [Int] = []
        // Traces are written behind the answer.
        await until {
            touched = (try? await sstablesRead(node)) ?? []
            return touched.count >= 4
        }
        #expect(touched == [1, 1, 1, 1])
    }

    /// How many SSTables each traced read of `tick_data` merged.
    private static func sstablesRead(_ node: CassandraNode) async throws -> [Int] {
        let events = try await node.execute("SELECT session_id, activity FROM system_traces.events")
            .split(separator: "\n").map { $0.split(separator: "\t", omittingEmptySubsequences: false) }
        let reads = Set(
            events.filter { $0.count == 2 && $0[1].contains("single-partition query on tick_data") }.map { $0[0] })
        return events.compactMap { event in
            guard event.count == 2, reads.contains(event[0]), event[1].hasPrefix("Merged data from memtables and ")
            else { return nil }
            return event[1].split(separator: " ").compactMap { Int($0) }.first
        }
    }

    private static func repair(_ node: CassandraNode, _ market: Market, window: Int) async throws {
        try await onThread {
            let store = try CassandraStore(configuration(node, market, log: "repair"), time: SystemClock())
            for symbol in ["ALL", "W\(window)"] {
                let rows = market.updates(window).prefix(20).map { sequence, timeNs in
                    RepairedRow(
                        feed: Array("main".utf8), epoch: 1, sequence: sequence, filingTimeNs: timeNs,
                        appendTimeNs: market.startNs + Int64(window) * minuteNs,
                        update: Market.bytes(symbol, sequence, timeNs))
                }
                let bucket = StoredBucket(
                    try Instrument(exchange: "XNAS", symbol: symbol),
                    TickBucket(of: market.startNs + Int64(window) * minuteNs))
                try store.rewrite(rows, in: bucket, RepairStamp(generation: 1))
            }
            try store.close()
        }
        _ = try await node.nodetool(["flush", keyspace, "tick_data"])
    }

    /// The first window goes with its file, while those of the others are not written again.
    private static func expectEnding(_ node: CassandraNode, _ market: Market, _ files: [Set<String>]) async throws {
        try #require(SystemClock().wallNs() < market.endNs, "what came before took too long here")
        var gone = false
        var sequence = 1
        while !gone, SystemClock().wallNs() < market.endNs + 40_000_000_000 {
            await pause(milliseconds: 1000)
            guard SystemClock().wallNs() > market.endNs else { continue }
            // The node looks for what has ended when something is written out.
            try await store(node, market, log: "now", [(market.windows, sequence..<(sequence + 1))])
            sequence += 1
            let names = Set(node.dataFiles(keyspace, "tick_data").compactMap { $0.split(separator: "/").last })
            gone = files[0].isDisjoint(with: names.map(String.init))
        }
        #expect(gone, "\(node.dataFiles(keyspace, "tick_data"))")
        for window in 1..<market.windows { #expect(try await self.files(node, market, window) == files[window]) }
        #expect(try await self.files(node, market, 0).isEmpty)
        #expect(try await count(node, market, "W0") == 0)
        #expect(try await count(node, market, "W1") == rowsPerWindow)
    }
}
