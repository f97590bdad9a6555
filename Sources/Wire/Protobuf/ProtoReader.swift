/// Reads fields from borrowed bytes. Any bytes may be given: what they cannot be is an error with its position.
@frozen
public struct ProtoReader {
    @usableFromInline let base: UnsafeRawPointer
    @usableFromInline var place: Int
    @usableFromInline let end: Int
    @usableFromInline let depthLeft: Int
    /// Where the field that is being read begins, tag included.
    @usableFromInline var fieldStart = 0

    @inlinable
    init(_ bytes: UnsafeRawBufferPointer, depthLeft: Int) {
        // An empty buffer's pointer is never read.
        base = bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1)!
        place = 0
        end = bytes.count
        self.depthLeft = depthLeft
    }

    @inlinable
    init(base: UnsafeRawPointer, place: Int, end: Int, depthLeft: Int) {
        self.base = base
        self.place = place
        self.end = end
        self.depthLeft = depthLeft
    }

    /// Reads a message field by field without making one: calls `field` with the tag of each, which reads its value
    /// (``unknown(_:into:)`` where it knows none). Refuses what decoding a message with these fields refuses.
    @inlinable
    public static func fields(
        of bytes: UnsafeRawBufferPointer, limits: DecodingLimits = DecodingLimits(),
        _ field: (inout ProtoReader, UInt32) throws(DecodingError) -> Void
    ) throws(DecodingError) {
        guard bytes.count <= limits.bytesMax else { throw DecodingError(.tooLarge, position: 0) }
        var reader = ProtoReader(bytes, depthLeft: limits.depthMax)
        while let tag = try reader.nextTag() { try field(&reader, tag) }
    }

    @inlinable
    func error(_ code: DecodingError.Code) -> DecodingError { DecodingError(code, position: place) }

    /// The next field's tag; nil at the end.
    @inlinable
    public mutating func nextTag() throws(DecodingError) -> UInt32? {
        guard place < end else { return nil }
        fieldStart = place
        let tag = try varint()
        guard tag >> 3 != 0, tag <= UInt64(UInt32.max), tag & 7 <= 5 else {
            throw DecodingError(.invalidTag, position: fieldStart)
        }
        return UInt32(tag)
    }

    @inlinable
    mutating func varint() throws(DecodingError) -> UInt64 {
        guard place < end else { throw error(.truncated) }
        let first = base.load(fromByteOffset: place, as: UInt8.self)
        if first < 0x80 {
            place &+= 1
            return UInt64(first)
        }
        return try longVarint()
    }

    @usableFromInline
    mutating func longVarint() throws(DecodingError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        let start = place
        while place < end {
            let byte = base.load(fromByteOffset: place, as: UInt8.self)
            place &+= 1
            value |= UInt64(byte & 0x7f) &<< shift
            if byte < 0x80 { return value }
            shift &+= 7
            if shift == 70 { throw DecodingError(.overlongVarint, position: start) }
        }
        throw error(.truncated)
    }

    @inlinable public mutating func uint64() throws(DecodingError) -> UInt64 { try varint() }
    @inlinable public mutating func int64() throws(DecodingError) -> Int64 { Int64(bitPattern: try varint()) }
    @inlinable public mutating func uint32() throws(DecodingError) -> UInt32 {
        UInt32(truncatingIfNeeded: try varint())
    }
    @inlinable public mutating func int32() throws(DecodingError) -> Int32 { Int32(truncatingIfNeeded: try varint()) }
    @inlinable public mutating func bool() throws(DecodingError) -> Bool { try varint() != 0 }

    @inlinable
    public mutating func sint32() throws(DecodingError) -> Int32 {
        let value = try uint32()
        return Int32(bitPattern: value >> 1) ^ -Int32(bitPattern: value & 1)
    }

    @inlinable
    public mutating func sint64() throws(DecodingError) -> Int64 {
        let value = try varint()
        return Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1)
    }

    @inlinable
    public mutating func enumeration<E: ProtoEnum>() throws(DecodingError) -> E { E(rawValue: try int32()) }

    @inlinable
    mutating func fixed<T: FixedWidthInteger>() throws(DecodingError) -> T {
        guard end &- place >= MemoryLayout<T>.size else { throw error(.truncated) }
        defer { place &+= MemoryLayout<T>.size }
        return T(littleEndian: base.loadUnaligned(fromByteOffset: place, as: T.self))
    }

    @inlinable public mutating func fixed32() throws(DecodingError) -> UInt32 { try fixed() }
    @inlinable public mutating func fixed64() throws(DecodingError) -> UInt64 { try fixed() }
    @inlinable public mutating func sfixed32() throws(DecodingError) -> Int32 { try fixed() }
    @inlinable public mutating func sfixed64() throws(DecodingError) -> Int64 { try fixed() }
    @inlinable public mutating func float() throws(DecodingError) -> Float { Float(bitPattern: try fixed()) }
    @inlinable public mutating func double() throws(DecodingError) -> Double { Double(bitPattern: try fixed()) }

    /// The bytes of a length-delimited field.
    @inlinable
    mutating func delimited() throws(DecodingError) -> UnsafeRawBufferPointer {
        let count = try varint()
        guard count <= UInt64(end &- place) else { throw error(.truncated) }
        defer { place &+= Int(count) }
        return UnsafeRawBufferPointer(start: base + place, count: Int(count))
    }

    @inlinable
    public mutating func string() throws(DecodingError) -> String {
        let bytes = try delimited()
        if ProtoReader.isASCII(bytes) { return String(decoding: bytes, as: UTF8.self) }
        return try unicode(bytes)
    }

    @usableFromInline @inline(never)
    func unicode(_ bytes: UnsafeRawBufferPointer) throws(DecodingError) -> String {
        guard let string = String(validating: bytes, as: UTF8.self) else {
            throw DecodingError(.invalidUTF8, position: fieldStart)
        }
        return string
    }

    /// Names almost always are, and need no validation.
    @inlinable
    static func isASCII(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress else { return true }
        var place = 0
        var bits: UInt64 = 0
        while place &+ 8 <= bytes.count {
            bits |= base.loadUnaligned(fromByteOffset: place, as: UInt64.self)
            place &+= 8
        }
        while place < bytes.count {
            bits |= UInt64(base.load(fromByteOffset: place, as: UInt8.self))
            place &+= 1
        }
        return bits & 0x8080_8080_8080_8080 == 0
    }

    @inlinable
    public mutating func bytes() throws(DecodingError) -> [UInt8] { Array(try delimited()) }

    /// Merges a message field.
    @inlinable
    public mutating func message<M: ProtoMessage>(into message: inout M) throws(DecodingError) {
        var inner = try nested()
        try message.merge(from: &inner)
    }

    /// A reader of a length-delimited field's bytes.
    @inlinable
    public mutating func nested() throws(DecodingError) -> ProtoReader {
        guard depthLeft > 0 else { throw error(.tooDeep) }
        let count = try delimited().count
        return ProtoReader(base: base, place: place &- count, end: place, depthLeft: depthLeft &- 1)
    }

    /// A packed list: calls `element` until its bytes are used up.
    @inlinable
    public mutating func packed(
        _ element: (inout ProtoReader) throws(DecodingError) -> Void
    ) throws(DecodingError) {
        let count = try delimited().count
        var inner = ProtoReader(base: base, place: place &- count, end: place, depthLeft: depthLeft)
        while inner.place < inner.end { try element(&inner) }
    }

    /// Keeps a field that the schema does not know.
    public mutating func unknown(_ tag: UInt32, into fields: inout UnknownFields) throws(DecodingError) {
        let start = fieldStart
        try skip(tag, depthLeft)
        fields.bytes.append(contentsOf: UnsafeRawBufferPointer(start: base + start, count: place - start))
    }

    private mutating func skip(_ tag: UInt32, _ depthLeft: Int) throws(DecodingError) {
        switch tag & 7 {
        case 0: _ = try varint()
        case 1: let _: UInt64 = try fixed()
        case 2: _ = try delimited()
        case 3: try skipGroup(tag >> 3, depthLeft)
        case 5: let _: UInt32 = try fixed()
        default: throw DecodingError(.unmatchedGroupEnd, position: fieldStart)
        }
    }

    private mutating func skipGroup(_ number: UInt32, _ depthLeft: Int) throws(DecodingError) {
        guard depthLeft > 0 else { throw error(.tooDeep) }
        while true {
            guard let tag = try nextTag() else { throw error(.truncated) }
            if tag & 7 == 4 {
                guard tag >> 3 == number else { throw DecodingError(.unmatchedGroupEnd, position: fieldStart) }
                return
            }
            try skip(tag, depthLeft - 1)
        }
    }
}
