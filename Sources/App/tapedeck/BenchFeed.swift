import Bench
import EventLog
import KafkaLog
import Observability
import TimeSource

/// `tapedeck bench-feed`: made-up ticks into Kafka, for `make bench-cluster`.
struct BenchFeed {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run() throws -> ExitCode {
        var configuration = try ClusterOptions(options, diagnostics).configuration()
        configuration.topics = [.ticksRaw]
        let log = try KafkaLog(configuration, time: SystemTime(), report: ClusterOptions.report(diagnostics))
        var load = FeedLoad()
        load.symbolCount = options.int(.symbolCount)
        load.batch = options.int(.batch)
        load.records = options.int(.records)
        load.recordsPerSecond = options.int(.sourceRate) > 0 ? options.int(.sourceRate) : nil
        let report = try load.run(log)
        let acknowledged = log.counters.produced[.ticksRaw]?.latency ?? LatencyHistogram()
        try log.close()
        print(report.json(acknowledged: acknowledged))
        return .success
    }
}
