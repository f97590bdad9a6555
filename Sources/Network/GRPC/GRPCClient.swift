import EventLoop
import HTTP2

/// What a call's owner is told. On the loop.
public protocol GRPCCallOwner: AnyObject {
    /// The response's headers.
    func received(metadata: GRPCMetadata)
    /// Whole frames, back to back (``MessageSequence`` walks them); valid during the call.
    func received(frames: UnsafeRawBufferPointer)
    /// The call is over. Told once, last.
    func ended(_ status: GRPCStatus, trailers: GRPCMetadata)
}

/// One connection to a server. Confined to its loop.
public final class GRPCClientConnection: HTTP2ConnectionOwner {
    public let loop: EventLoop
    private let authority: String
    private let messageBytesMax: Int
    private var connection: HTTP2Connection?
    private var closed: ((String) -> Void)?

    /// Connects; `opened` is called once on the loop, `closed` when an open connection ends.
    public static func connect(
        host: String, port: Int, loop: EventLoop, messageBytesMax: Int = 16 << 20,
        opened: @escaping (Result<GRPCClientConnection, GRPCStatus>) -> Void, closed: @escaping (String) -> Void
    ) {
        let address: SocketAddress
        do {
            address = try SocketAddress(host: host, port: port)
        } catch {
            return opened(.failure(GRPCStatus(.unavailable, error.description)))
        }
        Socket.connect(address, loop: loop) { result in
            switch result {
            case .success(let socket):
                let client = GRPCClientConnection(loop: loop, authority: "\(host):\(port)", messageBytesMax)
                client.closed = closed
                client.connection = HTTP2Connection(
                    transport: socket, isServer: false, settings: HTTP2Settings(), owner: client)
                opened(.success(client))
            case .failure(let error):
                opened(.failure(GRPCStatus(.unavailable, "cannot connect to \(host):\(port): \(error)")))
            }
        }
    }

    private init(loop: EventLoop, authority: String, _ messageBytesMax: Int) {
        self.loop = loop
        self.authority = authority
        self.messageBytesMax = messageBytesMax
    }

    /// Begins a call with one request.
    public func call(
        path: String, request: [UInt8], metadata: GRPCMetadata = GRPCMetadata(), timeoutMilliseconds: Int? = nil,
        owner: any GRPCCallOwner
    ) -> ClientCall {
        let call = ClientCall(owner: owner, request: request, messageBytesMax: messageBytesMax)
        var headers = [
            HTTP2Header(":method", "POST"), HTTP2Header(":scheme", "http"), HTTP2Header(":path", path),
            HTTP2Header(":authority", authority), HTTP2Header("content-type", "application/grpc"),
            HTTP2Header("te", "trailers"), HTTP2Header("user-agent", "tapedeck-swift"),
        ]
        if let timeoutMilliseconds {
            headers.append(HTTP2Header("grpc-timeout", Timeout.text(milliseconds: timeoutMilliseconds)))
            call.startDeadline(loop, timeoutMilliseconds)
        }
        for entry in metadata.entries { headers.append(HTTP2Header(entry.name, entry.value)) }
        guard let stream = connection?.request(headers, body: call, owner: call) else {
            call.finish(GRPCStatus(.unavailable, "the connection takes no more calls"))
            return call
        }
        call.stream = stream
        return call
    }

    public func close() { connection?.close(reason: "closed by its owner") }

    public func opened(_ stream: HTTP2Stream, on connection: HTTP2Connection) {}

    public func closed(_ connection: HTTP2Connection, reason: String) {
        self.connection = nil
        let closed = closed
        self.closed = nil
        closed?(reason)
    }
}

/// One call on the client. Confined to its loop.
public final class ClientCall: HTTP2StreamOwner, HTTP2Body {
    fileprivate(set) weak var stream: HTTP2Stream?
    private var owner: (any GRPCCallOwner)?
    private let request: [UInt8]
    private var position = 0
    private var reader: MessageReader
    private var deadline: (any LoopTimer)?
    private var httpStatus = ""
    private var trailers = GRPCMetadata()
    private var hasHeaders = false

    init(owner: any GRPCCallOwner, request: [UInt8], messageBytesMax: Int) {
        self.owner = owner
        self.request = request.withUnsafeBytes { MessageFrame.make($0) }
        reader = MessageReader(lengthMax: messageBytesMax)
    }

    /// Ends the call; the server is told.
    public func cancel(_ status: GRPCStatus = GRPCStatus(.cancelled, "cancelled by the client")) {
        guard owner != nil else { return }
        stream?.reset(HTTP2ErrorCode.cancel)
        finish(status)
    }

    func startDeadline(_ loop: any Loop, _ milliseconds: Int) {
        deadline = loop.timer(afterMilliseconds: milliseconds) { [weak self] in
            self?.cancel(GRPCStatus(.deadlineExceeded, "no answer within \(milliseconds) ms"))
        }
    }

    func finish(_ status: GRPCStatus) {
        guard let owner else { return }
        self.owner = nil
        deadline?.cancel()
        deadline = nil
        owner.ended(status, trailers: trailers)
    }

    public func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        let count = min(buffer.count, request.count - position)
        guard count > 0 else { return .end(trailers: nil) }
        request.withUnsafeBytes {
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[position..<(position + count)]))
        }
        position += count
        return .bytes(count)
    }

    public func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        var metadata = GRPCMetadata()
        for header in headers where !header.name.hasPrefix(":") { metadata.addWire(header.name, header.value) }
        if let status = headers.first(where: { $0.name == ":status" }) { httpStatus = status.value }
        if endsStream {
            trailers = metadata
        } else if !hasHeaders {
            hasHeaders = true
            owner?.received(metadata: metadata)
        }
    }

    public func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        stream.consume(data.count)
        guard owner != nil else { return }
        do {
            try reader.read(data) { owner?.received(frames: $0) }
        } catch {
            cancel(error.status)
        }
    }

    public func receivedEnd(_ stream: HTTP2Stream) { finish(statusFromTrailers()) }

    private func statusFromTrailers() -> GRPCStatus {
        if let text = trailers.value("grpc-status"), let code = Int(text) {
            return GRPCStatus(
                GRPCStatus.Code(rawValue: code), trailers.value("grpc-message").map(PercentCoding.decode) ?? "")
        }
        if httpStatus != "200" { return GRPCStatus(.unknown, "the server answered with HTTP status \(httpStatus)") }
        return GRPCStatus(.unknown, "the server sent no grpc-status")
    }

    public func closed(_ stream: HTTP2Stream, code: UInt32) {
        switch code {
        case HTTP2ErrorCode.none: finish(statusFromTrailers())
        case HTTP2ErrorCode.connectionLost, HTTP2ErrorCode.refusedStream:
            finish(GRPCStatus(.unavailable, "the connection ended"))
        case HTTP2ErrorCode.cancel: finish(GRPCStatus(.cancelled, "the server cancelled the stream"))
        case HTTP2ErrorCode.enhanceYourCalm: finish(GRPCStatus(.resourceExhausted, "the server asks for calm"))
        default: finish(GRPCStatus(.internalError, "the stream ended with HTTP/2 error \(code)"))
        }
    }
}
