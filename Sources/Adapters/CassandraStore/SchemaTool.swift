import CQLFrames
import CassandraCQL
import TickStore

/// Compares a cluster's tables with those that there have to be, and makes them so. `tapedeck schema` prints what it
/// finds.
public final class SchemaTool {
    /// How many copies a keyspace keeps in each data centre.
    public typealias Replication = [String: Int]

    /// A difference between what is and what has to be.
    public struct Finding: Sendable, Hashable {
        /// What kind of thing it is about.
        public enum Kind: String, Sendable {
            /// It will be made.
            case missing
            /// It will be changed.
            case different
            /// Nobody can change it in place.
            case conflict
            /// It is there, and not ours; it stays.
            case extra
            /// What a person should know before it is changed.
            case warning
        }

        public let kind: Kind
        /// The keyspace, `table`, or `table.column`.
        public let place: String
        public let message: String
    }

    /// What has to be done.
    public struct Plan: Sendable {
        public internal(set) var findings: [Finding] = []
        /// In order.
        public internal(set) var statements: [String] = []

        public var isUpToDate: Bool { statements.isEmpty && !findings.contains { $0.kind == .conflict } }
    }

    private let session: BlockingSession
    private let keyspace: String
    private let replication: Replication?

    /// Connects. Without `replication` a new keyspace has three copies in each data centre, or as many as it has nodes,
    /// and one that is there keeps its own. Throws where no node answers.
    public init(_ configuration: CassandraStoreConfiguration, replication: Replication?) throws(StoreError) {
        keyspace = configuration.keyspace
        self.replication = replication
        guard SchemaTool.isName(configuration.keyspace) else {
            throw StoreError(
                .io,
                "\"\(configuration.keyspace)\" is no name of a keyspace: lower-case letters, digits and underscores, "
                    + "48 at most")
        }
        session = try BlockingSession(configuration)
    }

    deinit { session.close() }

    static func isName(_ text: String) -> Bool {
        guard let first = text.utf8.first, (0x61...0x7a).contains(first) else { return false }
        return text.utf8.count <= 48
            && text.utf8.allSatisfy { (0x61...0x7a).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5f }
    }

    /// What the cluster lacks.
    public func plan() throws(StoreError) -> Plan {
        var plan = Plan()
        let release = try session.query("SELECT release_version FROM system.local").first?.first?.string ?? "4.0"
        let wanted = try wantedReplication()
        let rows = try session.query(
            "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?", [(.text(keyspace), .text)])
        if let row = rows.first {
            try compareKeyspace(row[0], wanted, &plan)
        } else {
            add(.missing, keyspace, "the keyspace is not there", &plan)
            plan.statements.append(
                "CREATE KEYSPACE IF NOT EXISTS \(keyspace) WITH replication = \(wanted) AND durable_writes = true")
        }
        let version = rows.isEmpty ? nil : try storedVersion()
        if let version, version > CassandraSchema.version {
            add(
                .conflict, keyspace,
                "the tables are of schema \(version), this program knows \(CassandraSchema.version): use a newer one",
                &plan)
            return plan
        }
        for type in CassandraSchema.types { try compare(type, &plan) }
        for table in CassandraSchema.tables(release: release) { try compare(table, &plan) }
        if version != CassandraSchema.version {
            if plan.statements.isEmpty { add(.missing, keyspace, "the schema's version is not noted", &plan) }
            plan.statements.append(
                "INSERT INTO \(keyspace).schema_versions (scope, version, applied) "
                    + "VALUES ('tapedeck', \(CassandraSchema.version), toTimestamp(now()))")
        }
        return plan
    }

    /// Does what the plan says; returns it. Throws where something cannot be changed, before anything is. `progress`
    /// hears each statement before it is sent.
    public func apply(_ progress: (String) -> Void = { _ in }) throws(StoreError) -> Plan {
        var first: Plan?
        try session.changeSchema(progress) { () throws(StoreError) in
            let plan = try plan()
            if let conflict = plan.findings.first(where: { $0.kind == .conflict }) {
                throw StoreError(.unknownFormat, "\(conflict.place): \(conflict.message)")
            }
            first = first ?? plan
            return plan.statements
        }
        return first ?? Plan()
    }

    /// Removes the keyspace with all that is in it; one that is not there is removed. A node that is away hears of it
    /// when it is back.
    public func removeKeyspace() throws(StoreError) {
        let pause = Monitor()
        for attempt in 1... {
            let rows = try session.query(
                "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", [(.text(keyspace), .text)])
            // Once more is as good as once: nodes need not agree first.
            guard !rows.isEmpty, let open = try session.changeOnce("DROP KEYSPACE IF EXISTS \(keyspace)") else {
                return
            }
            guard attempt < 5 else { throw open }
            _ = pause.withLock { pause.wait(milliseconds: 1000 * attempt) { false } }
        }
    }

