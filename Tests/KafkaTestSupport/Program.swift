import Foundation
import TestSupport

/// The built binary, as a user runs it.
package enum Program {
    /// Beside the test bundle.
    package static let path: String = {
        let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        return bundle.appendingPathComponent("tapedeck").path
    }()

    /// Runs a command to its end: its exit code and everything it wrote. For threads that may wait.
    package static func run(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        process.standardInput = FileHandle.nullDevice
        try process.run()
        let bytes = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: bytes, as: UTF8.self))
    }
}

/// A service of the binary that runs until it is ended.
package final class ServiceProcess {
    private let process = ChildProcess()
    /// What it said when it was ready.
    package let ready: String

    /// Starts `tapedeck run`, and returns when it is ready. For threads that may wait.
    package init(_ arguments: [String]) throws {
        process.executableURL = URL(fileURLWithPath: Program.path)
        process.arguments = ["run"] + arguments + ["--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        var line: [UInt8] = []
        while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0a {
            line.append(byte)
        }
        ready = String(decoding: line, as: UTF8.self)
    }

    deinit { if process.isRunning { end(SIGKILL) } }

    package var address: String? {
        struct Ready: Decodable { let address: String }
        return try? JSONDecoder().decode(Ready.self, from: Data(ready.utf8)).address
    }

    /// Its exit code.
    @discardableResult
    package func end(_ signal: Int32 = SIGTERM) -> Int32 {
        kill(process.processIdentifier, signal)
        process.waitUntilExit()
        return process.terminationStatus
    }
}
