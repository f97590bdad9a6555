// gRPC over HTTP/2, server and client. A server's handlers are made per loop and run on it; a client's calls belong to
// a loop too. Knows nothing of what the messages mean.

import EventLoop
import Glibc
import HTTP2
import Synchronization

/// Limits, times and hooks of a server. Defaults are the published ones.
public struct GRPCServerConfiguration: Sendable {
    /// Limits and times of each connection.
    public var http2: HTTP2Settings
    /// The largest request and response message, in bytes, before compression.
    public var messageBytesMax = 16 << 20
    /// Messages below this size, in bytes, are sent as they are, unless compression is asked for each.
    public var compressedBytesMin = 256
    /// Origins of pages that browsers let call by gRPC-Web from elsewhere; `*` is any.
    public var webOrigins: [String] = []
    /// Bytes of requests and responses that all calls together may hold; a call that would need more fails with
    /// RESOURCE_EXHAUSTED.
    public var heldBytesMax = 512 << 20
    /// Bytes of responses that wait at a call before ``ServerCall/isWritable`` turns false.
    public var queuedBytesMax = 64 << 10
    /// Connections of the server, and of those from one address; more are refused with GOAWAY and a text. Behind a
    /// proxy all clients have one address.
    public var connectionsMax = 100_000
    public var connectionsPerAddressMax = 25_000
    /// Where the jitter of ages and the ids of errors come from.
    public var seed: UInt64 = 0
    /// What sees every call, made once for each loop, outermost first.
    public var interceptors: @Sendable (any Loop) -> [any ServerInterceptor] = { _ in [] }
    /// An async handler threw something that is no status: the client sees `internal error` and the id only.
    public var reportError: @Sendable (_ id: String, _ method: String, _ error: any Error) -> Void = { _, _, _ in }

    public init() {
        http2 = HTTP2Settings()
        http2.keepaliveMilliseconds = 60_000
        http2.keepaliveTimeoutMilliseconds = 20_000
        http2.idleMilliseconds = 300_000
        http2.ageMilliseconds = 1_800_000
        http2.graceMilliseconds = 10_000
        http2.pingGapMillisecondsMin = 30_000
    }
}

/// A gRPC server on the loops of a group.
public final class GRPCServer: Sendable {
    private let group: EventLoopGroup
    private let loops: [ObjectIdentifier: LoopConfined<GRPCLoopServer>]
    private let listeners = Mutex<[Listener]>([])
    private let addresses = Mutex<[(host: String, port: Int)]>([])
    private let shared = ServerShared()
    /// Every method, in the order of registration.
    public let methods: [GRPCMethod]

    /// `makeService` is called once on each loop. Never on a loop.
    public init(
        group: EventLoopGroup, configuration: GRPCServerConfiguration,
        makeService: @escaping @Sendable (EventLoop) -> GRPCServiceTable
    ) {
        self.group = group
        var loops: [ObjectIdentifier: LoopConfined<GRPCLoopServer>] = [:]
        let shared = shared
        let methods = Mutex<[GRPCMethod]>([])
        for (number, loop) in group.loops.enumerated() {
            let seed = configuration.seed &+ UInt64(number)
            loops[ObjectIdentifier(loop)] = loop.runAndWait { loop in
                let table = makeService(loop)
                methods.withLock { $0 = table.methods }
                return LoopConfined(
                    GRPCLoopServer(loop: loop, table: table, configuration: configuration, shared: shared, seed: seed))
            }
        }
        self.loops = loops
        self.methods = methods.withLock { $0 }
    }

    /// Binds and serves; port 0 takes a free one. `secure` puts a layer between a connection and its bytes (TLS), on
    /// the connection's loop. Returns what is served. Never on a loop.
    public func listen(
        host: String, port: Int, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil
    ) throws(AddressError) -> (host: String, port: Int) {
        let socket = try ListeningSocket(host: host, port: port)
        listen(on: socket, secure: secure)
        return (host, socket.port)
    }

    /// Serves the connections of a socket, which is the server's from now on. Never on a loop.
    public func listen(
        on socket: ListeningSocket, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil
    ) {
        let loops = loops
        addresses.withLock { $0.append((socket.host, socket.port)) }
        let listener = Listener(on: socket, group: group) { socket in
            guard let loop = socket.loop as? EventLoop, let server = loops[ObjectIdentifier(loop)]?.value else {
                return socket.close()
            }
            server.accept(secure?(socket) ?? socket)
        }
        listeners.withLock { $0.append(listener) }
    }

    /// Where connections are taken, or were. From any thread.
    var listenerAddresses: [(host: String, port: Int)] { addresses.withLock { $0 } }

    /// Calls `then` once with what every loop knows of its connections. From any thread, without waiting.
    func connections(_ then: @escaping @Sendable ([ConnectionFacts]) -> Void) {
        let gathered = Gathered(of: group.loops.count)
        for (number, loop) in group.loops.enumerated() {
            guard let box = loops[ObjectIdentifier(loop)] else { continue }
            loop.execute {
                if let all = gathered.add(box.value.facts(ids: Int64(number + 1) << 32)) { then(all) }
            }
        }
    }

    private func sum(_ value: @escaping @Sendable (GRPCLoopServer) -> Int) -> Int {
        group.loops.reduce(0) { total, loop in
            guard let box = loops[ObjectIdentifier(loop)] else { return total }
            return total + loop.runAndWait { _ in value(box.value) }
        }
    }

    /// Connections open now. Never on a loop.
    public var connectionCount: Int { sum { $0.connectionCount } }

    /// What is open, held and was refused, as it was a moment ago. From any thread.
    public var counters: GRPCServerCounters {
        var counters = GRPCServerCounters()
        shared.fill(&counters)
        return counters
    }

    /// Takes no more connections and streams, lets the open streams end within the time, then closes what is left.
    /// Waits; never on a loop.
    public func shutdown(withinMilliseconds milliseconds: Int) {
        let open = listeners.withLock { listeners in
            defer { listeners = [] }
            return listeners
        }
        for listener in open { listener.close() }
        for loop in group.loops {
            guard let server = loops[ObjectIdentifier(loop)] else { continue }
            loop.execute { server.value.startDraining() }
        }
        var waited = 0
        while waited < milliseconds, connectionCount > 0 {
            poll(nil, 0, 5)
            waited += 5
        }
        for loop in group.loops {
            guard let server = loops[ObjectIdentifier(loop)] else { continue }
            loop.runAndWait { _ in server.value.closeAll() }
        }
    }
}

/// What several loops say, until the last has said it.
private final class Gathered: Sendable {
    private let state: Mutex<(found: [ConnectionFacts], left: Int)>

    init(of count: Int) { state = Mutex(([], count)) }

    /// Everything, from the last.
    func add(_ facts: [ConnectionFacts]) -> [ConnectionFacts]? {
        state.withLock { state in
            state.found += facts
            state.left -= 1
            return state.left == 0 ? state.found : nil
        }
    }
}
