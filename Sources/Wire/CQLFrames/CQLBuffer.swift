/// Bytes that are written: grows, and hands its memory to whoever writes it to a socket. One thread at a time.
public final class CQLBuffer {
    // Each access is over before anything else happens: to check that at run time would be most of a value's cost.
    @exclusivity(unchecked) @usableFromInline var base: UnsafeMutableRawPointer
    @exclusivity(unchecked) @usableFromInline var capacity: Int
    @exclusivity(unchecked) @usableFromInline var used = 0

    /// Bytes written.
    public var count: Int { @inlinable get { used } }

    public init(capacity: Int = 256) {
        self.capacity = max(64, capacity)
        base = .allocate(byteCount: self.capacity, alignment: 16)
    }

    deinit { base.deallocate() }

    /// Bytes of memory that it holds.
    public var heldBytes: Int { capacity }

    /// Valid until the next write.
    public var bytes: UnsafeRawBufferPointer {
        @inlinable get { UnsafeRawBufferPointer(start: base, count: used) }
    }

    /// Forgets the bytes, keeps the memory; what is larger than `keeping` is given back.
    public func removeAll(keeping: Int = 1 << 20) {
        used = 0
        guard capacity > keeping else { return }
        base.deallocate()
        capacity = max(64, keeping)
        base = .allocate(byteCount: capacity, alignment: 16)
    }

    /// Cuts back to the first `count` bytes.
    public func truncate(to count: Int) {
        precondition(count >= 0 && count <= used)
        used = count
    }

    @usableFromInline @inline(never)
    func grow(_ more: Int) {
        let wanted = max(used + more, capacity * 2)
        let larger = UnsafeMutableRawPointer.allocate(byteCount: wanted, alignment: 16)
        larger.copyMemory(from: base, byteCount: used)
        base.deallocate()
        base = larger
        capacity = wanted
    }

    /// Room for so many bytes, which the caller fills; they count as written.
    @inlinable @inline(__always)
    public func append(uninitialized more: Int) -> UnsafeMutableRawPointer {
        if used &+ more > capacity { grow(more) }
        let place = base + used
        used &+= more
        return place
    }

    @inlinable @inline(__always)
    public func append<T: FixedWidthInteger>(bigEndian value: T) {
        append(uninitialized: MemoryLayout<T>.size).storeBytes(of: value.bigEndian, as: T.self)
    }

    @inlinable
    public func append(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return }
        append(uninitialized: bytes.count).copyMemory(from: start, byteCount: bytes.count)
    }

    @inlinable
    public func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

    @inlinable
    public func append(byte value: UInt8) { append(uninitialized: 1).storeBytes(of: value, as: UInt8.self) }

    /// Overwrites what was written before.
    @inlinable
    public func set<T: FixedWidthInteger>(bigEndian value: T, at place: Int) {
        precondition(place >= 0 && place <= used - MemoryLayout<T>.size)
        (base + place).storeBytes(of: value.bigEndian, as: T.self)
    }

    // MARK: Notations of the protocol

    /// [string]: at most 65,535 bytes; longer text is cut by whoever makes it.
    public func append(string text: String) {
        var text = text
        text.withUTF8 { utf8 in
            precondition(utf8.count <= UInt16.max, "a [string] of more than 65,535 bytes")
            append(bigEndian: UInt16(utf8.count))
            append(UnsafeRawBufferPointer(utf8))
        }
    }

    /// [long string]
    public func append(longString text: String) {
        var text = text
        text.withUTF8 { utf8 in
            append(bigEndian: Int32(utf8.count))
            append(UnsafeRawBufferPointer(utf8))
        }
    }

    /// [bytes], or null.
    public func append(optionalBytes bytes: [UInt8]?) {
        guard let bytes else { return append(bigEndian: Int32(-1)) }
        append(bigEndian: Int32(bytes.count))
        append(bytes)
    }

    /// [short bytes]
    public func append(shortBytes bytes: [UInt8]) {
        precondition(bytes.count <= UInt16.max)
        append(bigEndian: UInt16(bytes.count))
        append(bytes)
    }

    public func append(stringList list: [String]) {
        append(bigEndian: UInt16(list.count))
        for text in list { append(string: text) }
    }

    public func append(stringMap map: [(String, String)]) {
        append(bigEndian: UInt16(map.count))
        for (name, value) in map {
            append(string: name)
            append(string: value)
        }
    }

    public func append(stringMultimap map: [(String, [String])]) {
        append(bigEndian: UInt16(map.count))
        for (name, values) in map {
            append(string: name)
            append(stringList: values)
        }
    }

    public func append(bytesMap map: [CQLPayloadEntry]) {
        append(bigEndian: UInt16(map.count))
        for entry in map {
            append(string: entry.name)
            append(optionalBytes: entry.value)
        }
    }

    public func append(inetAddress address: [UInt8]) {
        append(byte: UInt8(address.count))
        append(address)
    }

    public func append(inet endpoint: CQLEndpoint) {
        append(inetAddress: endpoint.address)
        append(bigEndian: Int32(endpoint.port))
    }

    public func append(uuid: CQLUUID) {
        append(bigEndian: uuid.high)
        append(bigEndian: uuid.low)
    }

    public func append(unsignedVint value: UInt64) {
        // Seven bits a byte, and none of the first where nine are needed.
        let bits = 64 - (value | 1).leadingZeroBitCount
        let extra = min(8, (bits - 1) / 7)
        guard extra > 0 else { return append(byte: UInt8(value)) }
        let mark = extra == 8 ? 0xff : ~(UInt8(0xff) >> UInt8(extra))
        append(byte: mark | (extra >= 8 ? 0 : UInt8(truncatingIfNeeded: value >> UInt64(8 * extra))))
        for index in stride(from: extra - 1, through: 0, by: -1) {
            append(byte: UInt8(truncatingIfNeeded: value >> UInt64(8 * index)))
        }
    }

    public func append(vint value: Int64) { append(unsignedVint: UInt64(bitPattern: value << 1 ^ value >> 63)) }

    // MARK: Values, as they are bound to a statement

    /// Has values written into room for at most so many bytes, which is made once; what was written counts.
    @inlinable @inline(__always)
    public func append(atMost room: Int, _ body: (inout CQLValueCursor) -> Void) {
        if used &+ room > capacity { grow(room) }
        var cursor = CQLValueCursor(base + used)
        body(&cursor)
        let written = cursor.place - (base + used)
        precondition(written <= room, "more bytes than there was room for")
        used &+= written
    }

    /// Null.
    @inlinable public func appendNull() { append(atMost: 4) { $0.appendNull() } }

    /// Not set: what the row has stays.
    @inlinable public func appendUnset() { append(atMost: 4) { $0.appendUnset() } }

    /// An `int`.
    @inlinable
    public func append(value: Int32) { append(atMost: 8) { $0.append(value: value) } }

    /// A `bigint`, `timestamp` or `time`.
    @inlinable
    public func append(value: Int64) { append(atMost: 12) { $0.append(value: value) } }

    /// A `text`, `ascii` or `blob`.
    @inlinable
    public func append(value bytes: UnsafeRawBufferPointer) {
        append(atMost: 4 + bytes.count) { $0.append(value: bytes) }
    }

    /// A `uuid` or `timeuuid`.
    @inlinable
    public func append(valueHigh high: UInt64, low: UInt64) {
        append(atMost: 20) { $0.append(valueHigh: high, low: low) }
    }
}

