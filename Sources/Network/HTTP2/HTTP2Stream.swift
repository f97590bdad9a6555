/// A header field. Names are lower case.
public struct HTTP2Header: Hashable, Sendable {
    public let name: String
    public let value: String
    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

/// Error codes of RFC 9113 section 7, and one of ours.
public enum HTTP2ErrorCode {
    public static let none: UInt32 = 0
    public static let protocolError: UInt32 = 1
    public static let internalError: UInt32 = 2
    public static let refusedStream: UInt32 = 7
    public static let cancel: UInt32 = 8
    public static let enhanceYourCalm: UInt32 = 11
    /// The connection ended below the stream.
    public static let connectionLost: UInt32 = .max
}

/// What a body has for its stream.
public enum HTTP2BodyRead {
    /// So many bytes were written, at least one.
    case bytes(Int)
    /// Nothing now; ``HTTP2Stream/resume()`` when there is.
    case wait
    /// Nothing more: the stream ends, with these trailers if there are any.
    case end(trailers: [HTTP2Header]?)
    /// So many bytes were written, none or more, and the stream ends after them.
    case last(Int, trailers: HTTP2FixedHeaders)
}

/// One request and its response. Confined to its connection's loop.
///
/// A server's stream is a subclass of it, so that a request is one object (``HTTP2ConnectionOwner/makeStream(on:)``);
/// what it is told, it is told on the loop, and never inside a call to the stream. A client's has an owner and a body.
open class HTTP2Stream {
    @exclusivity(unchecked) public internal(set) final var id: Int32 = 0
    public final let connection: HTTP2Connection
    /// The attribute is not known in other modules: what they look at for each call is computed there.
    @exclusivity(unchecked) private final var isOver = false
    public final var isClosed: Bool { isOver }
    /// Server: the request's fields were accepted; a block that follows is its trailers.
    @exclusivity(unchecked) private final var isHeadAccepted = false
    /// Server: bytes of the request's body that came, and how many it has by its `content-length`, if it has one.
    @exclusivity(unchecked) private final var bodyBytes = 0
    @exclusivity(unchecked) private final var bodyLength: Int?

    public init(_ connection: HTTP2Connection) { self.connection = connection }

