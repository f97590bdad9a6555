import EventLoop
import HTTP2
import Protobuf
import Synchronization

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
    /// The method; nil where there is no such method (interceptors and handlers never see that).
    public var method: GRPCMethod? { entry?.method }
    /// `/package.Service/Method`
    public var path: String { entry?.method.path ?? unknownPath }
    /// Request headers, without those of HTTP/2 and gRPC themselves. Made from the bytes when first asked for.
    public private(set) lazy var metadata: GRPCMetadata = rawMetadata.metadata
    /// Sent with the response's headers; set it before answering.
    public var responseMetadata = GRPCMetadata()
    /// Sent with the trailers when the call ends well; a failure has its own.
    public var responseTrailers = GRPCMetadata()
    /// The stream's messages. Setting it sends the response's headers.
    public var source: (any FrameSource)? { didSet { if source != nil { sendHeaders() } } }
    /// Who calls; set by an authenticating interceptor.
    public var identity: CallerIdentity?
    /// What the caller may see and do; nil: everything.
    public var permissions: (any CallerPermissions)?
    /// What an interceptor keeps of the call: for one that finds it there without looking it up.
    public var attachment: AnyObject?
    /// The call is over: answered, cancelled by the client, past its deadline, or cut off. Called once.
    public var onEnd: (() -> Void)?
    /// Messages may be sent again, after ``isWritable`` was false. Called on the loop, not inside a call to this.
    public var onWritable: (() -> Void)?
    /// Numeric address of the client, without the port.
    public let peerAddress: String
    /// Bytes of DATA that came, and that were handed to the connection.
    public internal(set) var receivedBytes = 0
    public private(set) var sentBytes = 0
    /// When the call's time is over, in the loop's milliseconds; nil where the client set no deadline.
    public internal(set) var deadlineMilliseconds: UInt64?

    let context: ServerContext
    weak var stream: HTTP2Stream?
    var reader: RequestReader
    var entry: GRPCServiceTable.Entry?
    var unknownPath = ""
    var rawMetadata = RawMetadata()
    var sink: (any RequestSink)?
    /// The one request of a method without request stream.
    var request: [UInt8]?
    /// Bytes that came while the sink wanted none, from `heldPosition` on.
    var held: [UInt8] = []
    var heldPosition = 0
    var pauses: RequestPauses = []
    var isPaused: Bool { !pauses.isEmpty }
    var isHeldDeliveryScheduled = false
    var isHeadRead = false
    var isEndReceived = false
    var isEndDelivered = false
    var deadline: CallDeadline?
    var interceptorsBegun = 0

    private var frames = FrameQueue()
    private var counter = FrameCounter()
    private(set) var end: (status: GRPCStatus, trailers: GRPCMetadata)?
    private var isEndSent = false
    private var isHeaderSent = false
    private var wasFull = false
    private var countedBytes = 0

    init(_ stream: HTTP2Stream, _ context: ServerContext, peerAddress: String) {
        self.stream = stream
        self.context = context
        self.peerAddress = peerAddress
        reader = RequestReader(lengthMax: context.configuration.messageBytesMax)
        context.callCount += 1
        context.openCallCount += 1
    }

    /// The loop that the call is confined to.
    public var loop: any Loop { context.loop }

    /// What the client proved by its certificate; nil without one.
    public var peerCertificate: PeerCertificate? { stream?.connection.transport.peerCertificate }

    // MARK: Answers

    /// Answers a call that has one response.
    public func respond(_ message: [UInt8]) { message.withUnsafeBytes { respond(payload: $0) } }

    /// Answers a call that has one response.
    public func respond(_ message: some ProtoMessage) { message.withEncodedBytes { respond(payload: $0) } }

    private func respond(payload: UnsafeRawBufferPointer) {
        guard end == nil, isWithinLimit(payload.count) else { return }
        end = (.ok, responseTrailers)
        frames.append(MessageFrame.make(payload))
        sendHeaders()
        account()
    }

    /// Sends one message of a stream of responses. It waits at the call while the client takes nothing: look at
    /// ``isWritable``. For a stream whose messages are made when they can be sent, set ``source`` instead.
    public func send(_ message: [UInt8]) {
        guard end == nil, isWithinLimit(message.count) else { return }
        frames.append(message.withUnsafeBytes { MessageFrame.make($0) })
        sentToQueue()
    }

    private func sentToQueue() {
        if !isWritable { wasFull = true }
        sendHeaders()
        stream?.resume()
        account()
    }

    /// Sends the response's headers now; by themselves they go with the first message.
    public func sendHeaders() {
        guard !isHeaderSent, let stream else { return }
        isHeaderSent = true
        stream.body = self
        if responseMetadata.entries.isEmpty { return stream.respond(ServerCall.plainHeaders) }
        stream.respond(ServerCall.responseHeaders + responseMetadata.headers)
    }

    /// Ends a stream of responses once everything sent is on its way.
    public func finish(_ status: GRPCStatus = .ok, trailers: GRPCMetadata? = nil) {
        guard end == nil, let stream else { return }
        end = (status, trailers ?? responseTrailers)
        if isHeaderSent { stream.resume() } else { sendTrailersOnly() }
    }

    /// Whether messages may be sent without piling up: less than the configured number of bytes wait.
    public var isWritable: Bool { frames.bytes < context.configuration.queuedBytesMax }

    /// Ends the call with a status; what was sent and did not leave yet is dropped, but for the rest of a message.
    public func fail(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        guard end == nil, let stream else { return }
        end = (status, trailers)
        source = nil
        frames.dropWaiting()
        account()
        guard isHeaderSent else { return sendTrailersOnly() }
        // Trailers wait for the window like data; where it is closed, the client learns by a reset.
        if !stream.isWindowOpen { return stream.reset(HTTP2ErrorCode.cancel) }
        stream.resume()
    }

    /// The source has more.
    public func resume() { stream?.resume() }

    private func isWithinLimit(_ count: Int) -> Bool {
        let limit = context.configuration.messageBytesMax
        if count <= limit { return true }
        fail(GRPCStatus(.resourceExhausted, "the response of \(count) bytes is larger than the limit of \(limit)"))
        return false
    }
}

