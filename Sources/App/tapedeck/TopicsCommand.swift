import EventLog
import KafkaLog
import Observability

/// `tapedeck topics plan|apply|check`.
struct TopicsCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run(_ what: String) throws -> ExitCode {
        guard ["plan", "apply", "check"].contains(what) else {
            throw CommandError("topics does not know `\(what)`; it knows plan, apply and check")
        }
        let configuration = try ClusterOptions(options, diagnostics).configuration()
        let admin = try KafkaAdmin(configuration, report: ClusterOptions.report(diagnostics))
        defer { admin.close() }
        let replication = try options.optionalInt(.replication) ?? min(3, admin.brokerCount())
        let wanted = KafkaTopic.published(
            prefix: configuration.prefix, replication: replication, partitions: options.optionalInt(.partitions))
        let plan = KafkaTopicPlan(wanted, try admin.topics(wanted.map(\.name)))
        let isJSON = options.bool(.json)
        for line in TopicsText.lines(plan, json: isJSON) { print(line) }
        if what == "apply" { try admin.apply(plan) }
        if !isJSON { print(TopicsText.summary(plan, wanted.count, isDone: what == "apply")) }
        switch what {
        case "check": return plan.isEmpty ? .success : .failure
        default: return plan.differences.isEmpty ? .success : .failure
        }
    }
}

/// A plan, for people and programs.
enum TopicsText {
    static func lines(_ plan: KafkaTopicPlan, json isJSON: Bool) -> [String] {
        plan.steps.map { step in
            switch step {
            case .create(let topic):
                isJSON
                    ? "{\"create\":\"\(topic.name)\",\"partitions\":\(topic.partitions),\"replication\":"
                        + "\(topic.replication)}"
                    : "create \(topic.name): \(topic.partitions) partitions, \(topic.replication) copies, "
                        + topic.settings.map { "\($0.name)=\($0.value)" }.joined(separator: " ")
            case .addPartitions(let topic, let from):
                isJSON
                    ? "{\"partitions\":\"\(topic.name)\",\"from\":\(from),\"to\":\(topic.partitions)}"
                    : "\(topic.name): \(from) partitions become \(topic.partitions); instruments move to other "
                        + "partitions from then on"
            case .set(let topic, let name, let from, let to):
                isJSON
                    ? "{\"set\":\"\(topic)\",\"name\":\"\(name)\",\"to\":\"\(to)\"}"
                    : "\(topic): \(name) \(from ?? "(unset)") becomes \(to)"
            }
        } + plan.differences.map { isJSON ? "{\"difference\":\"\($0)\"}" : $0 }
    }

    static func summary(_ plan: KafkaTopicPlan, _ count: Int, isDone: Bool) -> String {
        if plan.isEmpty { return "\(count) topics are as they should be" }
        let steps = "\(plan.steps.count) step\(plan.steps.count == 1 ? "" : "s") \(isDone ? "done" : "to do")"
        guard !plan.differences.isEmpty else { return steps }
        return "\(steps), \(plan.differences.count) that somebody must put right"
    }
}
