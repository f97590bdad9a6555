import EventLog
import Foundation
import KafkaLog
import Simulation
import Synchronization
import TestSupport

/// The one real broker of all tests here, from `../shared/engines`: TLS, client certificates and logins on one
/// listener, plain text on another. Started when first needed; ended and wiped when the tests' process ends, however it
/// does.
package final class Broker: Sendable {
    package static let isPresent = SharedData.isPresent && FileManager.default.isExecutableFile(atPath: script)
    package static let absent = "../shared/engines is absent"

    private static let script = SharedData.path("engines/kafka/kafka")
    private static let started: Result<Broker, any Error> = Result { try Broker() }

    package static func shared() throws -> Broker { try started.get() }

    /// What a command of the engines printed, and how it ended.
    package struct Failure: Error, CustomStringConvertible { package let description: String }

    package let port: Int
    package let certificates: String
    private let data: String
    /// While this is open, the watcher waits.
    private let lifeline: FileHandle

    /// Of plain text, and of TLS with a login.
    package var brokers: String { "127.0.0.1:\(port + 10)" }
    package var secureBrokers: String { "127.0.0.1:\(port)" }

    private init() throws {
        let folder = NSTemporaryDirectory() + "tapedeck-kafka-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        data = folder + "/data"
        certificates = folder + "/certificates"
        lifeline = try Broker.watch(folder)
        try Broker.run(SharedData.path("engines/make-certs"), [certificates])
        var last = ""
        for attempt in 0..<8 {
            // Thirty in a row, below those that the system hands out to whoever connects: one or another of these would
            // be taken before the broker binds it.
            let port = 10_020 + (Int(getpid()) % 250 * 30 + attempt * 330) % 7500
            do {
                try Broker.run(
                    Broker.script,
                    [
                        "start", "--data", data, "--port", "\(port)", "--heap", "384m", "--sasl", "--tls", certificates,
                        "--mtls", "--set", "log.retention.check.interval.ms=500", "--set",
                        "log.initial.task.delay.ms=500", "--set",
                        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER", "--set",
                        "listener.name.client.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security."
                            + "oauthbearer.OAuthBearerLoginModule required;", "--set",
                        "group.min.session.timeout.ms=1000", "--set",
                        "group.consumer.min.heartbeat.interval.ms=300", "--set",
                        "group.consumer.heartbeat.interval.ms=300", "--fresh",
                    ])
                self.port = port
                return
            } catch {
                last = "\(error)"
            }
        }
        throw Failure(description: "the broker does not start: \(last)")
    }

    /// Ends and wipes the broker once this process is gone: a pipe that only this process holds open is then closed.
    private static func watch(_ folder: String) throws -> FileHandle {
        let pipe = Pipe()
        let watcher = ChildProcess()
        watcher.executableURL = URL(fileURLWithPath: "/bin/bash")
        watcher.arguments = [
            "-c", "trap '' INT TERM HUP; cat >/dev/null; \"$0\" stop --data \"$1/data\" --wipe; rm -rf \"$1\"", script,
            folder,
        ]
        watcher.standardInput = pipe
        watcher.standardOutput = FileHandle.nullDevice
        watcher.standardError = FileHandle.nullDevice
        try watcher.run()
        return pipe.fileHandleForWriting
    }

    @discardableResult
    private static func run(_ program: String, _ arguments: [String], expecting status: Int32 = 0) throws -> String {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == status else { throw Failure(description: text) }
        return text
    }

    package func command(_ arguments: String...) throws {
        try Broker.run(Broker.script, [arguments[0], "--data", data] + arguments.dropFirst())
    }

    /// Stops broker 1, and returns when the last of its threads has: the signal alone lets them go on for a while.
    package func pause() throws {
        try command("pause", "1")
        let status = try Broker.run(Broker.script, ["status", "--data", data], expecting: 3)
        guard let pid = status.split(separator: " ").first(where: { $0.hasPrefix("pid=") })?.dropFirst(4) else {
            throw Failure(description: "no process in \(status)")
        }
        let tasks = "/proc/\(pid)/task"
        for _ in 0..<5000 {
            let goesOn = try FileManager.default.contentsOfDirectory(atPath: tasks).contains { task in
                let text = (try? String(contentsOfFile: "\(tasks)/\(task)/stat", encoding: .utf8)) ?? ") T"
                return text.split(separator: ")").last?.hasPrefix(" T") != true
            }
            if !goesOn { return }
            poll(nil, 0, 1)
        }
        throw Failure(description: "threads of the broker go on")
    }

    /// One record, with headers as `name:value`.
    package func produce(
        _ topic: String, headers: String, _ value: String, compression: String = "none"
    ) throws {
        let line = headers + "\t" + value + "\n"
        try Broker.run(
            "/bin/bash",
            [
                "-c",
                "printf '%s' \"$0\" | \"$1\" tool --data \"$2\" --internal producer --topic \"$3\" "
                    + "--compression-codec \"$4\" --property parse.headers=true", line, Broker.script, data, topic,
                compression,
            ])
    }

    /// Kafka's own tool, on the plain listener.
    @discardableResult
    package func tool(_ arguments: String...) throws -> String {
        try Broker.run(Broker.script, ["tool", "--data", data, "--internal"] + arguments)
    }
}

