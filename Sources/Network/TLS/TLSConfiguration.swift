// TLS by OpenSSL over memory: a connection's bytes go through a `TLSStream`, which lies over any other stream of bytes,
// so that the loop keeps its sockets and everything above sees a `ByteStream` as before. Fed by EventLoop, feeds HTTP2.

import COpenSSL

/// Versions of the protocol, older ones smaller. Older than 1.2 is never spoken.
public enum TLSVersion: Int32, Comparable, CaseIterable, Sendable {
    case tls12 = 0x0303
    case tls13 = 0x0304

    public static func < (one: TLSVersion, other: TLSVersion) -> Bool { one.rawValue < other.rawValue }
}

/// What a server asks of its clients.
public enum ClientCertificatePolicy: String, CaseIterable, Sendable {
    /// No certificate is asked for.
    case none
    /// One is asked for; a client may have none, but a bad one is refused.
    case optional
    /// Without a good one a client is refused.
    case required
}

/// A server's side of TLS. Files are PEM.
public struct TLSServerConfiguration: Sendable {
    /// The server's certificate, then those between it and the authority.
    public var certificateChainFile: String
    /// Its key, without a password.
    public var privateKeyFile: String
    /// The authorities whose clients are taken; needed unless the policy is `none`.
    public var clientAuthorityFile: String?
    public var clientCertificates: ClientCertificatePolicy
    public var versions: ClosedRange<TLSVersion> = .tls12 ... .tls13
    /// In order of preference. A client that offers none of them is refused (RFC 7301); empty asks for none.
    public var applicationProtocols = ["h2"]
    public var limits = TLSLimits()

    public init(
        certificateChainFile: String, privateKeyFile: String, clientAuthorityFile: String? = nil,
        clientCertificates: ClientCertificatePolicy = .none
    ) {
        self.certificateChainFile = certificateChainFile
        self.privateKeyFile = privateKeyFile
        self.clientAuthorityFile = clientAuthorityFile
        self.clientCertificates = clientCertificates
    }
}

/// A client's side of TLS. Files are PEM. A server's certificate is always verified, and its name compared.
public struct TLSClientConfiguration: Sendable {
    /// The name, or the numeric address, that the server's certificate must have.
    public var serverName: String
    /// The authorities that are believed; nil takes the system's.
    public var authorityFile: String?
    /// The client's own certificate and those between it and the authority, with its key; both or neither.
    public var certificateChainFile: String?
    public var privateKeyFile: String?
    public var versions: ClosedRange<TLSVersion> = .tls12 ... .tls13
    /// What is offered. A server that takes none of it is left; empty offers nothing.
    public var applicationProtocols = ["h2"]
    public var limits = TLSLimits()

    public init(
        serverName: String, authorityFile: String? = nil, certificateChainFile: String? = nil,
        privateKeyFile: String? = nil
    ) {
        self.serverName = serverName
        self.authorityFile = authorityFile
        self.certificateChainFile = certificateChainFile
        self.privateKeyFile = privateKeyFile
    }
}

/// Limits of each connection.
public struct TLSLimits: Sendable {
    /// A handshake that takes longer ends the connection.
    public var handshakeMilliseconds = 10_000
    /// Bytes that may be written before the handshake is done; more end the connection.
    public var earlyBytesMax = 1 << 20
    /// How long a closed connection stays to hand on its last bytes, so that the peer learns why it ended.
    public var lingerMilliseconds = 1000

    public init() {}
}

/// Why certificates, keys or names cannot be used.
public struct TLSError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}

/// Why handshakes failed, as an operator counts them.
public enum TLSRefusal: String, CaseIterable, Sendable {
    /// The peer's certificate is over, or not valid yet.
    case expired
    /// No authority that is believed has signed the peer's certificate.
    case unknownAuthority = "unknown_authority"
    /// The peer has no certificate, and must.
    case noCertificate = "no_certificate"
    /// The peer left, or fell silent, before the handshake was done.
    case abandoned
    case other
}

/// A handshake that was refused.
public struct TLSRefusedHandshake: Hashable, Sendable {
    /// Numeric address of the peer, without the port.
    public let peer: String
    /// Why, for people.
    public let reason: String
}

/// Handshakes since a context was made.
public struct TLSCounters: Hashable, Sendable {
    /// Those that were done, by what was agreed.
    public internal(set) var versions: [TLSVersion: Int] = [:]
    /// All that were done.
    public var handshakes: Int { versions.values.reduce(0, +) }
    public internal(set) var refused: [TLSRefusal: Int] = [:]
    /// The latest of each kind.
    public internal(set) var lastRefused: [TLSRefusal: TLSRefusedHandshake] = [:]
}
