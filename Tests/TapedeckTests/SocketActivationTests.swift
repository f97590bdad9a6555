import Foundation
import Glibc
import TestSupport
import Testing

@testable import tapedeck

/// Sockets that a service manager hands over.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct SocketActivationTests {
    private static func plan(_ environment: [String: String]) throws -> SocketActivation.Plan? {
        try SocketActivation.plan(environment.merging(["LISTEN_PID": "7"]) { own, _ in own }, process: 7)
    }

    @Test func `Sockets are known by their names, or by their order`() throws {
        #expect(try Self.plan([:]) == nil)
        #expect(try Self.plan(["LISTEN_FDS": "0"]) == nil)
        #expect(try Self.plan(["LISTEN_FDS": "1", "LISTEN_PID": "8"]) == nil)
        #expect(try Self.plan(["LISTEN_FDS": "1"]) == .init(clients: 3))
        #expect(try Self.plan(["LISTEN_FDS": "2"]) == .init(clients: 3, metrics: 4))
        let unknown = ["LISTEN_FDS": "2", "LISTEN_FDNAMES": "tapedeck.socket:tapedeck.socket"]
        #expect(try Self.plan(unknown) == .init(clients: 3, metrics: 4))
        #expect(
            try Self.plan(["LISTEN_FDS": "2", "LISTEN_FDNAMES": "metrics:grpc"]) == .init(clients: 4, metrics: 3))
        #expect(try Self.plan(["LISTEN_FDS": "1", "LISTEN_FDNAMES": "metrics"]) == .init(metrics: 3))
    }

    @Test(arguments: [
        (["LISTEN_FDS": "x"], "no number"), (["LISTEN_FDS": "-1"], "no number"), (["LISTEN_FDS": "3"], "3 sockets"),
        (["LISTEN_FDS": "2", "LISTEN_FDNAMES": "grpc:grpc"], "two sockets named grpc"),
        (["LISTEN_FDS": "2", "LISTEN_FDNAMES": "grpc:other"], "name both"),
    ])
    func `What cannot be meant is refused by name`(_ environment: [String: String], _ text: String) {
        #expect {
            try Self.plan(environment)
        } throws: { error in
            "\(error)".contains(text)
        }
    }

    @Test func `What is handed over and is no TCP socket that listens is refused`() throws {
        let descriptor = open("/dev/null", O_RDONLY)
        defer { close(descriptor) }
        #expect {
            try SocketActivation(["LISTEN_FDS": "1", "LISTEN_PID": "7"], process: 7, first: descriptor)
        } throws: { error in
            "\(error)".contains("no TCP socket that listens")
        }
    }

    @Test(.enabled(if: Checkout.hasPython, ".venv is absent"), arguments: ["", "grpc:metrics"])
    func `A platform serves on the sockets that it is handed, and keeps them through a crash`(_ names: String)
        async throws
    {
        let folder = try TemporaryFolder()
        let script = Checkout.path + "/Tests/TapedeckTests/Fixtures/socket_activation.py"
        let log = folder.path + "/log"
        let platform = try BinaryTests.Platform(
            folder.path + "/data", ["--rate", "5000"], errors: log,
            through: [Checkout.python, script, names])
        func text() throws -> String { try String(contentsOfFile: log, encoding: .utf8) }
        let ports = try text().prefix { $0 != "\n" }.split(separator: " ").map(String.init)
        #expect(platform.address == "127.0.0.1:\(ports.first ?? "")")
        #expect(platform.metrics == "127.0.0.1:\(ports.last ?? "")")
        #expect(try text().contains("which the service manager has bound"))
        func ready() async throws -> Int32 {
            try await BinaryTests.runApart(
                "/usr/bin/curl", ["-sSf", "--max-time", "20", "http://\(platform.metrics)/healthz"]
            ).status
        }
        #expect(try await ready() == 0)
        let parent = platform.process.processIdentifier
        let child = try #require(SupervisorTests.child(of: parent))
        kill(child, SIGKILL)
        _ = try await SupervisorTests.successor(of: child, parent)
        // The connection waits in the socket until the platform is there again.
        #expect(try await ready() == 0)
        var answered = false
        while !answered {
            let ended = try await BinaryTests.runApart([
                "quote", "AAPL", "--exchange", "SIMX", "--server", platform.address,
            ])
            answered = ended.status == 0 || !ended.errors.contains("NOT_FOUND")
            #expect(ended.status == 0 || ended.errors.contains("NOT_FOUND"), "\(ended.errors)")
        }
        #expect(platform.stop() == 0)
    }
}
