import CLZ4
import CZlib
import CZstd

/// How the records of a batch are compressed.
public enum KafkaCodec: UInt8, CaseIterable, Sendable {
    case none, gzip, snappy, lz4, zstd

    /// Bytes that records may be unpacked to: a batch is some megabytes, and a byte of it can stand for thousands.
    private static let bytesMax = 256 << 20

    /// The records; in `scratch`, or the bytes themselves where nothing is compressed.
    func decompress(
        _ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer
    ) throws(KafkaFormatError) -> UnsafeRawBufferPointer {
        guard self != .none else { return bytes }
        scratch.removeAll(keeping: 4 << 20)
        let isWhole =
            switch self {
            case .none: true
            case .gzip: KafkaCodec.inflate(bytes, scratch)
            case .snappy: Snappy.decompress(bytes, scratch, KafkaCodec.bytesMax)
            case .lz4: LZ4Frame.decompress(bytes, scratch, KafkaCodec.bytesMax)
            case .zstd: KafkaCodec.expand(bytes, scratch)
            }
        guard isWhole else { throw KafkaFormatError(at: 0, "\(bytes.count) bytes that are no \(self) of records") }
        return scratch.bytes
    }

    private static func inflate(_ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer) -> Bool {
        var stream = z_stream()
        guard inflateInit2_(&stream, 15 + 32, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
            return false
        }
        defer { inflateEnd(&stream) }
        stream.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.avail_in = UInt32(clamping: bytes.count)
        while scratch.count < bytesMax {
            let start = scratch.count
            let room = max(64 << 10, bytes.count * 3)
            stream.next_out = scratch.append(uninitialized: room).assumingMemoryBound(to: UInt8.self)
            stream.avail_out = UInt32(clamping: room)
            let result = CZlib.inflate(&stream, Z_NO_FLUSH)
            let written = room - Int(stream.avail_out)
            scratch.truncate(to: start + written)
            if result == Z_STREAM_END { return true }
            guard result == Z_OK, written > 0 else { return false }
        }
        return false
    }

    private static func expand(_ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer) -> Bool {
        guard let stream = ZSTD_createDStream() else { return false }
        defer { ZSTD_freeDStream(stream) }
        var input = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
        while scratch.count < bytesMax {
            let start = scratch.count
            let room = ZSTD_DStreamOutSize()
            var output = ZSTD_outBuffer(dst: scratch.append(uninitialized: room), size: room, pos: 0)
            let result = ZSTD_decompressStream(stream, &output, &input)
            scratch.truncate(to: start + output.pos)
            guard ZSTD_isError(result) == 0 else { return false }
            if result == 0 { return true }
            guard output.pos > 0 || input.pos < input.size else { return false }
        }
        return false
    }
}

/// LZ4's frames, of independent blocks of 64 KiB, which is what every client can read.
enum LZ4Frame {
    /// Appends a frame. What does not become shorter is in it as it is.
    static func compress(_ bytes: UnsafeRawBufferPointer, into buffer: KafkaBuffer) {
        var preferences = LZ4F_preferences_t()
        preferences.frameInfo.blockMode = LZ4F_blockIndependent
        preferences.frameInfo.blockSizeID = LZ4F_max64KB
        let start = buffer.count
        let room = LZ4F_compressFrameBound(bytes.count, &preferences)
        let place = buffer.append(uninitialized: room)
        let count = LZ4F_compressFrame(place, room, bytes.baseAddress, bytes.count, &preferences)
        // Its only error is too little room.
        precondition(LZ4F_isError(count) == 0)
        buffer.truncate(to: start + count)
    }

    /// Appends what a frame stands for; false where it is none, or longer than `bytesMax`.
    static func decompress(_ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer, _ bytesMax: Int) -> Bool {
        var context: OpaquePointer?
        guard LZ4F_isError(LZ4F_createDecompressionContext(&context, UInt32(LZ4F_VERSION))) == 0 else { return false }
        defer { LZ4F_freeDecompressionContext(context) }
        var used = 0
        while scratch.count < bytesMax {
            let start = scratch.count
            let room = max(64 << 10, (bytes.count - used) * 4)
            var written = room
            var taken = bytes.count - used
            let place = scratch.append(uninitialized: room)
            let result = LZ4F_decompress(context, place, &written, bytes.baseAddress.map { $0 + used }, &taken, nil)
            scratch.truncate(to: start + written)
            guard LZ4F_isError(result) == 0 else { return false }
            used += taken
            if result == 0 { return true }
            guard written > 0 || taken > 0 && used < bytes.count else { return false }
        }
        return false
    }
}

/// Snappy's block format, alone or in the chunks of Java's library.
enum Snappy {
    private static let chunked: [UInt8] = [0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0]

    static func decompress(_ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer, _ bytesMax: Int) -> Bool {
        guard bytes.count >= 16, bytes[..<8].elementsEqual(chunked) else { return block(bytes, scratch, bytesMax) }
        var position = 16
        while position < bytes.count {
            guard bytes.count - position >= 4 else { return false }
            let length = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self)))
            position += 4
            guard length <= bytes.count - position,
                block(UnsafeRawBufferPointer(rebasing: bytes[position..<(position + length)]), scratch, bytesMax)
            else { return false }
            position += length
        }
        return true
    }

    private static func block(_ bytes: UnsafeRawBufferPointer, _ scratch: KafkaBuffer, _ bytesMax: Int) -> Bool {
        var position = 0
        var length = 0
        var shift = 0
        while true {
            guard position < bytes.count, shift < 32 else { return false }
            length |= Int(bytes[position] & 0x7f) << shift
            position += 1
            if bytes[position - 1] < 0x80 { break }
            shift += 7
        }
        // A copy of three bytes stands for 64 at most.
        guard length <= bytesMax - scratch.count, length <= bytes.count * 64 else { return false }
        guard length > 0 else { return position == bytes.count }
        let output = UnsafeMutableRawBufferPointer(start: scratch.append(uninitialized: length), count: length)
        return expand(bytes, from: position, into: output)
    }

    private static func expand(
        _ bytes: UnsafeRawBufferPointer, from start: Int, into output: UnsafeMutableRawBufferPointer
    ) -> Bool {
        var position = start
        var written = 0
        while position < bytes.count {
            let tag = Int(bytes[position])
            position += 1
            // Bytes of the length or of the distance that follow, the lowest first.
            let extra = [tag >> 2 < 60 ? 0 : (tag >> 2) - 59, 1, 2, 4][tag & 3]
            guard bytes.count - position >= extra else { return false }
            var number = 0
            for index in 0..<extra { number |= Int(bytes[position + index]) << (8 * index) }
            position += extra
            if tag & 3 == 0 {
                let count = (extra == 0 ? tag >> 2 : number) + 1
                guard count <= bytes.count - position, count <= output.count - written else { return false }
                output[written..<(written + count)].copyBytes(from: bytes[position..<(position + count)])
                position += count
                written += count
                continue
            }
            let count = tag & 3 == 1 ? (tag >> 2 & 7) + 4 : (tag >> 2) + 1
            let distance = tag & 3 == 1 ? (tag >> 5) << 8 | number : number
            guard distance > 0, distance <= written, count <= output.count - written else { return false }
            // What is copied may be what the copy makes.
            for index in written..<(written + count) { output[index] = output[index - distance] }
            written += count
        }
        return written == output.count
    }
}