    /// A header block as bytes, valid during the call.
    open func received(fields: HTTP2FieldBlock, endsStream: Bool) {}
    /// A header block larger than the limit came; by itself, the stream is reset.
    open func receivedTooLargeHeaders() { reset(HTTP2ErrorCode.enhanceYourCalm) }
    /// Bytes of the body, valid during the call; ``consume(_:)`` lets the peer send as many more.
    open func received(data: UnsafeRawBufferPointer) { consume(data.count) }
    open func receivedEnd() {}
    /// Server: the connection takes no new streams and will end. Told once; the stream does not close the connection.
    open func connectionIsEnding() {}
    /// The stream is over: 0 when it ended well. Told once, last.
    open func closed(code: UInt32) {}
    /// Outgoing bytes of the body: asked when the peer's window and the connection's output have room.
    open func read(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead { .end(trailers: nil) }
    /// Asked before ``read(into:)`` where the connection can send bytes from where they lie: lends at most `countMax`
    /// to the output and returns how many; 0 where they have to be read.
    open func lend(_ countMax: Int, to output: HTTP2Output) -> Int { 0 }

    /// Server: sends the response's headers; the body follows unless the stream ends with them.
    public final func respond(_ headers: [HTTP2Header], endsStream: Bool = false) {
        withFields(headers) { connection.respond(self, $0, $1, endsStream: endsStream) }
    }

    /// Server: sends headers that are the same every time; the body follows unless the stream ends with them.
    public final func respond(_ headers: HTTP2FixedHeaders, endsStream: Bool = false) {
        connection.respond(self, headers.fields, headers.count, endsStream: endsStream)
    }

    /// The body has more.
    public final func resumeBody() { if !isClosed { connection.resume(self) } }

    /// Ends the stream abruptly; what was not sent yet is dropped.
    public final func reset(_ code: UInt32) { if !isClosed { connection.reset(self, code) } }

    /// Server: the rest of the request is not wanted once the response is sent to its end.
    public final func stopRequestAfterResponse() { if !isClosed { connection.stopAfterResponse(self) } }

    /// Whether the peer's windows take bytes of the body now.
    public final var isWindowOpen: Bool { !isClosed && connection.isWindowOpen(self) }

    /// Lets the peer send as many bytes more. What was kept back has to be given back when the stream is closed too: it
    /// counts for the whole connection.
    public final func consume(_ count: Int) { if count > 0 { connection.consume(self, count) } }

    /// Counts bytes as taken from the connection but not from the stream: the peer may go on with other streams.
    public final func consumeFromConnection(_ count: Int) { if !isClosed { connection.consumeConnection(count) } }

    /// Lets the peer send as many bytes more on this stream, after ``consumeFromConnection(_:)``.
    public final func consumeFromStream(_ count: Int) { if !isClosed { connection.consumeStream(self, count) } }

    /// Server: whether a header block is one of a request or its trailers.
    final func accepts(_ fields: HTTP2FieldBlock, endsStream: Bool) -> Bool {
        guard !fields.isMalformed else { return false }
        if isHeadAccepted {
            if let length = fields.rules.bodyLength {
                guard bodyLength == nil else { return false }
                bodyLength = length
            }
            return fields.rules.isTrailers && endsStream && isBodyWhole
        }
        isHeadAccepted = true
        bodyLength = fields.rules.bodyLength
        return fields.rules.isRequest && (!endsStream || isBodyWhole)
    }

    /// Bytes of the body came.
    final func pass(body: UnsafeRawBufferPointer) {
        bodyBytes += body.count
        if bodyBytes <= bodyLength ?? .max { return received(data: body) }
        consume(body.count)
        reset(HTTP2ErrorCode.protocolError)
    }

    /// The body ended.
    final func passEnd() { isBodyWhole ? receivedEnd() : reset(HTTP2ErrorCode.protocolError) }

    private final var isBodyWhole: Bool { bodyLength == nil || bodyLength == bodyBytes }

    final func wasClosed(_ code: UInt32) {
        guard !isClosed else { return }
        isOver = true
        closed(code: code)
    }
}

/// Where a client stream's outgoing bytes come from: asked when the peer's window and the connection's output have
/// room.
public protocol HTTP2Body: AnyObject {
    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead
}

/// What the owner of a client's stream is told. On the loop.
public protocol HTTP2StreamOwner: AnyObject {
    func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream)
    /// Bytes of the body, valid during the call; ``HTTP2Stream/consume(_:)`` lets the peer send as many more.
    func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream)
    func receivedEnd(_ stream: HTTP2Stream)
    /// The stream is over: 0 when it ended well. Told once, last.
    func closed(_ stream: HTTP2Stream, code: UInt32)
}

/// A client's stream: tells its owner, and has its bytes from a body.
final class HTTP2ClientStream: HTTP2Stream {
    private var owner: (any HTTP2StreamOwner)?
    private var body: (any HTTP2Body)?

    init(_ connection: HTTP2Connection, owner: any HTTP2StreamOwner, body: (any HTTP2Body)?) {
        self.owner = owner
        self.body = body
        super.init(connection)
    }

    override func received(fields: HTTP2FieldBlock, endsStream: Bool) {
        owner?.received(headers: fields.headers, endsStream: endsStream, self)
    }

    override func received(data: UnsafeRawBufferPointer) {
        guard let owner else { return consume(data.count) }
        owner.received(data: data, self)
    }

    override func receivedEnd() { owner?.receivedEnd(self) }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> HTTP2BodyRead {
        body?.read(into: buffer, stream: self) ?? .end(trailers: nil)
    }

    override func closed(code: UInt32) {
        let owner = owner
        self.owner = nil
        body = nil
        owner?.closed(self, code: code)
    }
}
