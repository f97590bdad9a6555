/// Sees every call of a server: may refuse it when it begins, and hears what passes and how it ends. Made once per loop
/// and called on it.
///
/// Interceptors stand in a row: `begin` is asked in order, `ended` is told in reverse order to those whose `begin` was
/// asked.
public protocol ServerInterceptor: AnyObject {
    /// What it wants to hear of each call besides its beginning; all, where it does not say.
    var hears: CallEvents { get }
    /// Told once, before any call: the calls of its loop, for one that looks at them later.
    func watch(_ calls: ServerCalls)
    /// The request's headers are there. A status refuses the call; interceptors behind it are not asked then.
    func begin(_ call: ServerCall) -> GRPCStatus?
    /// Request messages arrived, with the bytes of their payloads.
    func received(_ call: ServerCall, messages: Int, bytes: Int)
    /// Response messages were handed to the connection, with the bytes of their frames.
    func sent(_ call: ServerCall, messages: Int, bytes: Int)
    /// The call is over. Told once.
    func ended(_ call: ServerCall, _ status: GRPCStatus)
}

extension ServerInterceptor {
    public var hears: CallEvents { .all }
    public func watch(_ calls: ServerCalls) {}
    public func begin(_ call: ServerCall) -> GRPCStatus? { nil }
    public func received(_ call: ServerCall, messages: Int, bytes: Int) {}
    public func sent(_ call: ServerCall, messages: Int, bytes: Int) {}
    public func ended(_ call: ServerCall, _ status: GRPCStatus) {}
}

/// What an interceptor hears of a call.
public struct CallEvents: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Request messages of calls whose requests or responses are a stream, and of the others.
    public static let receivedOnStreams = CallEvents(rawValue: 1)
    public static let receivedOnOthers = CallEvents(rawValue: 2)
    public static let sent = CallEvents(rawValue: 4)
    /// The ends of calls with a stream, and of the others.
    public static let endedStreams = CallEvents(rawValue: 8)
    public static let endedOthers = CallEvents(rawValue: 16)
    public static let all = CallEvents(rawValue: 31)
}

/// Who calls, as an authenticating interceptor found it.
public struct CallerIdentity: Hashable, Sendable {
    /// What proved it.
    public enum Source: String, Hashable, Sendable {
        case certificate, token, anonymous
    }

    /// Unique among callers, for limits, logs and lists: a SPIFFE id, a DNS name, a token's name.
    public let name: String
    public let source: Source

    public init(name: String, source: Source) {
        self.name = name
        self.source = source
    }
}

/// Who a caller is, and what it may see and do beyond calling a method. Asked on the call's loop.
public protocol CallerPermissions: AnyObject {
    var identity: CallerIdentity { get }
    func allows(exchange: String, symbol: String) -> Bool
    func allows(account: String) -> Bool
    /// Whether every instrument is allowed, so that nobody needs to ask for each.
    var allowsEverySymbol: Bool { get }
}

/// Who takes the messages of a call whose requests are a stream. Called on the call's loop.
public protocol RequestSink: AnyObject {
    /// One message, valid during the call.
    func received(message: UnsafeRawBufferPointer, _ call: ServerCall)
    /// The client sends no more.
    func receivedEnd(_ call: ServerCall)
}
