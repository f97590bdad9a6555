import CQLFrames

/// Why a connection ended, or never came to be.
public struct CQLConnectionError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of end it is.
    public enum Code: String, Sendable {
        /// No bytes go there and back.
        case unreachable
        /// The server does not speak the version.
        case unsupportedVersion
        /// Name and password were not taken, or the server wants some.
        case authentication
        /// The server said or sent what it must not.
        case `protocol`
        /// It did not answer in time.
        case silent
        /// The stream ended.
        case lost
        /// Ended by its owner.
        case closed
    }

    public let code: Code
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

/// Why a request has no result.
public struct CQLRequestError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure it is.
    public enum Code: String, Sendable {
        /// The server's answer is an error: see ``CQLRequestError/server``.
        case server
        /// No node could be asked.
        case noNode
        /// No answer in the request's time.
        case timeout
        /// The connection ended before the answer.
        case connectionLost
        /// Too many requests wait already.
        case overloaded
        /// A value is none of its column's type, or the request too large.
        case value
        /// An answer that this client cannot read.
        case answer
        /// The session was closed.
        case closed
    }

    public let code: Code
    public let message: String
    /// What the server said.
    public let server: CQLServerError?
    /// Whether the statement may have been carried out all the same.
    public let mayHaveBeenDone: Bool

    init(_ code: Code, _ message: String, server: CQLServerError? = nil, mayHaveBeenDone: Bool = false) {
        self.code = code
        self.message = message
        self.server = server
        self.mayHaveBeenDone = mayHaveBeenDone
    }

    /// Of a session that is closed.
    public static let closed = CQLRequestError(.closed, "the session is closed")

    /// Whether the same request can succeed later without anybody changing anything.
    public var isRetryable: Bool {
        switch code {
        case .noNode, .timeout, .connectionLost, .overloaded: true
        case .value, .answer, .closed: false
        case .server:
            switch server?.detail {
            case .unavailable, .overloaded, .bootstrapping, .truncating, .writeTimeout, .readTimeout, .readFailure,
                .writeFailure, .server, .changeDataCaptureFailure, .lightweightTransactionUnknown:
                true
            default: false
            }
        }
    }

    public var description: String { message }
}
