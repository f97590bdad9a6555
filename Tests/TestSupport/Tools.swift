import Foundation

/// The programs of `../shared/tools`, unpacked beside the build when first used.
public enum Tools {
    /// How a program ended, with everything it wrote.
    public struct Ended: Sendable {
        public let status: Int32
        public let output: String
    }

    /// Runs a program to its end, on a thread of its own: those of async tests are as many as there are cores.
    public static func run(_ tool: String, _ arguments: [String]) async throws -> Ended {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try runBlocking(tool, arguments) }) }
        }
    }

    /// Runs a program by its path.
    public static func run(program path: String, _ arguments: [String]) async throws -> Ended {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try launch(path, arguments) }) }
        }
    }

    private static func runBlocking(_ tool: String, _ arguments: [String]) throws -> Ended {
        try launch(install(tool), arguments)
    }

    /// Unpacks a program; its path.
    static func install(_ tool: String) throws -> String {
        let folder = Checkout.path + "/.build/tools"
        let installed = try launch("/bin/bash", [SharedData.path("tools/install"), folder, tool])
        guard installed.status == 0 else { throw NotInstalled(description: "\(tool): \(installed.output)") }
        return folder + "/" + tool
    }

    private struct NotInstalled: Error, CustomStringConvertible { let description: String }

    private static func launch(_ program: String, _ arguments: [String]) throws -> Ended {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Ended(status: process.terminationStatus, output: text)
    }
}
