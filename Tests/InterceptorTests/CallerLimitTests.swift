import EventLoop
import Simulation
import Testing

@testable import AccessControl
@testable import GRPC

/// A guarded server on a simulated loop, with two callers of an access file, each on a connection of its own.
private final class LimitedWorld {
    static let service = "/tapedeck.test.Limited/"
    static let alice = AccessToken(name: "alice", random: [UInt8](1...32))!
    static let bob = AccessToken(name: "bob", random: [UInt8](2...33))!

    let loop = SimulatedLoop()
    let policy = AccessPolicy(anonymous: .nobody)
    private let server: GRPCLoopServer
    private let random = SimulatedStream.SharedRandom(seed: 1)
    private let counts: Counts

    /// When the messages of each caller's streams of requests were taken.
    final class Counts {
        var times: [String: [UInt64]] = [:]
    }

    private final class Sink: RequestSink {
        let counts: Counts
        init(_ counts: Counts) { self.counts = counts }
        func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
            counts.times[call.identity?.name ?? "", default: []].append(call.loop.nowMilliseconds)
        }
        func receivedEnd(_ call: ServerCall) { call.respond([UInt8]()) }
    }

    /// `rest` is what stands behind the rights on each one's line.
    init(alice rest: String, bob other: String) throws {
        let lines = [(LimitedWorld.alice, rest), (LimitedWorld.bob, other)].map { token, rest in
            "\(token.name) \(token.proof(salt: [UInt8](0..<16))) methods=* \(rest)\n"
        }
        policy.use(try AccessFile(parsing: Array(lines.joined().utf8)))
        let counts = Counts()
        self.counts = counts
        var table = GRPCServiceTable()
        table.register(
            path: LimitedWorld.service + "Get",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in call.respond(Array(request)) })
        table.register(
            path: LimitedWorld.service + "Watch",
            serverStreaming: { (call: ServerCall, _: UnsafeRawBufferPointer) in call.source = EndlessSource(call) })
        table.register(
            path: LimitedWorld.service + "Send", serverStreaming: false,
            streaming: { (_: ServerCall) -> any RequestSink in Sink(counts) })
        var configuration = GRPCServerConfiguration()
        let policy = policy
        configuration.interceptors = { [policy.makeInterceptor(loop: $0)] }
        server = GRPCLoopServer(loop: loop, table: table, configuration: configuration)
    }

    func connect(_ token: AccessToken) -> LimitedClient {
        var link = SimulatedLink()
        link.delayMillisecondsMax = 0
        let ends = SimulatedStream.pair(loop, link, random)
        server.accept(ends.server)
        return LimitedClient(token, ends.client, loop)
    }

    func times(_ token: AccessToken) -> [UInt64] { counts.times[token.name] ?? [] }

    /// Lets so much time pass.
    func pass(_ milliseconds: Int) {
        let end = loop.nowMilliseconds + UInt64(milliseconds)
        _ = loop.timer(afterMilliseconds: milliseconds) {}
        #expect(loop.run { loop.nowMilliseconds >= end })
    }
}

/// A caller with its token.
private final class LimitedClient {
    final class Call: GRPCCallOwner {
        private(set) var messages = 0
        private(set) var end: (status: GRPCStatus, trailers: GRPCMetadata)?
        var call: ClientCall?

        func received(metadata: GRPCMetadata) {}
        func received(frames: UnsafeRawBufferPointer) {
            messages += MessageSequence(frames: frames).count { _ in true }
        }
        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { end = (status, trailers) }

        /// `OK`, or the code and when it may be tried again.
        var text: String? {
            end.map { [$0.status.code.description, $0.trailers.value("grpc-retry-pushback-ms")].compactMap { $0 } }
                .map { $0.joined(separator: " ") }
        }
    }

    private let loop: SimulatedLoop
    private let connection: GRPCClientConnection
    private var metadata = GRPCMetadata()

    init(_ token: AccessToken, _ stream: SimulatedStream, _ loop: SimulatedLoop) {
        self.loop = loop
        connection = GRPCClientConnection(
            over: stream, authority: "edge", isSecure: false, options: GRPCConnectionOptions(), tell: { _ in })
        metadata.add("authorization", "Bearer " + token.text)
    }

    func begin(_ method: String) -> Call {
        let call = Call()
        call.call = connection.call(path: LimitedWorld.service + method, metadata: metadata, owner: call)
        return call
    }

