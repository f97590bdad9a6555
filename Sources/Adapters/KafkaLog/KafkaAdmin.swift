import CRdKafka
import EventLog
import Glibc

/// Looks after topics and groups of a cluster. All calls wait for the brokers.
public final class KafkaAdmin: @unchecked Sendable {
    let configuration: KafkaConfiguration
    let handle: KafkaHandle
    let report: KafkaReport

    /// Nothing is connected to yet. `report` takes lines for people.
    public init(_ configuration: KafkaConfiguration, report: @escaping KafkaReport) throws(LogError) {
        self.configuration = configuration
        self.report = report
        handle = try KafkaHandle(.consumer, configuration, ConsumerSettings.common, report: report)
    }

    /// Asks by a client that is somebody else's to let go.
    init(_ configuration: KafkaConfiguration, by handle: KafkaHandle, report: @escaping KafkaReport) {
        self.configuration = configuration
        self.report = report
        self.handle = handle
    }

    /// Lets the client go.
    public func close() { handle.destroy() }

    private var timeoutMs: Int32 { Int32(clamping: configuration.requestTimeoutNs / 1_000_000) }

    var cluster: KafkaCluster { KafkaCluster(handle, configuration) }

    // MARK: Topics

    /// How many brokers there are.
    public func brokerCount() throws(LogError) -> Int {
        try withMetadata { Int($0.pointee.broker_cnt) }
    }

