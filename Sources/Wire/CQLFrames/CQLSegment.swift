/// Segments of protocol v5 (2.2 of its specification): a header with a checksum, up to 128 KiB, and their checksum.
enum CQLSegment {
    static let payloadBytesMax = 131_071
    static let trailerBytes = 4

    /// What a header says.
    struct Header: Hashable {
        /// Bytes behind the header.
        var payloadLength: Int
        /// Bytes before compression; 0 where they were not compressed.
        var uncompressedLength: Int
        /// Whether whole frames are in it; else a part of one.
        var isSelfContained: Bool
    }

    static func headerBytes(_ compression: CQLCompression) -> Int { compression == .lz4 ? 8 : 6 }

    static func append(
        _ payload: UnsafeRawBufferPointer, isSelfContained: Bool, _ framing: CQLFraming, to buffer: CQLBuffer
    ) {
        guard case .segments(.lz4) = framing else {
            append(
                Header(payloadLength: payload.count, uncompressedLength: 0, isSelfContained: isSelfContained), .none,
                to: buffer)
            buffer.append(payload)
            return append(littleEndian: UInt64(CQLChecksums.crc32(payload)), bytes: 4, to: buffer)
        }
        let start = buffer.count
        _ = buffer.append(uninitialized: headerBytes(.lz4))
        let place = buffer.count
        var header = Header(
            payloadLength: payload.count, uncompressedLength: 0, isSelfContained: isSelfContained)
        if LZ4.compress(payload, into: buffer) {
            header = Header(
                payloadLength: buffer.count - place, uncompressedLength: payload.count,
                isSelfContained: isSelfContained)
        } else {
            buffer.append(payload)
        }
        let crc = CQLChecksums.crc32(UnsafeRawBufferPointer(rebasing: buffer.bytes[place...]))
        append(littleEndian: UInt64(crc), bytes: 4, to: buffer)
        let word = word(header, .lz4)
        for index in 0..<8 {
            buffer.set(bigEndian: UInt8(truncatingIfNeeded: word >> UInt64(8 * index)), at: start + index)
        }
    }

    static func append(_ header: Header, _ compression: CQLCompression, to buffer: CQLBuffer) {
        append(littleEndian: word(header, compression), bytes: headerBytes(compression), to: buffer)
    }

    /// The header's bytes, the lowest first.
    private static func word(_ header: Header, _ compression: CQLCompression) -> UInt64 {
        let flag: UInt64 = header.isSelfContained ? 1 : 0
        if compression == .lz4 {
            let fields = UInt64(header.payloadLength) | UInt64(header.uncompressedLength) << 17 | flag << 34
            return fields | UInt64(CQLChecksums.crc24(fields, count: 5)) << 40
        }
        let fields = UInt64(header.payloadLength) | flag << 17
        return fields | UInt64(CQLChecksums.crc24(fields, count: 3)) << 24
    }

    private static func append(littleEndian value: UInt64, bytes: Int, to buffer: CQLBuffer) {
        for index in 0..<bytes { buffer.append(byte: UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
    }

    /// Reads a header; there are at least ``headerBytes(_:)`` bytes.
    static func header(
        _ bytes: UnsafeRawBufferPointer, _ compression: CQLCompression
    ) throws(CQLFormatError) -> Header {
        var word: UInt64 = 0
        for index in 0..<headerBytes(compression) { word |= UInt64(bytes[index]) << UInt64(8 * index) }
        let fieldBytes = headerBytes(compression) - 3
        let fields = word & (1 << UInt64(8 * fieldBytes) - 1)
        let crc = UInt32(truncatingIfNeeded: word >> UInt64(8 * fieldBytes))
        guard CQLChecksums.crc24(fields, count: fieldBytes) == crc else {
            throw CQLFormatError(.checksum, at: 0, "a segment's header does not match its checksum")
        }
        let length = Int(fields & 0x1_ffff)
        guard compression == .lz4 else {
            return Header(payloadLength: length, uncompressedLength: 0, isSelfContained: fields >> 17 & 1 == 1)
        }
        return Header(
            payloadLength: length, uncompressedLength: Int(fields >> 17 & 0x1_ffff),
            isSelfContained: fields >> 34 & 1 == 1)
    }

    /// Checks a payload of the header's length with the checksum behind it.
    static func check(_ payload: UnsafeRawBufferPointer, _ trailer: UnsafeRawBufferPointer) throws(CQLFormatError) {
        let crc = UInt32(littleEndian: trailer.loadUnaligned(as: UInt32.self))
        guard CQLChecksums.crc32(payload) == crc else {
            throw CQLFormatError(.checksum, at: 0, "a segment of \(payload.count) bytes does not match its checksum")
        }
    }
}