/// Writes bound values one behind the other, into room that was made for all of them: where each value asked for its
/// own, those of a tick's row took three times as many instructions. Bytes go where they go, checked by nobody: see
/// ``CQLBuffer/append(atMost:_:)``.
public struct CQLValueCursor {
    /// Where the next byte goes.
    @usableFromInline var place: UnsafeMutableRawPointer

    @inlinable @inline(__always)
    init(_ place: UnsafeMutableRawPointer) { self.place = place }

    @inlinable @inline(__always)
    public mutating func append<T: FixedWidthInteger>(bigEndian value: T) {
        place.storeBytes(of: value.bigEndian, as: T.self)
        place += MemoryLayout<T>.size
    }

    /// Bytes of any number.
    @inlinable @inline(__always)
    public mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, bytes.count > 0 else { return }
        place.copyMemory(from: start, byteCount: bytes.count)
        place += bytes.count
    }

    /// Null.
    @inlinable @inline(__always)
    public mutating func appendNull() { append(bigEndian: Int32(-1)) }

    /// Not set: what the row has stays.
    @inlinable @inline(__always)
    public mutating func appendUnset() { append(bigEndian: Int32(-2)) }

    /// A `tinyint`.
    @inlinable @inline(__always)
    public mutating func append(value: UInt8) {
        append(bigEndian: Int32(1))
        append(bigEndian: value)
    }

    /// An `int`.
    @inlinable @inline(__always)
    public mutating func append(value: Int32) {
        append(bigEndian: Int32(4))
        append(bigEndian: value)
    }

    /// A `bigint`, `timestamp` or `time`.
    @inlinable @inline(__always)
    public mutating func append(value: Int64) {
        append(bigEndian: Int32(8))
        append(bigEndian: value)
    }

    /// A `text`, `ascii` or `blob`.
    @inlinable @inline(__always)
    public mutating func append(value bytes: UnsafeRawBufferPointer) {
        append(bigEndian: Int32(bytes.count))
        append(bytes)
    }

    /// A `uuid` or `timeuuid`.
    @inlinable @inline(__always)
    public mutating func append(valueHigh high: UInt64, low: UInt64) {
        append(bigEndian: Int32(16))
        append(bigEndian: high)
        append(bigEndian: low)
    }

    /// A value that `body` writes behind its length: of a user's type, a tuple, a collection.
    @inlinable @inline(__always)
    public mutating func append(nested body: (inout CQLValueCursor) -> Void) {
        let start = place
        place += 4
        body(&self)
        start.storeBytes(of: Int32(place - start - 4).bigEndian, as: Int32.self)
    }
}
