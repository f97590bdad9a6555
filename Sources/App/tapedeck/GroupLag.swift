import EventLog
import WriterService

/// How far a group is behind, and where that goes.
struct GroupLag {
    let name: String
    let state: String
    let members: Int
    let records: UInt64
    /// The first record not processed, of each partition that has one.
    let next: [TopicPartition: UInt64]
    /// Age of the oldest record not processed.
    var seconds = 0.0
    /// Positive: it falls behind.
    let recordsPerSecond: Double
    let handledPerSecond: Double

    /// What is known of a group at one time.
    struct Look {
        let state: String
        let members: Int
        /// Of each partition of what it reads, that has records or had some; where it committed nothing yet, it begins
        /// at the first.
        let partitions: [TopicPartition: Partition]
        let atNs: Int64

        struct Partition {
            let committed: UInt64?
            let start: UInt64
            let end: UInt64

            /// What is next: retention may have taken what was.
            var next: UInt64 { max(committed ?? start, start) }
            var records: UInt64 { end > next ? end - next : 0 }
        }

        var records: UInt64 { partitions.values.reduce(0) { $0 + $1.records } }
    }

    /// Of two looks, one after the other.
    init(_ name: String, _ earlier: Look, _ now: Look) {
        self.name = name
        state = now.state
        members = now.members
        records = now.records
        next = now.partitions.filter { $0.value.records > 0 }.mapValues(\.next)
        let seconds = max(Double(now.atNs - earlier.atNs) / 1e9, 1e-9)
        recordsPerSecond = (Double(now.records) - Double(earlier.records)) / seconds
        let handled = now.partitions.reduce(UInt64(0)) { sum, entry in
            guard let committed = entry.value.committed, let before = earlier.partitions[entry.key] else { return sum }
            let from = before.committed ?? before.start
            return sum + (committed > from ? committed - from : 0)
        }
        handledPerSecond = Double(handled) / seconds
    }

    /// What a group reads: a partition that it committed nothing of is behind too.
    static func topics(of group: String, committed: some Sequence<TopicPartition>) -> Set<Topic> {
        let committed = Set(committed.map(\.topic))
        if group == WriterConfiguration().group { return committed.union([.ticksRaw]) }
        return committed.union(Topic.sources.filter { ClassWriter.group($0) == group })
    }

    /// Groups whose offsets say how far dead letters went: past them is nothing that waits.
    static func isOfDeadLetters(_ group: String) -> Bool {
        group == WriterService.deadLetterGroup || group.hasPrefix(WriterService.deadLetterGroup + ".")
    }

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
