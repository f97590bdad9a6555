import EventLoop

/// How one call is made.
public struct GRPCCallOptions: Sendable {
    /// From the call's beginning to its end, all attempts and waits included; sent to the server as `grpc-timeout`.
    /// nil: no deadline.
    public var timeoutMilliseconds: Int?
    /// Wait for a connection, within the deadline, instead of failing when there is none.
    public var waitsForReady = false
    /// More attempts after a failure. Only for methods that may be executed twice.
    public var retry: GRPCRetryPolicy?
    /// More attempts beside a slow one, in place of ``retry``. Only for methods that may be executed twice.
    public var hedging: GRPCHedgingPolicy?
    /// Compresses requests of 256 bytes and more where that makes them smaller, which servers such as Tapedeck's take
    /// as the wish for compressed responses. A server that does not know it answers UNIMPLEMENTED. nil: as they are.
    /// Compressed responses are taken in either case.
    public var compression: GRPCCompression?
    /// Sent with the call. Names are lower case.
    public var metadata = GRPCMetadata()
    /// What proves who calls, sent as `authorization: Bearer TOKEN` where ``metadata`` has no `authorization`. Asked on
    /// the channel's loop when an attempt begins, so that it may be renewed; it must not wait. nil: none is sent.
    public var token: (@Sendable () -> String?)?

    public init(timeoutMilliseconds: Int? = nil) { self.timeoutMilliseconds = timeoutMilliseconds }
}

/// How a channel connects and what its calls get by default.
public struct GRPCChannelOptions: Sendable {
    public var connection = GRPCConnectionOptions()
    public var balancing = GRPCBalancing.roundRobin
    /// Between tries to connect to an address, and to resolve a name.
    public var backoff = GRPCBackoff()
    /// Names are resolved again at least this often, so that new servers get their share of a long-lived channel.
    public var resolutionIntervalMilliseconds = 30_000
    /// Names are not resolved oftener than this, however many connections end; after a failure ``backoff`` decides.
    public var resolutionPauseMilliseconds = 30_000
    /// Wraps the bytes of each connection, as TLS does; the argument is the target's name without port.
    public var secure: (@Sendable (any ByteStream, _ serverName: String) -> any ByteStream)?
    /// Finds the addresses of names.
    public var resolver: any GRPCResolver = GRPCSystemResolver()
    public var transport: any GRPCTransport = GRPCSockets()
    /// Watches `grpc.health.v1.Health` for this service on each connection and leaves out those that do not serve; nil:
    /// no health checks. A server without the service counts as serving.
    public var healthService: String?
    /// Options of single methods, by path; ``calls`` for all others.
    public var methods: [String: GRPCCallOptions] = [:]
    public var calls = GRPCCallOptions()
    /// Decides all jitter, and where round-robin begins.
    public var seed: UInt64 = RandomSeed.make()
    public var retryThrottle = GRPCRetryThrottle()
    /// Bytes of requests kept for further attempts; a call that sends more is not tried again.
    public var retryBytesMax = 256 << 10
    /// Bytes of responses that wait for their reader before the server feels it, besides the stream's window.
    public var readBytesMax = 256 << 10

    public init() {}

    /// The options of a method's calls.
    public func call(_ path: String) -> GRPCCallOptions { methods[path] ?? calls }
}
