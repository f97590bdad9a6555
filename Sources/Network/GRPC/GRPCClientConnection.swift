import EventLoop
import HTTP2

/// Limits and times of a client's connections.
public struct GRPCConnectionOptions: Sendable {
    /// Keepalive among them: a connection that is silent for a minute while calls are open is asked for a sign of life.
    /// Servers close connections that ping oftener than they allow: Tapedeck's allow one in 30 s.
    public var http2: HTTP2Settings
    /// The largest message, both ways, in bytes.
    public var messageBytesMax = 16 << 20
    /// What requests carry as `user-agent`.
    public var userAgent = "tapedeck-swift"

    public init() {
        http2 = HTTP2Settings()
        http2.keepaliveMilliseconds = 60_000
        http2.keepaliveTimeoutMilliseconds = 20_000
        http2.keepaliveWithoutStreams = false
    }
}

/// One connection to a server. Confined to its loop.
public final class GRPCClientConnection: HTTP2ConnectionOwner {
    /// News of a connection. Told on the loop.
    enum Event {
        /// The server has sent its settings: it speaks HTTP/2, and the connection is usable.
        case ready
        /// No more calls here; those open go on.
        case goAway(isTooManyPings: Bool)
        /// The connection is over. Told once, last.
        case closed(reason: String)
    }

    public let loop: any Loop
    let authority: String
    private let scheme: String
    private let options: GRPCConnectionOptions
    private let compressors: Compressors
    private var connection: HTTP2Connection?
    private var tell: ((Event) -> Void)?
    private var isReady = false
    private var isClosingWhenIdle = false

    /// Takes over a connected stream of bytes. `tell` is called from later turns on.
    init(
        over stream: any ByteStream, authority: String, isSecure: Bool, options: GRPCConnectionOptions,
        compressors: Compressors = Compressors(), tell: @escaping (Event) -> Void
    ) {
        loop = stream.loop
        self.authority = authority
        scheme = isSecure ? "https" : "http"
        self.options = options
        self.compressors = compressors
        self.tell = tell
        connection = HTTP2Connection(transport: stream, isServer: false, settings: options.http2, owner: self)
    }

    /// Connects and waits for the server's settings; `opened` is called once on the loop, `closed` when an open
    /// connection ends. `secure` wraps the bytes, as TLS does.
    public static func connect(
        host: String, port: Int, loop: EventLoop, messageBytesMax: Int = 16 << 20,
        secure: ((any ByteStream) -> any ByteStream)? = nil,
        opened: @escaping (Result<GRPCClientConnection, GRPCStatus>) -> Void, closed: @escaping (String) -> Void
    ) {
        let place = GRPCAddress(host: host, port: port)
        GRPCSockets().connect(place, loop: loop) { result in
            switch result {
            case .success(let stream):
                var options = GRPCConnectionOptions()
                options.messageBytesMax = messageBytesMax
                var client: GRPCClientConnection?
                client = GRPCClientConnection(
                    over: secure?(stream) ?? stream, authority: place.description, isSecure: secure != nil,
                    options: options
                ) { event in
                    switch event {
                    case .ready: if let client { opened(.success(client)) }
                    case .goAway: break
                    case .closed(let reason):
                        if client?.isReady == true {
                            closed(reason)
                        } else {
                            opened(.failure(GRPCStatus(.unavailable, "cannot connect to \(place): \(reason)")))
                        }
                        client = nil
                    }
                }
            case .failure(let error):
                opened(.failure(GRPCStatus(.unavailable, "cannot connect to \(place): \(error)")))
            }
        }
    }

    /// Whether calls may begin here.
    public var isUsable: Bool { isReady && !isClosingWhenIdle && connection?.goAwayReceived == false }

    /// Begins a call with one request.
    public func call(
        path: String, request: [UInt8], metadata: GRPCMetadata = GRPCMetadata(), timeoutMilliseconds: Int? = nil,
        owner: any GRPCCallOwner
    ) -> ClientCall {
        let call = call(path: path, metadata: metadata, timeoutMilliseconds: timeoutMilliseconds, owner: owner)
        call.send(request)
        call.halfClose()
        return call
    }

