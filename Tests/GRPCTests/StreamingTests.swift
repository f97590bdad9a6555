import EventLoop
import Foundation
import GRPC
import HTTP2
import Protobuf
import Synchronization
import Testing

/// A client call whose requests a test sends one by one. Confined to its loop.
final class RawCall: HTTP2StreamOwner, HTTP2Body, HTTP2ConnectionOwner, @unchecked Sendable {
    struct Answer: Sendable {
        var httpStatus = ""
        var headers: [HTTP2Header] = []
        var trailers: [HTTP2Header] = []
        var bytes: [UInt8] = []
        var code: UInt32?
        var status: String? { (trailers + headers).first { $0.name == "grpc-status" }?.value }
    }

    let loop: EventLoop
    let answer = Mutex(Answer())
    /// Whether DATA that comes is taken; else the windows close.
    let takesData = Atomic<Bool>(true)
    private var connection: HTTP2Connection?
    private var stream: HTTP2Stream?
    private var pending: [UInt8] = []
    private var isEnded = false
    private var held = 0
    let sentBytes = Atomic<Int>(0)
    let goAways = Atomic<Int>(0)

    init(loop: EventLoop) { self.loop = loop }

    func start(port: Int, headers: [HTTP2Header]) throws {
        let address = try SocketAddress(host: "127.0.0.1", port: port)
        loop.execute { [self] in
            Socket.connect(address, loop: loop) { [self] result in
                guard case .success(let socket) = result else { return }
                let connection = HTTP2Connection(
                    transport: socket, isServer: false, settings: HTTP2Settings(), owner: self)
                self.connection = connection
                stream = connection.request(headers, body: self, owner: self)
            }
        }
    }

    static func headers(_ path: String, _ more: [(String, String)] = []) -> [HTTP2Header] {
        [
            HTTP2Header(":method", "POST"), HTTP2Header(":scheme", "http"), HTTP2Header(":path", path),
            HTTP2Header(":authority", "x"), HTTP2Header("content-type", "application/grpc"),
            HTTP2Header("te", "trailers"),
        ] + more.map { HTTP2Header($0.0, $0.1) }
    }

    func send(_ bytes: [UInt8], ends: Bool = false) {
        loop.execute { [self] in
            pending += bytes
            isEnded = isEnded || ends
            stream?.resumeBody()
        }
    }

    func reset() { loop.execute { [self] in stream?.reset(HTTP2ErrorCode.cancel) } }
    func disconnect() { loop.execute { [self] in connection?.transport.close() } }

    func takeEverything() {
        takesData.store(true, ordering: .relaxed)
        loop.execute { [self] in
            stream?.consume(held)
            held = 0
        }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        let count = min(buffer.count, pending.count)
        guard count > 0 else { return isEnded ? .end(trailers: nil) : .wait }
        buffer.copyBytes(from: pending[..<count])
        pending.removeFirst(count)
        sentBytes.add(count, ordering: .relaxed)
        return .bytes(count)
    }

    func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        answer.withLock { answer in
            if answer.httpStatus.isEmpty {
                answer.httpStatus = headers.first { $0.name == ":status" }?.value ?? ""
                answer.headers = headers
            } else {
                answer.trailers = headers
            }
        }
    }

    func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        answer.withLock { $0.bytes += data }
        if takesData.load(ordering: .relaxed) { stream.consume(data.count) } else { held += data.count }
    }

    func receivedEnd(_ stream: HTTP2Stream) {}
    func closed(_ stream: HTTP2Stream, code: UInt32) { answer.withLock { $0.code = code } }
    func closed(_ connection: HTTP2Connection, reason: String) {}
    func receivedGoAway(_ connection: HTTP2Connection, code: UInt32, text: String) {
        goAways.add(1, ordering: .relaxed)
    }

    /// The answer once the stream is closed.
    func end() async -> Answer {
        await until { self.answer.withLock { $0.code != nil } }
        return answer.withLock { $0 }
    }
}

private let clock = EventLoop(name: "until")

/// Waits for a condition, half a minute at most; the test's own expectations fail then.
func until(_ condition: () -> Bool) async {
    for _ in 0..<30_000 where !condition() {
        await withCheckedContinuation { continuation in
            clock.execute { _ = clock.timer(afterMilliseconds: 1) { continuation.resume() } }
        }
    }
}

/// Lets tasks through when it is opened.
actor Gate {
    private var isOpen = false
    private var waiting: [CheckedContinuation<Void, Never>] = []

    func open() {
        isOpen = true
        for continuation in waiting { continuation.resume() }
        waiting = []
    }

    func pass() async {
        if isOpen { return }
        await withCheckedContinuation { waiting.append($0) }
    }
}

/// A server of async methods whose progress a test sees and controls.
final class StreamingWorld: Sendable {
    struct Failure: Error {}

    final class Counters: Sendable {
        let started = Atomic<Int>(0)
        let cancelled = Atomic<Int>(0)
        let received = Atomic<Int>(0)
        let written = Atomic<Int>(0)
        let reports = Mutex<[String]>([])
    }

