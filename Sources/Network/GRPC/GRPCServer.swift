// gRPC over HTTP/2, server and client. A server's handlers are made per loop and run on it; a client's calls belong to
// a loop too. Knows nothing of what the messages mean.

import EventLoop
import Glibc
import HTTP2
import Synchronization

/// Limits and times of a server. Defaults are the published ones.
public struct GRPCServerConfiguration: Sendable {
    public var http2 = HTTP2Settings()
    /// The largest request message, in bytes.
    public var messageBytesMax = 16 << 20

    public init() {}
}

/// The methods of a server, as one loop serves them.
public struct GRPCServiceTable {
    enum Handler {
        case unary((ServerCall, UnsafeRawBufferPointer) -> Void)
        case serverStreaming((ServerCall, UnsafeRawBufferPointer) -> Void)
    }

    private(set) var handlers: [String: Handler] = [:]
    private(set) var services: Set<String> = []

    public init() {}

    /// A method with one request and one response. The handler answers on the loop, now or later:
    /// ``ServerCall/respond(_:)`` or ``ServerCall/fail(_:trailers:)``. The request is valid during the call.
    public mutating func register(path: String, unary handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void) {
        add(path, .unary(handler))
    }

    /// A method with one request and a stream of responses: the handler sets ``ServerCall/source``.
    public mutating func register(
        path: String, serverStreaming handler: @escaping (ServerCall, UnsafeRawBufferPointer) -> Void
    ) {
        add(path, .serverStreaming(handler))
    }

    private mutating func add(_ path: String, _ handler: Handler) {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        precondition(parts.count == 3 && parts[0].isEmpty, "a path is /package.Service/Method")
        handlers[path] = handler
        services.insert(String(parts[1]))
    }

    func find(_ path: String) -> Result<Handler, GRPCStatus> {
        if let handler = handlers[path] { return .success(handler) }
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].isEmpty else {
            return .failure(GRPCStatus(.unimplemented, "malformed method name: \(path)"))
        }
        guard services.contains(String(parts[1])) else {
            return .failure(GRPCStatus(.unimplemented, "unknown service \(parts[1])"))
        }
        return .failure(GRPCStatus(.unimplemented, "unknown method \(parts[2]) for service \(parts[1])"))
    }
}

/// A gRPC server on the loops of a group.
public final class GRPCServer: Sendable {
    private let group: EventLoopGroup
    private let configuration: GRPCServerConfiguration
    private let loops: [ObjectIdentifier: LoopConfined<LoopServer>]
    private let listeners = Mutex<[Listener]>([])

    /// `makeService` is called once on each loop. Never on a loop.
    public init(
        group: EventLoopGroup, configuration: GRPCServerConfiguration,
        makeService: @escaping @Sendable (EventLoop) -> GRPCServiceTable
    ) {
        self.group = group
        self.configuration = configuration
        var loops: [ObjectIdentifier: LoopConfined<LoopServer>] = [:]
        for loop in group.loops {
            loops[ObjectIdentifier(loop)] = loop.runAndWait { loop in
                LoopConfined(LoopServer(table: makeService(loop), configuration: configuration))
            }
        }
        self.loops = loops
    }

    /// Binds and serves; port 0 takes a free one. Returns what is served. Never on a loop.
    public func listen(host: String, port: Int) throws(AddressError) -> (host: String, port: Int) {
        let loops = loops
        let listener = try Listener(host: host, port: port, group: group) { socket in
            loops[ObjectIdentifier(socket.loop)]?.value.accept(socket)
        }
        listeners.withLock { $0.append(listener) }
        return (host, listener.port)
    }

    /// Connections open now.
    public var connectionCount: Int {
        group.loops.reduce(0) { total, loop in
            total
                + (loops[ObjectIdentifier(loop)].map { box in loop.runAndWait { _ in box.value.connectionCount } } ?? 0)
        }
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

/// What one loop serves. Confined to it.
final class LoopServer: HTTP2ConnectionOwner {
    private let table: GRPCServiceTable
    private let configuration: GRPCServerConfiguration
    private var connections: [ObjectIdentifier: HTTP2Connection] = [:]
    private var isDraining = false

    init(table: GRPCServiceTable, configuration: GRPCServerConfiguration) {
        self.table = table
        self.configuration = configuration
    }

    var connectionCount: Int { connections.count }

    func accept(_ transport: any ByteStream) {
        guard !isDraining else { return transport.close() }
        let connection = HTTP2Connection(transport: transport, isServer: true, settings: configuration.http2, owner: self)
        connections[ObjectIdentifier(connection)] = connection
    }

    func opened(_ stream: HTTP2Stream, on connection: HTTP2Connection) {
        stream.owner = ServerCall(stream, table: table, messageBytesMax: configuration.messageBytesMax)
    }

    func closed(_ connection: HTTP2Connection, reason: String) {
        connections[ObjectIdentifier(connection)] = nil
    }

    func startDraining() {
        isDraining = true
        for connection in connections.values {
            connection.startDraining()
            connection.goAway()
        }
    }

    func closeAll() {
        for connection in connections.values { connection.close(reason: "the server stopped") }
    }
}
