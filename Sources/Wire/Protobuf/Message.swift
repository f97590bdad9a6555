// The protobuf runtime behind the generated types: values over bytes, no reflection, no allocation that a field does
// not need. Fed by protoc-gen-tapedeck; used by MarketProto and everything that speaks it.

/// A generated message: a value with presence, its unknown fields kept.
public protocol ProtoMessage: Hashable, Sendable {
    /// Full name, as `financial.marketdata.v1.PriceUpdate`.
    static var protoName: String { get }
    init()
    /// Fields that the schema does not know, as they came.
    var unknownFields: UnknownFields { get set }
    /// Writes all fields in the order of their numbers, maps by key, unknown fields last: the same value, the same
    /// bytes.
    func write(to writer: inout ProtoWriter)
    /// Reads fields up to the reader's end: the last of a repeated scalar counts, messages merge, lists grow.
    mutating func merge(from reader: inout ProtoReader) throws(DecodingError)
    /// Writes the proto3 JSON mapping.
    func writeJSON(to writer: inout JSONWriter)
}

extension ProtoMessage {
    /// Decodes a whole message. The bytes are not kept. Refuses with ``DecodingError`` and the position.
    @inlinable
    public init(decoding bytes: UnsafeRawBufferPointer, limits: DecodingLimits = DecodingLimits()) throws(DecodingError)
    {
        self.init()
        guard bytes.count <= limits.bytesMax else { throw DecodingError(.tooLarge, position: 0) }
        var reader = ProtoReader(bytes, depthLeft: limits.depthMax)
        try merge(from: &reader)
    }

    public init(decoding bytes: [UInt8], limits: DecodingLimits = DecodingLimits()) throws(DecodingError) {
        let result = bytes.withUnsafeBytes { buffer -> Result<Self, DecodingError> in
            do throws(DecodingError) {
                return .success(try Self(decoding: buffer, limits: limits))
            } catch {
                return .failure(error)
            }
        }
        self = try result.get()
    }

    /// Writes the message to the start of `buffer` and returns its length in bytes; nil where it does not fit.
    @inlinable
    public func encode(into buffer: UnsafeMutableRawBufferPointer) -> Int? {
        ProtoWriter.fields(into: buffer) { write(to: &$0) }
    }

    /// The encoded message.
    public func encodedBytes() -> [UInt8] { withEncodedBytes { Array($0) } }

    /// Calls `body` with the encoded message, whose bytes are valid during the call.
    @inlinable
    public func withEncodedBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        var room = 1024
        while true {
            let result = withUnsafeTemporaryAllocation(byteCount: room, alignment: 1) { buffer in
                encode(into: buffer).map { body(UnsafeRawBufferPointer(rebasing: buffer[..<$0])) }
            }
            if let result { return result }
            room *= 4
        }
    }

    /// The proto3 JSON mapping, on one line: 64-bit integers as strings, enums by name, times as RFC 3339, absent
    /// fields left out.
    public func json() -> String {
        var writer = JSONWriter()
        writeJSON(to: &writer)
        return writer.text
    }
}

/// A generated enum. Numbers that the schema does not know are kept.
public protocol ProtoEnum: Hashable, Sendable {
    init(rawValue: Int32)
    var rawValue: Int32 { get }
    /// The name in the schema; nil for an unknown number.
    var protoName: String? { get }
}

/// Fields that a schema does not know, tags included.
public struct UnknownFields: Hashable, Sendable {
    public var bytes: [UInt8] = []
    @inlinable public init() {}
    @inlinable public var count: Int { bytes.count }
}

/// What a decoder accepts.
public struct DecodingLimits: Sendable {
    /// Bytes of a whole message.
    public var bytesMax: Int
    /// Messages within messages.
    public var depthMax: Int

    @inlinable
    public init(bytesMax: Int = 64 << 20, depthMax: Int = 100) {
        self.bytesMax = bytesMax
        self.depthMax = depthMax
    }
}

/// Why bytes are not a message, and where.
public struct DecodingError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What is wrong.
    public enum Code: String, Sendable {
        case truncated = "the bytes end inside a field"
        case overlongVarint = "a varint of more than ten bytes"
        case invalidTag = "a tag with field number 0 or above 2^29-1, or an unknown wire type"
        case unmatchedGroupEnd = "the end of a group that was not begun"
        case invalidUTF8 = "a string that is not UTF-8"
        case tooDeep = "messages nested too deeply"
        case tooLarge = "more bytes than the limit"
    }

    public let code: Code
    /// Offset in the bytes given to the decoder.
    public let position: Int

    public init(_ code: Code, position: Int) {
        self.code = code
        self.position = position
    }

    public var description: String { "\(code.rawValue), at byte \(position)" }
}

/// A message field whose type contains itself.
public struct ProtoBox<Message: ProtoMessage>: Hashable, Sendable {
    private final class Storage: Sendable {
        let value: Message
        init(_ value: Message) { self.value = value }
    }
    private let storage: Storage

    public init(_ value: Message) { storage = Storage(value) }
    public var value: Message { storage.value }
    public static func == (a: ProtoBox, b: ProtoBox) -> Bool { a.value == b.value }
    public func hash(into hasher: inout Hasher) { hasher.combine(value) }
}
