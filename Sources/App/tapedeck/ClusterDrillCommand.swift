import Bench
import CQLFrames
import CassandraCQL
import CassandraStore
import Drills
import EventLog
import EventLoop
import Glibc
import KafkaLog
import Observability
import Repair
import TickStore

/// `tapedeck drill NAME` of the drills that need brokers and Cassandra. Topics, group and keyspace are the drill's own,
/// and removed when it has passed.
struct ClusterDrillCommand {
    private let options: ResolvedOptions
    private let name: ClusterDrill.Name
    private let program: String
    /// Stands before the topics, and in the keyspace.
    private let id: String
    private let time = SystemTime()

    private static let topics: [Topic] = [.ticksRaw, .ticksRaw.deadLetter, .booksDeltas]

    init(_ name: ClusterDrill.Name, _ options: ResolvedOptions, program: String) {
        self.name = name
        self.options = options
        self.program = program
        id = "drill_\(String(UInt64(time.wallNs()) / 1_000_000, radix: 36))_\(getpid())"
    }

    func run(progress: @escaping (String) -> Void) throws -> ExitCode {
        let scratch = try ScratchDirectory()
        let kafka = try kafka()
        let admin = try KafkaAdmin(kafka) { _, _ in }
        defer { admin.close() }
        var cassandra = try StoreChoice.cassandra(options)
        cassandra.keyspace = id
        try makeTopics(admin, kafka.prefix)
        let schema = try SchemaTool(cassandra, replication: try SchemaCommand.replication(options))
        _ = try schema.apply()
        let result = try ClusterDrill(name, setup(scratch.path, kafka, cassandra)).run(progress: progress)
        print(options.bool(.json) ? json(result) : text(result))
        guard result.passed else {
            for problem in result.problems { progress(problem) }
            progress("messages are kept in \(scratch.path); topics \(kafka.prefix)* and keyspace \(id) are kept too")
            return .failure
        }
        try admin.removeTopics(ClusterDrillCommand.topics)
        do {
            try schema.removeKeyspace()
        } catch {
            throw CommandError("the drill passed, but its keyspace \(id) is left: \(error.message)")
        }
        scratch.remove()
        return .success
    }

    private func kafka() throws -> KafkaConfiguration {
        var kafka = try ClusterOptions(options, nil).configuration()
        kafka.clientID = "tapedeck-drill"
        // Who reads the tape again asks the brokers for it again.
        kafka.cacheBytes = 1 << 20
        kafka.prefix += id + "."
        kafka.topics = ClusterDrillCommand.topics
        return kafka
    }

    private func makeTopics(_ admin: KafkaAdmin, _ prefix: String) throws {
        let replication = try options.optionalInt(.replication) ?? min(3, admin.brokerCount())
        let wanted = KafkaTopic.published(
            prefix: prefix, replication: replication,
            partitions: options.optionalInt(.partitions) ?? 8
        ).filter { ClusterDrillCommand.topics.contains($0.topic) }
        try admin.apply(KafkaTopicPlan(wanted, []))
    }

    private static func awaySeconds(_ name: ClusterDrill.Name) -> Int {
        switch name {
        case .brokerKill, .bystander: 30
        case .open: 120
        default: 60
        }
    }

    private func setup(
        _ directory: String, _ kafka: KafkaConfiguration, _ cassandra: CassandraStoreConfiguration
    ) -> ClusterDrill.Setup {
        let time = time
        return ClusterDrill.Setup(
            program: program, directory: directory, arguments: arguments(kafka.prefix),
            rate: isGiven(.rate) ? options.int(.rate) : name == .open ? 1000 : 10_000,
            rounds: options.optionalInt(.rounds) ?? defaultRounds,
            awaySeconds: options.optionalInt(.awaySeconds) ?? ClusterDrillCommand.awaySeconds(name),
            seed: UInt64(options.int(.seed)),
            hooks: ClusterDrill.EngineHooks(
                kill: options.optionalString(.engineKill), start: options.optionalString(.engineStart),
                pause: options.optionalString(.enginePause), resume: options.optionalString(.engineResume)),
            openLog: { try KafkaLog(kafka, time: time) { _, _ in } },
            openStore: { log in
                var cassandra = cassandra
                cassandra.log = String(log.identity.id, radix: 16)
                return try CassandraStore(cassandra, time: time)
            },
            compare: { log, store, fromNs in
                ClusterDrillCommand.comparison(
                    try Verifier.compare(log: log, store: store, range: Verifier.Range(fromNs: fromNs)))
            },
            removeRecords: { before in
                let admin = try KafkaAdmin(kafka) { _, _ in }
                defer { admin.close() }
                try admin.removeRecords(before: before)
            },
            clockArguments: { ["--clock-offset-file", $0] })
    }

    private var defaultRounds: Int {
        switch name {
        case .writerKill: 20
        case .poison: 10
        default: 1
        }
    }

    private func isGiven(_ option: OptionName) -> Bool { options.source(option) != .defaultValue }

    /// The same brokers and nodes for the processes that the drill starts. Passwords go by the environment, which they
    /// inherit.
    private func arguments(_ prefix: String) -> [String] {
        var arguments = ["--topic-prefix", prefix, "--keyspace", id]
        for option in Command.kafkaOptions + Command.cassandraOptions where isGiven(option) {
            switch option {
            case .topicPrefix, .keyspace: break
            case .kafkaPassword, .cassandraPassword:
                if let value = options.optionalString(option) { setenv(option.environmentVariable, value, 1) }
            case .kafkaSet, .kafkaOIDCExtension:
                for value in options.strings(option) { arguments += [option.flag, value] }
            default: if let value = options.optionalString(option) { arguments += [option.flag, value] }
            }
        }
        return arguments
    }

    static func comparison(_ result: VerifyResult) -> ClusterDrill.Comparison {
        var comparison = ClusterDrill.Comparison()
        for line in result.lines {
            comparison.ticks += line.logTicks
            comparison.missing += line.missing
            comparison.different += line.different
            comparison.extra += line.extra + line.keyCollisions
            comparison.pending += line.pending
        }
        let isWhole = result.isClean && comparison.pending == 0 && comparison.extra == 0
        if !isWhole { comparison.lines = VerifyText.table(result) }
        return comparison
    }

    // MARK: What is said

    private func text(_ result: ClusterDrill.Result) -> String {
        "\(name.rawValue): \(result.ticks) ticks, lost \(result.lost), duplicated \(result.duplicated), "
            + "again in the log \(result.repeatedInLog), recovery \(Figure.digits(result.recoverySeconds)) s at most, "
            + "memory \(Figure.digits(result.residentBytesMost / 1_048_576)) MiB at most"
    }

    private func json(_ result: ClusterDrill.Result) -> String {
        "{\"drill\":\"\(name.rawValue)\",\"ticks\":\(result.ticks),\"lost\":\(result.lost),\"duplicated\":"
            + "\(result.duplicated),\"repeated_in_log\":\(result.repeatedInLog),\"recovery_seconds\":"
            + "\(Figure.digits(result.recoverySeconds)),\"resident_bytes_max\":\(Int(result.residentBytesMost)),"
            + "\"problems\":\(result.problems.count),\"passed\":\(result.passed)}"
    }
}
