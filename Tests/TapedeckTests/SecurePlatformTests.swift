import Foundation
import GRPC
import TestSupport
import Testing

@testable import Observability
@testable import TLS
@testable import tapedeck

/// A platform behind TLS, as its operator and its clients see it.
@Suite(.serialized, .enabled(if: CertificateFolder.isPossible, "no openssl"), .timeLimit(.minutes(3)))
struct SecurePlatformTests {
    private let folder: TemporaryFolder
    private let certificates: CertificateFolder

    init() throws {
        folder = try TemporaryFolder()
        certificates = try CertificateFolder()
        try certificates.issue("server", "DNS:localhost,IP:127.0.0.1")
        try certificates.issue("desk", "URI:spiffe://test/desk,DNS:desk.test")
    }

    /// With the server's certificate; `mutual` asks clients for theirs.
    private func platform(_ arguments: [String] = [], mutual: Bool = true) throws -> BinaryTests.Platform {
        var secure = ["--tls-cert", certificates.file("server"), "--tls-key", certificates.key("server")]
        if mutual { secure += ["--tls-client-ca", certificates.file("authority")] }
        return try BinaryTests.Platform(
            folder.path + "/data", ["--rate", "5000"] + secure + arguments, errors: folder.path + "/log")
    }

    /// What the platform has written about itself.
    private var log: String { get throws { try String(contentsOfFile: folder.path + "/log", encoding: .utf8) } }

    /// Flags of a client with an identity, or with none.
    private func flags(_ identity: String?, authority: String = "authority") -> [String] {
        ["--tls-ca", certificates.file(authority)]
            + (identity.map { ["--tls-cert", certificates.file($0), "--tls-key", certificates.key($0)] } ?? [])
    }

    /// Asks until there is a tick.
    private func quote(_ platform: BinaryTests.Platform, _ flags: [String]) async throws -> BinaryTests.Ended {
        while true {
            let ended = try await BinaryTests.runApart(["quote", "AAPL", "--server", platform.address] + flags)
            if !ended.errors.contains("NOT_FOUND") { return ended }
        }
    }

    private func metric(_ platform: BinaryTests.Platform, _ series: String) async throws -> Double {
        let text = try await BinaryTests.runApart(
            "/usr/bin/curl", ["-sS", "--max-time", "20", "http://\(platform.metrics)/metrics"]
        ).output
        for line in text.split(separator: "\n") where line.hasPrefix(series + " ") {
            return Double(line.dropFirst(series.count + 1)) ?? -1
        }
        return -1
    }

    /// What `openssl s_client` says of a handshake.
    private func shakeHands(_ platform: BinaryTests.Platform, _ flags: [String]) async throws -> String {
        let ended = try await BinaryTests.runApart(
            "/bin/sh",
            [
                "-c",
                "exec timeout 20 \(CertificateFolder.openssl) s_client -connect \(platform.address) -alpn h2 "
                    + "-CAfile \(certificates.file("authority")) \(flags.joined(separator: " ")) < /dev/null",
            ])
        return ended.output + ended.errors
    }

    @Test(.enabled(if: Checkout.hasPython, ".venv is absent"))
    func `grpcio with a certificate is who that says, and others are refused, counted and told of`() async throws {
        try certificates.issue("unlisted", "DNS:unlisted.test")
        try certificates.issue("late", "URI:spiffe://test/desk", days: -1)
        try certificates.issue("mallory", "URI:spiffe://test/desk", by: "stranger")
        let access = try folder.write(
            "access", Array("spiffe://test/desk certificate methods=* symbols=SIMX|AAPL\n".utf8))
        let platform = try platform(["--access", access])
        _ = try await quote(platform, flags("desk"))
        let python = try await BinaryTests.runApart(
            Checkout.python,
            [
                Checkout.path + "/Tests/TapedeckTests/Fixtures/secure_client.py",
                platform.address.replacing("127.0.0.1", with: "localhost"), certificates.path,
            ])
        #expect(python.status == 0 && python.output.contains("mutual TLS: 200"), "\(python.output)\(python.errors)")
        for reason in ["no_certificate", "expired", "unknown_authority"] {
            let series = #"tapedeck_tls_handshakes_refused_total{reason="\#(reason)"}"#
            #expect(try await metric(platform, series) >= 1, "\(reason)")
            try await until { try log.contains("(\(reason)), the last from 127.0.0.1: ") }
            let lines = try log
            #expect(lines.contains("(\(reason)), the last from 127.0.0.1: "), "\(lines)")
        }
        #expect(try await metric(platform, #"tapedeck_tls_handshakes_total{version="1.3"}"#) >= 2)
        let lines = try log
        #expect(lines.contains("identity=spiffe://test/desk peer=127.0.0.1"), "\(lines)")
        #expect(platform.stop() == 0)
    }

