import EventLoop
import HTTP2
import Protobuf
import Simulation
import TestSupport
import Testing

@testable import GRPC

/// A weakly held object, to see whether it is gone.
private struct Weak {
    weak var object: AnyObject?
}

/// One call of the simulated client. Its plan comes from the seed.
private final class SimulatedCall: HTTP2StreamOwner, HTTP2Body {
    weak var stream: HTTP2Stream?
    private(set) var ends: [String] = []
    private var request: [UInt8]
    private let requestEnds: Bool
    private let pieceMax: Int
    private let takes: Bool
    private var status: String?
    private var received: [UInt8] = []
    let expected: [UInt8]?

    init(request: [UInt8], requestEnds: Bool, pieceMax: Int, takes: Bool, expected: [UInt8]?) {
        self.request = request
        self.requestEnds = requestEnds
        self.pieceMax = pieceMax
        self.takes = takes
        self.expected = expected
    }

    /// A call that ended well brought all it should.
    var isRight: Bool { ends.count == 1 && (ends != ["0"] || expected == nil || expected == received) }
    var isOver: Bool { !ends.isEmpty }

    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        let count = min(buffer.count, request.count, pieceMax)
        guard count > 0 else { return requestEnds ? .end(trailers: nil) : .wait }
        buffer.copyBytes(from: request[..<count])
        request.removeFirst(count)
        return .bytes(count)
    }

    func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        if let value = headers.first(where: { $0.name == "grpc-status" })?.value { status = value }
    }

    func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        received += data
        if takes { stream.consume(data.count) }
    }

    func receivedEnd(_ stream: HTTP2Stream) {}

    func closed(_ stream: HTTP2Stream, code: UInt32) { ends.append(status ?? "closed \(code)") }

    func finish(_ text: String) { ends.append(text) }
}

private final class SimulatedClient: HTTP2ConnectionOwner {
    private(set) var isClosed = false
    var connection: HTTP2Connection?

    func closed(_ connection: HTTP2Connection, reason: String) {
        isClosed = true
        self.connection = nil
    }
}

/// Client and server on the simulated network, everything by seed.
private final class SimulatedWorld {
    let loop = SimulatedLoop()
    var random: SimulatedStream.SharedRandom
    let server: GRPCLoopServer
    var objects: [Weak] = []
    var calls: [SimulatedCall] = []
    private var clients: [SimulatedClient] = []
    private let seen = Seen()

    /// Server-side objects, as handlers see them.
    final class Seen {
        var objects: [Weak] = []
        var began = 0
        var ended = 0
    }

    /// Counts what interceptors hear.
    final class Observer: ServerInterceptor {
        let seen: Seen
        init(_ seen: Seen) { self.seen = seen }
        func begin(_ call: ServerCall) -> GRPCStatus? {
            seen.began += 1
            seen.objects += [Weak(object: call), Weak(object: call.connection)]
            return nil
        }
        func ended(_ call: ServerCall, _ status: GRPCStatus) { seen.ended += 1 }
    }

