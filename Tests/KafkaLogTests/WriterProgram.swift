import Foundation
import Testing

/// The built binary as a writer into Cassandra, and its other commands.
struct WriterProgram {
    static let path: String = {
        let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        return bundle.appendingPathComponent("tapedeck").path
    }()
    static let shortSession = [
        "--kafka-set", "session.timeout.ms=3000", "--kafka-set", "heartbeat.interval.ms=500",
    ]

    static func tapedeck(_ arguments: [String]) throws {
        try #require(try status(arguments) == 0, "\(arguments)")
    }

    static func status(_ arguments: [String]) throws -> Int32 {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardInput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }
}

/// A writer that runs until it is stopped.
final class WriterProcess {
    private let process = Process()

    init(_ arguments: [String], data: String) throws {
        process.executableURL = URL(fileURLWithPath: WriterProgram.path)
        process.arguments =
            ["run", "writer", "--store", "cassandra", "--data", data, "--instance", "one"] + arguments
            + ["--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        // The line that says that it works.
        while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0a {}
    }

    deinit { if process.isRunning { end(SIGKILL) } }

    @discardableResult
    func end(_ signal: Int32) -> Int32 {
        kill(process.processIdentifier, signal)
        process.waitUntilExit()
        return process.terminationStatus
    }
}
