import EventLoop
import HTTP2
import Protobuf
import Synchronization

/// What a source has for its stream.
public enum FrameRead {
    /// So many bytes were written, at least one. Frames may be cut anywhere.
    case bytes(Int)
    /// As ``bytes(_:)``, from a source that knows how many frames end in them. A source says it always or never, but
    /// for bytes that begin and end between frames.
    case frames(bytes: Int, ended: Int)
    /// Nothing now; ``ServerCall/resume()`` when there is.
    case wait
    /// The stream ends. Only between frames.
    case end(GRPCStatus, trailers: GRPCMetadata)
}

/// Where a stream's messages come from, as gRPC frames: asked when the client's window and the connection have room.
public protocol FrameSource: AnyObject {
    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead
    /// Asked before ``read(into:)`` where bytes can be sent from where they lie: lends at most `countMax` to the output
    /// and says how many, and how many frames end in them; none where they have to be read.
    func lend(_ countMax: Int, to output: HTTP2Output) -> (bytes: Int, ended: Int)
}

extension FrameSource {
    public func lend(_ countMax: Int, to output: HTTP2Output) -> (bytes: Int, ended: Int) { (0, 0) }
}

/// One call on the server. Confined to its loop.
public final class ServerCall: HTTP2Stream {
    /// The method; nil where there is no such method (interceptors and handlers never see that).
    public var method: GRPCMethod? { entry?.method }
    /// `/package.Service/Method`
    public var path: String { entry?.method.path ?? rare?.unknownPath ?? "" }
    /// Request headers, without those of HTTP/2 and gRPC themselves. Made from the bytes at each look.
    public var metadata: GRPCMetadata { rawMetadata.metadata }
    /// Sent with the response's headers; set it before answering.
    public var responseMetadata: GRPCMetadata {
        get { rare?.responseMetadata ?? GRPCMetadata() }
        set { makeRare().responseMetadata = newValue }
    }
    /// Sent with the trailers when the call ends well; a failure has its own.
    public var responseTrailers: GRPCMetadata {
        get { rare?.responseTrailers ?? GRPCMetadata() }
        set { makeRare().responseTrailers = newValue }
    }
    /// The stream's messages. Setting it sends the response's headers.
    @exclusivity(unchecked) public var source: (any FrameSource)? { didSet { if source != nil { sendHeaders() } } }
    /// Who calls, as an authenticating interceptor found it.
    public var identity: CallerIdentity? { permissions?.identity }
    /// What the caller may see and do; nil: everything. Set by an authenticating interceptor.
    public var permissions: (any CallerPermissions)? {
        get { storedPermissions }
        set { storedPermissions = newValue }
    }
    /// The call is over: answered, cancelled by the client, past its deadline, or cut off. Called once.
    @exclusivity(unchecked) public var onEnd: (() -> Void)?
    /// Messages may be sent again, after ``isWritable`` was false. Called on the loop, not inside a call to this.
    @exclusivity(unchecked) public var onWritable: (() -> Void)?
    /// Numeric address of the client, without the port.
    public var peerAddress: String { connection.peerAddress }
    /// Counts the calls of its loop, from 1.
    public let number: UInt64
    /// When it began, by the clock of an interceptor that measures; 0 before that.
    public var beganNs: Int64 {
        get { storedBeganNs }
        set { storedBeganNs = newValue }
    }
    /// Bytes of DATA that came, and that were handed to the connection.
    @exclusivity(unchecked) public internal(set) var receivedBytes = 0
    @exclusivity(unchecked) public internal(set) var sentBytes = 0
    /// When the call's time is over, in the loop's milliseconds; nil where the client set no deadline.
    @exclusivity(unchecked) public internal(set) var deadlineMilliseconds: UInt64?

    // The attribute is not known in other modules: what they look at for each call is computed there.
    @exclusivity(unchecked) private var storedPermissions: (any CallerPermissions)?
    @exclusivity(unchecked) private var storedBeganNs: Int64 = 0
    @exclusivity(unchecked) var storedHasAuthorization = false

