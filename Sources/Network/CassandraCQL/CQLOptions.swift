// A client of Apache Cassandra's native protocol, usable without anything else of this package but what it imports:
// `CQLFrames` is the codec, `CQLConnectionMachine` a connection without I/O, `CQLConnection` puts it over a stream of
// bytes, `CQLSessionCore` keeps a cluster's connections on one loop, and `CassandraSession` is what users call, from
// any thread.

import CQLFrames

/// Who a client says it is, to `PasswordAuthenticator`.
public struct CQLCredentials: Hashable, Sendable {
    public var user: String
    public var password: String

    public init(user: String, password: String) {
        self.user = user
        self.password = password
    }

    /// SASL PLAIN.
    var token: [UInt8] { [0] + Array(user.utf8) + [0] + Array(password.utf8) }
}

/// What connections speak, and their limits. Times are milliseconds.
public struct CQLConnectionOptions: Sendable {
    /// The newest version that is tried; where a server does not know it, the one before.
    public var version = CQLVersion.v5
    public var compression = CQLCompression.none
    public var credentials: CQLCredentials?
    /// Requests in flight on one connection; more wait. At most 32,768.
    public var requestsMax = 2048
    /// Bytes that the socket has not taken before requests wait.
    public var waitingBytesMax = 4 << 20
    /// Requests that were given up and not answered, by which a connection is replaced.
    public var orphansMax = 1024
    /// From the first byte to the server's word that it is ready.
    public var handshakeMilliseconds = 10_000
    /// A connection that is silent for so long is asked for a sign of life (OPTIONS); 0: never.
    public var heartbeatMilliseconds = 30_000
    /// Without an answer for so long it is replaced.
    public var heartbeatTimeoutMilliseconds = 5_000
    public var limits = CQLLimits()
    /// What the server is told of the client.
    public var applicationName: String?

    public init() {}
}

/// How a session finds and uses a cluster. Times are milliseconds.
public struct CQLSessionOptions: Sendable {
    /// Where a cluster is asked for its nodes.
    public var contactPoints: [CQLAddress]
    /// The data centre whose nodes are used; nil: that of the first node that answers.
    public var localDataCenter: String?
    /// Nodes of other data centres are used where none of the local one is left.
    public var usesRemoteDataCenters = false
    public var connection = CQLConnectionOptions()
    public var connectionsPerNode = 1
    /// Requests that wait for a free place on a connection; more are refused.
    public var queueMax = 65_536
    /// A request with all its retries.
    public var requestMilliseconds = 10_000
    /// The first time to find any node.
    public var openMilliseconds = 15_000
    public var backoff = CQLBackoff()
    /// News of nodes and schema are answered by reading them anew, so much later.
    public var refreshMilliseconds = 200
    /// Decides jitter and where rounds begin; nil: another one each time.
    public var seed: UInt64?

    public init(contactPoints: [CQLAddress]) { self.contactPoints = contactPoints }
}

/// A host, numeric or a name, and a port.
public struct CQLAddress: Hashable, Sendable, CustomStringConvertible {
    public static let defaultPort = 9042

    public var host: String
    public var port: Int

    public init(host: String, port: Int = CQLAddress.defaultPort) {
        self.host = host
        self.port = port
    }

    /// `HOST`, `HOST:PORT` or `[IPV6]:PORT`; nil for other text.
    public init?(_ text: String) {
        var host = Substring(text)
        var port = CQLAddress.defaultPort
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            if !rest.isEmpty {
                guard rest.hasPrefix(":"), let number = Int(rest.dropFirst()) else { return nil }
                port = number
            }
        } else if let colon = text.lastIndex(of: ":"), text.firstIndex(of: ":") == colon {
            guard let number = Int(text[text.index(after: colon)...]) else { return nil }
            host = text[..<colon]
            port = number
        }
        guard !host.isEmpty, (1...65_535).contains(port) else { return nil }
        self.init(host: String(host), port: port)
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// Exponential backoff with jitter between tries to connect.
public struct CQLBackoff: Hashable, Sendable {
    public var initialMilliseconds = 200
    public var maxMilliseconds = 30_000
    /// A wait is this much shorter or longer at most.
    public var jitterPercent = 20

    public init() {}

    /// The wait after so many failures in a row, from 1.
    func milliseconds(afterFailures failures: Int, using random: inout some RandomNumberGenerator) -> Int {
        var wait = max(1, initialMilliseconds)
        var failure = 1
        while failure < failures, wait < maxMilliseconds {
            wait = min(maxMilliseconds, wait * 2)
            failure += 1
        }
        let spread = wait * jitterPercent / 100
        return wait + (spread > 0 ? Int.random(in: -spread...spread, using: &random) : 0)
    }
}
