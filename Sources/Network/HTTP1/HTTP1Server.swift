// A small HTTP/1.1 server over byte streams, for scrapers, probes and people with curl: whole requests, whole answers,
// one after the other. Fed by sockets; knows nothing of what is served.

import EventLoop
import HTTP1Codec
import Synchronization

/// Limits and times of a server.
public struct HTTP1ServerConfiguration: Sendable {
    public var limits = HTTP1Limits()
    /// Connections per loop; more are closed at once.
    public var connectionsMax = 64
    /// From a connection's first byte of a request to its last, and to the next request, in milliseconds.
    public var requestMilliseconds = 10_000
    public var idleMilliseconds = 120_000
    /// Answers that wait for a slow reader, in bytes, before its next request is taken.
    public var outputBytesMax = 256 << 10

    public init() {}
}

/// Answers requests with what a handler makes of them, on the loops of a group. The handler is called on a connection's
/// loop, so a group that also serves clients wants one that never waits.
public final class HTTP1Server: Sendable {
    private let group: EventLoopGroup
    private let loops: [ObjectIdentifier: LoopConfined<HTTP1LoopServer>]
    private let listeners = Mutex<[Listener]>([])

    /// Serves nothing until ``listen(host:port:)``.
    public init(
        group: EventLoopGroup, configuration: HTTP1ServerConfiguration = HTTP1ServerConfiguration(),
        handler: @escaping @Sendable (HTTP1Request) -> HTTP1Response
    ) {
        self.group = group
        var loops: [ObjectIdentifier: LoopConfined<HTTP1LoopServer>] = [:]
        for loop in group.loops {
            loops[ObjectIdentifier(loop)] = LoopConfined(HTTP1LoopServer(configuration, handler))
        }
        self.loops = loops
    }

    /// Binds and serves; port 0 takes a free one. Returns what is served. Never on a loop.
    public func listen(host: String, port: Int) throws(AddressError) -> (host: String, port: Int) {
        let socket = try ListeningSocket(host: host, port: port)
        listen(on: socket)
        return (host, socket.port)
    }

    /// Serves the connections of a socket, which is the server's from now on. `secure` puts a layer (TLS) between a
    /// connection and its bytes. Never on a loop.
    public func listen(on socket: ListeningSocket, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil) {
        let loops = loops
        let listener = Listener(on: socket, group: group) { socket in
            let stream: any ByteStream = secure?(socket) ?? socket
            loops[ObjectIdentifier(socket.loop)]?.value.accept(stream)
        }
        listeners.withLock { $0.append(listener) }
    }

    /// Takes no more connections and closes those there are. From any thread.
    public func close() {
        let open = listeners.withLock { listeners in
            defer { listeners = [] }
            return listeners
        }
        for listener in open { listener.close() }
        for loop in group.loops {
            guard let server = loops[ObjectIdentifier(loop)] else { continue }
            loop.execute { server.value.closeAll() }
        }
    }
}

/// The connections of one loop. Confined to it.
final class HTTP1LoopServer {
    let configuration: HTTP1ServerConfiguration
    let handler: @Sendable (HTTP1Request) -> HTTP1Response
    private var connections: [ObjectIdentifier: HTTP1Connection] = [:]
    private var isClosed = false

    init(_ configuration: HTTP1ServerConfiguration, _ handler: @escaping @Sendable (HTTP1Request) -> HTTP1Response) {
        self.configuration = configuration
        self.handler = handler
    }

    func accept(_ stream: any ByteStream) {
        guard !isClosed, connections.count < configuration.connectionsMax else { return stream.close() }
        let connection = HTTP1Connection(stream, self)
        connections[ObjectIdentifier(connection)] = connection
        connection.start()
    }

    func closed(_ connection: HTTP1Connection) { connections[ObjectIdentifier(connection)] = nil }

    func closeAll() {
        isClosed = true
        for connection in connections.values { connection.close() }
    }
}

/// One connection. Confined to its loop.
final class HTTP1Connection: ByteStreamOwner {
    private let stream: any ByteStream
    private let server: HTTP1LoopServer
    private var parser: HTTP1RequestParser
    private var timeout: (any LoopTimer)?
    /// The last answer was written: the connection ends when it is handed on.
    private var isEnding = false
    /// The peer may still be sending what was refused: a close now could take the answer from it (RFC 9112, section
    /// 9.6).
    private var isLingering = false
    private var isPaused = false
    private var isTimeoutForRequest = false

    private static let lingerMilliseconds = 1000

    init(_ stream: any ByteStream, _ server: HTTP1LoopServer) {
        self.stream = stream
        self.server = server
        parser = HTTP1RequestParser(limits: server.configuration.limits)
    }

    func start() {
        stream.owner = self
        stream.startReading()
        startTimeout(isNew: true)
    }

    func close() { stream.close() }

    func received(_ bytes: UnsafeRawBufferPointer) {
        guard !isEnding else { return }
        parser.append(bytes)
        answerAll()
    }

    /// A reader that is slow with its answers gets no more of them.
    func drained() {
        if isEnding { return isLingering ? () : stream.close() }
        guard isPaused else { return }
        isPaused = false
        stream.startReading()
        answerAll()
    }

    func closed(_ error: StreamError?) {
        timeout?.cancel()
        timeout = nil
        server.closed(self)
    }

    private func answerAll() {
        var hasAnswered = false
        do {
            while !isEnding, !stream.isClosed {
                guard stream.waitingBytes <= server.configuration.outputBytesMax else {
                    isPaused = true
                    stream.stopReading()
                    break
                }
                guard let request = try parser.next() else { break }
                hasAnswered = true
                write(server.handler(request), method: request.method, closes: !request.keepsAlive)
            }
        } catch {
            refuse(HTTP1Response(error))
        }
        if !stream.isClosed, !isEnding { startTimeout(isNew: hasAnswered) }
    }

    private func write(_ response: HTTP1Response, method: String, closes: Bool) {
        isEnding = closes
        response.encoded(for: method, closes: closes).withUnsafeBytes { stream.write($0) }
        if closes, !isLingering, stream.waitingBytes == 0 { stream.close() }
    }

    /// The last answer to a peer that does not keep to the protocol.
    private func refuse(_ response: HTTP1Response) {
        isLingering = true
        write(response, method: "", closes: true)
        timeout?.cancel()
        timeout = stream.loop.timer(afterMilliseconds: HTTP1Connection.lingerMilliseconds) { [weak self] in
            self?.stream.close()
        }
    }

    /// A request that has begun, or an answer that is not taken, has less time than a connection at rest. Its bytes
    /// do not lengthen it: it counts from the first.
    private func startTimeout(isNew: Bool) {
        let isBusy = parser.pendingByteCount > 0 || stream.waitingBytes > 0
        if isBusy, isTimeoutForRequest, !isNew { return }
        isTimeoutForRequest = isBusy
        timeout?.cancel()
        let configuration = server.configuration
        timeout = stream.loop.timer(
            afterMilliseconds: isBusy ? configuration.requestMilliseconds : configuration.idleMilliseconds
        ) { [weak self] in self?.timedOut() }
    }

    private func timedOut() {
        guard isTimeoutForRequest, stream.waitingBytes == 0 else { return stream.close() }
        refuse(HTTP1Response(408, "the request did not arrive in time"))
    }
}