    @Test(.enabled(if: Checkout.hasPython, ".venv is absent"))
    func `The Python of docs/CLIENTS.md for TLS and tokens runs as it stands there`() async throws {
        struct Made: Decodable { let token, line: String }
        let made = try JSONDecoder().decode(
            Made.self, from: Data(try await BinaryTests.runApart(["token", "alice", "--json"]).output.utf8))
        let access = try folder.write(
            "access", Array((made.line + "\nspiffe://test/desk certificate methods=* symbols=*\n").utf8))
        let platform = try platform(["--access", access, "--tls-clients", "optional"])
        _ = try await quote(platform, flags("desk"))
        let address = platform.address.replacing("127.0.0.1", with: "localhost")
        let page = try String(contentsOfFile: Checkout.path + "/docs/CLIENTS.md", encoding: .utf8)
        let blocks = page.components(separatedBy: "```python\n").dropFirst().map {
            $0.components(separatedBy: "\n```")[0]
        }
        let block = try #require(blocks.first { $0.contains("ssl_channel_credentials") })
        for (from, to) in [(certificates.file("authority"), "ca.pem"), (certificates.file("desk"), "desk.pem")] {
            try folder.write(to, [UInt8](try Data(contentsOf: URL(fileURLWithPath: from))))
        }
        try folder.write("desk.key", [UInt8](try Data(contentsOf: URL(fileURLWithPath: certificates.key("desk")))))
        try folder.write("token", Array((made.token + "\n").utf8))
        let script = try folder.write(
            "secure.py",
            Array(
                """
                import os, sys, grpc
                os.chdir("\(folder.path)")
                sys.path.insert(0, "\(Checkout.path)/Tests/TapedeckTests/Fixtures")
                from schema import market_data_pb2, market_data_pb2_grpc
                options = []
                \(block.replacing("localhost:50051", with: address))
                for each in channel, grpc.secure_channel("\(address)", by_token):
                    market = market_data_pb2_grpc.MarketDataServiceStub(each)
                    print(market.GetQuote(market_data_pb2.QuoteRequest(symbol="AAPL"), timeout=10).latest.symbol)

                """.utf8))
        let ran = try await BinaryTests.runApart(Checkout.python, [script])
        #expect(ran.status == 0 && ran.output == "AAPL\nAAPL\n", "\(ran.output)\(ran.errors)")
        #expect(platform.stop() == 0)
    }