    /// Begins a call; its requests follow by ``ClientCall/send(_:)`` and end with ``ClientCall/halfClose()``. Names in
    /// the metadata that HTTP/2 or gRPC use themselves are left out.
    public func call(
        path: String, metadata: GRPCMetadata = GRPCMetadata(), timeoutMilliseconds: Int? = nil,
        owner: any GRPCCallOwner
    ) -> ClientCall {
        call(path: path, metadata: metadata, timeoutMilliseconds: timeoutMilliseconds, compression: nil, owner: owner)
    }

    /// `compression` is how the frames that are sent may be compressed.
    func call(
        path: String, metadata: GRPCMetadata, timeoutMilliseconds: Int?, compression: GRPCCompression?,
        owner: any GRPCCallOwner
    ) -> ClientCall {
        let call = ClientCall(owner: owner, messageBytesMax: options.messageBytesMax, compressors: compressors)
        var headers = [
            HTTP2Header(":method", "POST"), HTTP2Header(":scheme", scheme), HTTP2Header(":path", path),
            HTTP2Header(":authority", authority), HTTP2Header("content-type", "application/grpc"),
            HTTP2Header("te", "trailers"), HTTP2Header("user-agent", options.userAgent),
            HTTP2Header("grpc-accept-encoding", GRPCCompression.accepted),
        ]
        if let compression { headers.append(HTTP2Header("grpc-encoding", compression.rawValue)) }
        if let timeoutMilliseconds {
            headers.append(HTTP2Header("grpc-timeout", Timeout.text(milliseconds: timeoutMilliseconds)))
            call.startDeadline(loop, timeoutMilliseconds)
        }
        for entry in metadata.entries where GRPCClientConnection.isCustom(entry.name) {
            headers.append(HTTP2Header(entry.name, entry.value))
        }
        guard let stream = connection?.request(headers, body: call, owner: call) else {
            call.refuse()
            return call
        }
        call.stream = stream
        return call
    }

    private static let reserved: Set<String> = [
        "content-type", "te", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding",
        "grpc-message-type",
        "connection", "host", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection",
    ]

    private static func isCustom(_ name: String) -> Bool { !name.hasPrefix(":") && !reserved.contains(name) }

    var isClosed: Bool { connection == nil }

    /// Takes no more calls; the connection ends when the last one has.
    func closeWhenIdle() {
        isClosingWhenIdle = true
        connection?.goAway()
    }

    /// Ends the connection and its calls.
    public func close() { close(reason: "closed by its owner") }

    func close(reason: String) { connection?.close(reason: reason) }
}

// MARK: Events of the connection

extension GRPCClientConnection {

    public func closed(_ connection: HTTP2Connection, reason: String) {
        self.connection = nil
        let tell = tell
        self.tell = nil
        tell?(.closed(reason: reason))
    }

    public func receivedSettings(_ connection: HTTP2Connection) {
        guard !isReady else { return }
        isReady = true
        tell?(.ready)
    }

    public func receivedGoAway(_ connection: HTTP2Connection, code: UInt32, text: String) {
        tell?(.goAway(isTooManyPings: code == HTTP2ErrorCode.enhanceYourCalm && text == "too_many_pings"))
    }
}

/// How a channel gets its bytes to an address and back.
public protocol GRPCTransport: Sendable {
    /// Connects; `done` is called once on the loop, never inside the call.
    func connect(
        _ address: GRPCAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void)
}

/// TCP on an ``EventLoop``. A host that is still a name is looked up first, and its first address taken.
public struct GRPCSockets: GRPCTransport {
    public init() {}

    public func connect(
        _ address: GRPCAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        guard let loop = loop as? EventLoop else {
            return loop.afterTurn { done(.failure(StreamError("sockets need an EventLoop"))) }
        }
        if let place = SocketAddress(numericHost: address.host, port: address.port) {
            return GRPCSockets.connect(place, loop, done)
        }
        // A name that nobody has resolved.
        loop.lookUp(host: address.host, port: address.port) { result in
            switch result {
            case .success(let places):
                guard let place = places.first else { return done(.failure(StreamError("no address"))) }
                GRPCSockets.connect(place, loop, done)
            case .failure(let error): done(.failure(StreamError(error.description)))
            }
        }
    }

    private static func connect(
        _ place: SocketAddress, _ loop: EventLoop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        Socket.connect(place, loop: loop) { result in
            switch result {
            case .success(let socket): done(.success(socket))
            // Some failures are known at once, inside the call.
            case .failure(let error): loop.afterTurn { done(.failure(error)) }
            }
        }
    }
}
