import CQLFrames
import CassandraCQL
import Foundation
import TestSupport
import Testing
import TickStore

@testable import CassandraStore

/// Tables as schema 1 had them, statement by statement.
private enum SchemaOne {
    private static let windows =
        "'class': 'TimeWindowCompactionStrategy', 'compaction_window_size': '1', 'compaction_window_unit'"

    static func statements(_ keyspace: String) -> [String] {
        [
            "CREATE KEYSPACE \(keyspace) WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TYPE \(keyspace).tick_detail (event_time_ns bigint, receive_time_ns bigint, "
                + "publish_time_ns bigint, feed_handler_id text, epoch bigint, sequence bigint, kind tinyint, "
                + "venue_sequence bigint, bid_size_micros bigint, ask_size_micros bigint, aggressor_side tinyint, "
                + "trade_id bigint, volume_nano int, bid_nano int, ask_nano int, last_nano int, bid_size_nano int, "
                + "ask_size_nano int, state tinyint)",
            "CREATE TABLE \(keyspace).tick_data (exchange text, symbol text, trade_date text, bucket int, "
                + "tick_time timeuuid, bid_micros bigint, ask_micros bigint, last_micros bigint, volume bigint, "
                + "detail frozen<tick_detail>, update_bytes blob, "
                + "PRIMARY KEY ((exchange, symbol, trade_date, bucket), tick_time)) "
                + "WITH CLUSTERING ORDER BY (tick_time DESC) AND compaction = {\(windows): 'HOURS'} "
                + "AND compression = {'class': 'LZ4Compressor', 'chunk_length_in_kb': '64'} "
                + "AND bloom_filter_fp_chance = 0.01 AND speculative_retry = '99p' "
                + "AND default_time_to_live = 7776000 AND read_repair = 'NONE'",
            "CREATE TABLE \(keyspace).tick_partitions (exchange text, symbol text, trade_date text, bucket int, "
                + "PRIMARY KEY ((exchange, symbol), trade_date, bucket)) WITH default_time_to_live = 7862400",
            "CREATE TABLE \(keyspace).latest_ticks (exchange text, symbol text, feed text, topic int, partition int, "
                + "next_offset bigint, update_bytes blob, day int, newest_epoch bigint, newest_sequence bigint, "
                + "open frozen<tuple<bigint, bigint, bigint, bigint>>, "
                + "last frozen<tuple<bigint, bigint, bigint, bigint>>, "
                + "previous frozen<tuple<bigint, bigint, bigint, bigint>>, previous_day int, high bigint, low bigint, "
                + "volume bigint, trade_count bigint, PRIMARY KEY ((exchange, symbol))) "
                + "WITH compaction = {'class': 'LeveledCompactionStrategy'}",
            "CREATE TABLE \(keyspace).writer_offsets (log text, topic int, partition int, next_offset bigint, "
                + "PRIMARY KEY ((log, topic), partition))",
            "CREATE TABLE \(keyspace).feeds (scope text, number int, name text, PRIMARY KEY ((scope), number))",
            "CREATE TABLE \(keyspace).trade_executions (account_id text, trade_date text, execution_time timestamp, "
                + "trade_id timeuuid, symbol text, side text, quantity_micros bigint, price_micros bigint, "
                + "fees_micros bigint, venue text, exchange text, order_id text, execution_id text, sequence bigint, "
                + "PRIMARY KEY ((account_id, trade_date), execution_time, trade_id)) "
                + "WITH CLUSTERING ORDER BY (execution_time DESC, trade_id DESC) "
                + "AND compaction = {\(windows): 'DAYS'} AND read_repair = 'NONE'",
            "CREATE TABLE \(keyspace).order_book_snapshots (exchange text, symbol text, snapshot_hour text, "
                + "snapshot_time timestamp, depth_level int, bid_micros bigint, bid_size bigint, ask_micros bigint, "
                + "ask_size bigint, PRIMARY KEY ((exchange, symbol, snapshot_hour), snapshot_time, depth_level)) "
                + "WITH CLUSTERING ORDER BY (snapshot_time DESC, depth_level ASC) "
                + "AND compaction = {\(windows): 'HOURS'} AND default_time_to_live = 7776000 "
                + "AND read_repair = 'NONE'",
            "CREATE TABLE \(keyspace).event_store (entity_type text, entity_id text, day text, event_time timeuuid, "
                + "event_type text, payload blob, metadata map<text, text>, sequence bigint, chain_hash blob, "
                + "PRIMARY KEY ((entity_type, entity_id, day), event_time))",
            "CREATE TABLE \(keyspace).instruments (exchange text, symbol text, definition blob, updated timestamp, "
                + "PRIMARY KEY ((exchange, symbol))) WITH compaction = {'class': 'LeveledCompactionStrategy'}",
            "CREATE TABLE \(keyspace).limits (account_id text, name text, definition blob, updated timestamp, "
                + "PRIMARY KEY ((account_id), name)) WITH compaction = {'class': 'LeveledCompactionStrategy'}",
            "CREATE TABLE \(keyspace).schema_versions (scope text, version int, applied timestamp, "
                + "PRIMARY KEY ((scope), version))",
            "INSERT INTO \(keyspace).schema_versions (scope, version, applied) "
                + "VALUES ('tapedeck', 1, '2026-05-04 10:00:00+0000')",
        ]
    }

