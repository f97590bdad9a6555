import EventLoop
import Foundation
import GRPC
import Observability
import Simulation
import Synchronization

@testable import AccessControl

/// A server with the row of interceptors that the platform has, and methods that a test can hold open.
final class GuardedServer: Sendable {
    static let service = "/tapedeck.test.Guarded/"

    let server: GRPCServer
    let port: Int
    let policy: AccessPolicy
    let monitor: CallMonitor
    let metrics = GRPCServerMetrics()
    let log: CallLog
    private let callers: SeenCallers

    /// What handlers saw of their callers.
    var seen: [String] { callers.texts.withLock { $0 } }

    init(
        anonymous: AnonymousAccess = .loopback, limits: CallerLimits = CallerLimits(), file: String? = nil,
        deadlines: CallDeadlines = CallDeadlines(), successesPerSecond: Int = 1000, loops: Int = 1,
        certificate: PeerCertificate? = nil
    ) throws {
        let policy = AccessPolicy(anonymous: anonymous, limits: limits)
        if let file { policy.use(try AccessFile(parsing: Array(file.utf8), limits: limits)) }
        let log = CallLog(successesPerSecond: successesPerSecond)
        let monitor = CallMonitor(metrics: metrics, log: log, deadlines: deadlines, time: RealTime())
        self.policy = policy
        self.monitor = monitor
        self.log = log
        var configuration = GRPCServerConfiguration()
        configuration.interceptors = { [monitor.makeInterceptor(loop: $0), policy.makeInterceptor(loop: $0)] }
        let callers = SeenCallers()
        self.callers = callers
        server = GRPCServer(group: EventLoopGroup(count: loops), configuration: configuration) { _ in
            GuardedServer.table { call in callers.saw(call) }
        }
        var secure: (@Sendable (any ByteStream) -> any ByteStream)?
        if let certificate { secure = { CertifiedStream($0, certificate) } }
        port = try server.listen(host: "127.0.0.1", port: 0, secure: secure).port
    }

    private final class SeenCallers: Sendable {
        let texts = Mutex<[String]>([])

        func saw(_ call: ServerCall) {
            let symbols = call.permissions.map { $0.allows(exchange: "SIMX", symbol: "AAPL") ? "AAPL" : "" } ?? ""
            let text = "\(call.identity?.name ?? "nobody") \(call.identity?.source.rawValue ?? "") \(symbols)"
            texts.withLock { $0.append(text) }
        }
    }

    private static func table(_ saw: @escaping @Sendable (ServerCall) -> Void) -> GRPCServiceTable {
        var table = GRPCServiceTable()
        table.register(
            path: service + "Get",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                saw(call)
                call.respond(Array(request))
            })
        table.register(path: service + "Never", unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in saw(call) })
        table.register(
            path: service + "Fail",
            unary: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                call.fail(GRPCStatus(.internalError, "it broke"))
            })
        table.register(
            path: service + "Watch",
            serverStreaming: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                saw(call)
                call.source = EndlessSource(call)
            })
        table.register(
            path: service + "Stubborn",
            serverStreaming: { (call: ServerCall, _: UnsafeRawBufferPointer) in
                call.source = EndlessSource(call, isStubborn: true)
            })
        table.register(
            path: "/grpc.health.v1.Health/Check",
            unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in call.respond([]) })
        return table
    }

    /// Ends it on a thread of its own: to wait would hold one of the few that async tests have.
    func stop() {
        let server = server
        Thread.detachNewThread { server.shutdown(withinMilliseconds: 2000) }
    }

    /// The value of a series of the calls' metrics.
    func metric(_ family: String, method: String, code: String? = nil) -> UInt64 {
        let samples = metrics.collect().first { $0.name == family }?.samples ?? []
        for sample in samples where sample.labels[2] == method && (code == nil || sample.labels.last == code) {
            if case .whole(let value) = sample.value { return value }
        }
        return 0
    }
}

/// One message, then silence; ends when it is to.
final class EndlessSource: StreamStatusProvider {
    private unowned let call: ServerCall
    private var isSent = false
    private var ending: CallEnding?

    private let isStubborn: Bool

