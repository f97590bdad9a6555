import EventLoop
import HTTP2

/// What a source has for its stream.
public enum FrameRead {
    /// So many bytes were written, at least one. Frames may be cut anywhere.
    case bytes(Int)
    /// Nothing now; ``ServerCall/resume()`` when there is.
    case wait
    /// The stream ends. Only between frames.
    case end(GRPCStatus, trailers: GRPCMetadata)
}

/// Where a stream's messages come from, as gRPC frames: asked when the client's window and the connection have room.
public protocol FrameSource: AnyObject {
    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead
}

/// One call on the server. Confined to its loop.
public final class ServerCall: HTTP2StreamOwner, HTTP2Body {
    /// Request headers, without those of HTTP/2 and gRPC themselves.
    public private(set) var metadata = GRPCMetadata()
    /// Sent with the response's headers; set it before answering.
    public var responseMetadata = GRPCMetadata()
    /// The stream's messages. Setting it sends the response's headers.
    public var source: (any FrameSource)? { didSet { if source != nil { sendHeaders() } } }
    /// Who calls; set by an authenticating interceptor.
    public var identity: CallerIdentity?
    /// What the caller may see and do; nil: everything.
    public var permissions: (any CallerPermissions)?
    /// The call is over: answered, cancelled by the client, past its deadline, or cut off. Called once.
    public var onEnd: (() -> Void)?

    private let table: GRPCServiceTable
    private weak var stream: HTTP2Stream?
    private let loop: any Loop
    private var reader: MessageReader
    private var handler: GRPCServiceTable.Handler?
    private var request: [UInt8]?
    private var response: [UInt8] = []
    private var responsePosition = 0
    private var end: (status: GRPCStatus, trailers: GRPCMetadata)?
    private var isHeaderSent = false
    private var deadline: (any LoopTimer)?

    init(_ stream: HTTP2Stream, table: GRPCServiceTable, messageBytesMax: Int) {
        self.stream = stream
        self.table = table
        loop = stream.connection.transport.loop
        reader = MessageReader(lengthMax: messageBytesMax)
    }

    // MARK: Answers

    /// Answers a unary call.
    public func respond(_ message: [UInt8]) {
        guard end == nil else { return }
        response = message.withUnsafeBytes { MessageFrame.make($0) }
        end = (.ok, GRPCMetadata())
        sendHeaders()
    }

    /// Ends the call with a status.
    public func fail(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        guard end == nil, let stream else { return }
        end = (status, trailers)
        source = nil
        if isHeaderSent { return stream.resume() }
        isHeaderSent = true
        stream.respond(ServerCall.responseHeaders + ServerCall.trailers(status, trailers), endsStream: true)
    }

    /// The source has more.
    public func resume() { stream?.resume() }

    private static let responseHeaders = [
        HTTP2Header(":status", "200"), HTTP2Header("content-type", "application/grpc"),
    ]

    private func sendHeaders() {
        guard !isHeaderSent, let stream else { return }
        isHeaderSent = true
        stream.body = self
        var headers = ServerCall.responseHeaders
        for entry in responseMetadata.entries { headers.append(HTTP2Header(entry.name, entry.value)) }
        stream.respond(headers)
    }

    private static func trailers(_ status: GRPCStatus, _ metadata: GRPCMetadata) -> [HTTP2Header] {
        var trailers = [HTTP2Header("grpc-status", String(status.code.rawValue))]
        if !status.message.isEmpty {
            trailers.append(HTTP2Header("grpc-message", PercentCoding.encode(status.message)))
        }
        for entry in metadata.entries { trailers.append(HTTP2Header(entry.name, entry.value)) }
        return trailers
    }

