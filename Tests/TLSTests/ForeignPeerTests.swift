import EventLoop
import Foundation
import TestSupport
import Testing

@testable import TLS

/// Other programs as the other side.
struct ForeignPeerTests {
    private static let openssl = "/usr/bin/openssl"

    private func run(_ path: String, _ arguments: [String], input: String = "") async throws -> String {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        let (from, to) = (Pipe(), Pipe())
        process.standardInput = from
        process.standardOutput = to
        process.standardError = to
        return try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                do {
                    try process.run()
                    from.fileHandleForWriting.write(Data(input.utf8))
                    try? from.fileHandleForWriting.close()
                    let output = to.fileHandleForReading.readDataToEndOfFile()
                    process.waitUntilExit()
                    continuation.resume(returning: String(decoding: output, as: UTF8.self))
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    private func client(_ server: EchoServer, _ more: [String]) -> [String] {
        [
            "s_client", "-connect", "127.0.0.1:\(server.port)", "-CAfile", TestAuthority.trusted.file,
            "-verify_return_error", "-servername", "localhost", "-verify_hostname", "localhost",
        ] + more
    }

    @Test(arguments: [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
    func `openssl s_client speaks with the server`(_ version: (flag: String, name: String)) async throws {
        let server = try EchoServer(TLSPair.serverConfiguration(TLSPair.serverIdentity, .required))
        defer { server.stop() }
        let identity = ["-cert", TLSPair.clientIdentity.certificateFile, "-key", TLSPair.clientIdentity.keyFile]
        let good = try await run(
            ForeignPeerTests.openssl, client(server, [version.flag, "-alpn", "h2"] + identity), input: "")
        #expect(good.contains("Verification: OK"), "\(good)")
        #expect(good.contains("New, \(version.name)") && good.contains("ALPN protocol: h2"), "\(good)")
        #expect(server.context.counters.handshakes == 1)

        let bare = try await run(ForeignPeerTests.openssl, client(server, [version.flag, "-alpn", "h2"]))
        #expect(bare.contains("alert") || bare.contains("CONNECTED"), "\(bare)")
        let other = try await run(
            ForeignPeerTests.openssl, client(server, [version.flag, "-alpn", "http/1.1"] + identity))
        #expect(other.contains("no application protocol"), "\(other)")
        let old = try await run(
            ForeignPeerTests.openssl,
            client(server, ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-alpn", "h2"] + identity))
        #expect(old.contains("alert protocol version") || old.contains("no protocols available"), "\(old)")
        while server.context.counters.refused[.noCertificate] != 1 { await Task.yield() }
        #expect(server.context.counters.handshakes == 1)
    }

    @Test(.enabled(if: Checkout.hasPython, "no Python environment"), arguments: ["TLSv1_2", "TLSv1_3"])
    func `Python's ssl sends a megabyte and reads it back, and hears why it is refused`(_ version: String) async throws
    {
        let server = try EchoServer(TLSPair.serverConfiguration(TLSPair.serverIdentity, .required))
        defer { server.stop() }
        let script = """
            import socket, ssl, sys, threading
            port, version, ca, cert, key, bad, badkey = sys.argv[1:]
            def context(cert, key):
                c = ssl.create_default_context(cafile=ca)
                c.minimum_version = c.maximum_version = getattr(ssl.TLSVersion, version)
                c.set_alpn_protocols(["h2"])
                if cert: c.load_cert_chain(cert, key)
                return c
            def connect(cert, key):
                s = socket.create_connection(("127.0.0.1", int(port)), timeout=20)
                return context(cert, key).wrap_socket(s, server_hostname="localhost")
            s = connect(cert, key)
            data = bytes(i * 7 & 255 for i in range(1 << 20))
            t = threading.Thread(target=s.sendall, args=(data,))
            t.start()
            got = b""
            while len(got) < len(data):
                part = s.recv(1 << 16)
                assert part
                got += part
            t.join()
            assert got == data
            print(s.version(), s.selected_alpn_protocol())
            s.unwrap()
            print("ended in order")
            for c, k in ((bad, badkey), (None, None)):
                try:
                    s = connect(c, k)
                    s.recv(1)
                    print("not refused")
                except ssl.SSLError as e:
                    print(e.reason)
            """
        let bad = TestAuthority.trusted.client("late") {
            $0.validFrom = -7200
            $0.validTo = -3600
        }
        let output = try await run(
            Checkout.python,
            [
                "-c", script, String(server.port), version, TestAuthority.trusted.file,
                TLSPair.clientIdentity.certificateFile, TLSPair.clientIdentity.keyFile, bad.certificateFile,
                bad.keyFile,
            ])
        let lines = output.split(separator: "\n").map(String.init)
        #expect(lines.first == "\(version.replacingOccurrences(of: "_", with: ".")) h2", "\(output)")
        #expect(lines.dropFirst().first == "ended in order", "\(output)")
        #expect(output.contains("CERTIFICATE_EXPIRED"), "\(output)")
        #expect(
            output.contains(version == "TLSv1_3" ? "CERTIFICATE_REQUIRED" : "HANDSHAKE_FAILURE"), "\(output)")
        #expect(server.context.counters.refused == [.expired: 1, .noCertificate: 1])
    }

    @Test func `A server of openssl's is spoken to, and left when it is another host`() async throws {
        let identity = TLSPair.serverIdentity
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: ForeignPeerTests.openssl)
        process.arguments = [
            "s_server", "-accept", "127.0.0.1:0", "-cert", identity.certificateFile, "-key", identity.keyFile, "-alpn",
            "h2", "-rev",
        ]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        process.standardInput = Pipe()
        try process.run()
        // Threads of a pool block SIGTERM, and their children inherit it.
        defer { kill(process.processIdentifier, SIGKILL) }
        var text = ""
        while !text.contains("\n") || !text.contains("ACCEPT") {
            let part = output.fileHandleForReading.availableData
            guard !part.isEmpty else { break }
            text += String(decoding: part, as: UTF8.self)
        }
        let line = text.split(separator: "\n").first { $0.contains("ACCEPT") } ?? ""
        let port = try #require(Int(line.split(separator: ":").last ?? ""), "\(text)")
        let loop = EventLoop(name: "client")
        let client = try await EchoClient.connect(
            TLSClientContext(TLSPair.clientConfiguration()), port: port, loop)
        #expect(try await client.echo(Array("abc\n".utf8), on: loop) == Array("cba\n".utf8))
        loop.execute { client.value.close() }
        var configuration = TLSPair.clientConfiguration()
        configuration.serverName = "other.test"
        let stranger = try await EchoClient.connect(TLSClientContext(configuration), port: port, loop)
        await #expect(throws: StreamError.self) { try await stranger.echo([1], on: loop) }
    }
}
