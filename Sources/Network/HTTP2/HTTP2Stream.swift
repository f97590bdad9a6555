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

/// Where a stream's outgoing bytes come from: asked when the peer's window and the connection's output have room.
public protocol HTTP2Body: AnyObject {
    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead
}

/// What a stream's owner is told. On the loop.
public protocol HTTP2StreamOwner: AnyObject {
    /// A header block as bytes, valid during the call. What it does by itself is ``received(headers:endsStream:_:)``.
    func received(fields: HTTP2FieldBlock, endsStream: Bool, _ stream: HTTP2Stream)
    func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream)
    /// A header block larger than the limit came; by itself, the stream is reset.
    func receivedTooLargeHeaders(_ stream: HTTP2Stream)
    /// Bytes of the body, valid during the call; ``HTTP2Stream/consume(_:)`` lets the peer send as many more.
    func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream)
    func receivedEnd(_ stream: HTTP2Stream)
    /// The stream is over: 0 when it ended well. Told once, last.
    func closed(_ stream: HTTP2Stream, code: UInt32)
}

extension HTTP2StreamOwner {
    public func received(fields: HTTP2FieldBlock, endsStream: Bool, _ stream: HTTP2Stream) {
        received(headers: fields.headers, endsStream: endsStream, stream)
    }
    public func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {}
    public func receivedTooLargeHeaders(_ stream: HTTP2Stream) { stream.reset(HTTP2ErrorCode.enhanceYourCalm) }
}

/// One request and its response. Confined to its connection's loop.
public final class HTTP2Stream {
    @exclusivity(unchecked) public internal(set) var id: Int32 = 0
    public let connection: HTTP2Connection
    @exclusivity(unchecked) public var owner: (any HTTP2StreamOwner)?
    @exclusivity(unchecked) public var body: (any HTTP2Body)?
    @exclusivity(unchecked) public private(set) var isClosed = false
    @exclusivity(unchecked) var isOpened = false

    init(_ connection: HTTP2Connection) { self.connection = connection }

    /// Server: sends the response's headers; the body follows unless the stream ends with them.
    public func respond(_ headers: [HTTP2Header], endsStream: Bool = false) {
        withFields(headers) { connection.respond(self, $0, $1, endsStream: endsStream) }
    }

    /// Server: sends headers that are the same every time; the body follows unless the stream ends with them.
    public func respond(_ headers: HTTP2FixedHeaders, endsStream: Bool = false) {
        connection.respond(self, headers.fields, headers.count, endsStream: endsStream)
    }

    /// The body has more.
    public func resume() { if !isClosed { connection.resume(self) } }

    /// Ends the stream abruptly; what was not sent yet is dropped.
    public func reset(_ code: UInt32) { if !isClosed { connection.reset(self, code) } }

    /// Server: the rest of the request is not wanted once the response is sent to its end.
    public func stopRequestAfterResponse() { if !isClosed { connection.stopAfterResponse(self) } }

    /// Whether the peer's windows take bytes of the body now.
    public var isWindowOpen: Bool { !isClosed && connection.isWindowOpen(self) }

    /// Lets the peer send as many bytes more. What an owner kept back has to be given back when the stream is closed
    /// too: it counts for the whole connection.
    public func consume(_ count: Int) { if count > 0 { connection.consume(self, count) } }

    /// Counts bytes as taken from the connection but not from the stream: the peer may go on with other streams.
    public func consumeFromConnection(_ count: Int) { if !isClosed { connection.consumeConnection(count) } }

    /// Lets the peer send as many bytes more on this stream, after ``consumeFromConnection(_:)``.
    public func consumeFromStream(_ count: Int) { if !isClosed { connection.consumeStream(self, count) } }

    func wasClosed(_ code: UInt32) {
        guard !isClosed else { return }
        isClosed = true
        let owner = owner
        self.owner = nil
        body = nil
        owner?.closed(self, code: code)
    }
}
