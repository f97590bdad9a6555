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
        let configuration = try ClusterOptions(options, diagnostics).configuration()
        let admin = try KafkaAdmin(configuration, report: ClusterOptions.report(diagnostics))
        defer { admin.close() }
        let before = try look(admin, configuration, names)
        time.sleep(ns: LagCommand.pauseNs)
        let after = try look(admin, configuration, names)
        var rows: [GroupLag] = []
        for (name, now) in after {
            guard let earlier = before[name] else { continue }
            var lag = GroupLag(name, earlier, now)
            lag.seconds = try oldestSeconds(admin, lag.next)
            rows.append(lag)
        }
        rows.sort { $0.name < $1.name }
        let isJSON = options.bool(.json)
        if rows.isEmpty, !isJSON { print("no group has read anything yet") }
        for line in isJSON ? rows.map(\.json) : GroupLag.table(rows) { print(line) }
        return .success
    }

    private func look(
        _ admin: KafkaAdmin, _ configuration: KafkaConfiguration, _ names: [String]
    ) throws -> [String: GroupLag.Look] {
        let all = names.isEmpty ? try admin.groups() : try admin.groups(names.map(configuration.name(ofGroup:)))
        let counts = try admin.partitionCounts()
        var places: [String: [TopicPartition]] = [:]
        let found = all.filter { group in
            let name = String(group.name.dropFirst(configuration.prefix.count))
            guard !group.committed.isEmpty || !group.members.isEmpty else { return false }
            guard !names.isEmpty || !GroupLag.isOfDeadLetters(name) else { return false }
            places[group.name] = GroupLag.topics(of: name, committed: group.committed.keys).flatMap { topic in
                (0..<(counts[topic] ?? 0)).map { TopicPartition(topic, UInt16(clamping: $0)) }
            }
            return true
        }
        let wanted = Array(Set(places.values.joined()))
        let ends = try admin.ends(wanted)
        let starts = try admin.starts(wanted)
        let atNs = time.monotonicNs()
        var looks: [String: GroupLag.Look] = [:]
        for group in found {
            var partitions: [TopicPartition: GroupLag.Look.Partition] = [:]
            for place in places[group.name] ?? [] {
                guard let start = starts[place], let end = ends[place] else { continue }
                partitions[place] = .init(committed: group.committed[place], start: start, end: end)
            }
            looks[group.name] = GroupLag.Look(
                state: group.state, members: group.members.count, partitions: partitions, atNs: atNs)
        }
        return looks
    }

    /// How old the oldest record is that a group has not processed.
    private func oldestSeconds(_ admin: KafkaAdmin, _ next: [TopicPartition: UInt64]) throws -> Double {
        var oldestNs = time.wallNs()
        for (place, offset) in next.sorted(by: { $0.key.partition < $1.key.partition }) {
            if let atNs = try admin.timestampNs(of: place, at: offset) { oldestNs = min(oldestNs, atNs) }
        }
        return max(0, Double(time.wallNs() - oldestNs) / 1e9)
    }
}
