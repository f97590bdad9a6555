import Foundation
import Synchronization

/// A real Cassandra node of `../shared/engines` on loopback, wiped at the end.
///
/// All calls but ``stop()`` wait for the engine's scripts on threads of their own: those of async tests are as many as
/// there are cores.
public final class CassandraNode: Sendable {
    public static let isPresent = FileManager.default.isExecutableFile(atPath: script)
    private static let script = SharedData.path("engines/cassandra/cassandra")

    public let port: Int
    private let folder: String
    private let options: [String]

    private init(port: Int, folder: String, options: [String]) {
        self.port = port
        self.folder = folder
        self.options = options
    }

    /// Why an engine did not do what it was told.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    /// Starts a node with options of the engine's `start`, and returns when it serves.
    public static func start(_ options: [String] = []) async throws -> CassandraNode {
        try await onThread {
            // Clusters whose ports differ by a multiple of 200 collide: ports of one process do not.
            for attempt in 0..<5 {
                let port = 20_100 + Int(getpid()) % 90 + nextPort.add(100, ordering: .relaxed).newValue % 4000
                let folder = NSTemporaryDirectory() + "tapedeck-cassandra-\(getpid())-\(port)"
                let node = CassandraNode(port: port, folder: folder, options: options)
                guardian(folder)
                let arguments = ["start", "--data", folder, "--port", "\(port)", "--heap", "640m"] + options
                let ended = try run(arguments)
                if ended.status == 0 { return node }
                node.stop()
                guard attempt < 4, ended.output.contains("already listens") else {
                    throw Failure(description: "cassandra \(arguments.joined(separator: " ")): \(ended.output)")
                }
            }
            throw Failure(description: "no free ports")
        }
    }

    private static let nextPort = Atomic<Int>(0)

    /// A shell command that does something to it: `kill`, `restart`, `pause`, `resume`.
    public func shell(_ word: String, node: Int = 1) -> String {
        "'\(Self.script)' \(word) --data '\(folder)' \(node)"
    }

    /// SIGKILL.
    public func kill() async throws { try await tell(["kill", "--data", folder, "1"]) }

    /// Starts it again, and returns when it serves.
    public func restart() async throws { try await tell(["restart", "--data", folder, "1"]) }

    public func pause() async throws { try await tell(["pause", "--data", folder, "1"]) }
    public func resume() async throws { try await tell(["resume", "--data", folder, "1"]) }

    /// Runs the engine's nodetool; what it prints.
    public func nodetool(_ arguments: [String]) async throws -> String {
        try await tell(["nodetool", "--data", folder] + arguments)
    }

    /// Names of a table's data files, one for each SSTable, ascending.
    public func dataFiles(_ keyspace: String, _ table: String) -> [String] {
        let paths = FileManager.default.enumerator(atPath: folder)?.compactMap { $0 as? String } ?? []
        return paths.filter { path in
            let parts = path.split(separator: "/")
            return parts.count > 2 && parts[parts.count - 3] == keyspace
                && parts[parts.count - 2].hasPrefix(table + "-")
                && path.hasSuffix("-Data.db")
        }.sorted()
    }

    /// Runs CQL by the engine's own client, which is no client of ours; what it prints.
    @discardableResult
    public func execute(_ statements: String...) async throws -> String {
        try await tell(["exec", "--data", folder] + statements)
    }

    /// Ends it and removes its data.
    public func stop() { _ = try? Self.run(["stop", "--data", folder, "--wipe"]) }

    @discardableResult
    private func tell(_ arguments: [String]) async throws -> String {
        try await Self.onThread {
            let ended = try Self.run(arguments)
            guard ended.status == 0 else {
                throw Failure(description: "cassandra \(arguments.joined(separator: " ")): \(ended.output)")
            }
            return ended.output
        }
    }

    static func onThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
        }
    }

    private static func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
        try EngineProcess.runBlocking([script] + arguments)
    }

    /// Wipes the node when this process has ended, however that came.
    private static func guardian(_ folder: String) {
        let script =
            "trap '' INT TERM HUP; while kill -0 \(getpid()) 2>/dev/null; do sleep 1; done; "
            + "exec \"$0\" stop --data \"$1\" --wipe"
        _ = try? EngineProcess.start(["/bin/bash", "-c", script, Self.script, folder])
    }
}

/// Programs that leave others behind: what they write goes to a file, for who stays may have a pipe open for long.
public enum EngineProcess {
    /// Runs a program to its end: its exit code and everything it wrote.
    public static func run(_ words: [String]) async throws -> (status: Int32, output: String) {
        try await CassandraNode.onThread { try runBlocking(words) }
    }

    static func runBlocking(_ words: [String]) throws -> (status: Int32, output: String) {
        let file = NSTemporaryDirectory() + "tapedeck-output-" + UUID().uuidString
        defer { unlink(file) }
        let process = try start(words, output: file)
        process.waitUntilExit()
        return (process.terminationStatus, (try? String(contentsOfFile: file, encoding: .utf8)) ?? "")
    }

    /// Starts a program; what it writes goes to a file.
    @discardableResult
    public static func start(_ words: [String], output: String? = nil) throws -> ChildProcess {
        var writing = FileHandle.nullDevice
        if let output {
            _ = FileManager.default.createFile(atPath: output, contents: nil)
            writing = try FileHandle(forWritingTo: URL(fileURLWithPath: output))
        }
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: words[0])
        process.arguments = Array(words.dropFirst())
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = writing
        process.standardError = writing
        try process.run()
        return process
    }
}

/// The node that most tests of a target share: started by the first that asks.
public actor SharedCassandra {
    public static let shared = SharedCassandra()

    private var starting: Task<CassandraNode, any Error>?

    public func node() async throws -> CassandraNode {
        if let starting { return try await starting.value }
        let task = Task { try await CassandraNode.start() }
        starting = task
        return try await task.value
    }
}
