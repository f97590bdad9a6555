import EventLog
import EventLoop
import Foundation
import HTTP1Codec
import KafkaTestSupport
import Simulation
import Synchronization
import TLS
import TestSupport
import Testing

@testable import KafkaLog

/// Tokens of a provider, against an endpoint that answers well, badly, late or not at all.
@Suite(.timeLimit(.minutes(2))) struct OIDCTests {
    private static let secret = "s3cret+of/the=desk~"

    /// An endpoint, and what asks it.
    private final class World: @unchecked Sendable {
        let endpoint: TokenEndpoint
        let tokens: OIDCTokens
        let reports: Reports
        let folder: TemporaryFolder

        init(
            _ endpoint: TokenEndpoint, milliseconds: Int = 5000,
            _ change: (inout OIDCConfiguration) -> Void = { _ in }
        ) throws {
            let reports = Reports()
            self.endpoint = endpoint
            self.reports = reports
            folder = try TemporaryFolder()
            var configuration = OIDCConfiguration(
                endpoint: endpoint.address, clientID: "desk 1",
                secretFile: try folder.write(
                    "secret", Array((OIDCTests.secret + "\n").utf8)))
            configuration.requestMilliseconds = milliseconds
            change(&configuration)
            tokens = try OIDCTokens(configuration, time: RealTime(), report: reports.add)
        }

        func close() {
            tokens.close()
            endpoint.close()
        }

        /// How asking fails; nil where it does not.
        func refusal() -> String? {
            do {
                _ = try tokens.token()
                return nil
            } catch {
                return error.description
            }
        }

        /// Nothing that was said has the secret, in any form in which it was sent.
        func keepsTheSecret() -> Bool {
            let said = (refusal() ?? "") + reports.all.joined()
            let forms =
                [OIDCTests.secret, FormText.encode(OIDCTests.secret), "Basic "]
                + endpoint.requests.compactMap {
                    $0.value("authorization").map { String($0.dropFirst(6)) }
                }
            return forms.allSatisfy { !said.contains($0) }
        }
    }

    private static func until(_ condition: @escaping @Sendable () -> Bool) async throws -> Bool {
        try await apart { holds(within: 20) { condition() } }
    }

    @Test func `A request is the client credentials grant, with both words encoded before they are joined`()
        async throws
    {
        try await apart {
            let world = try World(TokenEndpoint { _ in .token("abc", seconds: 100) }) {
                $0.scope = "kafka read"
                $0.extensions = [("cluster", "lkc 1")]
            }
            defer { world.close() }
            let before = RealTime().wallNs() / 1_000_000
            let token = try world.tokens.token()
            #expect(token.value == "abc" && token.extensions.map(\.name) == ["cluster"])
            #expect((before + 90_000...before + 101_000).contains(token.expiryMs))
            let request = try #require(world.endpoint.requests.first)
            #expect(request.method == "POST" && request.target == "/token")
            #expect(String(decoding: request.body, as: UTF8.self) == "grant_type=client_credentials&scope=kafka%20read")
            #expect(request.value("content-type") == "application/x-www-form-urlencoded")
            #expect(request.value("accept") == "application/json")
            let words = try #require(request.value("authorization")?.split(separator: " "))
            let basic = String(decoding: try #require(Data(base64Encoded: String(words[1]))), as: UTF8.self)
            #expect(words[0] == "Basic" && basic == "desk%201:s3cret%2Bof%2Fthe%3Ddesk~")
            // Held, not asked for again.
            for _ in 0..<10 { #expect(try world.tokens.token().value == "abc") }
            #expect(world.endpoint.requests.count == 1 && world.reports.all.isEmpty)
        }
    }

    private static let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

    private static let bad: [(TokenEndpoint.Answer, String)] = [
        (
            TokenEndpoint.Answer.json(
                "{\"error\":\"invalid_client\",\"error_description\":\"bad \(secret) of \\u0007 you\"}",
                status: "401 Unauthorized"),
            "answers 401 (invalid_client: bad *** of ? you)"
        ),
        (.json("<html>login</html>"), "no JSON"), (.json("{\"token\":\"abc\"}"), "no access_token"),
        (.json("[]"), "no access_token"), (.json("{\"access_token\":7}"), "no access_token"),
        (.json("{\"access_token\":\"a b\"}"), "characters"),
        (.json("{\"access_token\":\"a\",\"token_type\":\"mac\"}"), "no bearer token"),
        (.token("abc", seconds: 0), "expired already"), (.token("abc", seconds: -5), "no whole number"),
        (.json("{\"access_token\":\"abc\",\"expires_in\":\"soon\"}"), "no whole number"),
        // {"exp":1700000000}
        (
            .json("{\"access_token\":\"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhcHAiLCJleHAiOjE3MDAwMDAwMDB9.\"}"),
            "expired already"
        ),
        (.json("busy", status: "503 Service Unavailable"), "answers 503"),
        (.json("", status: "404 Not Found"), "check the address"),
        (
            .init(
                bytes: Array(
                    "HTTP/1.1 302 Found\r\nLocation: https://login/?a=\(secret)\r\nContent-Length: 0\r\n\r\n".utf8)),
            "https://login/?a=***; redirects"
        ),
        (.init(bytes: Array((json + "Content-Length: 300000\r\n\r\n").utf8)), "larger than 262144"),
        (.init(bytes: Array((json + "\r\n").utf8) + [UInt8](repeating: 0x20, count: 300_000)), "larger than 262144"),
        (
            .init(bytes: Array((json + "Content-Length: 50\r\n\r\n{\"access_token\":\"abc").utf8)),
            "ended before the answer was whole"
        ),
        (.init(bytes: []), "ended without an answer"),
        (.init(bytes: Array("SSH-2.0-OpenSSH\r\n".utf8)), "does not speak HTTP/1.1"),
        (.init(bytes: [], ends: false), "no whole answer within 300 ms"),
        (.init(bytes: Array("HTTP/1.1 200 OK\r\n".utf8), ends: false), "no whole answer within 300 ms"),
        (.init(bytes: [], delayMilliseconds: 3000), "no whole answer within 300 ms"),
    ]

    @Test(arguments: bad)
    func `What is no token is said with where and why, without the secret`(
        _ answer: TokenEndpoint.Answer, _ part: String
    )
        async throws
    {
        try await apart {
            let world = try World(TokenEndpoint { _ in answer }, milliseconds: 300)
            defer { world.close() }
            let refusal = try #require(world.refusal())
            #expect(refusal.contains(part) && refusal.contains(world.endpoint.address), "\(refusal)")
            #expect(refusal.contains("asked again in"))
            #expect(world.reports.contains("there is no token for the brokers"))
            #expect(world.keepsTheSecret())
        }
    }

    @Test func `An endpoint that is not there, or a secret that is not, is said`() async throws {
        try await apart {
            let endpoint = try TokenEndpoint { _ in .token("abc", seconds: 100) }
            let world = try World(endpoint) { $0.endpoint = "http://127.0.0.1:1/token" }
            defer { world.close() }
            #expect(world.refusal()?.contains("cannot connect") == true, "\(world.refusal() ?? "")")
            func problem(_ change: (inout OIDCConfiguration) -> Void) -> String {
                do {
                    _ = try World(endpoint, change)
                    return ""
                } catch {
                    return "\(error)"
                }
            }
            #expect(problem { $0.secretFile = "/no/such/secret" }.contains("/no/such/secret"))
            #expect(problem { $0.endpoint = "http://idp.example/token" }.contains("unencrypted"))
            #expect(problem { $0.endpoint = "nonsense" }.contains("https://"))
            #expect(problem { $0.clientID = "" }.contains("client id"))
            #expect(problem { $0.extensions = [("auth", "x")] }.contains("auth=x"))
            #expect(problem { $0.extensions = [("a1", "x")] }.contains("a1=x"))
            #expect(problem { $0.extensions = [("a", "x\u{1}auth=Bearer y")] }.contains("extension"))
            #expect(
                problem { configuration in
                    configuration.endpoint = "https://idp.example/token"
                    configuration.authorities = "/no/such/ca.pem"
                }.contains("/no/such/ca.pem"))
        }
    }

    @Test(.enabled(if: CertificateFolder.isPossible))
    func `The endpoint's certificate must come from a known authority and have its name`() async throws {
        try await apart {
            let folder = try CertificateFolder()
            try folder.issue("good", "IP:127.0.0.1")
            try folder.issue("other", "DNS:other.example")
            try folder.issue("over", "IP:127.0.0.1", days: -1)
            for (name, authority, part) in [
                ("good", "authority", nil), ("good", "stranger", "certificate"), ("other", "authority", "certificate"),
                ("good", nil, "certificate"),
            ] {
                let endpoint = try TokenEndpoint(
                    tls: TLSServerConfiguration(
                        certificateChainFile: folder.file(name), privateKeyFile: folder.key(name))
                ) { _ in .token("abc", seconds: 100) }
                let authorities = authority.map(folder.file)
                let world = try World(endpoint) { $0.authorities = authorities }
                defer { world.close() }
                let refusal = world.refusal()
                if let part {
                    #expect(refusal?.contains(part) == true, "\(name): \(refusal ?? "taken")")
                    #expect(endpoint.requests.isEmpty)
                } else {
                    #expect(refusal == nil && endpoint.requests.count == 1, "\(refusal ?? "")")
                }
            }
        }
    }

    @Test func `A token is renewed before it ends, without anybody waiting`() async throws {
        let world = try World(TokenEndpoint { .token("t\($0)", seconds: 2) })
        defer { world.close() }
        #expect(try await apart { try world.tokens.token().value } == "t0")
        // Each comes before the one before is over: none is ever missing.
        let hasThree = try await OIDCTests.until { world.refusal() == nil && world.endpoint.requests.count >= 3 }
        #expect(hasThree && world.refusal() == nil && world.reports.all.isEmpty)
    }

    @Test func `While a renewal fails the old token is given, until it ends, and a new one as soon as there is one`()
        async throws
    {
        let world = try World(TokenEndpoint { _ in .token("first", seconds: 3) }, milliseconds: 500)
        defer { world.close() }
        #expect(try await apart { try world.tokens.token().value } == "first")
        world.endpoint.answer { _ in .json("{\"error\":\"\(OIDCTests.secret)\"}", status: "500 Internal Server Error") }
        let isTold = try await OIDCTests.until { world.reports.contains("is not renewed") }
        #expect(isTold)
        #expect(try await apart { try world.tokens.token().value } == "first")
        let hasEnded = try await OIDCTests.until { world.refusal()?.contains("answers 500") == true }
        #expect(hasEnded && world.keepsTheSecret())
        world.endpoint.answer { _ in .token("second", seconds: 100) }
        let isBack = try await OIDCTests.until { world.refusal() == nil }
        #expect(isBack)
        #expect(try await apart { try world.tokens.token().value } == "second")
    }

    @Test func `The secret is read for each request`() async throws {
        let world = try World(TokenEndpoint { .token("t\($0)", seconds: 2) })
        defer { world.close() }
        try await apart { _ = try world.tokens.token() }
        _ = try world.folder.write("secret", Array("another".utf8))
        let isUsed = try await OIDCTests.until {
            world.endpoint.requests.contains {
                $0.value("authorization") == "Basic " + Data("desk%201:another".utf8).base64EncodedString()
            }
        }
        #expect(isUsed)
    }

    @Test func `Who waits for a token is told when there will be none`() async throws {
        let world = try World(TokenEndpoint { _ in .init(bytes: [], ends: false) }, milliseconds: 60_000)
        let waiting = Task { try await apart { world.refusal() } }
        let isAsked = try await OIDCTests.until { world.endpoint.requests.count == 1 }
        world.close()
        let refusal = try await waiting.value
        #expect(isAsked && refusal?.contains("no more") == true, "\(refusal ?? "")")
    }

    @Test func `A token is due at about four fifths of its life, and after failures at growing pauses`() {
        for spread in [0.0, 0.5, 0.999] {
            var renewal = TokenRenewal()
            #expect(renewal.valid(nowMs: 0) == nil)
            renewal.took("a", lifeMs: 100_000, askedMs: 1000, spread: spread)
            #expect((76_000...81_000).contains(renewal.dueMs))
            #expect(renewal.valid(nowMs: 100_999)?.token == "a" && renewal.valid(nowMs: 101_000) == nil)
            var pauses: [Int64] = []
            for _ in 0..<20 {
                renewal.failed("x", nowMs: 90_000, spread: spread)
                pauses.append(renewal.dueMs - 90_000)
                #expect(renewal.valid(nowMs: 90_000)?.token == "a" && renewal.failure == "x")
            }
            #expect(pauses[0] >= 1000 && pauses[0] <= 1200 && zip(pauses, pauses.dropFirst()).allSatisfy { $0 <= $1 })
            #expect((10_000...12_000).contains(pauses[19]))
            renewal.took("b", lifeMs: 1, askedMs: 95_000, spread: spread)
            #expect(renewal.failure == nil && renewal.dueMs == 96_000)
            renewal.failed("y", nowMs: 96_000, spread: spread)
            #expect(renewal.dueMs - 96_000 <= 1200)
        }
    }
}

extension KafkaTests {
    @Suite(.serialized) struct TokenTests {
        /// As brokers without a provider take it (an unsecured JSON web token).
        private static func token(seconds: Double) -> String {
            func part(_ text: String) -> String {
                Data(text.utf8).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing(
                    "=", with: "")
            }
            let now = Date().timeIntervalSince1970
            return part("{\"alg\":\"none\"}") + "."
                + part("{\"sub\":\"app\",\"iat\":\(Int(now)),\"exp\":\(now + seconds)}") + "."
        }

        private static func open(
            _ tape: Tape, _ source: @escaping @Sendable () throws -> KafkaToken,
            _ report: @escaping KafkaReport = { _, _ in }
        ) throws -> KafkaLog {
            let certificates = tape.broker.certificates
            var configuration = tape.configuration
            configuration.brokers = tape.broker.secureBrokers
            configuration.requestTimeoutNs = 8_000_000_000
            configuration.security = KafkaSecurity(
                login: .token(source),
                tls: KafkaSecurity.TLS(
                    authorities: certificates + "/ca.pem", certificate: certificates + "/client-a.pem",
                    key: certificates + "/client-a-key.pem"))
            return try KafkaLog(configuration, time: RealTime(), report: report)
        }

        private static func tokens(
            _ endpoint: TokenEndpoint, _ folder: TemporaryFolder, _ report: @escaping KafkaReport
        ) throws -> OIDCTokens {
            var configuration = OIDCConfiguration(
                endpoint: endpoint.address, clientID: "app",
                secretFile: try folder.write("secret", Array("x9y8z7".utf8)))
            configuration.extensions = [("traceparent", "00-1-1-00"), ("cluster", "a b")]
            return try OIDCTokens(configuration, time: RealTime(), report: report)
        }

        @Test func `Tokens of a provider let both halves of the connections in, over the end of each token`()
            async throws
        {
            try await apart {
                let tape = try Tape()
                let folder = try TemporaryFolder()
                let endpoint = try TokenEndpoint { _ in .token(TokenTests.token(seconds: 4), seconds: 4) }
                defer { endpoint.close() }
                let reports = Reports()
                let tokens = try TokenTests.tokens(endpoint, folder, reports.add)
                defer { tokens.close() }
                let log = try TokenTests.open(tape, { try tokens.token() }, reports.add)
                defer { try? log.close() }
                let member = try log.join(group: "g", .ticksRaw)
                let isMember = try holds { try member.partitions().count == 1 }
                #expect(isMember)
                var next: UInt64 = 1
                let end = Date().addingTimeInterval(11)
                while Date() < end {
                    try log.append([tickBlock(log, from: next, count: 10)], consumed: [])
                    next += 10
                    RealTime().sleep(ns: 100_000_000)
                }
                try log.sync()
                #expect(try readAll(log, TopicPartition(.ticksRaw, 0)).map(\.sequence) == Array(1..<next))
                member.leave()
                #expect(endpoint.requests.count >= 3)
                #expect(!reports.contains("x9y8z7"))
            }
        }

        @Test func `A token that the broker does not take is refused, in its words, and a file's is taken`()
            async throws
        {
            try await apart {
                let tape = try Tape()
                for bad in ["nonsense", TokenTests.token(seconds: -100)] {
                    do {
                        try TokenTests.open(tape) {
                            KafkaToken(value: bad, expiryMs: RealTime().wallNs() / 1_000_000 + 60_000, principal: "app")
                        }.close()
                        Issue.record("a token was taken that is none")
                    } catch let error as LogError {
                        #expect(error.code == .denied, "\(error)")
                        #expect(error.message.contains("uthentication"), "\(error)")
                        #expect(!error.message.contains(bad))
                    }
                }
                let folder = try TemporaryFolder()
                let file = try folder.write("token", Array(TokenTests.token(seconds: 600).utf8))
                let log = try TokenTests.open(tape) {
                    try KafkaToken(file: file, nowMs: RealTime().wallNs() / 1_000_000)
                }
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 10)], consumed: [])
                try log.sync()
                #expect(try readAll(log, TopicPartition(.ticksRaw, 0)).count == 10)
            }
        }
    }
}
