import CassandraStore
import Protobuf

/// `tapedeck schema plan|apply|check`.
struct SchemaCommand {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    func run(_ what: String) throws -> ExitCode {
        guard ["plan", "apply", "check"].contains(what) else {
            throw CommandError("there is no `schema \(what)`; say plan, apply or check")
        }
        let tool = try SchemaTool(StoreChoice.cassandra(options), replication: try SchemaCommand.replication(options))
        if what == "apply" {
            let plan = try tool.apply { if !options.bool(.json) { print($0 + ";") } }
            if options.bool(.json) {
                show(plan, isDone: true)
            } else if plan.statements.isEmpty {
                print("nothing to do: the tables are as they have to be")
            }
            return .success
        }
        let plan = try tool.plan()
        show(plan, isDone: false)
        if what == "check" { return plan.isUpToDate ? .success : .failure }
        return plan.findings.contains { $0.kind == .conflict } ? .failure : .success
    }

    /// `NAME:COPIES,...`; nil where there is none.
    static func replication(_ options: ResolvedOptions) throws -> SchemaTool.Replication? {
        guard let text = options.optionalString(.dataCenters) else { return nil }
        var replication: SchemaTool.Replication = [:]
        for part in text.split(separator: ",") {
            let words = part.split(separator: ":")
            guard words.count == 2, let copies = Int(words[1]), (1...100).contains(copies),
                !words[0].contains("'"), replication.updateValue(copies, forKey: String(words[0])) == nil
            else { throw CommandError("--data-centers: \"\(part)\" is no NAME:COPIES, as dc-london:3") }
        }
        guard !replication.isEmpty else { throw CommandError("--data-centers names none") }
        return replication
    }

    private func show(_ plan: SchemaTool.Plan, isDone: Bool) {
        guard !options.bool(.json) else {
            let findings = plan.findings.map {
                "{\"kind\":\(quoted($0.kind.rawValue)),\"place\":\(quoted($0.place)),\"message\":\(quoted($0.message))}"
            }
            let statements = plan.statements.map(quoted).joined(separator: ",")
            print(
                "{\"findings\":[\(findings.joined(separator: ","))],\"statements\":[\(statements)],"
                    + "\"up_to_date\":\(isDone || plan.isUpToDate)}")
            return
        }
        for finding in plan.findings { print("\(finding.kind.rawValue)\t\(finding.place)\t\(finding.message)") }
        for statement in plan.statements { print(statement + ";") }
        if plan.isUpToDate { print("the tables are as they have to be") }
    }
}

private func quoted(_ text: String) -> String { JSONWriter.quoted(text) }
