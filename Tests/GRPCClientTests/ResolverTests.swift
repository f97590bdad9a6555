import DNSCodec
import EventLoop
import TestSupport
import Testing

@testable import GRPC

/// Names to addresses, by the system and by a name server.
@Suite(.timeLimit(.minutes(1)))
struct ResolverTests {
    private static func resolve(
        _ host: String, port: Int = 7, server: Int? = nil, _ change: (inout GRPCNameServerOptions) -> Void = { _ in }
    ) async -> Result<[String], GRPCStatus> {
        var resolver = GRPCSystemResolver()
        resolver.nameServer.firstWaitMilliseconds = 200
        change(&resolver.nameServer)
        let asked = resolver
        let loop = EventLoop(name: "resolver")
        defer { loop.stop() }
        return await withCheckedContinuation { continuation in
            loop.execute {
                asked.resolve(
                    GRPCAddress(host: host, port: port),
                    server: server.map { GRPCAddress(host: "127.0.0.1", port: $0) },
                    loop: loop
                ) { continuation.resume(returning: $0.map { $0.map(\.description) }) }
            }
        }
    }

    /// Resolves with a server that behaves so.
    private static func ask(
        _ behaviour: NameServer.Behaviour, host: String = "edge.test",
        _ change: (inout GRPCNameServerOptions) -> Void = { _ in }
    ) async throws -> (result: Result<[String], GRPCStatus>, questions: (udp: Int, tcp: Int)) {
        let server = try NameServer(behaviour)
        defer { server.stop() }
        let result = await resolve(host, server: server.port, change)
        return (result, server.questions)
    }

    private static func message(_ result: Result<[String], GRPCStatus>) -> String {
        guard case .failure(let status) = result else { return "found \(result)" }
        return status.code == .unavailable ? status.message : "\(status)"
    }

    @Test func `Numbers are taken as they are, on any loop`() async {
        #expect(await Self.resolve("127.0.0.1") == .success(["127.0.0.1:7"]))
        #expect(await Self.resolve("::1") == .success(["[::1]:7"]))
        #expect(await Self.resolve("127.0.0.1", server: 1) == .success(["127.0.0.1:7"]))
    }

    @Test func `The system's names have all their addresses, and unknown ones say what to do`() async {
        guard case .success(let local) = await Self.resolve("localhost") else {
            Issue.record("no localhost")
            return
        }
        #expect(local.contains("127.0.0.1:7") || local.contains("[::1]:7"))
        #expect(Set(local).count == local.count)
        #expect(await Self.resolve("localhost") == .success(local))
        let unknown = Self.message(await Self.resolve("no-such-name.invalid"))
        #expect(unknown.hasPrefix("cannot resolve no-such-name.invalid: ") && unknown.contains("; check the name"))
        let bad = Self.message(await Self.resolve("a..b"))
        #expect(bad.hasPrefix("cannot resolve a..b: "))
    }

    @Test func `A name server's addresses come from both kinds, in order, none twice, through aliases`() async throws {
        var behaviour = NameServer.Behaviour()
        behaviour.addresses = ["10.0.0.9", "2001:db8::1", "10.0.0.10", "10.0.0.9", "::1", "9.0.0.1"]
        let expected = ["9.0.0.1:7", "10.0.0.9:7", "10.0.0.10:7", "[::1]:7", "[2001:db8::1]:7"]
        let (result, questions) = try await Self.ask(behaviour)
        #expect(result == .success(expected))
        #expect(questions == (2, 0))
        behaviour.aliases = [("Edge.TEST", "a.test"), ("a.test", "b.test")]
        #expect(try await Self.ask(behaviour).result == .success(expected))
        behaviour.aliases.append(("b.test", "edge.test"))
        #expect(Self.message(try await Self.ask(behaviour).result).contains("circle"))
    }

    @Test func `An answer that does not fit is fetched by TCP`() async throws {
        var behaviour = NameServer.Behaviour()
        behaviour.isTruncated = true
        behaviour.addresses = (0..<600).map { "10.0.\($0 / 250).\($0 % 250)" }
        let (result, questions) = try await Self.ask(behaviour)
        #expect((try? result.get().count) == 600)
        #expect(questions == (2, 2))
        behaviour.addresses = (0..<1100).map { "10.0.\($0 / 250).\($0 % 250)" }
        #expect(Self.message(try await Self.ask(behaviour).result).contains("more than 1024"))
    }