    /// What the store of schema 1 wrote, and its columns.
    static let written: [(table: String, columns: String)] = [
        (
            "tick_data",
            "exchange, symbol, trade_date, bucket, tick_time, bid_micros, ask_micros, last_micros, volume, detail, "
                + "update_bytes"
        ), ("tick_partitions", "exchange, symbol, trade_date, bucket"),
        (
            "latest_ticks",
            "exchange, symbol, feed, topic, partition, next_offset, update_bytes, day, newest_epoch, "
                + "newest_sequence, open, last, previous, previous_day, high, low, volume, trade_count"
        ), ("writer_offsets", "log, topic, partition, next_offset"), ("feeds", "scope, number, name"),
    ]

    /// What people put into the tables that it made and did not write.
    static let others: [(table: String, columns: String, values: String)] = [
        (
            "trade_executions", "account_id, trade_date, execution_time, trade_id, symbol, side, quantity_micros",
            "'ACC-1', '2024-07-26', 1722000000000, 50554d6e-29bb-11e5-b345-feff819cdc9f, 'AAPL', 'BUY', 7"
        ),
        (
            "order_book_snapshots", "exchange, symbol, snapshot_hour, snapshot_time, depth_level, bid_micros, bid_size",
            "'XNAS', 'AAPL', '2024-07-26T13', 1722000000000, 0, 187500000, 100"
        ),
        (
            "event_store", "entity_type, entity_id, day, event_time, event_type, payload, metadata, sequence",
            "'order', 'O-1', '2024-07-26', 50554d6e-29bb-11e5-b345-feff819cdc9f, 'NEW', 0x0a0b, {'account': 'A'}, 4"
        ), ("instruments", "exchange, symbol, definition, updated", "'XNAS', 'AAPL', 0x01, 1722000000000"),
        ("limits", "account_id, name, definition, updated", "'ACC-1', 'notional', 0x02, 1722000000000"),
    ]
}

/// A keyspace of schema 1 becomes one of the schema of now.
@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(4)))
struct SchemaUpgradeTests {
    /// Rows of columns that schema 1 had, as the node prints them.
    private static func rows(_ session: BlockingSession, _ keyspace: String) throws -> [String: [String]] {
        var found: [String: [String]] = [:]
        let tables = SchemaOne.written + SchemaOne.others.map { ($0.table, $0.columns) }
        for (table, columns) in tables {
            found[table] = try session.query("SELECT JSON \(columns) FROM \(keyspace).\(table)")
                .compactMap { $0.first?.string }.sorted()
        }
        return found
    }

    /// Makes a keyspace of schema 1 with ticks as its store wrote them; returns how far they go.
    private static func makeOld(_ port: Int, _ keyspace: String, _ world: inout StoreWorld) throws -> UInt64 {
        let source = try makeTables(port, keyspace + "_source")
        let store = try CassandraStore(source, time: SystemClock())
        _ = try store.apply(world.rows(400), through: world.nextOffset, of: StoreWorld.place)
        try store.close()
        let session = try BlockingSession(source)
        defer { session.close() }
        try session.changeSchema { SchemaOne.statements(keyspace) }
        for (table, columns) in SchemaOne.written {
            for row in try session.query("SELECT JSON \(columns) FROM \(source.keyspace).\(table)") {
                let text = (row.first?.string ?? "").split(separator: "'", omittingEmptySubsequences: false)
                _ = try session.query("INSERT INTO \(keyspace).\(table) JSON '\(text.joined(separator: "''"))'")
            }
        }
        for (table, columns, values) in SchemaOne.others {
            _ = try session.query("INSERT INTO \(keyspace).\(table) (\(columns)) VALUES (\(values))")
        }
        return world.nextOffset
    }