    init(seed: UInt64) {
        random = SimulatedStream.SharedRandom(seed: seed)
        var table = GRPCServiceTable()
        InteropService().register(on: &table)
        table.register(
            path: TestServer.service + "Count",
            serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                call.source = CountingSource(limit: Int(String(decoding: request, as: UTF8.self)) ?? 0)
            })
        table.register(path: TestServer.service + "Never", unary: { (_: ServerCall, _: UnsafeRawBufferPointer) in })
        var configuration = GRPCServerConfiguration()
        configuration.seed = seed
        configuration.http2.streamWindowBytes = 70_000
        configuration.http2.ageMilliseconds = 60_000
        let box = LoopConfined(seen)
        configuration.interceptors = { _ in [Observer(box.value)] }
        server = GRPCLoopServer(loop: loop, table: table, configuration: configuration)
    }

    var seenCounts: (began: Int, ended: Int) { (seen.began, seen.ended) }
    var live: Int { (objects + seen.objects).count { $0.object != nil } }
    var isOver: Bool {
        calls.allSatisfy(\.isOver) && clients.allSatisfy(\.isClosed) && server.connectionCount == 0
            && server.openCallCount == 0
    }

    private func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random.numbers) }

    /// A connection with some calls, and when it ends.
    func connect() {
        var link = SimulatedLink()
        link.delayMillisecondsMax = int(0...30)
        link.pieceBytesMax = [1, 7, 100, 20_000][int(0...3)]
        link.bufferBytes = [1, 100, 5000, 100_000][int(0...3)]
        let isCut = int(0...2) == 0
        let ends = SimulatedStream.pair(loop, link, random, cutAfter: isCut ? int(1...4000) : nil)
        server.accept(ends.server)
        let client = SimulatedClient()
        clients.append(client)
        let connection = HTTP2Connection(
            transport: ends.client, isServer: false, settings: HTTP2Settings(), owner: client)
        client.connection = connection
        objects.append(Weak(object: connection))
        for _ in 0..<int(1...5) {
            _ = loop.timer(afterMilliseconds: int(0...200)) { [self] in call(on: connection) }
        }
    }

    private func call(on connection: HTTP2Connection) {
        let (method, call) = plan()
        calls.append(call)
        var more: [(String, String)] = []
        if int(0...3) == 0 || method.hasSuffix("Never") { more.append(("grpc-timeout", "\(int(1...3000))m")) }
        guard let stream = connection.request(RawCall.headers(method, more), body: call, owner: call) else {
            return call.finish("refused")
        }
        call.stream = stream
        objects.append(Weak(object: stream))
        if int(0...4) == 0 {
            _ = loop.timer(afterMilliseconds: int(0...500)) { [weak call] in
                call?.stream?.reset(HTTP2ErrorCode.cancel)
            }
        }
    }

    private func plan() -> (String, SimulatedCall) {
        let pieceMax = [1, 50, 20_000][int(0...2)]
        let size = [0, 3, 1000, 30_000][int(0...3)]
        let body = StreamingWorld.frame([UInt8](repeating: 1, count: size))
        switch int(0...3) {
        case 0:
            let count = int(0...200)
            let frames = (0..<count).flatMap { number in
                MessageFrame.make(CountingSource.message(number))
            }
            return (
                TestServer.service + "Count",
                SimulatedCall(
                    request: MessageFrame.make(Array("\(count)".utf8)), requestEnds: true, pieceMax: pieceMax,
                    takes: true, expected: frames)
            )
        case 1:
            return (
                TestServer.service + "Never",
                SimulatedCall(request: body, requestEnds: true, pieceMax: pieceMax, takes: true, expected: nil)
            )
        case 2:
            var request = InteropProto.StreamingInputCallRequest()
            request.payload = InteropProto.Payload()
            request.payload?.body = [UInt8](repeating: 2, count: size)
            var response = InteropProto.StreamingInputCallResponse()
            response.aggregatedPayloadSize = Int32(5 * size)
            let frame = MessageFrame.make(request.encodedBytes())
            return (
                "/grpc.testing.TestService/StreamingInputCall",
                SimulatedCall(
                    request: (0..<5).flatMap { _ in frame }, requestEnds: true, pieceMax: pieceMax, takes: true,
                    expected: MessageFrame.make(response.encodedBytes()))
            )
        default:
            var request = InteropProto.StreamingOutputCallRequest()
            var parameters = InteropProto.ResponseParameters()
            parameters.size = Int32(size)
            request.responseParameters = [parameters, parameters]
            var response = InteropProto.StreamingOutputCallResponse()
            response.payload = InteropProto.Payload()
            response.payload?.body = [UInt8](repeating: 0, count: size)
            let frame = MessageFrame.make(response.encodedBytes())
            // Some clients never end their requests and take nothing: idle time and age end those.
            let isIdle = int(0...5) == 0
            return (
                "/grpc.testing.TestService/FullDuplexCall",
                SimulatedCall(
                    request: MessageFrame.make(request.encodedBytes()) + MessageFrame.make(request.encodedBytes()),
                    requestEnds: !isIdle, pieceMax: pieceMax, takes: !isIdle,
                    expected: isIdle ? nil : frame + frame + frame + frame)
            )
        }
    }
}

struct SimulationTests {
    private func run(seed: UInt64) {
        let world = SimulatedWorld(seed: seed)
        for _ in 0..<3 { world.connect() }
        let connections = world.loop
        // Links that carry a byte at a time take millions of turns.
        let isOver = connections.run(until: { world.calls.count > 0 && world.isOver }, turnsMax: 50_000_000)
        #expect(isOver, "seed \(seed): a hang")
        // What was said to happen later, happens.
        _ = connections.run { false }
        for call in world.calls {
            #expect(call.ends.count == 1, "seed \(seed): a call ended \(call.ends.count) times: \(call.ends)")
            #expect(call.isRight, "seed \(seed): a call ended well without its answer")
        }
        #expect(world.seenCounts.began == world.seenCounts.ended, "seed \(seed): interceptors heard of no end")
        #expect(world.live == 0, "seed \(seed): \(world.live) objects live on")
        #expect(world.loop.openTimers == 0, "seed \(seed): \(world.loop.openTimers) timers are left")
        #expect(world.server.connectionCount == 0 && world.server.openCallCount == 0)
    }

    @Test func `By seed: no hang, no leak, and every call ends in exactly one status`() {
        for seed in 1...UInt64(Checkout.isSoak ? 4000 : 60) { run(seed: seed) }
    }
}
