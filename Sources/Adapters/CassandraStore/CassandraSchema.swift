import CassandraCQL

/// A table as it has to be.
struct CassandraTable {
    struct Column {
        let name: String
        let type: String
        init(_ name: String, _ type: String) {
            self.name = name
            self.type = type
        }
    }

    let name: String
    let columns: [Column]
    let partitionKey: [String]
    /// With whether it descends.
    let clustering: [(name: String, isDescending: Bool)]
    /// Words of the table's options, as CQL has them.
    var options: [(name: String, value: CassandraOption)] = []

    /// Where the primary key has a column, and its kind; nil for others.
    func place(of column: String) -> (kind: String, position: Int)? {
        if let index = partitionKey.firstIndex(of: column) { return ("partition_key", index) }
        if let index = clustering.firstIndex(where: { $0.name == column }) { return ("clustering", index) }
        return nil
    }
}

/// A user-defined type as it has to be: its fields in order.
struct CassandraType {
    let name: String
    let fields: [CassandraTable.Column]

    func createStatement(_ keyspace: String) -> String {
        "CREATE TYPE IF NOT EXISTS \(keyspace).\(name) ("
            + fields.map { "\($0.name) \($0.type)" }.joined(separator: ", ") + ")"
    }
}

/// The value of a table's option.
enum CassandraOption: Equatable {
    case text(String)
    case number(Double)
    case integer(Int64)
    /// What has to stand in it; more may.
    case map([(String, String)])

    static func == (a: CassandraOption, b: CassandraOption) -> Bool { a.text == b.text }

    /// As CQL writes it.
    var text: String {
        switch self {
        case .text(let text): "'\(text)'"
        case .number(let number): "\(number)"
        case .integer(let number): "\(number)"
        case .map(let entries): "{" + entries.map { "'\($0.0)': '\($0.1)'" }.joined(separator: ", ") + "}"
        }
    }
}

/// The tables of the platform (docs/CASSANDRA.md says where each value comes from).
public enum CassandraSchema {
    /// As published.
    public static let keyspace = "market_data"
    /// Of the tables below; grows with each change of them.
    public static let version = 3
    /// 90 days.
    static let tickSeconds: Int64 = 7_776_000

    private static func windows(_ unit: String) -> CassandraOption {
        .map([
            ("class", "TimeWindowCompactionStrategy"), ("compaction_window_unit", unit),
            ("compaction_window_size", "1"),
        ])
    }

    private static let leveled = CassandraOption.map([("class", "LeveledCompactionStrategy")])
    private static let lz4 = CassandraOption.map([("class", "LZ4Compressor"), ("chunk_length_in_kb", "64")])

    /// What keeps read repair from pulling old data into new windows: the published option up to 3.11, another since.
    static func readRepair(release: String) -> (name: String, value: CassandraOption) {
        isBefore4(release) ? ("dclocal_read_repair_chance", .number(0)) : ("read_repair", .text("NONE"))
    }

    static func isBefore4(_ release: String) -> Bool {
        (release.split(separator: ".").first.flatMap { Int($0) } ?? 4) < 4
    }

    private static func column(_ name: String, _ type: String) -> CassandraTable.Column { .init(name, type) }

    /// All tables, for a server of this release.
    static func tables(release: String) -> [CassandraTable] {
        [
            tickData(release), tickPartitions, bucketWidths, latestTicks, writerOffsets, heldOffsets, filedRecords,
            feeds,
            tradeExecutions(release), orderBookSnapshots(release), eventStore, positions, instruments, limits,
            schemaVersions,
        ]
    }

    /// What makes a row the whole tick, as one cell: a cell each costs a node dearly (docs/BENCHMARKS.md). The rare
    /// ones are last, and left out where they are absent.
    static let tickDetail = CassandraType(
        name: "tick_detail",
        fields: [
            column("event_time_ns", "bigint"), column("receive_time_ns", "bigint"),
            column("publish_time_ns", "bigint"), column("feed_handler_id", "text"), column("epoch", "bigint"),
            column("sequence", "bigint"), column("kind", "tinyint"), column("venue_sequence", "bigint"),
            column("bid_size_micros", "bigint"), column("ask_size_micros", "bigint"),
            column("aggressor_side", "tinyint"), column("trade_id", "bigint"), column("volume_nano", "int"),
            column("bid_nano", "int"), column("ask_nano", "int"), column("last_nano", "int"),
            column("bid_size_nano", "int"), column("ask_size_nano", "int"), column("state", "tinyint"),
        ])