    public func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        if responsePosition < response.count {
            let count = min(buffer.count, response.count - responsePosition)
            response.withUnsafeBytes {
                buffer.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: $0[responsePosition..<(responsePosition + count)]))
            }
            responsePosition += count
            return .bytes(count)
        }
        if let end { return .end(trailers: ServerCall.trailers(end.status, end.trailers)) }
        guard let source else { return .wait }
        switch source.read(into: buffer) {
        case .bytes(let count): return .bytes(count)
        case .wait: return .wait
        case .end(let status, let trailers):
            end = (status, trailers)
            return .end(trailers: ServerCall.trailers(status, trailers))
        }
    }

    // MARK: The request

    public func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        var path = ""
        var method = ""
        var contentType = ""
        var hasTrailersTE = false
        var timeout: String?
        var encoding = "identity"
        for header in headers {
            switch header.name {
            case ":path": path = header.value
            case ":method": method = header.value
            case "content-type": contentType = header.value
            case "te": hasTrailersTE = header.value == "trailers"
            case "grpc-timeout": timeout = header.value
            case "grpc-encoding": encoding = header.value
            case _ where header.name.hasPrefix(":") || header.name.hasPrefix("grpc-"): break
            default: metadata.addWire(header.name, header.value)
            }
        }
        guard method == "POST" else { return refuse(stream, "405", "gRPC calls are POST") }
        guard ServerCall.isGRPC(contentType) else {
            return refuse(stream, "415", "content-type is not application/grpc")
        }
        guard hasTrailersTE else { return fail(GRPCStatus(.internalError, "the header te: trailers is missing")) }
        guard encoding == "identity" else {
            return fail(GRPCStatus(.unimplemented, "grpc-encoding \(encoding) is not supported; use identity"))
        }
        switch table.find(path) {
        case .success(let found): handler = found
        case .failure(let status): return fail(status)
        }
        if let timeout { startDeadline(timeout) }
    }

    private static func isGRPC(_ contentType: String) -> Bool {
        guard contentType.hasPrefix("application/grpc") else { return false }
        let rest = contentType.dropFirst("application/grpc".count)
        return rest.isEmpty || rest.first == ";" || rest == "+proto" || rest.hasPrefix("+proto;")
    }

    private func refuse(_ stream: HTTP2Stream, _ status: String, _ text: String) {
        end = (GRPCStatus(.unknown, text), GRPCMetadata())
        isHeaderSent = true
        stream.respond([HTTP2Header(":status", status), HTTP2Header("content-type", "text/plain")], endsStream: true)
    }

    private func startDeadline(_ text: String) {
        guard let milliseconds = Timeout.milliseconds(text) else {
            return fail(GRPCStatus(.internalError, "malformed grpc-timeout \(text)"))
        }
        deadline = loop.timer(afterMilliseconds: milliseconds) { [weak self] in
            self?.fail(GRPCStatus(.deadlineExceeded, "the deadline of the call is over"))
        }
    }

    public func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        stream.consume(data.count)
        guard end == nil else { return }
        do {
            try reader.read(data) { frames in
                for message in MessageSequence(frames: frames) {
                    if request == nil { request = Array(message) } else { fail(ServerCall.tooMany) }
                }
            }
        } catch {
            fail(error.status)
        }
    }

    private static let tooMany = GRPCStatus(.unimplemented, "more than one request message")

    public func receivedEnd(_ stream: HTTP2Stream) {
        guard end == nil, let handler else { return }
        guard let request, reader.isEmpty else {
            return fail(
                GRPCStatus(.internalError, reader.isEmpty ? "no request message" : "a request message is cut off"))
        }
        self.request = nil
        request.withUnsafeBytes { bytes in
            switch handler {
            case .unary(let handle), .serverStreaming(let handle): handle(self, bytes)
            }
        }
    }

    public func closed(_ stream: HTTP2Stream, code: UInt32) {
        deadline?.cancel()
        deadline = nil
        source = nil
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?()
    }
}

/// `grpc-timeout`: at most 8 digits and a unit.
enum Timeout {
    static func milliseconds(_ text: String) -> Int? {
        guard let unit = text.utf8.last, (2...9).contains(text.utf8.count),
            text.utf8.dropLast().allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let value = Int(text.dropLast())
        else { return nil }
        switch unit {
        case UInt8(ascii: "H"): return value * 3_600_000
        case UInt8(ascii: "M"): return value * 60_000
        case UInt8(ascii: "S"): return value * 1000
        case UInt8(ascii: "m"): return value
        case UInt8(ascii: "u"): return (value + 999) / 1000
        case UInt8(ascii: "n"): return (value + 999_999) / 1_000_000
        default: return nil
        }
    }

    static func text(milliseconds: Int) -> String {
        milliseconds < 100_000_000 ? "\(max(1, milliseconds))m" : "\(min(99_999_999, milliseconds / 1000))S"
    }
}
