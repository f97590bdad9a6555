/// One method of a service, as its schema defines it.
public struct RPCMethod<Request: ProtoMessage, Response: ProtoMessage>: Sendable {
    /// `/package.Service/Method`
    public let path: String
    public let clientStreaming: Bool
    public let serverStreaming: Bool

    public init(path: String, clientStreaming: Bool = false, serverStreaming: Bool = false) {
        self.path = path
        self.clientStreaming = clientStreaming
        self.serverStreaming = serverStreaming
    }
}

/// What a generated client stub calls through. Safe to use from any task; errors are the transport's.
public protocol RPCChannel: Sendable {
    func unary<Request, Response>(_ method: RPCMethod<Request, Response>, _ request: Request) async throws -> Response
    func serverStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ request: Request
    ) -> AsyncThrowingStream<Response, any Error>
    func clientStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ requests: AsyncStream<Request>
    ) async throws -> Response
    func bidirectional<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ requests: AsyncStream<Request>
    ) -> AsyncThrowingStream<Response, any Error>
}

/// The request messages of a call, in order. Asking for the next one is what lets the client send more: a handler that
/// lags slows its client down and holds nothing. For one reader.
public struct RPCRequests<Message: Sendable>: AsyncSequence, Sendable {
    /// What the sequence brings.
    public typealias Element = Message

    private let read: @Sendable () async throws -> Message?

    /// `next` gives the next message, nil after the last; it throws where the call is over.
    public init(next: @escaping @Sendable () async throws -> Message?) { read = next }

    /// Begins the sequence; once, by one task.
    public func makeAsyncIterator() -> Iterator { Iterator(read: read) }

    /// Reads the messages.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let read: @Sendable () async throws -> Message?

        public mutating func next() async throws -> Message? { try await read() }
    }
}

/// Where a handler writes the responses of a call. From any task, one write at a time to keep an order.
public struct RPCResponses<Message: Sendable>: Sendable {
    private let send: @Sendable (Message) async throws -> Void

    /// `write` sends a message, and waits while the client takes no more; it throws where the call is over.
    public init(write: @escaping @Sendable (Message) async throws -> Void) { send = write }

    /// Sends a message; waits while the client's window and the server's buffer are full. Throws `CancellationError`
    /// where the call is over.
    public func write(_ message: Message) async throws { try await send(message) }
}

/// Where a generated server stub registers its handlers. A handler runs as a task of its call, which is cancelled when
/// the call ends before it.
public protocol RPCRegistry {
    mutating func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ handler: @escaping @Sendable (Request) async throws -> Response)
    mutating func serverStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (Request, RPCResponses<Response>) async throws -> Void)
    mutating func clientStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (RPCRequests<Request>) async throws -> Response)
    mutating func bidirectional<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (RPCRequests<Request>, RPCResponses<Response>) async throws -> Void)
}

/// A `FileDescriptorProto` without source info, as reflection serves it.
public struct ProtoFile: Sendable {
    /// Path of the .proto file.
    public let name: String
    private let base64: StaticString

    public init(name: String, base64: StaticString) {
        self.name = name
        self.base64 = base64
    }

    public var descriptorBytes: [UInt8] { ProtoBase64.decode(base64) }
}
