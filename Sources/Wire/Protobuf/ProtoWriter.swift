/// Writes fields to a buffer, in one pass: what lies in a message is written before its length is known.
///
/// Never writes past the buffer's end: a field without room is left out and ``isFull`` says so.
@frozen
public struct ProtoWriter {
    /// Room for any tag and any scalar.
    @usableFromInline static var scalarBytesMax: Int { 16 }

    @usableFromInline var place: UnsafeMutableRawPointer
    @usableFromInline let end: UnsafeMutableRawPointer
    /// What was to be written did not fit: the bytes are no message.
    @usableFromInline var isFull = false

    @inlinable
    init(_ buffer: UnsafeMutableRawBufferPointer) {
        // An empty buffer's pointer is never written to.
        place = buffer.baseAddress ?? UnsafeMutableRawPointer(bitPattern: 1)!
        end = place + buffer.count
    }

    /// Writes fields to the start of `buffer`, without a message that has them. Returns their length in bytes; nil
    /// where they do not fit.
    @inlinable
    public static func fields(
        into buffer: UnsafeMutableRawBufferPointer, _ write: (inout ProtoWriter) -> Void
    ) -> Int? {
        var writer = ProtoWriter(buffer)
        let start = writer.place
        write(&writer)
        return writer.isFull ? nil : writer.place - start
    }

    @inlinable @inline(__always)
    func hasRoom(_ count: Int) -> Bool { end - place >= count }

    // MARK: Without checks

