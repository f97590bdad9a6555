import EdgeService
import EventLoop
import Foundation
import GRPC
import HTTP2
import MarketProto
import Protobuf
import Simulation
import TapedeckClient
import Testing

/// A client's bytes of which those that come are kept back, as if they were still on their way, until they are
/// released.
private final class HeldStream: ByteStream, ByteStreamOwner {
    private let inner: any ByteStream
    weak var owner: (any ByteStreamOwner)?
    private var held: [UInt8] = []
    private var isHeld = true

    init(_ inner: any ByteStream) {
        self.inner = inner
        inner.owner = self
    }

    var loop: any Loop { inner.loop }
    var isClosed: Bool { inner.isClosed }
    var waitingBytes: Int { inner.waitingBytes }
    var peerAddress: String { inner.peerAddress }
    func startReading() { inner.startReading() }
    func stopReading() { inner.stopReading() }
    func write(_ bytes: UnsafeRawBufferPointer) { inner.write(bytes) }
    func close(_ error: StreamError?) { inner.close(error) }
    func drained() { owner?.drained() }
    func closed(_ error: StreamError?) { owner?.closed(error) }

    func received(_ bytes: UnsafeRawBufferPointer) {
        if isHeld { held += bytes } else { owner?.received(bytes) }
    }

    func release() {
        isHeld = false
        let bytes = held
        held = []
        bytes.withUnsafeBytes { owner?.received($0) }
    }

    var holdsSomething: Bool { !held.isEmpty }

    /// Whether a GOAWAY is among the frames that are kept back.
    var holdsGoAway: Bool {
        var place = 0
        while held.count - place >= 9 {
            if held[place + 3] == 7 { return true }
            place += 9 + held[place..<(place + 3)].reduce(0) { $0 << 8 | Int($1) }
        }
        return false
    }
}

/// How a call ended, as its client saw it.
private struct RacedEnd: Sendable {
    /// Of the response's headers and of its trailers, in the order in which they came.
    var blocks: [[HTTP2Header]] = []
    var frames: [UInt8] = []
    /// Of the stream's end: 0 where it ended well.
    var code: UInt32?

    func values(_ name: String) -> [String] { blocks.joined().filter { $0.name == name }.map(\.value) }
    var token: [UInt8]? {
        var trailers = GRPCMetadata()
        for header in blocks.last ?? [] where header.name == "tapedeck-resume-token-bin" {
            trailers.add(header.name, header.value)
        }
        return trailers.binary("tapedeck-resume-token-bin")
    }
}

/// A client that begins calls before it reads that its connection ends. Confined to its loop.
private final class RacingClient: HTTP2ConnectionOwner, @unchecked Sendable {
    private final class Call: HTTP2StreamOwner, HTTP2Body {
        private(set) var ended = RacedEnd()
        private var request: [UInt8]
        private let halfCloses: Bool

        init(request: [UInt8], halfCloses: Bool) {
            self.request = request
            self.halfCloses = halfCloses
        }

        func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
            if request.isEmpty { return halfCloses ? .end(trailers: nil) : .wait }
            let count = min(buffer.count, request.count)
            buffer.copyBytes(from: request[..<count])
            request.removeFirst(count)
            return .bytes(count)
        }

        func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
            ended.blocks.append(headers)
        }

        func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
            ended.frames += data
            stream.consume(data.count)
        }

        func receivedEnd(_ stream: HTTP2Stream) {}
        func closed(_ stream: HTTP2Stream, code: UInt32) { ended.code = code }
    }

    private let loop = EventLoop(name: "racing client")
    private var transport: HeldStream?
    private var connection: HTTP2Connection?
    private var calls: [Call] = []

    init(port: Int) throws {
        let address = try SocketAddress(host: "127.0.0.1", port: port)
        loop.execute { [self] in
            Socket.connect(address, loop: loop) { [self] result in
                guard case .success(let socket) = result else { return }
                let transport = HeldStream(socket)
                self.transport = transport
                connection = HTTP2Connection(
                    transport: transport, isServer: false, settings: HTTP2Settings(), owner: self)
            }
        }
    }

    func closed(_ connection: HTTP2Connection, reason: String) {}

    /// Returns when the server has begun the connection, which this client has not read.
    func waitUntilServed() async {
        await RestartWorld.wait { self.loop.runAndWait { _ in self.transport?.holdsSomething ?? false } }
    }

    /// Returns when the server has said that the connection ends, which this client has not read.
    func waitForGoAway() async {
        await RestartWorld.wait { self.loop.runAndWait { _ in self.transport?.holdsGoAway ?? false } }
    }

    /// Begins a call with these messages. Returns its place among the calls.
    func begin(_ path: String, _ messages: [[UInt8]], halfCloses: Bool) -> Int {
        loop.runAndWait { [self] _ in
            var frames: [UInt8] = []
            for message in messages {
                frames.append(0)
                withUnsafeBytes(of: UInt32(message.count).bigEndian) { frames += $0 }
                frames += message
            }
            let call = Call(request: frames, halfCloses: halfCloses)
            calls.append(call)
            let headers = [
                HTTP2Header(":method", "POST"), HTTP2Header(":scheme", "http"), HTTP2Header(":path", path),
                HTTP2Header(":authority", "x"), HTTP2Header("content-type", "application/grpc"),
                HTTP2Header("te", "trailers"),
            ]
            #expect(connection?.request(headers, body: call, owner: call) != nil)
            return calls.count - 1
        }
    }

    /// Reads what was kept back.
    func release() { loop.execute { [self] in transport?.release() } }

    func end(_ call: Int) async -> RacedEnd {
        func now() -> RacedEnd { loop.runAndWait { [self] _ in calls[call].ended } }
        await RestartWorld.wait { now().code != nil }
        return now()
    }
}