    static let service = "/tapedeck.test.Async/"
    let server: GRPCServer
    let port: Int
    let counters = Counters()
    let gate = Gate()
    let health = GRPCHealth()

    /// `secure` is put between each connection and its bytes.
    init(
        configure: (inout GRPCServerConfiguration) -> Void = { _ in },
        secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil
    ) throws {
        let (counters, gate, health) = (counters, gate, health)
        var configuration = GRPCServerConfiguration()
        configuration.reportError = { id, method, error in
            counters.reports.withLock { $0.append("\(id) \(method) \(error)") }
        }
        configure(&configuration)
        server = GRPCServer(group: EventLoopGroup(count: 2), configuration: configuration) { _ in
            var table = GRPCServiceTable()
            InteropService().register(on: &table)
            StreamingWorld.register(&table, counters, gate)
            health.register(on: &table)
            do {
                try table.registerReflection(files: [InteropProto.interopFile])
            } catch {
                Issue.record("a descriptor is unreadable: \(error)")
            }
            return table
        }
        port = try server.listen(host: "127.0.0.1", port: 0, secure: secure).port
    }

    /// Ends it on a thread of its own: to wait would hold one of the few that async tests have.
    func stop() {
        let server = server
        Thread.detachNewThread { server.shutdown(withinMilliseconds: 2000) }
    }

    private typealias Payload = InteropProto.Payload

    private static func register(_ table: inout GRPCServiceTable, _ counters: Counters, _ gate: Gate) {
        let never = RPCMethod<Payload, Payload>(path: service + "Never")
        table.unary(never) { _ in
            counters.started.add(1, ordering: .relaxed)
            await withTaskCancellationHandler {
                await gate.pass()
            } onCancel: {
                counters.cancelled.add(1, ordering: .relaxed)
            }
            return Payload()
        }
        table.unary(RPCMethod<Payload, Payload>(path: service + "Throw")) { _ in throw Failure() }
        // Reads nothing until the gate opens, then everything.
        table.clientStreaming(RPCMethod<Payload, Payload>(path: service + "Collect")) { requests in
            counters.started.add(1, ordering: .relaxed)
            await gate.pass()
            var answer = Payload()
            for try await request in requests {
                counters.received.add(1, ordering: .relaxed)
                answer.body.append(request.body.first ?? 0)
            }
            return answer
        }
        // Writes messages of 1,000 bytes for ever.
        table.serverStreaming(RPCMethod<Payload, Payload>(path: service + "Flood")) { _, responses in
            counters.started.add(1, ordering: .relaxed)
            var payload = Payload()
            payload.body = [UInt8](repeating: 7, count: 1000)
            do {
                while true {
                    try await responses.write(payload)
                    counters.written.add(1, ordering: .relaxed)
                }
            } catch is CancellationError {
                counters.cancelled.add(1, ordering: .relaxed)
                throw CancellationError()
            }
        }
        table.bidirectional(RPCMethod<Payload, Payload>(path: service + "Echo")) { requests, responses in
            for try await request in requests { try await responses.write(request) }
        }
    }

    func call(_ method: String, _ more: [(String, String)] = []) throws -> RawCall {
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: port, headers: RawCall.headers(StreamingWorld.service + method, more))
        return call
    }

    static func frame(_ body: [UInt8]) -> [UInt8] {
        var payload = Payload()
        payload.body = body
        let bytes = payload.encodedBytes()
        return [0] + withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { Array($0) } + bytes
    }
}

