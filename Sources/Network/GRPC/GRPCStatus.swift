import HTTP2

/// How a call ended (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md).
public struct GRPCStatus: Error, Hashable, Sendable, CustomStringConvertible {
    /// A status code; unknown numbers are kept.
    public struct Code: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
        public let rawValue: Int
        public init(rawValue: Int) { self.rawValue = rawValue }
        private init(_ rawValue: Int) { self.rawValue = rawValue }

        public static let ok = Code(0)
        public static let cancelled = Code(1)
        public static let unknown = Code(2)
        public static let invalidArgument = Code(3)
        public static let deadlineExceeded = Code(4)
        public static let notFound = Code(5)
        public static let alreadyExists = Code(6)
        public static let permissionDenied = Code(7)
        public static let resourceExhausted = Code(8)
        public static let failedPrecondition = Code(9)
        public static let aborted = Code(10)
        public static let outOfRange = Code(11)
        public static let unimplemented = Code(12)
        public static let internalError = Code(13)
        public static let unavailable = Code(14)
        public static let dataLoss = Code(15)
        public static let unauthenticated = Code(16)

        private static let names = [
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
            "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
        ]
        public var description: String {
            Code.names.indices.contains(rawValue) ? Code.names[rawValue] : "code \(rawValue)"
        }
    }

    public let code: Code
    /// For people.
    public let message: String

    public init(_ code: Code, _ message: String = "") {
        self.code = code
        self.message = message
    }

    public static let ok = GRPCStatus(.ok)

    public var isOK: Bool { code == .ok }
    public var description: String { message.isEmpty ? "\(code)" : "\(code): \(message)" }
}

/// Metadata of a call: headers or trailers. Names are lower case; those that end in `-bin` carry bytes.
public struct GRPCMetadata: Hashable, Sendable {
    public private(set) var entries: [(name: String, value: String)] = []

    public init() {}

    public static func == (a: GRPCMetadata, b: GRPCMetadata) -> Bool {
        a.entries.elementsEqual(b.entries) { $0 == $1 }
    }
    public func hash(into hasher: inout Hasher) {
        for entry in entries {
            hasher.combine(entry.name)
            hasher.combine(entry.value)
        }
    }

    /// An ASCII value; other bytes are percent-encoded.
    public mutating func add(_ name: String, _ value: String) {
        entries.append((name, PercentCoding.encode(value)))
    }

    /// Bytes, under a name that ends in `-bin`.
    public mutating func add(_ name: String, binary: [UInt8]) {
        precondition(name.hasSuffix("-bin"))
        entries.append((name, Base64.encode(binary)))
    }

    /// The values of another's names that `isTaken` says yes to, as they are.
    public mutating func add(contentsOf other: GRPCMetadata, where isTaken: (String) -> Bool) {
        entries += other.entries.filter { isTaken($0.name) }
    }

    mutating func addWire(_ name: String, _ value: String) { entries.append((name, value)) }

    /// The first value of a name.
    public func value(_ name: String) -> String? { entries.first { $0.name == name }?.value }
    /// All values of a name.
    public func values(_ name: String) -> [String] { entries.filter { $0.name == name }.map(\.value) }

    /// The bytes of the first value of a `-bin` name; nil when there is none or it is no base64.
    public func binary(_ name: String) -> [UInt8]? { binaries(name).first }

    /// The bytes of all values of a `-bin` name, those joined by commas apart; what is no base64 is left out.
    public func binaries(_ name: String) -> [[UInt8]] {
        values(name).flatMap { $0.utf8.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) }
            .compactMap { Base64.decode($0) }
    }

    var headers: [HTTP2Header] { entries.map { HTTP2Header($0.name, $0.value) } }
}
