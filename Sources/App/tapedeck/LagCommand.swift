import EventLog
import KafkaLog
import Observability

/// `tapedeck lag`.
struct LagCommand {
    private static let pauseNs: Int64 = 1_000_000_000
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run(_ names: [String]) throws -> ExitCode {
        let configuration = try ClusterOptions(options).configuration()
        let admin = try KafkaAdmin(configuration, report: ClusterOptions.report(diagnostics))
        defer { admin.close() }
        let before = try look(admin, configuration, names)
        time.sleep(ns: LagCommand.pauseNs)
        let after = try look(admin, configuration, names)
        let seconds = Double(after.atNs - before.atNs) / 1e9
        var rows: [GroupLag] = []
        for (name, now) in after.groups {
            guard let earlier = before.groups[name] else { continue }
            var lag = GroupLag(name: name, state: now.state, members: now.members, records: now.records)
            lag.recordsPerSecond = (Double(now.records) - Double(earlier.records)) / seconds
            lag.handledPerSecond = Double(now.committed &- min(earlier.committed, now.committed)) / seconds
            lag.seconds = try oldestSeconds(admin, now)
            rows.append(lag)
        }
        rows.sort { $0.name < $1.name }
        let isJSON = options.bool(.json)
        if rows.isEmpty, !isJSON { print("no group has read anything yet") }
        for line in isJSON ? rows.map(\.json) : GroupLag.table(rows) { print(line) }
        return .success
    }

    private struct Group {
        let state: String
        let members: Int
        let records: UInt64
        let committed: UInt64
        /// The first record not processed, of each partition that has one.
        let next: [TopicPartition: UInt64]
    }

    private func look(
        _ admin: KafkaAdmin, _ configuration: KafkaConfiguration, _ names: [String]
    ) throws -> (groups: [String: Group], atNs: Int64) {
        let found = names.isEmpty ? try admin.groups() : try admin.groups(names.map(configuration.name(ofGroup:)))
        let places = Set(found.flatMap(\.committed.keys))
        let ends = try admin.ends(Array(places))
        let starts = try admin.starts(Array(places))
        var groups: [String: Group] = [:]
        for group in found where !group.committed.isEmpty || !group.members.isEmpty {
            let next = group.committed.filter { place, offset in offset < ends[place] ?? 0 }
            let records = next.reduce(UInt64(0)) { sum, entry in
                sum + (ends[entry.key] ?? 0) - max(entry.value, starts[entry.key] ?? 0)
            }
            groups[group.name] = Group(
                state: group.state, members: group.members.count, records: records,
                committed: group.committed.values.reduce(0, +), next: next)
        }
        return (groups, time.monotonicNs())
    }

    /// How old the oldest record is that a group has not processed.
    private func oldestSeconds(_ admin: KafkaAdmin, _ group: Group) throws -> Double {
        var oldestNs = time.wallNs()
        // The partitions that are furthest behind in records have the oldest ones, or nearly so.
        for (place, offset) in group.next.sorted(by: { $0.key.partition < $1.key.partition }) {
            if let atNs = try admin.timestampNs(of: place, at: offset) { oldestNs = min(oldestNs, atNs) }
        }
        return max(0, Double(time.wallNs() - oldestNs) / 1e9)
    }
}

/// How far a group is behind, and where that goes.
struct GroupLag {
    let name: String
    let state: String
    let members: Int
    let records: UInt64
    /// Age of the oldest record not processed.
    var seconds = 0.0
    /// Positive: it falls behind.
    var recordsPerSecond = 0.0
    var handledPerSecond = 0.0

    /// Seconds until nothing is left at this pace; nil where it never comes.
    var catchUpSeconds: Double? {
        if records == 0 { return 0 }
        return recordsPerSecond < 0 ? Double(records) / -recordsPerSecond : nil
    }

    static func number(_ value: Double) -> String {
        let tenths = (value * 10).rounded() / 10
        return tenths == tenths.rounded() && abs(tenths) < 1e15 ? "\(Int64(tenths))" : "\(tenths)"
    }

    var json: String {
        "{\"group\":\"\(name)\",\"state\":\"\(state)\",\"members\":\(members),\"records\":\(records),\"seconds\":"
            + "\(GroupLag.number(seconds)),\"trend_records_per_second\":\(GroupLag.number(recordsPerSecond)),"
            + "\"handled_per_second\":\(GroupLag.number(handledPerSecond)),\"catch_up_seconds\":"
            + "\(catchUpSeconds.map(GroupLag.number) ?? "null")}"
    }

    static func table(_ rows: [GroupLag]) -> [String] {
        let head = ["group", "state", "members", "records", "seconds", "trend/s", "handled/s", "caught up in"]
        let cells = rows.map { row in
            [
                row.name, row.state, "\(row.members)", "\(row.records)", number(row.seconds),
                (row.recordsPerSecond > 0 ? "+" : "") + number(row.recordsPerSecond), number(row.handledPerSecond),
                row.catchUpSeconds.map { $0 == 0 ? "now" : number($0) + " s" } ?? "never, at this pace",
            ]
        }
        guard !rows.isEmpty else { return [] }
        let widths = head.indices.map { column in ([head] + cells).map { $0[column].count }.max() ?? 0 }
        return ([head] + cells).map { line in
            line.enumerated().map { column, text in
                let pad = String(repeating: " ", count: widths[column] - text.count)
                return column < 2 ? text + pad : pad + text
            }.joined(separator: "  ")
        }
    }
}