    /// The topics of these names that exist, with their settings.
    public func topics(_ names: [String]) throws(LogError) -> [KafkaTopicState] {
        var states = try withMetadata { metadata in
            (0..<Int(metadata.pointee.topic_cnt)).compactMap { index -> KafkaTopicState? in
                let topic = metadata.pointee.topics[index]
                let name = String(cString: topic.topic)
                guard names.contains(name), topic.partition_cnt > 0, topic.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
                    return nil
                }
                return KafkaTopicState(
                    name: name, partitions: Int(topic.partition_cnt),
                    replication: Int(topic.partitions[0].replica_cnt), settings: [:], ownSettings: [])
            }
        }
        let settings = try describe(states.map(\.name))
        for index in states.indices {
            guard let found = settings[states[index].name] else { continue }
            states[index].settings = found.values
            states[index].ownSettings = found.own
        }
        return states
    }

    private func withMetadata<R>(_ body: (UnsafePointer<rd_kafka_metadata>) -> R) throws(LogError) -> R {
        var metadata: UnsafePointer<rd_kafka_metadata>?
        let code = rd_kafka_metadata(handle.rk, 1, nil, &metadata, timeoutMs)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata else { throw handle.fail("learning the topics", code) }
        defer { rd_kafka_metadata_destroy(metadata) }
        return body(metadata)
    }

    /// Does what a plan says, step by step. Throws at the first that fails; those before it are done.
    public func apply(_ plan: KafkaTopicPlan) throws(LogError) {
        var created: [KafkaTopic] = []
        var settings: [String: [String: String]] = [:]
        for step in plan.steps {
            switch step {
            case .create(let topic): created.append(topic)
            case .addPartitions(let topic, _): try addPartitions(topic)
            case .set(let topic, let name, _, let value): settings[topic, default: [:]][name] = value
            }
        }
        if !created.isEmpty { try create(created) }
        if !settings.isEmpty { try set(settings) }
    }

    private func create(_ topics: [KafkaTopic]) throws(LogError) {
        var text = [CChar](repeating: 0, count: 256)
        var made: [OpaquePointer?] = []
        defer { for topic in made { if let topic { rd_kafka_NewTopic_destroy(topic) } } }
        for topic in topics {
            guard
                let new = rd_kafka_NewTopic_new(
                    topic.name, Int32(clamping: topic.partitions), Int32(clamping: topic.replication), &text, text.count
                )
            else { throw LogError(.invalid, "topic \(topic.name): \(KafkaHandle.string(text))") }
            made.append(new)
            for setting in topic.settings { rd_kafka_NewTopic_set_config(new, setting.name, setting.value) }
        }
        let event = try ask(RD_KAFKA_ADMIN_OP_CREATETOPICS, "creating topics") { options, queue in
            rd_kafka_CreateTopics(handle.rk, &made, made.count, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &count)
        try check(results, count, "creating")
    }

    private func addPartitions(_ topic: KafkaTopic) throws(LogError) {
        var text = [CChar](repeating: 0, count: 256)
        guard let new = rd_kafka_NewPartitions_new(topic.name, topic.partitions, &text, text.count) else {
            throw LogError(.invalid, "topic \(topic.name): \(KafkaHandle.string(text))")
        }
        var all: [OpaquePointer?] = [new]
        defer { rd_kafka_NewPartitions_destroy(new) }
        let event = try ask(RD_KAFKA_ADMIN_OP_CREATEPARTITIONS, "adding partitions") { options, queue in
            rd_kafka_CreatePartitions(handle.rk, &all, 1, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        let results = rd_kafka_CreatePartitions_result_topics(
            rd_kafka_event_CreatePartitions_result(event), &count)
        try check(results, count, "adding partitions to")
    }

    private func check(
        _ results: UnsafeMutablePointer<OpaquePointer?>?, _ count: Int, _ what: String
    ) throws(LogError) {
        guard let results else { return }
        for index in 0..<count {
            guard let result = results[index] else { continue }
            let code = rd_kafka_topic_result_error(result)
            guard code != RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
            let detail = rd_kafka_topic_result_error_string(result).map { String(cString: $0) } ?? ""
            throw handle.fail(
                "\(what) topic \(String(cString: rd_kafka_topic_result_name(result)))", code, detail: detail)
        }
    }

    /// The old way of the protocol replaces all settings of a topic: those that somebody made and that are not meant
    /// stay as they are.
    private func set(_ changes: [String: [String: String]]) throws(LogError) {
        let now = try describe(changes.keys.sorted())
        var resources: [OpaquePointer?] = []
        defer { for resource in resources { if let resource { rd_kafka_ConfigResource_destroy(resource) } } }
        for (name, values) in changes.sorted(by: { $0.key < $1.key }) {
            let resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, name)
            resources.append(resource)
            var all = values
            for own in now[name]?.own ?? [] where all[own] == nil { all[own] = now[name]?.values[own] }
            for (setting, value) in all.sorted(by: { $0.key < $1.key }) {
                rd_kafka_ConfigResource_set_config(resource, setting, value)
            }
        }
        let event = try ask(RD_KAFKA_ADMIN_OP_ALTERCONFIGS, "changing settings") { options, queue in
            rd_kafka_AlterConfigs(handle.rk, &resources, resources.count, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        guard
            let results = rd_kafka_AlterConfigs_result_resources(
                rd_kafka_event_AlterConfigs_result(event), &count)
        else { return }
        for index in 0..<count { try check(results[index], "changing settings of") }
    }

    private func check(_ resource: OpaquePointer?, _ what: String) throws(LogError) {
        guard let resource else { return }
        let code = rd_kafka_ConfigResource_error(resource)
        guard code != RD_KAFKA_RESP_ERR_NO_ERROR else { return }
        let detail = rd_kafka_ConfigResource_error_string(resource).map { String(cString: $0) } ?? ""
        throw handle.fail("\(what) \(String(cString: rd_kafka_ConfigResource_name(resource)))", code, detail: detail)
    }

    private func describe(_ names: [String]) throws(LogError) -> [String: (values: [String: String], own: Set<String>)]
    {
        guard !names.isEmpty else { return [:] }
        var resources: [OpaquePointer?] = names.map { rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, $0) }
        defer { for resource in resources { if let resource { rd_kafka_ConfigResource_destroy(resource) } } }
        let event = try ask(RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, "reading settings") { options, queue in
            rd_kafka_DescribeConfigs(handle.rk, &resources, resources.count, options, queue)
        }
        defer { rd_kafka_event_destroy(event) }
        var count = 0
        guard
            let results = rd_kafka_DescribeConfigs_result_resources(
                rd_kafka_event_DescribeConfigs_result(event), &count)
        else { return [:] }
        var found: [String: (values: [String: String], own: Set<String>)] = [:]
        for index in 0..<count {
            guard let resource = results[index] else { continue }
            try check(resource, "reading settings of")
            var entries = 0
            guard let list = rd_kafka_ConfigResource_configs(resource, &entries) else { continue }
            var values: [String: String] = [:]
            var own: Set<String> = []
            for entry in 0..<entries {
                guard let entry = list[entry] else { continue }
                let name = String(cString: rd_kafka_ConfigEntry_name(entry))
                values[name] = rd_kafka_ConfigEntry_value(entry).map { String(cString: $0) }
                if rd_kafka_ConfigEntry_source(entry) == RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG {
                    own.insert(name)
                }
            }
            found[String(cString: rd_kafka_ConfigResource_name(resource))] = (values, own)
        }
        return found
    }

    // MARK: Asking

    /// Why a request was not answered.
    struct Refusal: Error {
        let code: rd_kafka_resp_err_t
        let detail: String

        init(_ code: rd_kafka_resp_err_t, _ detail: UnsafePointer<CChar>? = nil) {
            self.code = code
            self.detail = detail.map { String(cString: $0) } ?? ""
        }
    }

    /// Sends a request and waits for its answer, which the caller frees.
    func ask(
        _ operation: rd_kafka_admin_op_t, _ what: String, _ send: (OpaquePointer?, OpaquePointer?) -> Void
    ) throws(LogError) -> OpaquePointer {
        do throws(Refusal) {
            return try ask(handle, operation, send)
        } catch {
            throw handle.fail(what, error.code, detail: error.detail)
        }
    }

    private func ask(
        _ client: KafkaHandle, _ operation: rd_kafka_admin_op_t, _ send: (OpaquePointer?, OpaquePointer?) -> Void
    ) throws(Refusal) -> OpaquePointer {
        let queue = rd_kafka_queue_new(client.rk)
        defer { rd_kafka_queue_destroy(queue) }
        let options = rd_kafka_AdminOptions_new(client.rk, operation)
        defer { if let options { rd_kafka_AdminOptions_destroy(options) } }
        var text = [CChar](repeating: 0, count: 128)
        rd_kafka_AdminOptions_set_request_timeout(options, timeoutMs, &text, text.count)
        send(options, queue)
        guard let event = rd_kafka_queue_poll(queue, timeoutMs + 5000) else {
            throw Refusal(RD_KAFKA_RESP_ERR__TIMED_OUT)
        }
        let code = rd_kafka_event_error(event)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            defer { rd_kafka_event_destroy(event) }
            throw Refusal(code, rd_kafka_event_error_string(event))
        }
        return event
    }

    /// Asks about groups, and again while a coordinator of theirs is not ready: `send` asks by the client that it is
    /// given, `read` takes the answer apart and throws what the coordinator refused in it.
    func askCoordinator<Answer>(
        _ operation: rd_kafka_admin_op_t, _ what: String,
        _ send: (_ rk: OpaquePointer, _ options: OpaquePointer?, _ queue: OpaquePointer?) -> Void,
        _ read: (OpaquePointer) throws(Refusal) -> Answer
    ) throws(LogError) -> Answer {
        var retry = CoordinatorRetry()
        var client = handle
        defer { if client !== handle { client.destroy() } }
        while true {
            let refusal: Refusal
            do throws(Refusal) {
                let event = try ask(client, operation) { options, queue in send(client.rk, options, queue) }
                defer { rd_kafka_event_destroy(event) }
                return try read(event)
            } catch {
                refusal = error
            }
            guard let waitMs = retry.wait(after: refusal.code) else {
                throw client.fail(what, refusal.code, detail: refusal.detail)
            }
            poll(nil, 0, waitMs)
            // A client goes on asking the coordinator that it found first, though that says that it is none.
            guard refusal.code == RD_KAFKA_RESP_ERR_NOT_COORDINATOR else { continue }
            let next = try KafkaHandle(.consumer, configuration, ConsumerSettings.common, report: report)
            if client !== handle { client.destroy() }
            client = next
        }
    }
}
