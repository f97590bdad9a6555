import Foundation
import Synchronization
import TestSupport
import Testing

/// Three brokers and a node that the drills of these tests break: started by the first that asks, wiped when the tests'
/// process has ended.
actor Engines {
    static let shared = Engines()
    static let isPresent = CassandraNode.isPresent && FileManager.default.isExecutableFile(atPath: kafka)
    static let absent = Comment(rawValue: "../shared/engines is absent")

    private static let kafka = SharedData.path("engines/kafka/kafka")

    struct Failure: Error, CustomStringConvertible { let description: String }

    /// How to reach them, as options of the program, and how to break them.
    struct Started: Sendable {
        let options: [String]
        var brokerHooks: [String] = []
        var nodeHooks: [String] = []
    }

    private var starting: Task<Started, any Error>?

    func started() async throws -> Started {
        if let starting { return try await starting.value }
        let task = Task { try await Engines.start() }
        starting = task
        return try await task.value
    }

    private static func start() async throws -> Started {
        // By default a node acknowledges what SIGKILL can still take from it.
        async let node = CassandraNode.start(["--set", "commitlog_sync=batch"])
        let (port, data) = try await brokers()
        let kafka = { (word: String, broker: Int) in "'\(Engines.kafka)' \(word) --data '\(data)' \(broker)" }
        let cassandra = try await node
        return Started(
            options: [
                "--brokers", (0..<3).map { "127.0.0.1:\(port + $0)" }.joined(separator: ","), "--contact-points",
                "127.0.0.1:\(cassandra.port)",
            ],
            brokerHooks: [
                "--engine-kill", kafka("kill", 2), "--engine-start", kafka("restart", 2), "--engine-pause",
                kafka("pause", 3), "--engine-resume", kafka("resume", 3),
            ],
            nodeHooks: ["--engine-kill", cassandra.shell("kill"), "--engine-start", cassandra.shell("restart")])
    }

    private static func brokers() async throws -> (port: Int, data: String) {
        let data = NSTemporaryDirectory() + "tapedeck-brokers-\(getpid())"
        let guardian =
            "trap '' INT TERM HUP; while kill -0 \(getpid()) 2>/dev/null; do sleep 1; done; "
            + "exec \"$0\" stop --data \"$1\" --wipe"
        try EngineProcess.start(["/bin/bash", "-c", guardian, kafka, data])
        var last = ""
        for attempt in 0..<6 {
            // Thirty in a row, below those that the system hands out, and away from other tests' broker.
            let port = 17_600 + (Int(getpid()) % 70 * 30 + attempt * 330) % 2100
            let ended = try await EngineProcess.run([
                kafka, "start", "--data", data, "--port", "\(port)", "--brokers", "3", "--heap", "256m", "--fresh",
                "--set", "broker.session.timeout.ms=3000",
            ])
            if ended.status == 0 { return (port, data) }
            last = ended.output
        }
        throw Failure(description: "the brokers do not start: \(last)")
    }
}
