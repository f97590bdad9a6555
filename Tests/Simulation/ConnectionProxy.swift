import EventLoop
import Synchronization

/// Stands between clients and a server on 127.0.0.1; what becomes of a connection's bytes is its
/// ``ProxiedConnection``'s.
public final class ConnectionProxy: Sendable {
    /// Confined to the loop.
    fileprivate final class Connections: Sendable {
        nonisolated(unsafe) var open: [ObjectIdentifier: ProxiedConnection] = [:]
    }

    private let listener: Listener
    private let loop: EventLoop
    private let connections = LoopConfined(Connections())
    /// Where clients connect to.
    public let port: Int

    /// To a port. `make` is called on the proxy's loop.
    public init(
        to port: Int, make: @escaping @Sendable (_ client: Socket, _ server: Socket) -> ProxiedConnection
    ) throws {
        let group = EventLoopGroup(count: 1, name: "proxy")
        let loop = group.loops[0]
        self.loop = loop
        let connections = connections
        listener = try Listener(host: "127.0.0.1", port: 0, group: group) { client in
            guard let address = try? SocketAddress(host: "127.0.0.1", port: port) else { return client.close() }
            Socket.connect(address, loop: loop) { result in
                guard case .success(let server) = result else { return client.close() }
                make(client, server).start(in: connections.value)
            }
        }
        self.port = listener.port
    }

    /// Has something done on the loop that the connections are on.
    public func execute(_ body: @escaping @Sendable () -> Void) { loop.execute(body) }

    /// Ends every connection, and takes no more.
    public func stop() {
        loop.execute { [connections] in for one in Array(connections.value.open.values) { one.close() } }
        listener.close()
    }
}

/// A connection and the one behind it. On the proxy's loop.
open class ProxiedConnection {
    public let client: Socket
    public let server: Socket
    private var connections: ConnectionProxy.Connections?
    private lazy var fromClient = Way { [unowned self] in received($0, isFromServer: false) }
    private lazy var fromServer = Way { [unowned self] in received($0, isFromServer: true) }

    public init(_ client: Socket, _ server: Socket) {
        self.client = client
        self.server = server
    }

    /// What came from one side; nothing goes on by itself.
    open func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {}

    /// Ends both sides.
    public func close() {
        client.close()
        server.close()
        connections?.open[ObjectIdentifier(self)] = nil
    }

    fileprivate func start(in connections: ConnectionProxy.Connections) {
        self.connections = connections
        connections.open[ObjectIdentifier(self)] = self
        fromClient.ended = { [weak self] in self?.close() }
        fromServer.ended = { [weak self] in self?.close() }
        client.owner = fromClient
        server.owner = fromServer
        client.startReading()
        server.startReading()
    }
}

private final class Way: ByteStreamOwner {
    private let take: (UnsafeRawBufferPointer) -> Void
    var ended: () -> Void = {}

    init(_ take: @escaping (UnsafeRawBufferPointer) -> Void) { self.take = take }

    func received(_ bytes: UnsafeRawBufferPointer) { take(bytes) }
    func drained() {}
    func closed(_ error: StreamError?) { ended() }
}