// MARK: What goes out

extension ServerCall {
    static let responseHeaders = [HTTP2Header(":status", "200"), HTTP2Header("content-type", "application/grpc")]
    private static let plainHeaders = HTTP2FixedHeaders(responseHeaders)
    private static let plainTrailers = HTTP2FixedHeaders([HTTP2Header("grpc-status", "0")])

    private func sendTrailersOnly() {
        guard let stream, let end else { return }
        isHeaderSent = true
        isEndSent = true
        var headers = ServerCall.responseHeaders + responseMetadata.headers
        headers += ServerCall.trailers(end.status, end.trailers)
        stream.respond(headers, endsStream: true)
        if !isEndReceived { stream.stopRequestAfterResponse() }
    }

    /// Answers what is no gRPC at all by HTTP's means.
    func refuse(_ httpStatus: String, _ status: GRPCStatus) {
        guard end == nil, let stream else { return }
        end = (status, GRPCMetadata())
        isHeaderSent = true
        isEndSent = true
        var headers = [HTTP2Header(":status", httpStatus), HTTP2Header("content-type", "application/grpc")]
        if httpStatus == "405" { headers.append(HTTP2Header("allow", "POST")) }
        headers += ServerCall.trailers(status, GRPCMetadata())
        stream.respond(headers, endsStream: true)
        if !isEndReceived { stream.stopRequestAfterResponse() }
    }

    static func trailers(_ status: GRPCStatus, _ metadata: GRPCMetadata) -> [HTTP2Header] {
        var trailers = [HTTP2Header("grpc-status", String(status.code.rawValue))]
        if !status.message.isEmpty {
            trailers.append(HTTP2Header("grpc-message", PercentCoding.encode(status.message)))
        }
        return trailers + metadata.headers
    }