/// A test's own topics on the broker, under a prefix that no other test has.
package struct Tape {
    package let broker: Broker
    package let configuration: KafkaConfiguration

    private static let number = Atomic<Int>(0)

    package init(_ topics: [Topic] = [.ticksRaw], partitions: Int = 1, settings: [String: String] = [:]) throws {
        broker = try Broker.shared()
        var configuration = KafkaConfiguration(brokers: broker.brokers)
        configuration.prefix = "t\(Tape.number.add(1, ordering: .relaxed).newValue)."
        configuration.topics = topics
        configuration.requestTimeoutNs = 20_000_000_000
        configuration.tipBacklog = 100_000
        self.configuration = configuration
        let admin = try KafkaAdmin(configuration) { _, _ in }
        defer { admin.close() }
        var wanted = KafkaTopic.published(prefix: configuration.prefix, replication: 1, partitions: partitions)
            .filter { topics.contains($0.topic) }
        for index in wanted.indices {
            for (name, value) in settings { wanted[index].set(name, value) }
        }
        try admin.apply(KafkaTopicPlan(wanted, []))
        // A topic that was just made is not known everywhere at once.
        let isKnown = try holds {
            let known = try admin.topics(wanted.map(\.name))
            return wanted.allSatisfy { topic in
                known.contains { $0.name == topic.name && $0.partitions == topic.partitions }
            }
        }
        guard isKnown else { throw Broker.Failure(description: "topics are not there: \(wanted.map(\.name))") }
    }

    package func open(
        following: [Topic] = [], report: @escaping KafkaReport = { _, _ in },
        changing change: (inout KafkaConfiguration) -> Void = { _ in }
    ) throws -> KafkaLog {
        var configuration = configuration
        configuration.followed = following
        change(&configuration)
        return try KafkaLog(configuration, time: RealTime(), report: report)
    }
}

extension Tape {
    /// One record by Kafka's own tool, with headers as `name:value`.
    package func produce(_ topic: Topic, headers: String, _ value: String) throws {
        try broker.produce(configuration.name(of: topic), headers: headers, value)
    }
}

extension Tape {
    /// Has the brokers keep ticks only so long from now on.
    package func keepTicks(milliseconds: Int) throws {
        let admin = try KafkaAdmin(configuration) { _, _ in }
        defer { admin.close() }
        var wanted = KafkaTopic.published(prefix: configuration.prefix, replication: 1, partitions: 1)
            .filter { $0.topic == .ticksRaw }
        for index in wanted.indices {
            wanted[index].set("retention.ms", "\(milliseconds)")
            wanted[index].set("segment.ms", "500")
            wanted[index].set("segment.bytes", "1048576")
        }
        try admin.apply(KafkaTopicPlan(wanted, try admin.topics(wanted.map(\.name))))
    }
}

/// Lines that a log reported.
package final class Reports: Sendable {
    private let lines = Mutex<[String]>([])
    package init() {}
    package var all: [String] { lines.withLock { $0 } }
    package func add(_ kind: String, _ line: String) { lines.withLock { $0.append(line) } }
    package func contains(_ text: String) -> Bool { all.contains { $0.contains(text) } }
}

/// Runs what waits for brokers on a thread of its own: those of tests are as many as there are cores.
package func apart<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
    // A task of the test's own, so that what fails in it is the test's failure.
    try await Task(executorPreference: OwnThread()) { try body() }.value
}

/// Each job on a new thread.
private final class OwnThread: TaskExecutor {
    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        Thread.detachNewThread { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}

/// Whether the condition holds before the time is over. For threads that may wait.
package func holds(within seconds: Int = 30, _ condition: () throws -> Bool) rethrows -> Bool {
    let time = RealTime()
    let untilNs = time.monotonicNs() + Int64(seconds) * 1_000_000_000
    while time.monotonicNs() < untilNs {
        if try condition() { return true }
        time.sleep(ns: 5_000_000)
    }
    return try condition()
}
