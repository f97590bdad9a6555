/// Bytes that are no message of the protocol: where, and what was expected.
public struct KafkaFormatError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Position in what was read.
    public let position: Int
    public let what: String

    init(at position: Int, _ what: String) {
        self.position = position
        self.what = what
    }

    public var description: String { "at byte \(position): \(what)" }
}

/// Reads borrowed bytes forward. Any bytes may be given; none trap.
public struct KafkaReader {
    public let bytes: UnsafeRawBufferPointer
    public private(set) var position = 0

    public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    public var left: Int { bytes.count - position }

    func fail(_ what: String) -> KafkaFormatError { KafkaFormatError(at: position, what) }

    @inline(__always)
    mutating func integer<T: FixedWidthInteger>(_: T.Type = T.self) throws(KafkaFormatError) -> T {
        guard left >= MemoryLayout<T>.size else { throw fail("\(T.self) is cut off") }
        defer { position &+= MemoryLayout<T>.size }
        return T(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    @inline(__always)
    mutating func take(_ count: Int) throws(KafkaFormatError) -> UnsafeRawBufferPointer {
        guard count >= 0, left >= count else { throw fail("\(count) bytes where \(left) are left") }
        defer { position &+= count }
        return UnsafeRawBufferPointer(rebasing: bytes[position..<(position + count)])
    }

    mutating func skip(_ count: Int) throws(KafkaFormatError) { _ = try take(count) }

    /// STRING
    mutating func string() throws(KafkaFormatError) -> String {
        guard let text = try optionalString() else { throw fail("no text where there must be some") }
        return text
    }

    /// NULLABLE_STRING
    mutating func optionalString() throws(KafkaFormatError) -> String? {
        let count = Int(try integer(Int16.self))
        return count < 0 ? nil : String(decoding: try take(count), as: UTF8.self)
    }

    /// NULLABLE_BYTES, RECORDS: borrowed.
    mutating func optionalBytes() throws(KafkaFormatError) -> UnsafeRawBufferPointer? {
        let count = Int(try integer(Int32.self))
        return count < 0 ? nil : try take(count)
    }

    /// The number of elements of an ARRAY, each of which takes so many bytes at least; null counts as none.
    mutating func count(least size: Int) throws(KafkaFormatError) -> Int {
        let count = Int(try integer(Int32.self))
        guard count <= left / max(size, 1) else { throw fail("\(count) elements in \(left) bytes") }
        return max(count, 0)
    }

    /// VARINT, VARLONG
    @inline(__always)
    mutating func varint() throws(KafkaFormatError) -> Int {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            guard position < bytes.count, shift < 64 else { throw fail("a varint that has no end") }
            let byte = bytes[position]
            position &+= 1
            value |= UInt64(byte & 0x7f) &<< shift
            if byte < 0x80 { break }
            shift &+= 7
        }
        return Int(Int64(bitPattern: value &>> 1) ^ -Int64(bitPattern: value & 1))
    }
}
