import EventLoop
import GRPC
import Synchronization
import Testing

@testable import AccessControl

/// Who may call, over real connections.
@Suite(.serialized, .timeLimit(.minutes(1)))
struct AccessTests {
    private static let alice = AccessToken(name: "alice", random: [UInt8](1...32))!
    private static let bob = AccessToken(name: "bob", random: [UInt8](2...33))!

    private static func line(_ token: AccessToken, _ rest: String) -> String {
        "\(token.name) \(token.proof(salt: [UInt8](0..<16))) \(rest)\n"
    }

    private static func bearer(_ token: AccessToken) -> String { "Bearer \(token.text)" }

    @Test func `Without a file, callers of this machine need no proof, unless nobody does`() async throws {
        let open = try GuardedServer()
        defer { open.stop() }
        #expect(await TestCall(open, "Get").end().status.isOK)
        #expect(open.seen == ["anonymous anonymous AAPL"])
        let closed = try GuardedServer(anonymous: .nobody)
        defer { closed.stop() }
        let refused = await TestCall(closed, "Get").end()
        #expect(refused.status.code == .unauthenticated && refused.messages.isEmpty)
        #expect(await TestCall(closed, "Watch").end().status.code == .unauthenticated)
        #expect(closed.policy.counters.unauthenticated == 2 && closed.seen.isEmpty)
        #expect(closed.metric("grpc_server_handled_total", method: "Get", code: "Unauthenticated") == 1)
        let probe = await TestCall(closed, "", path: "/grpc.health.v1.Health/Check").end()
        #expect(probe.status.isOK)
    }

