import CassandraStore
import EventLog
import Glibc
import KafkaLog
import Observability
import Repair
import TickStore

/// `tapedeck verify` of a cluster, and `tapedeck repair`: a log held against a store, row by row.
struct RepairCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    /// Whether the log is Kafka's: one of its options says so, on the command line or elsewhere.
    static func isCluster(_ options: ResolvedOptions) -> Bool {
        [OptionName.brokers, .log].contains { option in
            // Both have defaults.
            options.source(option).map { $0 != .defaultValue } ?? false
        }
    }

    // MARK: verify

    func verify(_ symbols: [String]) throws -> ExitCode {
        try with(symbols) { audit in
            let isJSON = options.bool(.json)
            var shown = 0
            let result = try audit.compare(
                TapeAudit.Listener(
                    bucket: { bucket, counts in if isJSON { print(AuditText.json(bucket, counts)) } },
                    difference: { found in
                        shown += 1
                        if !isJSON, shown <= RepairCommand.shownMax { print(AuditText.line(found)) }
                    }))
            if !isJSON, shown > RepairCommand.shownMax {
                print("and \(shown - RepairCommand.shownMax) more rows; `tapedeck repair --dry-run` lists them all")
            }
            print(isJSON ? AuditText.json(result) : AuditText.table(result).joined(separator: "\n"))
            return result.isEqual ? .success : .failure
        }
    }

    /// Rows that `verify` names one by one.
    private static let shownMax = 20

    // MARK: repair

    func repair(_ symbols: [String]) throws -> ExitCode {
        let startNs = time.monotonicNs()
        return try with(symbols) { audit in
            let isJSON = options.bool(.json)
            let isDry = options.bool(.dryRun)
            let outcome = try RepairRun(audit, wallNs: { time.wallNs() }).run(
                difference: { found in
                    guard isDry || found.kind == .wrongKey else { return }
                    print(isJSON ? AuditText.json(found) : AuditText.line(found))
                },
                isWanted: { found in !isDry && isWanted(found.total) })
            let seconds = Double(time.monotonicNs() - startNs) / 1e9
            return report(outcome, seconds, isDry)
        }
    }

    /// Asks before anything is deleted, where somebody can answer.
    private func isWanted(_ found: AuditCounts) -> Bool {
        let rewritten = found.missing + found.different
        let json = options.bool(.json)
        let line =
            "\(found.missing) missing and \(found.different) different rows are written from the log, "
            + "\(found.wrongKey) under wrong keys are deleted"
        if !json { print(line) }
        guard found.wrongKey > 0, !options.bool(.yes) else { return rewritten + found.wrongKey > 0 }
        Diagnostics.standardError("Delete these \(found.wrongKey) rows and write \(rewritten)? [y/N] ")
        return readLine().map { ["y", "yes"].contains($0.lowercased()) } ?? false
    }

    private func report(_ outcome: RepairRun.Outcome, _ seconds: Double, _ isDry: Bool) -> ExitCode {
        let isJSON = options.bool(.json)
        let minutes = outcome.tapeMinutes
        let pace = minutes / max(seconds / 60, 1e-9)
        func tenth(_ value: Double) -> String {
            let tenths = Int64(min(max(value * 10, 0), 1e15).rounded())
            return "\(tenths / 10).\(tenths % 10)"
        }
        let last = outcome.after ?? outcome.before
        if isJSON {
            print(AuditText.json(last))
            print(
                "{\"repair\":true,\"written\":\(outcome.repaired.written),\"deleted\":\(outcome.repaired.removed),"
                    + "\"rounds\":\(outcome.rounds),\"generation_us\":\(outcome.stamp.generation),"
                    + "\"tape_minutes\":\(tenth(minutes)),\"seconds\":\(tenth(seconds)),"
                    + "\"tape_minutes_per_minute\":\(tenth(pace)),\"equal\":\(last.isEqual)}")
        } else {
            print(AuditText.table(last).joined(separator: "\n"))
            if outcome.after != nil {
                print("\(outcome.repaired.written) rows written, \(outcome.repaired.removed) deleted")
                print(
                    "\(tenth(minutes)) minutes of tape in \(tenth(seconds)) s: \(tenth(pace)) minutes of tape per "
                        + "minute")
            } else if !outcome.before.total.isEqual {
                print("nothing was changed")
            }
        }
        return last.isEqual ? .success : .failure
    }

    // MARK: Both

    private func with(_ symbols: [String], _ body: (TapeAudit) throws -> ExitCode) throws -> ExitCode {
        guard options.string(.topic) == Topic.ticksRaw.name else {
            throw CommandError("rows are made of \(Topic.ticksRaw) alone, not of \(options.string(.topic))")
        }
        let directory = DataDirectory(path: options.string(.data))
        let log: any EventLog
        if RepairCommand.isCluster(options) {
            var configuration = try ClusterOptions(options, diagnostics).configuration()
            configuration.clientID = "tapedeck-repair"
            configuration.topics = [.ticksRaw]
            log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        } else {
            try directory.requireLog()
            log = try DataCommands.openLog(directory.log, time)
        }
        defer { try? log.close() }
        let opened = try StoreChoice(options).open(directory, time: time, log: log, diagnostics)
        defer { try? opened.close() }
        guard let store = opened as? any RepairableStore else {
            throw CommandError("this store cannot be compared row by row")
        }
        let selection = RepairSelection(
            exchange: options.optionalString(.exchange), symbols: Set(symbols), fromNs: options.timeNs(.from) ?? .min,
            toNs: options.timeNs(.to) ?? .max)
        var reportedNs = time.monotonicNs()
        let audit = try TapeAudit(log: log, store: store, selection: selection, wallNs: time.wallNs()) {
            what, done, total in
            guard time.monotonicNs() - reportedNs > 1_000_000_000 else { return }
            reportedNs = time.monotonicNs()
            diagnostics.log(.info, "repair", "\(what): \(done) of \(total)")
        }
        return try body(audit)
    }
}