    private static func tapedeck(_ words: [String]) async throws -> (status: Int32, output: String) {
        try await EngineProcess.run([PlatformTests.program] + words)
    }

    @Test func `A keyspace of version 1 keeps its rows, is brought up to date once, and is gone on with`() async throws
    {
        let port = try await SharedCassandra.shared.node().port
        let keyspace = "upgrade"
        var world = StoreWorld(seed: 21)
        let made = world
        let next = try await onThread {
            var world = made
            return try Self.makeOld(port, keyspace, &world)
        }
        _ = world.rows(400)
        let before = try await onThread { try Self.expectRefused(port, keyspace) }
        #expect(before.values.allSatisfy { !$0.isEmpty } && (before["tick_data"] ?? []).count > 300)
        let cassandra = ["--contact-points", "127.0.0.1:\(port)", "--keyspace", keyspace]
        try await Self.expectPlanned(cassandra)
        // One that was broken off on the way is still the old one, and is gone on with.
        try await onThread {
            let configuration = configuration(port, keyspace)
            let statements = try SchemaTool(configuration, replication: nil).plan().statements
            let session = try BlockingSession(configuration)
            defer { session.close() }
            try session.changeSchema { Array(statements.prefix(3)) }
            #expect(throws: StoreError.self) { try CassandraStore(configuration, time: SystemClock()) }
        }
        let apply = try await Self.tapedeck(["schema", "apply"] + cassandra)
        #expect(apply.status == 0 && apply.output.contains("schema_versions"), "\(apply.output)")
        let content = try await Self.tapedeck(["schema", "check"] + cassandra)
        #expect(content.status == 0 && content.output == "the tables are as they have to be\n", "\(content.output)")
        let again = try await Self.tapedeck(["schema", "apply"] + cassandra)
        #expect(again.status == 0 && again.output == "nothing to do: the tables are as they have to be\n")
        let more = world.rows(200)
        let end = world.nextOffset
        try await onThread {
            let session = try BlockingSession(configuration(port, keyspace))
            defer { session.close() }
            #expect(try Self.rows(session, keyspace) == before)
            try Self.expectContinued(port, keyspace, at: next, more, through: end)
        }
    }