    public func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        let count = frames.read(into: buffer)
        if count > 0 { handedOn(buffer, count) }
        if frames.isEmpty, let end {
            if count > 0, !(end.status.isOK && end.status.message.isEmpty && end.trailers.entries.isEmpty) {
                return .bytes(count)
            }
            isEndSent = true
            if !isEndReceived { stream.stopRequestAfterResponse() }
            if end.status == .ok, end.trailers.entries.isEmpty {
                return .last(count, trailers: ServerCall.plainTrailers)
            }
            return .end(trailers: ServerCall.trailers(end.status, end.trailers))
        }
        if count > 0 { return .bytes(count) }
        guard let source else { return .wait }
        switch source.read(into: buffer) {
        case .bytes(let count):
            handedOn(buffer, count)
            return .bytes(count)
        case .wait: return .wait
        case .end(let status, let trailers):
            end = (status, trailers)
            isEndSent = true
            if !isEndReceived { stream.stopRequestAfterResponse() }
            return .end(trailers: ServerCall.trailers(status, trailers))
        }
    }

    private func handedOn(_ buffer: UnsafeMutableRawBufferPointer, _ count: Int) {
        sentBytes += count
        if !context.interceptors.isEmpty {
            let messages = counter.count(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            for interceptor in context.interceptors { interceptor.sent(self, messages: messages, bytes: count) }
        }
        account()
        guard wasFull, isWritable else { return }
        wasFull = false
        if onWritable != nil {
            loop.afterTurn { [weak self] in self?.onWritable?() }
        }
    }

    /// Keeps the server's count of bytes held in step; false where they are too many, and the call has failed.
    @discardableResult
    func account() -> Bool {
        let now = frames.bytes + reader.count + held.count + (request?.count ?? 0)
        // Small ones are many and come to little.
        guard now >= 4096 || countedBytes > 0 else { return true }
        let change = now - countedBytes
        countedBytes = now
        let total = context.shared.heldBytes.add(change, ordering: .relaxed).newValue
        guard change > 0, total > context.configuration.heldBytesMax else { return true }
        context.shared.callsOutOfMemory.add(1, ordering: .relaxed)
        fail(GRPCStatus(.resourceExhausted, "the server holds as many bytes of calls as it may; try again later"))
        return false
    }

    /// The client's deadline is over: whoever works for the call is told at once, the client's stream may end later.
    func deadlinePassed() {
        fail(GRPCStatus(.deadlineExceeded, "the deadline of the call is over"))
        tellEnd()
    }

    private func tellEnd() {
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?()
    }

    public func closed(_ stream: HTTP2Stream, code: UInt32) {
        if let deadline { context.deadlines.cancel(deadline) }
        deadline = nil
        context.openCallCount -= 1
        let status: GRPCStatus
        if isEndSent, let end {
            status = end.status
        } else if let end, !end.status.isOK {
            status = end.status
        } else {
            status = GRPCStatus(
                .cancelled, code == HTTP2ErrorCode.connectionLost ? "the connection ended" : "the client cancelled")
        }
        if end == nil { end = (status, GRPCMetadata()) }
        stream.consume(held.count - heldPosition)
        frames = FrameQueue()
        held = []
        heldPosition = 0
        request = nil
        reader = RequestReader(lengthMax: 0)
        account()
        source = nil
        sink = nil
        onWritable = nil
        tellEnd()
        while interceptorsBegun > 0 {
            interceptorsBegun -= 1
            context.interceptors[interceptorsBegun].ended(self, status)
        }
    }
}

/// Frames that wait to be sent, read in pieces. The common case is one.
struct FrameQueue {
    private var first: [UInt8] = []
    private var position = 0
    private var rest: [[UInt8]] = []
    private var restStart = 0
    /// Bytes that wait.
    private(set) var bytes = 0

    var isEmpty: Bool { bytes == 0 }

    mutating func append(_ frame: [UInt8]) {
        if bytes == 0 {
            first = frame
            position = 0
        } else {
            rest.append(frame)
        }
        bytes += frame.count
    }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var filled = 0
        while bytes > 0, filled < buffer.count {
            let count = min(buffer.count - filled, first.count - position)
            first.withUnsafeBytes {
                (buffer.baseAddress! + filled).copyMemory(from: $0.baseAddress! + position, byteCount: count)
            }
            position += count
            filled += count
            bytes -= count
            if position == first.count { advance() }
        }
        return filled
    }

    private mutating func advance() {
        position = 0
        guard restStart < rest.count else {
            first = []
            rest.removeAll(keepingCapacity: rest.count <= 64)
            restStart = 0
            return
        }
        first = rest[restStart]
        rest[restStart] = []
        restStart += 1
        if restStart == rest.count {
            rest.removeAll(keepingCapacity: rest.count <= 64)
            restStart = 0
        }
    }

    /// Drops all but the rest of a frame that was begun.
    mutating func dropWaiting() {
        rest = []
        restStart = 0
        bytes = position > 0 ? first.count - position : 0
        if bytes == 0 {
            first = []
            position = 0
        }
    }
}