    @Test func `quote and watch speak TLS, prove who asks, and say what is wrong`() async throws {
        struct Made: Decodable { let token, line: String }
        let made = try JSONDecoder().decode(
            Made.self, from: Data(try await BinaryTests.runApart(["token", "alice", "--json"]).output.utf8))
        let access = try folder.write(
            "access", Array((made.line + "\ndesk.test certificate methods=* symbols=*\n").utf8))
        try certificates.issue("desk", "DNS:desk.test")
        let platform = try platform(["--access", access, "--tls-clients", "optional"])
        let served = try await quote(platform, flags("desk") + ["--json"])
        #expect(served.status == 0 && served.output.contains("\"symbol\":\"AAPL\""), "\(served.errors)")
        let byToken = try await quote(platform, flags(nil) + ["--token", made.token])
        #expect(byToken.status == 0, "\(byToken.errors)")
        let nobody = try await quote(platform, flags(nil))
        #expect(nobody.status == 1 && nobody.errors.contains("UNAUTHENTICATED"), "\(nobody.errors)")
        let stranger = try await quote(platform, flags("desk", authority: "stranger"))
        #expect(
            stranger.status == 1 && stranger.errors.contains("the peer's certificate is refused"), "\(stranger.errors)")
        #expect(!stranger.errors.contains("is it running"), "\(stranger.errors)")
        let plain = try await quote(platform, [])
        #expect(plain.status == 1 && plain.errors.contains("--tls-ca"), "\(plain.errors)")
        let half = try await quote(platform, ["--tls-cert", certificates.file("desk")])
        #expect(half.status == 1 && half.errors.contains("needs its key"), "\(half.errors)")
        let open = try await BinaryTests.runApart(["quote", "AAPL", "--server", "192.0.2.1:50051", "--token", "x"])
        #expect(open.status == 1 && open.errors.contains("could be read on its way"), "\(open.errors)")
        let watch = try await BinaryTests.runApart(
            "/bin/sh",
            [
                "-c",
                ([BinaryTests.program, "watch", "AAPL", "--json", "--server", platform.address] + flags("desk"))
                    .joined(separator: " ") + " | head -n 5",
            ])
        #expect(watch.output.split(separator: "\n").count == 5, "\(watch.errors)")
        #expect(platform.stop() == 0)
    }

    @Test func `Files that cannot be used stop the start, by name`() async throws {
        try certificates.issue("late", "DNS:localhost", days: -1)
        func start(_ arguments: [String]) async throws -> BinaryTests.Ended {
            try await BinaryTests.runApart(
                ["up", "--data", folder.path + "/none", "--listen", "127.0.0.1:0"] + arguments)
        }
        for (arguments, message) in [
            (["--tls-cert", "/nowhere.pem", "--tls-key", certificates.key("server")], "/nowhere.pem: No such file"),
            (
                ["--tls-cert", certificates.file("server"), "--tls-key", certificates.key("desk")],
                "desk.key is not that of the certificate in"
            ),
            (
                ["--tls-cert", certificates.file("late"), "--tls-key", certificates.key("late")],
                "late.pem is over since"
            ),
            (["--tls-cert", certificates.file("server")], "add --tls-key"),
            (["--tls-client-ca", certificates.file("authority")], "add --tls-cert"),
        ] {
            let ended = try await start(arguments)
            #expect(ended.status == 1 && ended.errors.contains(message), "\(ended.errors)")
            #expect(ended.output.isEmpty)
        }
    }

    @Test func `TLS 1.3 is agreed where the client has it, 1.2 where not, nothing older, and h2`() async throws {
        let platform = try platform(mutual: false)
        for (flag, version) in [("", "TLSv1.3"), ("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
            let text = try await shakeHands(platform, [flag])
            #expect(text.contains("New, \(version), Cipher is"), "\(text)")
            #expect(text.contains("ALPN protocol: h2"), "\(text)")
            #expect(text.contains("Verify return code: 0 (ok)"), "\(text)")
        }
        let old = try await shakeHands(platform, ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        #expect(old.contains("protocol version"), "\(old)")
        #expect(try await metric(platform, #"tapedeck_tls_handshakes_total{version="1.2"}"#) == 1)
        #expect(try await metric(platform, #"tapedeck_tls_handshakes_total{version="1.3"}"#) == 2)
        let expiry = try await metric(platform, "tapedeck_tls_certificate_expiry_timestamp_seconds")
        #expect(abs(expiry - Date().timeIntervalSince1970 - 2 * 86_400) < 600)
        #expect(platform.stop() == 0)
    }

    @Test func `New certificates and authorities are taken while streams go on`() async throws {
        let platform = try platform()
        _ = try await quote(platform, flags("desk"))
        let stream = ChildProcess()
        stream.executableURL = URL(fileURLWithPath: BinaryTests.program)
        stream.arguments = ["watch", "AAPL", "--json", "--server", platform.address] + flags("desk")
        let output = folder.path + "/watch"
        _ = FileManager.default.createFile(atPath: output, contents: nil)
        stream.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: output))
        try stream.run()
        func lines() throws -> Int {
            try String(contentsOfFile: output, encoding: .utf8).split(separator: "\n").count
        }
        func goesOn() async throws {
            let before = try lines()
            try await until { try !stream.isRunning || lines() >= before + 10 }
            #expect(stream.isRunning)
            #expect(try lines() >= before + 10)
        }
        try await goesOn()
        let identity = ["-cert", certificates.file("desk"), "-key", certificates.key("desk")]
        #expect(try await shakeHands(platform, identity).contains("subject=CN = server"))
        // Another certificate under the same names, without a signal.
        try certificates.issue("second", "DNS:localhost,IP:127.0.0.1")
        for (from, to) in [
            (certificates.file("second"), certificates.file("server")),
            (certificates.key("second"), certificates.key("server")),
        ] {
            try Data(contentsOf: URL(fileURLWithPath: from)).write(to: URL(fileURLWithPath: to))
        }
        try await until { try await shakeHands(platform, identity).contains("subject=CN = second") }
        try await goesOn()
        // What cannot be used changes nothing, and is told.
        try Data("no certificate".utf8).write(to: URL(fileURLWithPath: certificates.file("server")))
        platform.hangUp()
        try await until { try log.contains("; the certificates stay as they were") }
        #expect(try await shakeHands(platform, identity).contains("subject=CN = second"))
        try Data(contentsOf: URL(fileURLWithPath: certificates.file("second"))).write(
            to: URL(fileURLWithPath: certificates.file("server")))
        // Clients of an authority that is no longer believed stay, and do not come again.
        try certificates.issue("other", "URI:spiffe://test/other", by: "stranger")
        try Data(contentsOf: URL(fileURLWithPath: certificates.file("stranger"))).write(
            to: URL(fileURLWithPath: folder.path + "/clients.new"))
        let served = try await quote(platform, flags("desk"))
        #expect(served.status == 0, "\(served.errors)")
        let trusted = try Data(contentsOf: URL(fileURLWithPath: certificates.file("authority")))
        try Data(contentsOf: URL(fileURLWithPath: certificates.file("stranger"))).write(
            to: URL(fileURLWithPath: certificates.file("authority")))
        platform.hangUp()
        let believed = folder.path + "/believed.pem"
        try trusted.write(to: URL(fileURLWithPath: believed))
        func ask(_ name: String) async throws -> BinaryTests.Ended {
            try await quote(
                platform,
                [
                    "--tls-ca", believed, "--tls-cert", certificates.file(name), "--tls-key", certificates.key(name),
                ])
        }
        try await until { try await ask("other").status == 0 }
        #expect(try await ask("desk").status == 1)
        try await goesOn()
        stream.terminate()
        #expect(platform.stop() == 0)
    }

    @Test func `Refused handshakes are told once per kind and period, with their number`() {
        var lines = TLSRefusalLines()
        var counters = TLSCounters()
        func take(atSecond second: Int64) -> [String] {
            lines.take(counters, nowNs: second * 1_000_000_000).map { "\($0.level) \($0.text)" }
        }
        func refuse(_ kind: TLSRefusal, _ count: Int) {
            counters.refused[kind, default: 0] += count
            counters.lastRefused[kind] = TLSRefusedHandshake(peer: "10.0.0.\(count)", reason: "because")
        }
        #expect(take(atSecond: 0).isEmpty)
        refuse(.expired, 1)
        #expect(take(atSecond: 1) == ["warning refused a TLS handshake (expired), the last from 10.0.0.1: because"])
        refuse(.expired, 2)
        refuse(.noCertificate, 3)
        #expect(
            take(atSecond: 2)
                == ["warning refused 3 TLS handshakes (no_certificate), the last from 10.0.0.3: because"])
        refuse(.expired, 5)
        #expect(take(atSecond: 11) == ["warning refused 7 TLS handshakes (expired), the last from 10.0.0.5: because"])
        #expect(take(atSecond: 100).isEmpty)
        refuse(.abandoned, 1)
        #expect(take(atSecond: 101) == ["debug refused a TLS handshake (abandoned), the last from 10.0.0.1: because"])
    }

    @Test func `A token goes without TLS to this machine only`() {
        for host in ["localhost", "127.0.0.1", "127.1", "::1"] {
            #expect(GRPCAddress(host: host, port: 1).isThisMachine)
        }
        for host in ["127.0.0.1.example", "127.example", "10.0.0.1", "localhost.example", "::2", ""] {
            #expect(!GRPCAddress(host: host, port: 1).isThisMachine)
        }
    }

    @Test func `Files count as changed once they are the same twice`() throws {
        let files = try ["a", "b"].map { try folder.write($0, [1]) }
        var watch = FileWatch(files)
        func looks(_ count: Int) -> [Bool] { (0..<count).map { _ in watch.look() } }
        #expect(looks(2) == [false, false])
        try folder.write("a", [1, 2])
        #expect(looks(1) == [false])
        try folder.write("b", [1, 2, 3])
        #expect(looks(3) == [false, true, false])
        try FileManager.default.removeItem(atPath: files[0])
        #expect(looks(3) == [false, true, false])
    }

    /// How curl ends that asks for metrics.
    private func scrape(_ platform: BinaryTests.Platform, _ flags: [String]) async throws -> BinaryTests.Ended {
        try await BinaryTests.runApart("/usr/bin/curl", ["-sSf", "--max-time", "20"] + flags)
    }

    @Test func `Metrics by TLS: with the same certificate, and a scraper is asked for one only where that was said`()
        async throws
    {
        let authority = ["--cacert", certificates.file("authority")]
        let identity = ["--cert", certificates.file("desk"), "--key", certificates.key("desk")]
        for (how, isAnyoneGood) in [("server", true), ("mutual", false)] {
            let platform = try platform(["--metrics-tls", how])
            let address = "https://\(platform.metrics)"
            let known = try await scrape(platform, authority + identity + ["\(address)/metrics"])
            #expect(known.status == 0 && known.output.contains("tapedeck_tls_handshakes_total"), "\(known.errors)")
            let unknown = try await scrape(platform, authority + ["\(address)/readyz"])
            #expect((unknown.status == 0) == isAnyoneGood, "\(how): \(unknown.errors)")
            let plain = try await scrape(platform, ["http://\(platform.metrics)/healthz"])
            #expect(plain.status != 0)
            let stranger = try await scrape(
                platform, ["--cacert", certificates.file("stranger"), "\(address)/healthz"])
            #expect(stranger.status != 0)
            // HTTP/2 is not spoken here, whatever a scraper offers.
            let version = try await scrape(
                platform,
                authority + identity + ["--http2", "-o", "/dev/null", "-w", "%{http_version}", "\(address)/healthz"])
            #expect(version.output == "1.1", "\(version)")
            // New files are taken for this port too.
            let before = try await serial(platform.metrics)
            try certificates.issue("server", "DNS:localhost,IP:127.0.0.1")
            platform.hangUp()
            try await until { try await serial(platform.metrics) != before }
            #expect(try await serial(platform.metrics) != before)
            #expect(platform.stop() == 0)
        }
        let missing = try await BinaryTests.runApart([
            "up", "--metrics-tls", "server", "--data", folder.path + "/other",
        ])
        #expect(missing.status == 1 && missing.errors.contains("--metrics-tls needs a certificate"), "\(missing)")
        let nobody = try await BinaryTests.runApart([
            "up", "--metrics-tls", "mutual", "--data", folder.path + "/other", "--tls-cert",
            certificates.file("server"), "--tls-key", certificates.key("server"),
        ])
        #expect(nobody.status == 1 && nobody.errors.contains("--tls-client-ca"), "\(nobody)")
    }

    /// Of the certificate that is shown there.
    private func serial(_ address: String) async throws -> String {
        let command =
            "timeout 20 \(CertificateFolder.openssl) s_client -connect \(address) < /dev/null 2>/dev/null "
            + "| \(CertificateFolder.openssl) x509 -noout -serial"
        return try await BinaryTests.runApart("/bin/sh", ["-c", command]).output
    }
}