    let context: ServerContext
    @exclusivity(unchecked) var reader: RequestReader
    @exclusivity(unchecked) var entry: GRPCServiceTable.Entry?
    @exclusivity(unchecked) var rawMetadata = RawMetadata()
    @exclusivity(unchecked) var sink: (any RequestSink)?
    /// The one request of a method without request stream.
    @exclusivity(unchecked) var request: [UInt8]?
    @exclusivity(unchecked) var deadline: CallDeadline?
    @exclusivity(unchecked) var frames = FrameQueue()
    @exclusivity(unchecked) var counter = FrameCounter()
    /// How it ends, once that is decided.
    @exclusivity(unchecked) var end: (status: GRPCStatus, trailers: GRPCMetadata)?
    @exclusivity(unchecked) var countedBytes = 0
    @exclusivity(unchecked) var interceptorsBegun = 0
    @exclusivity(unchecked) var pauses: RequestPauses = []
    var isPaused: Bool { !pauses.isEmpty }
    @exclusivity(unchecked) var isHeldDeliveryScheduled = false
    @exclusivity(unchecked) var isHeadRead = false
    /// Whether the request has the header `authorization`.
    public var hasAuthorization: Bool { storedHasAuthorization }
    @exclusivity(unchecked) var isEndReceived = false
    @exclusivity(unchecked) var isEndDelivered = false
    @exclusivity(unchecked) var isEndSent = false
    @exclusivity(unchecked) var isHeaderSent = false
    @exclusivity(unchecked) var wasFull = false
    @exclusivity(unchecked) var rare: Rare?

    /// What few calls have.
    final class Rare {
        var unknownPath = ""
        var responseMetadata = GRPCMetadata()
        var responseTrailers = GRPCMetadata()
        var requestCompression: GRPCCompression?
        var responseCompression: GRPCCompression?
        var acceptedCompressions: [GRPCCompression] = []
        var isEncodingUnknown = false
        var web: WebFraming?
        /// HTTP's status for what is no gRPC.
        var refusal: String?
        /// A refusal without its text: the request is HEAD.
        var isHeadersOnly = false
        var isCutOff = false
        var onConnectionEnding: (() -> Void)?
        /// Bytes that came while the sink wanted none, from `heldPosition` on.
        var held: [UInt8] = []
        var heldPosition = 0
    }

    /// To set something in.
    func makeRare() -> Rare {
        if let rare { return rare }
        let new = Rare()
        rare = new
        return new
    }

    init(_ connection: HTTP2Connection, _ context: ServerContext) {
        self.context = context
        reader = RequestReader(lengthMax: context.configuration.messageBytesMax)
        number = context.tally.began()
        super.init(connection)
    }

    /// The loop that the call is confined to.
    public var loop: any Loop { context.loop }

    /// What the client proved by its certificate; nil without one.
    public var peerCertificate: PeerCertificate? { connection.transport.peerCertificate }

    /// What an interceptor keeps of the connection, from one of its calls to the next.
    public var connectionAttachment: AnyObject? {
        get { connection.attachment }
        set { connection.attachment = newValue }
    }

    // MARK: What the stream is told

    /// See ``HTTP2Stream``; not for callers.
    public override func received(fields: HTTP2FieldBlock, endsStream: Bool) { begin(fields, endsStream: endsStream) }
    /// See ``HTTP2Stream``; not for callers.
    public override func receivedTooLargeHeaders() { refuseLargeHeaders() }
    /// See ``HTTP2Stream``; not for callers.
    public override func received(data: UnsafeRawBufferPointer) { take(data) }
    /// See ``HTTP2Stream``; not for callers.
    public override func receivedEnd() { takeEnd() }
    /// See ``HTTP2Stream``; not for callers.
    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead { nextBytes(into: buffer) }
    /// See ``HTTP2Stream``; not for callers.
    public override func lend(_ countMax: Int, to output: HTTP2Output) -> Int { lendBytes(countMax, to: output) }
    /// See ``HTTP2Stream``; not for callers.
    public override func connectionIsEnding() { if end == nil { rare?.onConnectionEnding?() } }
    /// See ``HTTP2Stream``; not for callers.
    public override func closed(code: UInt32) { finish(code: code) }

    // MARK: Answers

    /// Answers a call that has one response. Where responses are compressed at all, `compressed` decides over what the
    /// size would.
    public func respond(_ message: [UInt8], compressed: Bool? = nil) {
        message.withUnsafeBytes { respond(payload: $0, compressed) }
    }

    /// Answers a call that has one response.
    public func respond(_ message: some ProtoMessage) { message.withEncodedBytes { respond(payload: $0, nil) } }

