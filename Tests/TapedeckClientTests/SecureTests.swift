import Foundation
import GRPC
import MarketProto
import TLS
import TestSupport
import Testing

@testable import TapedeckClient

/// The client with mutual TLS.
@Suite(
    .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/openssl"), "no openssl"),
    .timeLimit(.minutes(1)))
struct SecureTests {
    static let openssl = "/usr/bin/openssl"
    private let folder: TemporaryFolder

    init() throws {
        folder = try TemporaryFolder()
        try make("authority", ["-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE"])
        for (name, names) in [("server", "DNS:localhost"), ("client", "URI:spiffe://test/desk")] {
            try make(
                name,
                [
                    "-CA", path("authority.pem"), "-CAkey", path("authority.key"), "-subj", "/CN=\(name)", "-addext",
                    "subjectAltName=\(names)", "-addext", "basicConstraints=CA:FALSE",
                ])
        }
    }

    private func path(_ name: String) -> String { folder.path + "/" + name }

    private func make(_ name: String, _ arguments: [String]) throws {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: SecureTests.openssl)
        process.arguments =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            + ["-keyout", path(name + ".key"), "-out", path(name + ".pem")] + arguments
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
    }

    @Test func `A client with a certificate is served, one without is not, and a wrong name is refused`() async throws {
        let context = try TLSServerContext(
            TLSServerConfiguration(
                certificateChainFile: path("server.pem"), privateKeyFile: path("server.key"),
                clientAuthorityFile: path("authority.pem"), clientCertificates: .required))
        let server = try PriceServer(secure: { context.wrap($0) })
        defer { server.stop() }
        server.publish([Updates.make("A", 1), Updates.make("A", 2)])
        var configuration = TLSClientConfiguration(
            serverName: "localhost", authorityFile: path("authority.pem"), certificateChainFile: path("client.pem"),
            privateKeyFile: path("client.key"))
        let client = try ClientTests.client(port: server.port, tls(configuration))
        defer { client.close() }
        #expect(try await client.quote("A").dayVolume > 0)
        let log = ClientTests.Log()
        let task = ClientTests.read(client.prices(["A"]), into: log)
        await ClientTests.wait { log.now.sequences.count == 2 }
        #expect(log.now.sequences == [1, 2])
        task.cancel()
        await task.value
        configuration.serverName = "elsewhere"
        let wrong = try ClientTests.client(port: server.port, tls(configuration))
        defer { wrong.close() }
        let refused = await #expect(throws: TapedeckError.self) { try await wrong.quote("A") }
        #expect(refused?.code == .deadlineExceeded)
        #expect(refused?.status.message.contains("cannot connect") == true, "\(refused as Any)")
        configuration.serverName = "localhost"
        configuration.certificateChainFile = nil
        configuration.privateKeyFile = nil
        let nobody = try ClientTests.client(port: server.port, tls(configuration))
        defer { nobody.close() }
        #expect(await #expect(throws: TapedeckError.self) { try await nobody.quote("A") }?.code == .deadlineExceeded)
    }

    private func tls(_ configuration: TLSClientConfiguration) throws -> (inout TapedeckOptions) -> Void {
        let context = try TLSClientContext(configuration)
        return { options in
            options.tls = context
            options.quoteTimeoutMilliseconds = 1500
            options.quoteHedgeMilliseconds = 50
        }
    }
}