    /// All types, which the tables need.
    static let types = [tickDetail]

    /// The published columns, `volume` a bigint; and what makes a row the whole tick.
    static func tickData(_ release: String) -> CassandraTable {
        CassandraTable(
            name: "tick_data",
            columns: [
                column("exchange", "text"), column("symbol", "text"), column("trade_date", "text"),
                column("bucket", "int"), column("tick_time", "timeuuid"), column("bid_micros", "bigint"),
                column("ask_micros", "bigint"), column("last_micros", "bigint"), column("volume", "bigint"),
                column("detail", "frozen<tick_detail>"), column("update_bytes", "blob"),
            ],
            partitionKey: ["exchange", "symbol", "trade_date", "bucket"], clustering: [("tick_time", true)],
            options: [
                ("compaction", windows("HOURS")), ("compression", lz4), ("bloom_filter_fp_chance", .number(0.01)),
                ("speculative_retry", .text("99p")), ("default_time_to_live", .integer(tickSeconds)),
                readRepair(release: release),
            ])
    }

    /// Which partitions of `tick_data` an instrument has.
    static let tickPartitions = CassandraTable(
        name: "tick_partitions",
        columns: [
            column("exchange", "text"), column("symbol", "text"), column("trade_date", "text"), column("bucket", "int"),
        ],
        partitionKey: ["exchange", "symbol"], clustering: [("trade_date", false), ("bucket", false)],
        options: [("default_time_to_live", .integer(tickSeconds + 86_400))])

    /// How wide the buckets of an instrument are, from a trade date on.
    static let bucketWidths = CassandraTable(
        name: "bucket_widths",
        columns: [
            column("exchange", "text"), column("symbol", "text"), column("trade_date", "text"),
            column("minutes", "int"),
        ],
        partitionKey: ["exchange", "symbol"], clustering: [("trade_date", true)])

    /// The newest tick of each instrument's primary feed, and its day.
    static let latestTicks = CassandraTable(
        name: "latest_ticks",
        columns: [
            column("exchange", "text"), column("symbol", "text"), column("feed", "text"), column("topic", "int"),
            column("partition", "int"), column("next_offset", "bigint"), column("update_bytes", "blob"),
            column("day", "int"), column("newest_epoch", "bigint"), column("newest_sequence", "bigint"),
            column("open", mark), column("last", mark), column("previous", mark), column("previous_day", "int"),
            column("high", "bigint"), column("low", "bigint"), column("volume", "bigint"),
            column("trade_count", "bigint"),
        ],
        partitionKey: ["exchange", "symbol"], clustering: [], options: [("compaction", leveled)])

    /// Price at 1e-9, filing time in ns, epoch, sequence.
    private static let mark = "frozen<tuple<bigint, bigint, bigint, bigint>>"

    /// Where a writer goes on; and where the chain of a partition's events stands there.
    static let writerOffsets = CassandraTable(
        name: "writer_offsets",
        columns: [
            column("log", "text"), column("topic", "int"), column("partition", "int"), column("next_offset", "bigint"),
            column("chain_hash", "blob"),
        ],
        partitionKey: ["log", "topic"], clustering: [("partition", false)])

    /// Which records of the log have their rows here, in ranges.
    static let heldOffsets = CassandraTable(
        name: "held_offsets",
        columns: [
            column("log", "text"), column("topic", "int"), column("partition", "int"), column("first_offset", "bigint"),
            column("end_offset", "bigint"),
        ],
        partitionKey: ["log", "topic", "partition"], clustering: [("first_offset", false)])

    /// Where the rows of runs of records are filed: pairs of first and last time, ns, little endian.
    static let filedRecords = CassandraTable(
        name: "filed_records",
        columns: [
            column("log", "text"), column("topic", "int"), column("partition", "int"), column("first_offset", "bigint"),
            column("end_offset", "bigint"), column("times", "blob"),
        ],
        partitionKey: ["log", "topic", "partition"], clustering: [("first_offset", false)],
        options: [("default_time_to_live", .integer(tickSeconds))])

    /// Numbers of feeds in keys of ticks; 1 is `direct`.
    static let feeds = CassandraTable(
        name: "feeds", columns: [column("scope", "text"), column("number", "int"), column("name", "text")],
        partitionKey: ["scope"], clustering: [("number", false)])