    /// Begins a call and lets it end, or bring its first message.
    func ask(_ method: String) -> Call {
        let call = begin(method)
        call.call?.send([1])
        call.call?.halfClose()
        #expect(loop.run { call.end != nil || (method == "Watch" && call.messages > 0) })
        return call
    }
}

/// What the lines of an access file limit, in virtual time: each caller by its own line.
struct CallerLimitTests {
    @Test func `calls= holds for its own caller, who may go on when it is told`() throws {
        let world = try LimitedWorld(alice: "calls=2", bob: "calls=5")
        let (alice, bob) = (world.connect(LimitedWorld.alice), world.connect(LimitedWorld.bob))
        #expect((1...4).map { _ in alice.ask("Get").text } == ["OK", "OK"] + Array(repeating: refused(501), count: 2))
        let ok = [String](repeating: "OK", count: 5)
        #expect((1...6).map { _ in bob.ask("Get").text } == ok + [refused(201)])
        // From another connection it is the same caller.
        #expect(world.connect(LimitedWorld.alice).ask("Get").text == refused(501))
        world.pass(500)
        #expect((1...2).map { _ in alice.ask("Get").text } == ["OK", refused(501)])
        #expect((1...3).map { _ in bob.ask("Get").text } == ["OK", "OK", refused(101)])
        world.pass(10_000)
        // However long nothing was asked, no more than a second's worth comes together.
        #expect((1...3).map { _ in alice.ask("Get").text } == ["OK", "OK", refused(501)])
        #expect(world.policy.counters.rateLimited == 7)
    }

    private func refused(_ milliseconds: Int) -> String { "RESOURCE_EXHAUSTED \(milliseconds)" }

    @Test func `streams= holds for its own caller, and for no call without a stream`() throws {
        let world = try LimitedWorld(alice: "streams=2", bob: "")
        let (alice, bob) = (world.connect(LimitedWorld.alice), world.connect(LimitedWorld.bob))
        let first = alice.ask("Watch")
        #expect([first, world.connect(LimitedWorld.alice).ask("Watch")].allSatisfy { $0.end == nil })
        #expect(alice.ask("Watch").text == refused(1000))
        #expect(alice.ask("Get").text == "OK")
        #expect((1...20).allSatisfy { _ in bob.ask("Watch").end == nil })
        first.call?.cancel()
        world.pass(1)
        #expect(alice.ask("Watch").end == nil)
        #expect(alice.ask("Watch").text == refused(1000))
        #expect(world.policy.counters.streamLimited == 2 && world.policy.counters.rateLimited == 0)
    }

    @Test func `messages= takes its own caller's messages later, each of them, and nobody else's`() throws {
        let world = try LimitedWorld(alice: "messages=10", bob: "messages=1000")
        let (alice, bob) = (world.connect(LimitedWorld.alice), world.connect(LimitedWorld.bob))
        let calls = [alice, bob].map { client in
            let call = client.begin("Send")
            for _ in 0..<30 { call.call?.send([7]) }
            call.call?.halfClose()
            return call
        }
        let start = world.loop.nowMilliseconds
        #expect(world.loop.run { calls.allSatisfy { $0.end != nil } })
        #expect(calls.map(\.text) == ["OK", "OK"])
        #expect(world.times(LimitedWorld.bob) == [UInt64](repeating: start, count: 30))
        // A second's worth and the one that was too many at once, the others a tenth of a second apart.
        let late = (0..<19).map { start + 101 + 100 * UInt64($0) }
        #expect(world.times(LimitedWorld.alice) == [UInt64](repeating: start, count: 11) + late)
        #expect(world.policy.counters.delayed == 20 && world.policy.counters.rateLimited == 0)
    }

    @Test func `A line without limits has those of the configuration, one that says 0 has none`() throws {
        let limits = CallerLimits(callsPerSecond: 3, streams: 4, messagesPerSecond: 5)
        let file = try AccessFile(
            parsing: Array("a certificate\nb certificate calls=0 streams=0 messages=0\nc certificate calls=9".utf8),
            limits: limits)
        #expect(file.entries.map(\.limits.callsPerSecond) == [3, 0, 9])
        #expect(file.entries.map(\.limits.streams) == [4, 0, 4])
        #expect(file.entries.map(\.limits.messagesPerSecond) == [5, 0, 5])
    }
}
