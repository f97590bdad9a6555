/// Writes fields to memory that is known to be large enough.
@frozen
public struct ProtoWriter {
    @usableFromInline var place: UnsafeMutableRawPointer

    @inlinable
    init(_ start: UnsafeMutableRawPointer) { place = start }

    @inlinable
    public mutating func byte(_ value: UInt8) {
        place.storeBytes(of: value, as: UInt8.self)
        place += 1
    }

    @inlinable
    public mutating func varint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            byte(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        byte(UInt8(truncatingIfNeeded: value))
    }

    @inlinable public mutating func tag(_ tag: UInt32) { varint(UInt64(tag)) }
    @inlinable public mutating func int32(_ value: Int32) { varint(UInt64(bitPattern: Int64(value))) }
    @inlinable public mutating func int64(_ value: Int64) { varint(UInt64(bitPattern: value)) }
    @inlinable public mutating func uint32(_ value: UInt32) { varint(UInt64(value)) }
    @inlinable public mutating func uint64(_ value: UInt64) { varint(value) }
    @inlinable public mutating func sint32(_ value: Int32) { varint(UInt64(ProtoSize.zigzag(value))) }
    @inlinable public mutating func sint64(_ value: Int64) { varint(ProtoSize.zigzag(value)) }
    @inlinable public mutating func bool(_ value: Bool) { byte(value ? 1 : 0) }
    @inlinable public mutating func fixed32(_ value: UInt32) { fixed(value) }
    @inlinable public mutating func fixed64(_ value: UInt64) { fixed(value) }
    @inlinable public mutating func sfixed32(_ value: Int32) { fixed(value) }
    @inlinable public mutating func sfixed64(_ value: Int64) { fixed(value) }
    @inlinable public mutating func float(_ value: Float) { fixed(value.bitPattern) }
    @inlinable public mutating func double(_ value: Double) { fixed(value.bitPattern) }
    @inlinable public mutating func enumeration(_ value: some ProtoEnum) { int32(value.rawValue) }

    @inlinable
    mutating func fixed<T: FixedWidthInteger>(_ value: T) {
        place.storeBytes(of: value.littleEndian, as: T.self)
        place += MemoryLayout<T>.size
    }

    @inlinable
    public mutating func string(_ value: String) {
        var value = value
        value.withUTF8 { bytes($0) }
    }

    @inlinable
    public mutating func bytes(_ value: [UInt8]) { value.withUnsafeBufferPointer { bytes($0) } }

    @inlinable
    mutating func bytes(_ value: UnsafeBufferPointer<UInt8>) {
        varint(UInt64(value.count))
        raw(value)
    }

    @inlinable
    mutating func raw(_ value: UnsafeBufferPointer<UInt8>) {
        if value.count > 0 { place.copyMemory(from: value.baseAddress!, byteCount: value.count) }
        place += value.count
    }

    @inlinable
    public mutating func message(_ value: some ProtoMessage) {
        varint(UInt64(value.encodedLength))
        value.write(to: &self)
    }

    @inlinable
    public mutating func unknown(_ fields: UnknownFields) {
        if !fields.bytes.isEmpty { fields.bytes.withUnsafeBufferPointer { raw($0) } }
    }
}

/// Bytes that values take, tags not counted.
public enum ProtoSize {
    @inlinable
    public static func varint(_ value: UInt64) -> Int {
        // Seven bits a byte: (bits * 9 + 64) / 64 without a division by 7.
        ((64 &- (value | 1).leadingZeroBitCount) &* 9 &+ 64) >> 6
    }

    @inlinable public static func int32(_ value: Int32) -> Int { varint(UInt64(bitPattern: Int64(value))) }
    @inlinable public static func int64(_ value: Int64) -> Int { varint(UInt64(bitPattern: value)) }
    @inlinable public static func uint32(_ value: UInt32) -> Int { varint(UInt64(value)) }
    @inlinable public static func uint64(_ value: UInt64) -> Int { varint(value) }
    @inlinable public static func sint32(_ value: Int32) -> Int { varint(UInt64(zigzag(value))) }
    @inlinable public static func sint64(_ value: Int64) -> Int { varint(zigzag(value)) }
    @inlinable public static func bool(_ value: Bool) -> Int { 1 }
    @inlinable public static func fixed32(_ value: UInt32) -> Int { 4 }
    @inlinable public static func fixed64(_ value: UInt64) -> Int { 8 }
    @inlinable public static func sfixed32(_ value: Int32) -> Int { 4 }
    @inlinable public static func sfixed64(_ value: Int64) -> Int { 8 }
    @inlinable public static func float(_ value: Float) -> Int { 4 }
    @inlinable public static func double(_ value: Double) -> Int { 8 }
    @inlinable public static func enumeration(_ value: some ProtoEnum) -> Int { int32(value.rawValue) }
    @inlinable public static func string(_ value: String) -> Int { delimited(value.utf8.count) }
    @inlinable public static func bytes(_ value: [UInt8]) -> Int { delimited(value.count) }
    @inlinable public static func message(_ value: some ProtoMessage) -> Int { delimited(value.encodedLength) }

    /// Bytes behind a length.
    @inlinable
    public static func delimited(_ count: Int) -> Int { varint(UInt64(count)) + count }

    @inlinable static func zigzag(_ value: Int32) -> UInt32 { UInt32(bitPattern: (value << 1) ^ (value >> 31)) }
    @inlinable static func zigzag(_ value: Int64) -> UInt64 { UInt64(bitPattern: (value << 1) ^ (value >> 63)) }
}