    @Test func `Questions that get lost are asked again, and in the end given up`() async throws {
        var behaviour = NameServer.Behaviour()
        behaviour.addresses = ["10.0.0.1"]
        behaviour.silent = 3
        let (result, questions) = try await Self.ask(behaviour) { $0.firstWaitMilliseconds = 50 }
        #expect(result == .success(["10.0.0.1:7"]))
        #expect(questions.udp == 5)
        behaviour.silent = 100
        let silent = try await Self.ask(behaviour) { $0.firstWaitMilliseconds = 5 }
        #expect(silent.questions.udp == 6)
        #expect(Self.message(silent.result).contains("gives no answer (no answer in time); check that"))
        // Nobody listens there: known at once.
        let nobody = Self.message(await Self.resolve("edge.test", server: 1) { $0.firstWaitMilliseconds = 60_000 })
        #expect(nobody.contains("connection refused"))
    }

    @Test func `Forged, broken and refusing answers give no addresses`() async throws {
        var behaviour = NameServer.Behaviour()
        behaviour.addresses = ["10.0.0.1"]
        behaviour.isForged = true
        #expect(try await Self.ask(behaviour).result == .success(["10.0.0.1:7"]))
        behaviour.isForged = false
        behaviour.isMalformed = true
        #expect(Self.message(try await Self.ask(behaviour).result).contains("the message ends too early"))
        behaviour.isMalformed = false
        behaviour.code = 3
        #expect(Self.message(try await Self.ask(behaviour).result).contains("knows no edge.test"))
        behaviour.code = 2
        #expect(Self.message(try await Self.ask(behaviour).result).contains("answered SERVFAIL"))
        behaviour.code = 0
        behaviour.addresses = []
        #expect(Self.message(try await Self.ask(behaviour).result) == "the name edge.test has no addresses")
        let odd = Self.message(try await Self.ask(behaviour, host: "bücher.test").result)
        #expect(odd.contains("is no name that a name server can know"))
    }

    @Test func `Each question has an id of its own and waits longer; an answer to an earlier one is passed over`() {
        let question = DNSQuestion(DNSName("a.test")!, .ipv4)
        let server = GRPCAddress(host: "10.0.0.1", port: 53)
        var query = GRPCNameQuery(question, server: server, options: GRPCNameServerOptions())
        func answer(_ id: UInt16) -> [UInt8] {
            let asked = question.message(id: id)
            let address: [UInt8] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]
            return asked[..<2] + [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0] + asked[12...] + address
        }
        #expect(query.start(id: 1) == .sendDatagram(question.message(id: 1), withinMilliseconds: 1000))
        #expect(query.timedOut(nextID: 2) == .sendDatagram(question.message(id: 2), withinMilliseconds: 2000))
        answer(1).withUnsafeBytes { #expect(query.received(datagram: $0, nextID: 9) == .wait) }
        #expect(query.failed("x", nextID: 3) == .sendDatagram(question.message(id: 3), withinMilliseconds: 4000))
        answer(3).withUnsafeBytes {
            #expect(query.received(datagram: $0, nextID: 9) == .finish(.success([[10, 0, 0, 1]])))
        }
        guard case .finish(.failure(let status)) = query.timedOut(nextID: 4) else {
            Issue.record("asked for ever")
            return
        }
        #expect(status.message.hasPrefix("the name server 10.0.0.1:53 gives no answer"))
    }

    @Test func `A channel to a name that only its name server knows`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let names = try NameServer(["127.0.0.1"])
        defer { names.stop() }
        let target = "dns://127.0.0.1:\(names.port)/edge.test:\(server.port)"
        let channel = try GRPCChannel(target: target, options: ChannelTests.quick())
        defer { channel.close() }
        #expect(await channel.unary(path: EchoServer.service + "Echo", request: [1]).status == .ok)
    }
}