    @Test func `Loopback is told by its address`() {
        for address in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            #expect(AccessInterceptor.isLoopback(address))
        }
        for address in ["", "10.0.0.1", "128.0.0.1", "::2", "::ffff:10.0.0.1", "1127.0.0.1"] {
            #expect(!AccessInterceptor.isLoopback(address))
        }
    }

    @Test func `A token gives its identity and rights; anything else in its place gives none`() async throws {
        let server = try GuardedServer(
            file: AccessTests.line(AccessTests.alice, "methods=\(GuardedServer.service)Get symbols=SIMX|AAPL"))
        defer { server.stop() }
        for _ in 0..<3 {
            #expect(await TestCall(server, "Get", token: AccessTests.bearer(AccessTests.alice)).end().status.isOK)
        }
        #expect(server.seen == [String](repeating: "alice token AAPL", count: 3))
        let watch = await TestCall(server, "Watch", token: AccessTests.bearer(AccessTests.alice)).end()
        #expect(watch.status.code == .permissionDenied && watch.status.message.contains("alice may not call"))
        let good = AccessTests.bearer(AccessTests.alice)
        for wrong in [
            nil, "", "Bearer", "Basic YTpi", AccessTests.bearer(AccessTests.bob), good + "0",
            String(good.dropLast()) + (good.hasSuffix("0") ? "1" : "0"), good.replacing("alice", with: "alicf"),
            String(repeating: "x", count: 5000), "Bearer " + good,
        ] {
            #expect(await TestCall(server, "Get", token: wrong).end().status.code == .unauthenticated, "\(wrong ?? "")")
        }
        #expect(await TestCall(server, "Get", token: good.replacing("Bearer", with: "bearer")).end().status.isOK)
        #expect(server.policy.counters.denied == 1 && server.policy.counters.unauthenticated == 10)
    }

    @Test(arguments: [
        (["https://x", "spiffe://desk/a"], ["d.example"], "cn", "spiffe://desk/a"),
        (["https://x"], ["d.example", "e.example"], "cn", "d.example"), ([], [], "cn", "cn"),
    ])
    func `A certificate's name is its SPIFFE id, else DNS name, else common name`(
        _ uris: [String], _ names: [String], _ common: String, _ expected: String
    ) async throws {
        let certificate = PeerCertificate(uris: uris, dnsNames: names, commonName: common)
        let trusting = try GuardedServer(anonymous: .nobody, certificate: certificate)
        defer { trusting.stop() }
        #expect(await TestCall(trusting, "Get").end().status.isOK)
        #expect(trusting.seen == ["\(expected) certificate AAPL"])
        let strict = try GuardedServer(file: "someone certificate methods=*", certificate: certificate)
        defer { strict.stop() }
        #expect(await TestCall(strict, "Get").end().status.code == .permissionDenied)
        let listed = try GuardedServer(file: "\(expected) certificate methods=*", certificate: certificate)
        defer { listed.stop() }
        #expect(await TestCall(listed, "Get").end().status.isOK)
        #expect(listed.seen == ["\(expected) certificate "])
        let others = try GuardedServer(file: "* certificate methods=* symbols=SIMX|*", certificate: certificate)
        defer { others.stop() }
        #expect(await TestCall(others, "Get").end().status.isOK)
        #expect(others.seen == ["\(expected) certificate AAPL"])
    }

    @Test func `Who is behind a certificate is found once for each connection, and again when the file changes`()
        async throws
    {
        let certificate = PeerCertificate(uris: ["spiffe://desk/once"], dnsNames: [], commonName: "")
        let rights = "spiffe://desk/once certificate methods=* symbols=*\n"
        let server = try GuardedServer(file: rights, certificate: certificate)
        defer { server.stop() }
        let before = CertifiedStream.looks.load(ordering: .relaxed)
        let first = TestCall(server, "Get")
        #expect(await first.end().status.isOK)
        for _ in 0..<5 { #expect(await TestCall("Get", after: first).end().status.isOK) }
        #expect(server.seen == [String](repeating: "spiffe://desk/once certificate AAPL", count: 6))
        #expect(CertifiedStream.looks.load(ordering: .relaxed) - before == 1)
        server.policy.use(try AccessFile(parsing: Array("someone certificate methods=*\n".utf8)))
        #expect(await TestCall("Get", after: first).end().status.code == .permissionDenied)
        server.policy.use(try AccessFile(parsing: Array(rights.utf8)))
        #expect(await TestCall("Get", after: first).end().status.isOK)
    }

    @Test func `A file that changes ends the streams of whom it changes, and nobody else's`() async throws {
        let alice = AccessTests.line(AccessTests.alice, "methods=*")
        let bob = AccessTests.line(AccessTests.bob, "methods=*")
        let server = try GuardedServer(file: alice + bob, loops: 2)
        defer { server.stop() }
        let streams = [AccessTests.alice, AccessTests.bob, AccessTests.bob].map {
            TestCall(server, "Watch", token: AccessTests.bearer($0))
        }
        for stream in streams { await stream.begun() }
        server.policy.use(try AccessFile(parsing: Array(alice.utf8)))
        for stream in streams.dropFirst() { #expect(await stream.end().status.code == .unauthenticated) }
        let refused = await TestCall(server, "Get", token: AccessTests.bearer(AccessTests.bob)).end()
        #expect(refused.status.code == .unauthenticated)
        #expect(await TestCall(server, "Get", token: AccessTests.bearer(AccessTests.alice)).end().status.isOK)
        #expect(!streams[0].isOver)
        server.policy.use(try AccessFile(parsing: Array(AccessTests.line(AccessTests.alice, "methods=/x/*").utf8)))
        #expect(await streams[0].end().status.code == .unauthenticated)
    }

    @Test func `More calls than the rate are told when to come back`() async throws {
        let server = try GuardedServer(limits: CallerLimits(callsPerSecond: 1), loops: 2)
        defer { server.stop() }
        var refused: [TestCall.End] = []
        for _ in 0..<8 {
            let end = await TestCall(server, "Get").end()
            if !end.status.isOK { refused.append(end) }
        }
        // More may have come free while they were made.
        #expect(!refused.isEmpty && refused.count <= 7)
        for end in refused {
            #expect(end.status.code == .resourceExhausted)
            let wait = end.trailers.value("grpc-retry-pushback-ms").flatMap { Int($0) } ?? 0
            #expect((1...1001).contains(wait))
        }
        #expect(server.policy.counters.rateLimited == UInt64(refused.count))
    }

    @Test func `A caller has so many streams at once, on all loops together`() async throws {
        let server = try GuardedServer(limits: CallerLimits(streams: 2), loops: 2)
        defer { server.stop() }
        let streams = [TestCall(server, "Watch"), TestCall(server, "Watch")]
        for stream in streams { await stream.begun() }
        let third = await TestCall(server, "Watch").end()
        #expect(third.status.code == .resourceExhausted && third.trailers.value("grpc-retry-pushback-ms") == "1000")
        #expect(await TestCall(server, "Get").end().status.isOK)
        streams[0].cancel()
        // The server hears of the cancellation a little later.
        while true {
            let stream = TestCall(server, "Watch")
            await stream.begun()
            if !stream.isOver { break }
        }
        #expect(server.policy.counters.streamLimited >= 1)
    }
}