    private func add(_ kind: Finding.Kind, _ place: String, _ message: String, _ plan: inout Plan) {
        plan.findings.append(Finding(kind: kind, place: place, message: message))
    }

    // MARK: The keyspace

    /// The replication as CQL writes it. Throws where it names a data centre that the cluster has not.
    private func wantedReplication() throws(StoreError) -> String {
        var nodes: [String: Int] = [:]
        for table in ["local", "peers"] {
            for row in try session.query("SELECT data_center FROM system.\(table)") {
                if let name = row.first?.string { nodes[name, default: 0] += 1 }
            }
        }
        for name in (replication ?? [:]).keys.sorted() where nodes[name] == nil {
            throw StoreError(
                .io,
                "there is no data centre \(name) in the cluster; there are: "
                    + nodes.keys.sorted().joined(separator: ", "))
        }
        return SchemaTool.text(replication ?? nodes.mapValues { min($0, 3) })
    }

    static func text(_ replication: Replication) -> String {
        let factors = replication.sorted { $0.key < $1.key }.map { ", '\($0.key)': '\($0.value)'" }.joined()
        return "{'class': 'NetworkTopologyStrategy'\(factors)}"
    }

    private func compareKeyspace(_ value: CQLValue, _ wanted: String, _ plan: inout Plan) throws(StoreError) {
        // Without a configuration what is there is right.
        guard replication != nil else { return }
        let found = SchemaTool.text(value)
        guard found != wanted else { return }
        add(.different, keyspace, "replication is \(found), not \(wanted)", &plan)
        add(
            .warning, keyspace, "after a change of replication `nodetool repair` has to run on every node", &plan)
        plan.statements.append("ALTER KEYSPACE \(keyspace) WITH replication = \(wanted)")
    }

    private func storedVersion() throws(StoreError) -> Int? {
        let tables = try session.query(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'schema_versions'",
            [(.text(keyspace), .text)])
        guard !tables.isEmpty else { return nil }
        let rows = try session.query("SELECT version FROM \(keyspace).schema_versions WHERE scope = 'tapedeck'")
        return rows.compactMap { $0.first?.integer }.max().map(Int.init)
    }

    // MARK: Types

    private func compare(_ type: CassandraType, _ plan: inout Plan) throws(StoreError) {
        let rows = try session.query(
            "SELECT field_names, field_types FROM system_schema.types WHERE keyspace_name = ? AND type_name = ?",
            [(.text(keyspace), .text), (.text(type.name), .text)])
        guard let row = rows.first, case .list(let names) = row[0], case .list(let types) = row[1] else {
            add(.missing, type.name, "the type is not there", &plan)
            plan.statements.append(type.createStatement(keyspace))
            return
        }
        let found = zip(names, types).map { ($0.string ?? "", $1.string ?? "") }
        for (index, field) in type.fields.enumerated() {
            guard index < found.count else {
                add(.missing, "\(type.name).\(field.name)", "the field is not there", &plan)
                plan.statements.append("ALTER TYPE \(keyspace).\(type.name) ADD \(field.name) \(field.type)")
                continue
            }
            guard found[index] != (field.name, field.type) else { continue }
            add(
                .conflict, "\(type.name).\(field.name)",
                "field \(index + 1) is \(found[index].0) \(found[index].1), not \(field.name) \(field.type)", &plan)
        }
    }

    // MARK: Tables

    private func compare(_ table: CassandraTable, _ plan: inout Plan) throws(StoreError) {
        let names = [
            "bloom_filter_fp_chance", "compaction", "compression", "default_time_to_live", "speculative_retry",
        ]
        let extra = table.options.map(\.name).first { $0 == "read_repair" || $0 == "dclocal_read_repair_chance" }
        let columns = names + (extra.map { [$0] } ?? [])
        let rows = try session.query(
            "SELECT \(columns.joined(separator: ", ")) FROM system_schema.tables "
                + "WHERE keyspace_name = ? AND table_name = ?",
            [(.text(keyspace), .text), (.text(table.name), .text)])
        guard let row = rows.first else {
            add(.missing, table.name, "the table is not there", &plan)
            plan.statements.append(table.createStatement(keyspace))
            return
        }
        try compareColumns(table, &plan)
        compareOptions(table, Dictionary(uniqueKeysWithValues: zip(columns, row)), &plan)
    }