    /// Whoever reads or writes says what to do. The rows that are there.
    private static func expectRefused(_ port: Int, _ keyspace: String) throws -> [String: [String]] {
        let configuration = configuration(port, keyspace)
        let session = try BlockingSession(configuration)
        defer { session.close() }
        let refused = #expect(throws: StoreError.self) { try CassandraStore(configuration, time: SystemClock()) }
        #expect(refused?.code == .unknownFormat && refused?.retryable == false)
        #expect(
            refused?.message == "keyspace upgrade has schema 1, this one knows \(CassandraSchema.version): "
                + "it is older; `tapedeck schema apply` brings it up to date")
        let classes = #expect(throws: StoreError.self) { try CassandraClassStore(configuration) }
        #expect(classes?.message == refused?.message)
        return try rows(session, keyspace)
    }

    private static func expectPlanned(_ cassandra: [String]) async throws {
        let folder = try TemporaryFolder()
        let up = try await tapedeck(
            ["up", "--data", folder.path, "--store", "cassandra", "--listen", "127.0.0.1:0", "--metrics-listen"]
                + ["127.0.0.1:0"] + cassandra)
        #expect(up.status == 1 && up.output.contains("`tapedeck schema apply` brings it up to date"), "\(up.output)")
        let check = try await tapedeck(["schema", "check"] + cassandra)
        #expect(check.status == 1)
        let plan = try await tapedeck(["schema", "plan"] + cassandra)
        #expect(plan.status == 0)
        for words in [
            "missing\tpositions\tthe table is not there", "missing\twriter_offsets.chain_hash\tthe column is not there",
            "missing\torder_book_snapshots.epoch\tthe column is not there", "missing\theld_offsets",
            "missing\tfiled_records", "missing\tbucket_widths\tthe table is not there",
            "ALTER TABLE upgrade.writer_offsets ADD (chain_hash blob);",
        ] { #expect(plan.output.contains(words), "\(words): \(plan.output)") }
        // Nothing of what is there has another type, and nothing goes.
        for word in ["conflict\t", "different\t", "extra\t", "DROP", "TRUNCATE"] {
            #expect(!plan.output.contains(word), "\(plan.output)")
        }
    }

    /// It goes on where the old one was, and finds its ticks.
    private static func expectContinued(
        _ port: Int, _ keyspace: String, at next: UInt64, _ more: TickRows, through end: UInt64
    ) throws {
        let place = StoreWorld.place
        let store = try CassandraStore(configuration(port, keyspace), time: SystemClock())
        let source = try CassandraStore(configuration(port, keyspace + "_source"), time: SystemClock())
        func expectSame() throws {
            for instrument in StoreWorld.instruments {
                #expect(try frames(store, instrument) == frames(source, instrument))
                #expect(try store.latest(instrument) == source.latest(instrument))
            }
        }
        for reader in [store, source] { #expect(try reader.nextOffset(place) == next) }
        #expect(try store.instruments() == StoreWorld.instruments.sorted())
        try expectSame()
        for writer in [store, source] {
            _ = try writer.apply(more, through: end, of: place)
            #expect(try writer.flush(place) == end)
        }
        try expectSame()
        try store.close()
        try source.close()
        let classes = try CassandraClassStore(configuration(port, keyspace))
        #expect(try classes.nextOffset(place) == end)
        classes.close()
    }

    /// Version 2 had no widths of buckets, and else what there is now.
    private static func expectUpgradedFromTwo(
        _ configuration: CassandraStoreConfiguration, _ session: BlockingSession
    ) throws {
        try session.changeSchema {
            [
                "DROP TABLE newer.bucket_widths",
                "DELETE FROM newer.schema_versions WHERE scope = 'tapedeck' AND version = 3",
                "INSERT INTO newer.schema_versions (scope, version) VALUES ('tapedeck', 2)",
            ]
        }
        #expect(throws: StoreError.self) { try CassandraStore(configuration, time: SystemClock()) }
        let tool = try SchemaTool(configuration, replication: nil)
        let plan = try tool.apply()
        #expect(plan.findings.map(\.place) == ["bucket_widths"] && plan.statements.count == 2, "\(plan)")
        #expect(try tool.plan().isUpToDate)
        try CassandraStore(configuration, time: SystemClock()).close()
    }

    @Test func `A keyspace of version 2 gets what it lacks, and one of a newer version is left alone`() async throws {
        let port = try await SharedCassandra.shared.node().port
        let newer = CassandraSchema.version + 1
        let keyspace = "newer"
        try await onThread {
            let configuration = try makeTables(port, keyspace)
            let session = try BlockingSession(configuration)
            defer { session.close() }
            try Self.expectUpgradedFromTwo(configuration, session)
            _ = try session.query("ALTER TABLE newer.limits ADD ahead text")
            _ = try session.query(
                "INSERT INTO newer.schema_versions (scope, version) VALUES ('tapedeck', \(newer))")
            _ = try session.query("DROP TABLE newer.positions")
            let words = "it was made by a newer version; start that"
            let store = #expect(throws: StoreError.self) { try CassandraStore(configuration, time: SystemClock()) }
            #expect(store?.code == .unknownFormat && store?.message.contains(words) == true, "\(store!)")
            let classes = #expect(throws: StoreError.self) { try CassandraClassStore(configuration) }
            #expect(classes?.message == store?.message)
        }
        for word in ["apply", "check", "plan"] {
            let ended = try await Self.tapedeck([
                "schema", word, "--contact-points", "127.0.0.1:\(port)", "--keyspace", keyspace,
            ])
            #expect(ended.status == 1, "\(word)")
            #expect(ended.output.contains("of schema \(newer)") && ended.output.contains("use a newer one"))
        }
        try await onThread {
            let session = try BlockingSession(configuration(port, keyspace))
            defer { session.close() }
            let tables = try session.query(
                "SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'newer'")
            #expect(!tables.contains { $0.first?.string == "positions" })
        }
    }
}
