// Cassandra's native protocol, versions 4 and 5 (native_protocol_v4.spec, native_protocol_v5.spec of Apache Cassandra):
// frames, checksummed segments, requests, responses, values of all types and the partitioner's token. Pure: bytes in,
// values out, and back, both ways, so that a server can be written with it as well. Feeds Network/CassandraCQL.

/// The versions that are spoken. Raw values are the wire's.
public enum CQLVersion: UInt8, Comparable, CaseIterable, Sendable {
    /// Cassandra 2.2 and newer.
    case v4 = 4
    /// Cassandra 4.0 and newer: checksummed segments, and result metadata that follows schema changes.
    case v5 = 5

    public static func < (a: CQLVersion, b: CQLVersion) -> Bool { a.rawValue < b.rawValue }
}

/// What a frame is (2.4 of the specification).
public enum CQLOpcode: UInt8, CaseIterable, Sendable {
    case error = 0x00
    case startup = 0x01
    case ready = 0x02
    case authenticate = 0x03
    case options = 0x05
    case supported = 0x06
    case query = 0x07
    case result = 0x08
    case prepare = 0x09
    case execute = 0x0a
    case register = 0x0b
    case event = 0x0c
    case batch = 0x0d
    case authChallenge = 0x0e
    case authResponse = 0x0f
    case authSuccess = 0x10

    /// Whether the server sends it.
    public var isResponse: Bool {
        switch self {
        case .error, .ready, .authenticate, .supported, .result, .event, .authChallenge, .authSuccess: true
        default: false
        }
    }
}

/// How many replicas must answer. Raw values are the wire's.
public enum CQLConsistency: UInt16, CaseIterable, Sendable {
    case any = 0x0000
    case one = 0x0001
    case two = 0x0002
    case three = 0x0003
    case quorum = 0x0004
    case all = 0x0005
    case localQuorum = 0x0006
    case eachQuorum = 0x0007
    case serial = 0x0008
    case localSerial = 0x0009
    case localOne = 0x000a

    /// As CQL writes it.
    public var name: String {
        switch self {
        case .any: "ANY"
        case .one: "ONE"
        case .two: "TWO"
        case .three: "THREE"
        case .quorum: "QUORUM"
        case .all: "ALL"
        case .localQuorum: "LOCAL_QUORUM"
        case .eachQuorum: "EACH_QUORUM"
        case .serial: "SERIAL"
        case .localSerial: "LOCAL_SERIAL"
        case .localOne: "LOCAL_ONE"
        }
    }

    /// nil for a name that is none; case does not matter.
    public init?(name: String) {
        let upper = name.uppercased()
        guard let match = CQLConsistency.allCases.first(where: { $0.name == upper }) else { return nil }
        self = match
    }

    /// Whether it counts replicas of the coordinator's data centre only.
    public var isLocal: Bool { self == .localOne || self == .localQuorum || self == .localSerial }
}

/// Limits of what is read. What is larger is refused with a ``CQLFormatError``.
public struct CQLLimits: Sendable {
    /// Bytes of a frame's body, before and after compression. Cassandra's own limit is 256 MiB.
    public var frameBytesMax = 256 << 20
    /// How deep types may lie in each other.
    public static let typeDepthMax = 16
    /// Columns of a result, fields of a type.
    public static let columnsMax = 65_536

    public init() {}
}

/// Why bytes are none of the protocol's. Nothing can be read after it: the connection has to end.
public struct CQLFormatError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of thing is wrong.
    public enum Code: String, Sendable {
        /// The bytes end before what they announce.
        case truncated
        /// A length, count or depth past its limit.
        case tooLarge
        /// A number that the protocol does not know there.
        case unknown
        /// A value that cannot be.
        case invalid
        /// A checksum that does not match.
        case checksum
        /// Compressed bytes that do not decompress.
        case compression
    }

    public let code: Code
    /// Bytes from the start of what was read: a frame's body, a segment, a value.
    public let position: Int
    public let message: String

    public init(_ code: Code, at position: Int, _ message: String) {
        self.code = code
        self.position = position
        self.message = message
    }

    public var description: String { "\(message) (at byte \(position))" }
}
