import KafkaTestSupport
import Testing

/// `run writer --store cassandra` of the built binary, and the commands around it.
enum WriterProgram {
    static let shortSession = [
        "--kafka-set", "session.timeout.ms=3000", "--kafka-set", "heartbeat.interval.ms=500",
    ]

    static func tapedeck(_ arguments: [String]) throws {
        let ended = try Program.run(arguments)
        try #require(ended.status == 0, "\(arguments): \(ended.output)")
    }

    /// Starts a writer that keeps its name over restarts.
    static func start(_ arguments: [String], data: String) throws -> ServiceProcess {
        try ServiceProcess(
            ["writer", "--store", "cassandra", "--data", data, "--instance", "one"] + arguments)
    }
}