    init(_ call: ServerCall, isStubborn: Bool = false) {
        self.call = call
        self.isStubborn = isStubborn
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        if let ending {
            return .end(GRPCStatus(ending.status.code, "ended with its token"), trailers: GRPCMetadata())
        }
        guard !isSent else { return .wait }
        isSent = true
        buffer.copyBytes(from: [0, 0, 0, 0, 1, 42])
        return .bytes(6)
    }

    var streamStatus: StreamStatus { StreamStatus(policy: "ALL", lagBytes: 7) }

    func end(_ ending: CallEnding) {
        if !isStubborn { self.ending = ending }
        call.resume()
    }
}

/// A connection whose client has proved something.
final class CertifiedStream: ByteStream, ByteStreamOwner {
    private let stream: any ByteStream
    private let certificate: PeerCertificate
    /// How often somebody looked at a certificate.
    static let looks = Atomic<Int>(0)
    weak var owner: (any ByteStreamOwner)?

    init(_ stream: any ByteStream, _ certificate: PeerCertificate) {
        self.stream = stream
        self.certificate = certificate
        stream.owner = self
    }

    var peerCertificate: PeerCertificate? {
        CertifiedStream.looks.add(1, ordering: .relaxed)
        return certificate
    }

    var loop: any Loop { stream.loop }
    var isClosed: Bool { stream.isClosed }
    var waitingBytes: Int { stream.waitingBytes }
    var peerAddress: String { stream.peerAddress }
    func startReading() { stream.startReading() }
    func stopReading() { stream.stopReading() }
    func write(_ bytes: UnsafeRawBufferPointer) { stream.write(bytes) }
    func close(_ error: StreamError?) { stream.close(error) }

    func received(_ bytes: UnsafeRawBufferPointer) { owner?.received(bytes) }
    func drained() { owner?.drained() }
    func closed(_ error: StreamError?) { owner?.closed(error) }
}

/// A call of a test, on a connection of its own.
final class TestCall: GRPCCallOwner, @unchecked Sendable {
    struct End: Sendable {
        var messages: [[UInt8]] = []
        var status = GRPCStatus(.unknown)
        var trailers = GRPCMetadata()
    }

    private static let loop = EventLoop(name: "client")
    private let state = Mutex((end: End(), isOver: false))
    private var connection: GRPCClientConnection?
    private var call: ClientCall?

    /// Begins a call; `token` becomes its authorization.
    init(
        _ server: GuardedServer, _ method: String, token: String? = nil, metadata: [(String, String)] = [],
        path: String? = nil
    ) {
        var headers = GRPCMetadata()
        if let token { headers.add("authorization", token) }
        for (name, value) in metadata { headers.add(name, value) }
        let (port, sent) = (server.port, headers)
        TestCall.loop.execute { [self] in
            GRPCClientConnection.connect(
                host: "127.0.0.1", port: port, loop: TestCall.loop,
                opened: { [self] result in
                    switch result {
                    case .failure(let status): ended(status, trailers: GRPCMetadata())
                    case .success(let connection):
                        self.connection = connection
                        call = connection.call(
                            path: path ?? GuardedServer.service + method, request: [1, 2, 3], metadata: sent,
                            owner: self)
                    }
                }, closed: { _ in })
        }
    }

    /// Begins another call on the connection of one that has ended.
    init(_ method: String, after other: TestCall) {
        TestCall.loop.execute { [self] in
            connection = other.connection
            call = connection?.call(path: GuardedServer.service + method, request: [1], owner: self)
        }
    }

    func received(metadata: GRPCMetadata) {}

    func received(frames: UnsafeRawBufferPointer) {
        let messages = MessageSequence(frames: frames).map { Array($0) }
        state.withLock { $0.end.messages += messages }
    }

    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        state.withLock {
            $0.end.status = status
            $0.end.trailers = trailers
            $0.isOver = true
        }
    }

    func cancel() { TestCall.loop.execute { [self] in call?.cancel() } }

    /// Returns when the first message is there.
    func begun() async { while state.withLock({ $0.end.messages.isEmpty && !$0.isOver }) { await Task.yield() } }

    var isOver: Bool { state.withLock { $0.isOver } }

    func end() async -> End {
        while !isOver { await Task.yield() }
        return state.withLock { $0.end }
    }
}