    @inlinable @inline(__always)
    mutating func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        place.storeBytes(of: value.littleEndian, as: T.self)
        place += MemoryLayout<T>.size
    }

    @inlinable @inline(__always)
    mutating func putVarint(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            put(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        put(UInt8(truncatingIfNeeded: value))
    }

    // MARK: Scalars, each with its tag before it unless that is 0

    @inlinable @inline(__always)
    mutating func varint(_ tag: UInt32, _ value: UInt64) {
        guard hasRoom(ProtoWriter.scalarBytesMax) else { return lastVarint(tag, value) }
        if tag != 0 { putVarint(UInt64(tag)) }
        putVarint(value)
    }

    @usableFromInline @inline(never)
    mutating func lastVarint(_ tag: UInt32, _ value: UInt64) {
        withUnsafeTemporaryAllocation(byteCount: ProtoWriter.scalarBytesMax, alignment: 1) { buffer in
            var writer = ProtoWriter(buffer)
            if tag != 0 { writer.putVarint(UInt64(tag)) }
            writer.putVarint(value)
            copy(UnsafeRawBufferPointer(rebasing: buffer[..<(writer.place - buffer.baseAddress!)]))
        }
    }

    @inlinable @inline(__always)
    mutating func fixed<T: FixedWidthInteger & BitwiseCopyable>(_ tag: UInt32, _ value: T) {
        guard hasRoom(ProtoWriter.scalarBytesMax) else { return lastFixed(tag, value) }
        if tag != 0 { putVarint(UInt64(tag)) }
        put(value)
    }

    @usableFromInline @inline(never)
    mutating func lastFixed<T: FixedWidthInteger & BitwiseCopyable>(_ tag: UInt32, _ value: T) {
        if tag != 0 { lastVarint(0, UInt64(tag)) }
        withUnsafeBytes(of: value.littleEndian) { copy($0) }
    }

    @inlinable public mutating func int32(_ tag: UInt32, _ value: Int32) {
        varint(tag, UInt64(bitPattern: Int64(value)))
    }
    @inlinable public mutating func int64(_ tag: UInt32, _ value: Int64) { varint(tag, UInt64(bitPattern: value)) }
    @inlinable public mutating func uint32(_ tag: UInt32, _ value: UInt32) { varint(tag, UInt64(value)) }
    @inlinable public mutating func uint64(_ tag: UInt32, _ value: UInt64) { varint(tag, value) }
    @inlinable public mutating func sint32(_ tag: UInt32, _ value: Int32) {
        varint(tag, UInt64(UInt32(bitPattern: (value << 1) ^ (value >> 31))))
    }
    @inlinable public mutating func sint64(_ tag: UInt32, _ value: Int64) {
        varint(tag, UInt64(bitPattern: (value << 1) ^ (value >> 63)))
    }
    @inlinable public mutating func bool(_ tag: UInt32, _ value: Bool) { varint(tag, value ? 1 : 0) }
    @inlinable public mutating func fixed32(_ tag: UInt32, _ value: UInt32) { fixed(tag, value) }
    @inlinable public mutating func fixed64(_ tag: UInt32, _ value: UInt64) { fixed(tag, value) }
    @inlinable public mutating func sfixed32(_ tag: UInt32, _ value: Int32) { fixed(tag, value) }
    @inlinable public mutating func sfixed64(_ tag: UInt32, _ value: Int64) { fixed(tag, value) }
    @inlinable public mutating func float(_ tag: UInt32, _ value: Float) { fixed(tag, value.bitPattern) }
    @inlinable public mutating func double(_ tag: UInt32, _ value: Double) { fixed(tag, value.bitPattern) }
    @inlinable public mutating func enumeration(_ tag: UInt32, _ value: some ProtoEnum) { int32(tag, value.rawValue) }

    // MARK: Bytes

    /// Bytes as they are.
    @inlinable
    mutating func copy(_ bytes: UnsafeRawBufferPointer) {
        guard hasRoom(bytes.count) else { return isFull = true }
        if bytes.count > 0 { place.copyMemory(from: bytes.baseAddress!, byteCount: bytes.count) }
        place += bytes.count
    }

    @inlinable
    mutating func delimited(_ tag: UInt32, _ bytes: UnsafeRawBufferPointer) {
        varint(tag, UInt64(bytes.count))
        copy(bytes)
    }

    @inlinable
    public mutating func string(_ tag: UInt32, _ value: String) {
        let isWritten: Void? = value.utf8.withContiguousStorageIfAvailable {
            delimited(tag, UnsafeRawBufferPointer($0))
        }
        if isWritten == nil { bytes(tag, Array(value.utf8)) }
    }

    @inlinable
    public mutating func bytes(_ tag: UInt32, _ value: [UInt8]) { value.withUnsafeBytes { delimited(tag, $0) } }

    @inlinable
    public mutating func unknown(_ fields: UnknownFields) {
        if !fields.bytes.isEmpty { fields.bytes.withUnsafeBytes { copy($0) } }
    }

    // MARK: What has a length before it

    /// Begins something delimited; what is written until ``end(_:)`` is in it.
    @inlinable
    public mutating func begin(_ tag: UInt32) -> UnsafeMutableRawPointer {
        // A length below 128 is what most have; a longer one moves what was written.
        varint(tag, 0)
        return place
    }

    /// Ends what began at `start`.
    @inlinable
    public mutating func end(_ start: UnsafeMutableRawPointer) {
        let count = place - start
        if count < 0x80, !isFull {
            (start - 1).storeBytes(of: UInt8(count), as: UInt8.self)
        } else {
            endLong(start, count)
        }
    }

    @usableFromInline @inline(never)
    mutating func endLong(_ start: UnsafeMutableRawPointer, _ count: Int) {
        var more = 0
        while UInt64(count) >> UInt64(7 * (more + 1)) != 0 { more += 1 }
        guard !isFull, hasRoom(more) else { return isFull = true }
        (start + more).copyMemory(from: start, byteCount: count)
        place = start - 1
        putVarint(UInt64(count))
        place += count
    }

    @inlinable
    public mutating func message(_ tag: UInt32, _ value: some ProtoMessage) {
        let start = begin(tag)
        value.write(to: &self)
        end(start)
    }

    /// A list of scalars; `element` writes one with tag 0, which is none.
    @inlinable
    public mutating func packed<Element>(
        _ tag: UInt32, _ values: [Element], _ element: (inout ProtoWriter, Element) -> Void
    ) {
        if values.isEmpty { return }
        let start = begin(tag)
        for value in values { element(&self, value) }
        end(start)
    }
}