    static func tradeExecutions(_ release: String) -> CassandraTable {
        CassandraTable(
            name: "trade_executions",
            columns: [
                column("account_id", "text"), column("trade_date", "text"), column("execution_time", "timestamp"),
                column("trade_id", "timeuuid"), column("symbol", "text"), column("side", "text"),
                column("quantity_micros", "bigint"), column("price_micros", "bigint"), column("fees_micros", "bigint"),
                column("venue", "text"), column("exchange", "text"), column("order_id", "text"),
                column("execution_id", "text"), column("sequence", "bigint"),
            ],
            partitionKey: ["account_id", "trade_date"], clustering: [("execution_time", true), ("trade_id", true)],
            options: [("compaction", windows("DAYS")), readRepair(release: release)])
    }

    static func orderBookSnapshots(_ release: String) -> CassandraTable {
        CassandraTable(
            name: "order_book_snapshots",
            columns: [
                column("exchange", "text"), column("symbol", "text"), column("snapshot_hour", "text"),
                column("snapshot_time", "timestamp"), column("depth_level", "int"), column("bid_micros", "bigint"),
                column("bid_size", "bigint"), column("ask_micros", "bigint"), column("ask_size", "bigint"),
                column("bid_nano", "int"), column("bid_size_nano", "int"), column("ask_nano", "int"),
                column("ask_size_nano", "int"), column("feed_handler_id", "text"), column("epoch", "bigint"),
                column("sequence", "bigint"),
            ],
            partitionKey: ["exchange", "symbol", "snapshot_hour"],
            clustering: [("snapshot_time", true), ("depth_level", false)],
            options: [
                ("compaction", windows("HOURS")), ("default_time_to_live", .integer(tickSeconds)),
                readRepair(release: release),
            ])
    }

    /// As published, with a day in the key, so that no partition grows for ever; and the chain.
    static let eventStore = CassandraTable(
        name: "event_store",
        columns: [
            column("entity_type", "text"), column("entity_id", "text"), column("day", "text"),
            column("event_time", "timeuuid"), column("event_type", "text"), column("payload", "blob"),
            column("metadata", "map<text, text>"), column("sequence", "bigint"), column("chain_hash", "blob"),
        ],
        partitionKey: ["entity_type", "entity_id", "day"], clustering: [("event_time", false)])

    /// What accounts hold.
    static let positions = CassandraTable(
        name: "positions",
        columns: [
            column("account_id", "text"), column("exchange", "text"), column("symbol", "text"),
            column("quantity_micros", "bigint"), column("average_price_micros", "bigint"),
            column("average_price_nano", "int"), column("realized_pnl_micros", "bigint"),
            column("unrealized_pnl_micros", "bigint"), column("sequence", "bigint"), column("execution_id", "text"),
            column("execution_time", "timestamp"), column("update_time", "timestamp"),
        ],
        partitionKey: ["account_id"], clustering: [("exchange", false), ("symbol", false)],
        options: [("compaction", leveled)])

    static let instruments = CassandraTable(
        name: "instruments",
        columns: [
            column("exchange", "text"), column("symbol", "text"), column("definition", "blob"),
            column("updated", "timestamp"),
        ],
        partitionKey: ["exchange", "symbol"], clustering: [], options: [("compaction", leveled)])

    static let limits = CassandraTable(
        name: "limits",
        columns: [
            column("account_id", "text"), column("name", "text"), column("definition", "blob"),
            column("updated", "timestamp"),
        ],
        partitionKey: ["account_id"], clustering: [("name", false)], options: [("compaction", leveled)])

    static let schemaVersions = CassandraTable(
        name: "schema_versions",
        columns: [column("scope", "text"), column("version", "int"), column("applied", "timestamp")],
        partitionKey: ["scope"], clustering: [("version", false)])
}

extension CassandraTable {
    /// Statement that makes it.
    func createStatement(_ keyspace: String) -> String {
        let columns = columns.map { "\($0.name) \($0.type)" }.joined(separator: ", ")
        let key = "(\(partitionKey.joined(separator: ", ")))"
        let primary = ([key] + clustering.map(\.name)).joined(separator: ", ")
        var with: [String] = []
        if !clustering.isEmpty {
            let order = clustering.map { "\($0.name) \($0.isDescending ? "DESC" : "ASC")" }.joined(separator: ", ")
            with.append("CLUSTERING ORDER BY (\(order))")
        }
        with += options.map { "\($0.name) = \($0.value.text)" }
        let options = with.isEmpty ? "" : " WITH " + with.joined(separator: " AND ")
        return "CREATE TABLE IF NOT EXISTS \(keyspace).\(name) (\(columns), PRIMARY KEY (\(primary)))\(options)"
    }
}