    private func compareColumns(_ table: CassandraTable, _ plan: inout Plan) throws(StoreError) {
        let rows = try session.query(
            "SELECT column_name, type, kind, position, clustering_order FROM system_schema.columns "
                + "WHERE keyspace_name = ? AND table_name = ?",
            [(.text(keyspace), .text), (.text(table.name), .text)])
        var known: [String: (type: String, kind: String, position: Int, isDescending: Bool)] = [:]
        for row in rows {
            guard let name = row[0].string, let type = row[1].string, let kind = row[2].string else { continue }
            known[name] = (type, kind, Int(row[3].integer ?? -1), row[4].string == "desc")
        }
        var added: [String] = []
        for column in table.columns {
            let place = table.place(of: column.name)
            guard let found = known.removeValue(forKey: column.name) else {
                let what = "\(table.name).\(column.name)"
                guard place == nil else {
                    add(.conflict, what, "the column belongs to the key and is not there", &plan)
                    continue
                }
                add(.missing, what, "the column is not there", &plan)
                added.append("\(column.name) \(column.type)")
                continue
            }
            compare(column, place, found, table, &plan)
        }
        for name in known.keys.sorted() {
            let isKey = known[name]?.kind == "partition_key" || known[name]?.kind == "clustering"
            add(
                isKey ? .conflict : .extra, "\(table.name).\(name)",
                isKey ? "the column belongs to the key and must not" : "the column is not ours", &plan)
        }
        if !added.isEmpty {
            plan.statements.append("ALTER TABLE \(keyspace).\(table.name) ADD (\(added.joined(separator: ", ")))")
        }
    }

    private func compare(
        _ column: CassandraTable.Column, _ place: (kind: String, position: Int)?,
        _ found: (type: String, kind: String, position: Int, isDescending: Bool), _ table: CassandraTable,
        _ plan: inout Plan
    ) {
        let what = "\(table.name).\(column.name)"
        if found.type != column.type {
            add(.conflict, what, "the type is \(found.type), not \(column.type)", &plan)
        }
        let kind = place?.kind ?? "regular"
        if found.kind != kind || place.map({ $0.position != found.position }) == true {
            add(.conflict, what, "it stands as \(found.kind) \(found.position), not as \(kind)", &plan)
        }
        if let order = table.clustering.first(where: { $0.name == column.name }),
            order.isDescending != found.isDescending
        {
            add(.conflict, what, "the order is \(found.isDescending ? "descending" : "ascending")", &plan)
        }
    }

    private func compareOptions(_ table: CassandraTable, _ found: [String: CQLValue], _ plan: inout Plan) {
        var changes: [String] = []
        for (name, wanted) in table.options {
            guard let value = found[name], !SchemaTool.holds(value, wanted) else { continue }
            add(.different, table.name, "\(name) is \(SchemaTool.text(value)), not \(wanted.text)", &plan)
            changes.append("\(name) = \(wanted.text)")
            if name == "compaction" { warnOfCompaction(table, found, &plan) }
        }
        guard !changes.isEmpty else { return }
        plan.statements.append("ALTER TABLE \(keyspace).\(table.name) WITH \(changes.joined(separator: " AND "))")
    }

    /// What the other strategy was used with stays behind, unless it is said anew.
    private func warnOfCompaction(_ table: CassandraTable, _ found: [String: CQLValue], _ plan: inout Plan) {
        for name in ["bloom_filter_fp_chance", "read_repair", "dclocal_read_repair_chance"] {
            guard let value = found[name], !table.options.contains(where: { $0.name == name }) else { continue }
            add(
                .warning, table.name,
                "compaction changes; \(name) stays at \(SchemaTool.text(value)), chosen for the other strategy",
                &plan)
        }
    }

    /// Whether an option's value is what it has to be; of maps, whether what has to be in it is.
    static func holds(_ value: CQLValue, _ wanted: CassandraOption) -> Bool {
        switch (value, wanted) {
        case (.map(let entries), .map(let pairs)):
            return pairs.allSatisfy { name, text in
                entries.contains { entry in
                    guard entry.key.string == name, let found = entry.value.string else { return false }
                    return name == "class" ? found.split(separator: ".").last.map(String.init) == text : found == text
                }
            }
        case (.double(let found), .number(let number)): return found == number
        case (.text(let found), .text(let text)): return found.lowercased() == text.lowercased()
        default: return value.integer.map { wanted == .integer($0) } ?? false
        }
    }

    /// A value of the schema's own tables as CQL writes it.
    static func text(_ value: CQLValue) -> String {
        switch value {
        case .map(let entries):
            let pairs = entries.map { entry -> (String, String) in
                let text = entry.value.string ?? ""
                let isClass = entry.key.string == "class"
                return (
                    entry.key.string ?? "", isClass ? text.split(separator: ".").last.map(String.init) ?? text : text
                )
            }
            let sorted = pairs.sorted { ($0.0 != "class", $0.0) < ($1.0 != "class", $1.0) }
            return "{" + sorted.map { "'\($0.0)': '\($0.1)'" }.joined(separator: ", ") + "}"
        case .text(let text): return "'\(text)'"
        case .double(let number): return "\(number)"
        default: return value.integer.map { "\($0)" } ?? "nothing"
        }
    }
}

private func < (a: (Bool, String), b: (Bool, String)) -> Bool {
    a.0 != b.0 ? !a.0 : a.1 < b.1
}
