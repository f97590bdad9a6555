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

/// Where a generated server stub registers its handlers.
public protocol RPCRegistry {
    mutating func unary<Request, Response>(
        _ method: RPCMethod<Request, Response>, _ handler: @escaping @Sendable (Request) async throws -> Response)
    mutating func serverStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (Request) -> AsyncThrowingStream<Response, any Error>)
    mutating func clientStreaming<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler: @escaping @Sendable (AsyncThrowingStream<Request, any Error>) async throws -> Response)
    mutating func bidirectional<Request, Response>(
        _ method: RPCMethod<Request, Response>,
        _ handler:
            @escaping @Sendable (AsyncThrowingStream<Request, any Error>) -> AsyncThrowingStream<Response, any Error>)
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
