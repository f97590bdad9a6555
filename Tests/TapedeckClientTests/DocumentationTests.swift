import Foundation
import TapedeckClient
import TestSupport
import Testing

/// docs/CLIENTS.md: what it shows compiles and runs.
@Suite(.timeLimit(.minutes(1)))
struct DocumentationTests {
    /// Code blocks of a language.
    private static func blocks(_ language: String) throws -> [String] {
        let text = try String(contentsOfFile: Checkout.path + "/docs/CLIENTS.md", encoding: .utf8)
        return text.components(separatedBy: "```" + language + "\n").dropFirst().map {
            $0.components(separatedBy: "\n```")[0]
        }
    }

    /// Without indentation.
    private static func lines(_ text: String) -> String {
        text.split(separator: "\n").map { $0.drop { $0 == " " } }.joined(separator: "\n")
    }

    @Test func `The Swift of the page is the Swift that compiles here`() throws {
        let source = try String(
            contentsOfFile: Checkout.path + "/Tests/TapedeckClientTests/Examples.swift", encoding: .utf8)
        let compiled = DocumentationTests.lines(source)
        let blocks = try DocumentationTests.blocks("swift")
        #expect(blocks.count >= 5)
        for block in blocks { #expect(compiled.contains(DocumentationTests.lines(block)), "\(block)") }
    }

    @Test func `The settings shown make a client`() throws { try Examples.settings().close() }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `The Python of the page runs as it stands, with the page's service configuration`() async throws {
        let folder = try TemporaryFolder()
        let config = try #require(try DocumentationTests.blocks("json").first)
        _ = try JSONSerialization.jsonObject(with: Data(config.utf8))
        let script = try folder.write("quickstart.py", Array(try DocumentationTests.blocks("python")[0].utf8))
        let command = try #require(try DocumentationTests.blocks("sh").first)
        #expect(command.hasPrefix("python -m grpc_tools.protoc -I proto "))
        // Where it is run, the schemas are elsewhere.
        let words = command.split(separator: " ").map(String.init).dropFirst().map {
            $0 == "proto" ? Checkout.path + "/proto" : $0
        }
        let generated = try DocumentationTests.run(Array(words), in: folder.path)
        #expect(generated.status == 0, "\(generated.output)")
        let world = try EdgeWorld()
        defer { world.stop() }
        try world.publish(25)
        let ran = try DocumentationTests.run([script, "127.0.0.1:\(world.port)", "A", config], in: folder.path)
        #expect(
            ran.status == 0 && ran.output.contains("last 100.0") && ran.output.contains("25 100.0"), "\(ran.output)")
    }

    private static func run(_ arguments: [String], in folder: String) throws -> (status: Int32, output: String) {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.python)
        process.arguments = arguments
        process.currentDirectoryURL = URL(fileURLWithPath: folder)
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, output)
    }
}
