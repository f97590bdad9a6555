import CassandraStore
import EventLog
import KafkaLog
import Observability
import TickStore
import TimeSource
import WriterService

/// The writers of executions, events and positions in this process: a thread each, one store, and a log of their own,
/// so that what wakes them does not wake the writer of ticks.
final class ClassWrites {
    private let log: KafkaLog
    private let store: CassandraClassStore
    private let writers: [(writer: ClassWriter, thread: ServiceThread)]

    /// nil where the brokers have none of the topics. `counts` says how many partitions a topic has there.
    static func make(
        _ options: ResolvedOptions, _ configuration: KafkaConfiguration, counts: (Topic) -> Int, _ time: any TimeSource,
        _ operations: PlatformOperations, _ diagnostics: Diagnostics
    ) throws -> ClassWrites? {
        let topics = ClassWriter.topics.filter { counts($0) > 0 && counts($0.deadLetter) > 0 }
        for topic in ClassWriter.topics where !topics.contains(topic) {
            diagnostics.log(
                .warning, "writer",
                "no topic \(topic) here, so nothing of it is written; `tapedeck topics apply` makes it")
        }
        guard !topics.isEmpty else { return nil }
        var configuration = configuration
        configuration.topics = topics + topics.map(\.deadLetter)
        // Transactions are known by it: under the name of another one they would fence each other.
        configuration.clientID += "-classes"
        let log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        do {
            return try ClassWrites(options, log, topics, time, operations, diagnostics)
        } catch {
            try? log.close()
            throw error
        }
    }

    private init(
        _ options: ResolvedOptions, _ log: KafkaLog, _ topics: [Topic], _ time: any TimeSource,
        _ operations: PlatformOperations, _ diagnostics: Diagnostics
    ) throws {
        self.log = log
        var configuration = try StoreChoice.cassandra(options)
        configuration.log = String(log.identity.id, radix: 16)
        let store = try CassandraClassStore(
            configuration, consistency: try ConsistencyOptions(options).classes)
        self.store = store
        writers = topics.map { topic in
            let writer = ClassWriter(
                topic, log: log, store: store, time: time,
                stopsAtLostRecords: options.string(.lostRecords) == "stop"
            ) { diagnostics.log(.warning, "writer", $0) }
            return (writer, ServiceThread(name: "writer-\(topic.number)", ended: { _ in }) { try writer.run() })
        }
        let all = writers.map(\.writer)
        operations.metrics.register { WriterMetrics.families(all.map { ($0.topic, $0.counters) }) }
        for writer in all { operations.readiness.add("writer \(writer.topic)") { writer.counters.failure } }
    }

    /// What no retry mends.
    var failure: String? { writers.lazy.compactMap(\.thread.failure).first ?? log.failure?.message }

    /// Each ends its batch, commits and leaves its group.
    func stop(_ diagnostics: Diagnostics) throws {
        for entry in writers { entry.writer.stop() }
        for entry in writers where !entry.thread.join(milliseconds: 30_000) {
            diagnostics.log(.warning, "writer", "the writer of \(entry.writer.topic) did not stop in 30 s")
        }
        store.close()
        try log.close()
        for entry in writers {
            let counters = entry.writer.counters
            diagnostics.log(
                .info, "writer", "\(entry.writer.topic): \(counters.rows) rows in \(counters.batches) batches")
        }
    }
}
