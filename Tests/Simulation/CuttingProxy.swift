import EventLoop
import Synchronization

/// Passes bytes between clients and a server, and cuts its connections when told.
public final class CuttingProxy: Sendable {
    private let loop: EventLoop
    private let listener: Listener
    private let pairs: LoopConfined<Pairs>
    /// Where clients connect to, on 127.0.0.1.
    public let port: Int
    /// Connections taken so far.
    public var accepted: Int { pairs.value.accepted.load(ordering: .relaxed) }

    /// Confined to the loop, but for the counter.
    fileprivate final class Pairs: Sendable {
        let accepted = Atomic<Int>(0)
        let made = Atomic<Int>(0)
        nonisolated(unsafe) var open: [ObjectIdentifier: Pair] = [:]
        /// A connection is cut after so many bytes from the server.
        nonisolated(unsafe) var bytesUntilCut: Int?
        nonisolated(unsafe) var isMute = false
        let watch: Watch?

        init(_ watch: Watch?) { self.watch = watch }
    }

    /// Sees the bytes of a connection, in the order in which they come by.
    public typealias Watch =
        @Sendable (_ connection: Int, _ isFromServer: Bool, _ bytes: UnsafeRawBufferPointer) -> Void

    /// To a port of 127.0.0.1. `watch` is called on the proxy's thread.
    public init(to port: Int, watch: Watch? = nil) throws {
        let group = EventLoopGroup(count: 1, name: "proxy")
        let loop = group.loops[0]
        self.loop = loop
        let pairs = Pairs(watch)
        self.pairs = LoopConfined(pairs)
        listener = try Listener(host: "127.0.0.1", port: 0, group: group) { socket in
            pairs.accepted.add(1, ordering: .relaxed)
            Pair.open(socket, port, loop, pairs)
        }
        self.port = listener.port
    }

    /// Cuts every connection now.
    public func cut() {
        let pairs = pairs
        loop.execute { for pair in Array(pairs.value.open.values) { pair.close() } }
    }

    /// Cuts each later connection after so many bytes from the server; nil: never.
    public func cut(afterBytes bytes: Int?) {
        let pairs = pairs
        loop.execute { pairs.value.bytesUntilCut = bytes }
    }

    /// Takes bytes and passes none on, from now on or no more.
    public func mute(_ isMute: Bool) {
        let pairs = pairs
        loop.execute { pairs.value.isMute = isMute }
    }

    public func stop() {
        cut()
        listener.close()
    }
}

private final class Pair {
    private let client: Socket
    private let server: Socket
    private let pairs: CuttingProxy.Pairs
    private let number: Int
    private var bytesLeft: Int?
    private lazy var fromClient = Way(self, isFromServer: false)
    private lazy var fromServer = Way(self, isFromServer: true)

    static func open(_ client: Socket, _ port: Int, _ loop: EventLoop, _ pairs: CuttingProxy.Pairs) {
        guard let address = try? SocketAddress(host: "127.0.0.1", port: port) else { return client.close() }
        Socket.connect(address, loop: loop) { result in
            guard case .success(let server) = result else { return client.close() }
            let pair = Pair(client, server, pairs)
            pairs.open[ObjectIdentifier(pair)] = pair
            pair.start()
        }
    }

    private init(_ client: Socket, _ server: Socket, _ pairs: CuttingProxy.Pairs) {
        self.client = client
        self.server = server
        self.pairs = pairs
        number = pairs.made.wrappingAdd(1, ordering: .relaxed).newValue
        bytesLeft = pairs.bytesUntilCut
    }

    private func start() {
        client.owner = fromClient
        server.owner = fromServer
        client.startReading()
        server.startReading()
    }

    func pass(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard !pairs.isMute else { return }
        pairs.watch?(number, isFromServer, bytes)
        guard isFromServer else { return server.write(bytes) }
        let count = min(bytes.count, bytesLeft ?? bytes.count)
        if count > 0 { client.write(UnsafeRawBufferPointer(rebasing: bytes[..<count])) }
        guard let left = bytesLeft else { return slow() }
        bytesLeft = left - count
        if left <= count { close() }
    }

    /// A client that does not read holds the server back.
    private func slow() { if client.waitingBytes > 1 << 20 { server.stopReading() } }

    func drained(isFromServer: Bool) { if !isFromServer, !server.isClosed { server.startReading() } }

    func close() {
        client.close()
        server.close()
        pairs.open[ObjectIdentifier(self)] = nil
    }
}

private final class Way: ByteStreamOwner {
    private weak var pair: Pair?
    private let isFromServer: Bool

    init(_ pair: Pair, isFromServer: Bool) {
        self.pair = pair
        self.isFromServer = isFromServer
    }

    func received(_ bytes: UnsafeRawBufferPointer) { pair?.pass(bytes, isFromServer: isFromServer) }
    func drained() { pair?.drained(isFromServer: isFromServer) }
    func closed(_ error: StreamError?) { pair?.close() }
}
