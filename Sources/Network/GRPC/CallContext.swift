import EventLoop
import Synchronization

/// What an async handler may know of its call, and add to its answer. From any task.
public final class GRPCCallContext: Sendable {
    /// The call that the current task works for; nil outside a handler.
    @TaskLocal public static var current: GRPCCallContext?

    public let method: GRPCMethod
    /// Request headers, without those of HTTP/2 and gRPC themselves.
    public let metadata: GRPCMetadata
    public let identity: CallerIdentity?
    /// Numeric address of the client, without the port.
    public let peerAddress: String
    /// When the call's time is over, in the milliseconds of its loop; nil where the client set no deadline.
    public let deadlineMilliseconds: UInt64?
    private let added = Mutex((headers: GRPCMetadata(), trailers: GRPCMetadata()))
    private let compressed = Mutex<Bool?>(nil)
    private let bridge: AsyncCall

    init(_ call: ServerCall, _ method: GRPCMethod, _ bridge: AsyncCall) {
        self.method = method
        metadata = call.metadata
        identity = call.identity
        peerAddress = call.peerAddress
        deadlineMilliseconds = call.deadlineMilliseconds
        self.bridge = bridge
    }

    /// Sent with the response's headers, that is before the first response.
    public func setResponseMetadata(_ metadata: GRPCMetadata) { added.withLock { $0.headers = metadata } }

    /// Sent with the trailers of a call that ends well.
    public func setTrailers(_ metadata: GRPCMetadata) { added.withLock { $0.trailers = metadata } }

    /// Whether the responses from the next one on are compressed, where responses are compressed at all; nil, as at
    /// first: by their size.
    public func setCompressed(_ isCompressed: Bool?) { compressed.withLock { $0 = isCompressed } }

    var isCompressed: Bool? { compressed.withLock { $0 } }

    /// Asks something of the call itself, on its loop: its permissions, for instance, or, before
    /// the first response, that responses be compressed (``ServerCall/compressResponses(_:)``).
    public func withCall<Result: Sendable>(_ body: @escaping @Sendable (ServerCall) -> Result) async -> Result {
        await bridge.ask(body)
    }

    /// Options of a call that is made for this one: it ends no later than this call does, and belongs to the same
    /// trace (`traceparent` and `tracestate`, unless the options have a `traceparent` of their own). Nothing else of
    /// the caller's is passed on. That the caller cancels reaches the call as the end of the handler's task.
    public func callOptions(_ options: GRPCCallOptions = GRPCCallOptions()) async -> GRPCCallOptions {
        var options = options
        let left = await bridge.ask { call -> Int? in
            guard let deadline = call.deadlineMilliseconds else { return nil }
            let now = call.loop.nowMilliseconds
            return deadline > now ? Int(clamping: deadline - now) : 0
        }
        if let left { options.timeoutMilliseconds = min(left, options.timeoutMilliseconds ?? left) }
        if options.metadata.values("traceparent").isEmpty {
            for entry in metadata.entries where entry.name == "traceparent" || entry.name == "tracestate" {
                options.metadata.add(entry.name, entry.value)
            }
        }
        return options
    }

    /// On the loop, before anything is sent.
    func apply(to call: ServerCall) {
        added.withLock {
            call.responseMetadata = $0.headers
            call.responseTrailers = $0.trailers
        }
    }
}

/// A status with trailers, for a handler to throw.
public struct GRPCFailure: Error, Sendable {
    public let status: GRPCStatus
    public let trailers: GRPCMetadata

    public init(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        self.status = status
        self.trailers = trailers
    }
}
