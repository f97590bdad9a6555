import EventLog

/// A topic as it should be: partitions, copies and settings. One table feeds everything that makes or checks topics.
public struct KafkaTopic: Sendable, Hashable {
    /// On the brokers.
    public var name: String
    public var topic: Topic
    public var partitions: Int
    /// Copies of each partition.
    public var replication: Int
    /// Kafka's own names, ascending.
    public var settings: [Setting]

    /// One setting of a topic.
    public struct Setting: Sendable, Hashable {
        public let name: String
        public let value: String
    }

    private static let dayMs = 86_400_000

    /// The published counts and retentions of all topics, under a prefix. With fewer brokers than copies, as many
    /// copies as brokers. `partitions`, where given, replaces the published counts.
    public static func published(prefix: String = "", replication: Int = 3, partitions: Int? = nil) -> [KafkaTopic] {
        Topic.sources.flatMap { topic -> [KafkaTopic] in
            let own = KafkaTopic(prefix, topic, replication, partitions)
            // There is nothing to put aside of a table of instruments.
            return topic == .instruments ? [own] : [own, KafkaTopic(prefix, topic.deadLetter, replication, partitions)]
        }
    }

    private init(_ prefix: String, _ topic: Topic, _ replication: Int, _ partitions: Int?) {
        self.topic = topic
        name = prefix + topic.name
        self.replication = max(replication, 1)
        let published = KafkaTopic.publishedCount(topic)
        self.partitions = partitions.map { topic == .instruments ? published : $0 } ?? published
        var values = [
            "cleanup.policy": topic == .instruments ? "compact" : "delete", "compression.type": "lz4",
            "min.insync.replicas": "\(replication >= 3 ? 2 : 1)", "segment.bytes": "1073741824",
            "segment.index.bytes": "52428800",
        ]
        if topic != .instruments { values["retention.ms"] = "\(KafkaTopic.retentionDays(topic) * KafkaTopic.dayMs)" }
        settings = values.map { Setting(name: $0.key, value: $0.value) }.sorted { $0.name < $1.name }
    }

    /// Replaces or adds a setting.
    public mutating func set(_ name: String, _ value: String) {
        settings.removeAll { $0.name == name }
        settings.append(Setting(name: name, value: value))
        settings.sort { $0.name < $1.name }
    }

    /// Of a source; a dead-letter topic has as many.
    private static func publishedCount(_ topic: Topic) -> Int {
        let source = Topic.sources.first { topic == $0 || topic == $0.deadLetter } ?? topic
        switch source {
        case .ticksRaw, .booksDeltas: return 64
        case .positionsUpdates: return 16
        case .instruments: return 8
        default: return 32
        }
    }

    private static func retentionDays(_ topic: Topic) -> Int {
        switch topic {
        case .ticksRaw, .positionsUpdates: 7
        case .booksDeltas: 2
        default: 30
        }
    }
}

/// A topic as it is.
public struct KafkaTopicState: Sendable, Hashable {
    public var name: String
    public var partitions: Int
    public var replication: Int
    /// All settings in force, and which of them somebody made.
    public var settings: [String: String]
    public var ownSettings: Set<String>

    public init(
        name: String, partitions: Int, replication: Int, settings: [String: String], ownSettings: Set<String>
    ) {
        self.name = name
        self.partitions = partitions
        self.replication = replication
        self.settings = settings
        self.ownSettings = ownSettings
    }
}

/// What has to be done for topics to be as they should be.
public struct KafkaTopicPlan: Sendable, Hashable {
    /// One thing to do.
    public enum Step: Sendable, Hashable {
        case create(KafkaTopic)
        /// Keys go to other partitions from then on: order per instrument holds only apart, before and after.
        case addPartitions(KafkaTopic, from: Int)
        case set(topic: String, name: String, from: String?, to: String)
    }

    public private(set) var steps: [Step] = []
    /// What cannot be put right here: fewer partitions, other copies.
    public private(set) var differences: [String] = []

    public var isEmpty: Bool { steps.isEmpty && differences.isEmpty }

    /// Compares. Pure.
    public init(_ wanted: [KafkaTopic], _ found: [KafkaTopicState]) {
        for topic in wanted {
            guard let state = found.first(where: { $0.name == topic.name }) else {
                steps.append(.create(topic))
                continue
            }
            if state.partitions < topic.partitions {
                steps.append(.addPartitions(topic, from: state.partitions))
            } else if state.partitions > topic.partitions {
                differences.append(
                    "\(topic.name) has \(state.partitions) partitions, not \(topic.partitions): partitions cannot be "
                        + "taken away")
            }
            if state.replication != topic.replication {
                differences.append(
                    "\(topic.name) has \(state.replication) copies, not \(topic.replication): move its replicas with "
                        + "Kafka's own tool")
            }
            for setting in topic.settings where state.settings[setting.name] != setting.value {
                steps.append(
                    .set(
                        topic: topic.name, name: setting.name, from: state.settings[setting.name], to: setting.value))
            }
        }
    }
}