struct StreamingTests {
    @Test func `Who connects as the server begins to drain is told so, not cut off`() async throws {
        let group = EventLoopGroup(count: 1)
        let server = group.loops[0].runAndWait { loop in
            let server = GRPCLoopServer(
                loop: loop, table: GRPCServiceTable(), configuration: GRPCServerConfiguration())
            server.startDraining()
            return LoopConfined(server)
        }
        let listener = try Listener(host: "127.0.0.1", port: 0, group: group) { server.value.accept($0) }
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: listener.port, headers: RawCall.headers("/a.B/C"))
        call.send([], ends: true)
        #expect(await call.end().status == "12")
        #expect(call.goAways.load(ordering: .relaxed) >= 1)
        listener.close()
    }

    @Test func `A watch of health hears every change, and ends with the last word when the server shuts down`()
        async throws
    {
        let world = try StreamingWorld()
        defer { world.stop() }
        func watch() throws -> RawCall {
            let call = RawCall(loop: EventLoop(name: "client"))
            try call.start(port: world.port, headers: RawCall.headers("/grpc.health.v1.Health/Watch"))
            call.send([0, 0, 0, 0, 0], ends: true)
            return call
        }
        let (serving, notServing): ([UInt8], [UInt8]) = ([0, 0, 0, 0, 2, 8, 1], [0, 0, 0, 0, 2, 8, 2])
        let call = try watch()
        await until { call.answer.withLock { $0.bytes } == serving }
        world.health.set(.notServing)
        await until { call.answer.withLock { $0.bytes } == serving + notServing }
        world.health.set(.serving)
        await until { call.answer.withLock { $0.bytes } == serving + notServing + serving }
        world.health.shutDown()
        let answer = await call.end()
        #expect(answer.status == "14" && answer.bytes == serving + notServing + serving + notServing)
        world.health.set(.serving)
        #expect(world.health.status() == .notServing)
        let late = await (try watch()).end()
        #expect(late.status == "14" && late.bytes == notServing)
    }

    @Test func `A handler that throws is an internal error with an id, and what it threw goes to the log only`()
        async throws
    {
        let world = try StreamingWorld()
        defer { world.stop() }
        let call = try world.call("Throw")
        call.send(StreamingWorld.frame([1]), ends: true)
        let answer = await call.end()
        #expect(answer.status == "13")
        let report = world.counters.reports.withLock { $0.first } ?? ""
        let parts = report.split(separator: " ")
        #expect(parts.count == 3 && parts[1] == "/tapedeck.test.Async/Throw" && parts[2].contains("Failure"))
        let message = (answer.headers + answer.trailers).first { $0.name == "grpc-message" }?.value
        #expect(message == "internal error \(parts.first ?? "")")
    }

    @Test func `Ids of errors differ within a server and between servers of other seeds`() async throws {
        var ids: [Substring] = []
        for seed in [1, 2] as [UInt64] {
            let world = try StreamingWorld { $0.seed = seed }
            defer { world.stop() }
            for _ in 0..<3 {
                let call = try world.call("Throw")
                call.send(StreamingWorld.frame([1]), ends: true)
                #expect(await call.end().status == "13")
            }
            ids += world.counters.reports.withLock { $0 }.compactMap { $0.split(separator: " ").first }
        }
        #expect(ids.count == 6 && Set(ids).count == 6, "\(ids)")
    }

    @Test(arguments: ["reset", "disconnect", "deadline"])
    func `A call that ends cancels its task`(_ how: String) async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let call = try world.call("Never", how == "deadline" ? [("grpc-timeout", "30m")] : [])
        call.send(StreamingWorld.frame([1]), ends: true)
        await until { world.counters.started.load(ordering: .relaxed) == 1 }
        if how == "reset" { call.reset() }
        if how == "disconnect" { call.disconnect() }
        await until { world.counters.cancelled.load(ordering: .relaxed) == 1 }
        #expect(world.counters.cancelled.load(ordering: .relaxed) == 1)
        if how == "deadline" { #expect(await call.end().status == "4") }
        await world.gate.open()
        await until { world.server.counters.openCalls == 0 }
        #expect(world.server.counters.openCalls == 0)
    }

    @Test func `A handler that does not read holds its client up, and loses nothing when it does`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let call = try world.call("Collect")
        let count = 3000
        for number in 0..<count {
            call.send(StreamingWorld.frame([UInt8(number & 255)] + [UInt8](repeating: 1, count: 1000)))
        }
        call.send([], ends: true)
        await until { call.sentBytes.load(ordering: .relaxed) >= 1 << 20 }
        // The window of a stream, and not a byte more.
        #expect(call.sentBytes.load(ordering: .relaxed) == 1 << 20)
        #expect(world.server.counters.heldBytes <= 1 << 20)
        await world.gate.open()
        let answer = await call.end()
        #expect(answer.status == "0")
        #expect(world.counters.received.load(ordering: .relaxed) == count)
        let payload = try InteropProto.Payload(decoding: Array(answer.bytes.dropFirst(5)))
        #expect(payload.body == (0..<count).map { UInt8($0 & 255) })
        #expect(world.server.counters.heldBytes == 0)
    }

    @Test func `A writer waits while its client takes nothing, and goes on when it does`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let call = try world.call("Flood")
        call.takesData.store(false, ordering: .relaxed)
        call.send(StreamingWorld.frame([]), ends: true)
        await until { call.answer.withLock { $0.bytes.count } >= 1 << 20 }
        let limit = 1 << 20 + 256 << 10
        #expect(world.counters.written.load(ordering: .relaxed) * 1008 <= limit)
        #expect(world.server.counters.heldBytes <= 256 << 10)
        let before = call.answer.withLock { $0.bytes.count }
        call.takeEverything()
        await until { call.answer.withLock { $0.bytes.count } > before + 1 << 20 }
        call.reset()
        await until { world.counters.cancelled.load(ordering: .relaxed) == 1 }
        #expect(world.counters.cancelled.load(ordering: .relaxed) == 1)
        await until { world.server.counters.heldBytes == 0 }
        #expect(world.server.counters.heldBytes == 0)
    }

    @Test func `Requests and responses of a bidirectional call take turns`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let call = try world.call("Echo")
        var expected: [UInt8] = []
        for number in 0..<100 {
            let frame = StreamingWorld.frame([UInt8](repeating: UInt8(number), count: number * 100))
            expected += frame
            call.send(frame)
            await until { call.answer.withLock { $0.bytes.count } == expected.count }
        }
        call.send([], ends: true)
        let answer = await call.end()
        #expect(answer.bytes == expected)
        #expect(answer.status == "0")
    }
}
