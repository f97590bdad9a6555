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
}

/// Where a stream's outgoing bytes come from: asked when the peer's window and the connection's output have room.
public protocol HTTP2Body: AnyObject {
    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead
}

/// What a stream's owner is told. On the loop.
public protocol HTTP2StreamOwner: AnyObject {
    func received(headers: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream)
    /// Bytes of the body, valid during the call; ``HTTP2Stream/consume(_:)`` lets the peer send as many more.
    func received(data: UnsafeRawBufferPointer, _ stream: HTTP2Stream)
    func receivedEnd(_ stream: HTTP2Stream)
    /// The stream is over: 0 when it ended well. Told once, last.
    func closed(_ stream: HTTP2Stream, code: UInt32)
}

/// One request and its response. Confined to its connection's loop.
public final class HTTP2Stream {
    public internal(set) var id: Int32 = 0
    public let connection: HTTP2Connection
    public var owner: (any HTTP2StreamOwner)?
    public var body: (any HTTP2Body)?
    public internal(set) var requestHeaders: [HTTP2Header] = []
    public private(set) var isClosed = false
    var incoming: [HTTP2Header] = []

    init(_ connection: HTTP2Connection) { self.connection = connection }

    /// Server: sends the response's headers; the body follows unless the stream ends with them.
    public func respond(_ headers: [HTTP2Header], endsStream: Bool = false) {
        connection.respond(self, headers, endsStream: endsStream)
    }

    /// The body has more.
    public func resume() { if !isClosed { connection.resume(self) } }

    /// Ends the stream abruptly.
    public func reset(_ code: UInt32) { if !isClosed { connection.reset(self, code) } }

    /// Lets the peer send as many bytes more.
    public func consume(_ count: Int) { if !isClosed { connection.consume(self, count) } }

    func wasClosed(_ code: UInt32) {
        guard !isClosed else { return }
        isClosed = true
        let owner = owner
        self.owner = nil
        body = nil
        owner?.closed(self, code: code)
    }
}