    /// Answers a call that has one response, whose bytes are valid during the call.
    public func respond(bytes: UnsafeRawBufferPointer) { respond(payload: bytes, nil) }

    private func respond(payload: UnsafeRawBufferPointer, _ compressed: Bool?) {
        guard end == nil, isWithinLimit(payload.count) else { return }
        end = (.ok, rare?.responseTrailers ?? GRPCMetadata())
        if rare?.responseCompression == nil {
            frames.append(payload: payload, context.output.memory)
        } else {
            frames.append(frame(payload, compressed: compressed))
        }
        sendHeaders()
        account()
    }

    /// Has the response's messages compressed from now on, where the client takes it and the method is not registered
    /// without; nil: no more. By itself, they are compressed as the requests are. Before anything is sent.
    public func compressResponses(_ compression: GRPCCompression?) {
        guard !isHeaderSent, isCompressible else { return }
        let accepted = rare?.acceptedCompressions ?? []
        makeRare().responseCompression = compression.flatMap { accepted.contains($0) ? $0 : nil }
    }

    /// Sends one message of a stream of responses. It waits at the call while the client takes nothing: look at
    /// ``isWritable``. For a stream whose messages are made when they can be sent, set ``source`` instead.
    /// Where responses are compressed at all, `compressed` decides over what the size would.
    public func send(_ message: [UInt8], compressed: Bool? = nil) {
        guard end == nil, isWithinLimit(message.count) else { return }
        frames.append(message.withUnsafeBytes { frame($0, compressed: compressed) })
        sentToQueue()
    }

    private func sentToQueue() {
        if !isWritable { wasFull = true }
        sendHeaders()
        resumeBody()
        account()
    }

    /// Ends a stream of responses once everything sent is on its way.
    public func finish(_ status: GRPCStatus = .ok, trailers: GRPCMetadata? = nil) {
        guard end == nil, !isClosed else { return }
        end = (status, trailers ?? responseTrailers)
        source = nil
        if isHeaderSent { resumeBody() } else { sendTrailersOnly() }
    }

    /// Whether messages may be sent without piling up: less than the configured number of bytes wait.
    public var isWritable: Bool { frames.bytes < context.configuration.queuedBytesMax }

    /// Ends the call with a status; what was sent and did not leave yet is dropped, but for the rest of a message.
    public func fail(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        guard end == nil, !isClosed else { return }
        end = (status, trailers)
        source = nil
        frames.dropWaiting(context.output.memory)
        account()
        guard isHeaderSent else { return sendTrailersOnly() }
        // Trailers wait for the window like data; where it is closed, the client learns by a reset.
        if !isWindowOpen { return reset(HTTP2ErrorCode.cancel) }
        resumeBody()
    }

    /// The source has more.
    public func resume() { resumeBody() }

    private func isWithinLimit(_ count: Int) -> Bool {
        let limit = context.configuration.messageBytesMax
        if count <= limit { return true }
        fail(GRPCStatus(.resourceExhausted, "the response of \(count) bytes is larger than the limit of \(limit)"))
        return false
    }
}

// MARK: Ends

extension ServerCall {
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

    func finish(code: UInt32) {
        if let deadline {
            context.deadlines.cancel(deadline)
            self.deadline = nil
        }
        context.tally.ended()
        let status = statusAtEnd(code)
        if end == nil { end = (status, GRPCMetadata()) }
        if let rare {
            if rare.web?.isText != true { consume(rare.held.count - rare.heldPosition) }
            rare.held = []
            rare.heldPosition = 0
            rare.onConnectionEnding = nil
        }
        if !frames.isEmpty { frames.drop(context.output.memory) }
        if request != nil { request = nil }
        if context.request.isOf(self) { context.request.drop() }
        if reader.count > 0 { reader = RequestReader(lengthMax: 0) }
        account()
        if source != nil { source = nil }
        if sink != nil { sink = nil }
        if onWritable != nil { onWritable = nil }
        if onEnd != nil { tellEnd() }
        while interceptorsBegun > 0 {
            interceptorsBegun -= 1
            context.interceptors.ended(interceptorsBegun, self, status)
        }
    }

    private func statusAtEnd(_ code: UInt32) -> GRPCStatus {
        if let end, isEndSent || !end.status.isOK { return end.status }
        return GRPCStatus(
            .cancelled, code == HTTP2ErrorCode.connectionLost ? "the connection ended" : "the client cancelled")
    }
}