/// Calls whose client has not read yet that the server wants no more of them on this connection.
@Suite(.serialized, .timeLimit(.minutes(1)))
struct DrainRaceTests {
    /// Why the connection ends.
    enum Cause: CaseIterable {
        case age, idle, shutdown
    }

    /// What is begun.
    enum Kind: CaseIterable {
        case everything, filtered, subscribe, liveTrading

        var path: String {
            switch self {
            case .everything, .filtered: Proto.MarketDataService.streamPrices.path
            case .subscribe: Proto.MarketDataService.subscribe.path
            case .liveTrading: Proto.MarketDataService.liveTrading.path
            }
        }

        var messages: [[UInt8]] {
            var prices = Proto.PriceSubscription()
            switch self {
            case .everything: return [prices.encodedBytes()]
            case .filtered:
                prices.symbols = ["AAPL"]
                return [prices.encodedBytes()]
            case .subscribe:
                var add = Proto.AddSubscription()
                add.subscriptionId = 1
                add.subscription = prices
                var request = Proto.SubscribeRequest()
                request.requestId = 1
                request.request = .add(add)
                return [request.encodedBytes()]
            case .liveTrading: return []
            }
        }

        /// Prices come once; of the others the client may ask for more.
        var halfCloses: Bool { self == .everything || self == .filtered }
        var hasToken: Bool { self != .liveTrading }
    }

    private static func world(_ cause: Cause) throws -> EdgeWorld {
        var server = GRPCServerConfiguration()
        server.http2.ageMilliseconds = cause == .age ? 300 : 0
        server.http2.idleMilliseconds = cause == .idle ? 300 : 0
        return try EdgeWorld(orders: OrderVenue(feed: "test", time: RealTime()), server: server)
    }

    /// Stops a server, which waits for its calls, on a thread of its own.
    private static func stop(_ edge: EdgeService, if isMeant: Bool) async {
        guard isMeant else { return }
        await withCheckedContinuation { continuation in
            Thread.detachNewThread {
                edge.stop(withinMilliseconds: 10_000)
                continuation.resume()
            }
        }
    }

    @Test(arguments: Cause.allCases, Kind.allCases)
    func `A stream that begins as its connection ends has one status, with the reason and where to go on`(
        _ cause: Cause, _ kind: Kind
    ) async throws {
        let world = try DrainRaceTests.world(cause)
        for price in 1...3 { try world.publish(EdgeWorld.instruments, price: Int64(price)) }
        let client = try RacingClient(port: world.port)
        await client.waitUntilServed()
        async let stopped: Void = DrainRaceTests.stop(world.edge, if: cause == .shutdown)
        await client.waitForGoAway()
        let call = client.begin(kind.path, kind.messages, halfCloses: kind.halfCloses)
        client.release()
        let end = await client.end(call)
        #expect(end.code == HTTP2ErrorCode.none)
        #expect(end.values("grpc-status") == ["14"], "\(end.blocks)")
        #expect(end.values("tapedeck-end-reason") == ["SERVER_STOPPING"], "\(end.blocks)")
        #expect((end.token != nil) == kind.hasToken)
        await stopped
        guard kind.halfCloses, cause != .shutdown, let token = end.token else { return }
        // Nothing is lost or comes again: the snapshot was sent, and what is published from now on follows the token.
        let updates = try end.frames.withUnsafeBytes { bytes in
            try MessageSequence(frames: bytes).map { try Proto.PriceUpdate(decoding: $0) }
        }
        #expect(updates.count == (kind == .everything ? EdgeWorld.instruments.count : 1))
        try world.publish(["X|AAPL"], price: 4)
        let (next, rest) = world.stream {
            if kind == .filtered { $0.symbols = ["AAPL"] }
            $0.resumeToken = token
        }
        await rest.wait(for: 1)
        #expect(rest.all == [world.published.last])
        next.cancel()
    }

    @Test(arguments: Cause.allCases)
    func `Orders that come as their connection ends are answered, or refused with the reason`(_ cause: Cause)
        async throws
    {
        let world = try DrainRaceTests.world(cause)
        try world.publish(EdgeWorld.instruments)
        let client = try RacingClient(port: world.port)
        await client.waitUntilServed()
        async let stopped: Void = DrainRaceTests.stop(world.edge, if: cause == .shutdown)
        await client.waitForGoAway()
        let order = Proto.OrderRequest().encodedBytes()
        let call = client.begin(Proto.MarketDataService.submitOrders.path, [order, order], halfCloses: true)
        client.release()
        let end = await client.end(call)
        #expect(end.code == HTTP2ErrorCode.none)
        if cause == .shutdown {
            #expect(end.values("grpc-status") == ["14"] && end.frames.isEmpty, "\(end.blocks)")
            #expect(end.values("tapedeck-end-reason") == ["SERVER_STOPPING"], "\(end.blocks)")
        } else {
            #expect(end.values("grpc-status") == ["0"], "\(end.blocks)")
            let summary = try Proto.OrderBatchSummary(decoding: Array(end.frames.dropFirst(5)))
            #expect(summary.rejected == 2)
        }
        await stopped
    }
}
