import CZlib

/// How messages are compressed (`grpc-encoding`).
public enum GRPCCompression: String, Hashable, Sendable {
    case gzip
    case deflate

    /// What this side takes, as `grpc-accept-encoding` lists it.
    static let accepted = "identity,deflate,gzip"

    fileprivate var windowBits: Int32 { self == .gzip ? 15 + 16 : 15 }

    init?(_ name: UnsafeRawBufferPointer) {
        if RequestHead.equal(name, "gzip") {
            self = .gzip
        } else if RequestHead.equal(name, "deflate") {
            self = .deflate
        } else {
            return nil
        }
    }
}

/// Compresses whole messages. The state of zlib (a quarter of a megabyte) is kept for the next.
final class Compressor {
    private var stream = z_stream()
    private let isReady: Bool

    init(_ compression: GRPCCompression) {
        // Level 6, zlib's own compromise.
        isReady =
            deflateInit2_(
                &stream, 6, Z_DEFLATED, compression.windowBits, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION,
                Int32(MemoryLayout<z_stream>.size)) == Z_OK
    }

    deinit { deflateEnd(&stream) }

    /// nil where zlib has no memory.
    func compress(_ bytes: UnsafeRawBufferPointer) -> [UInt8]? {
        guard isReady, deflateReset(&stream) == Z_OK else { return nil }
        let room = Int(deflateBound(&stream, UInt(bytes.count)))
        var isWhole = false
        let compressed = [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
            stream.next_in = UnsafeMutablePointer(mutating: bytes.assumingMemoryBound(to: UInt8.self).baseAddress)
            stream.avail_in = UInt32(bytes.count)
            stream.next_out = buffer.baseAddress
            stream.avail_out = UInt32(room)
            isWhole = deflate(&stream, Z_FINISH) == Z_STREAM_END
            count = room - Int(stream.avail_out)
        }
        return isWhole ? compressed : nil
    }
}

/// Decompresses whole messages. The state of zlib is kept for the next.
final class Decompressor {
    private var stream = z_stream()
    private let isReady: Bool

    init(_ compression: GRPCCompression) {
        isReady =
            inflateInit2_(&stream, compression.windowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK
    }

    deinit { inflateEnd(&stream) }

    /// The message, of which no more than the limit is ever made: a small message may decompress to anything.
    func decompress(_ bytes: UnsafeRawBufferPointer, lengthMax: Int) throws(GRPCStatus) -> [UInt8] {
        guard isReady, inflateReset(&stream) == Z_OK else { throw GRPCStatus(.resourceExhausted, "out of memory") }
        stream.next_in = UnsafeMutablePointer(mutating: bytes.assumingMemoryBound(to: UInt8.self).baseAddress)
        stream.avail_in = UInt32(bytes.count)
        var message: [UInt8] = []
        var room = min(lengthMax + 1, max(1024, bytes.count * 4))
        while true {
            let (chunk, result) = inflateChunk(room)
            message += chunk
            guard message.count <= lengthMax else {
                throw GRPCStatus(.resourceExhausted, "a message decompresses to more than the limit of \(lengthMax)")
            }
            if result == Z_STREAM_END, stream.avail_in == 0 { return message }
            // No room left is the only reason to go on.
            guard result == Z_OK, stream.avail_out == 0 else {
                throw GRPCStatus(.internalError, "a message is not compressed as its grpc-encoding says")
            }
            room = min(lengthMax + 1 - message.count, message.count)
        }
    }

    private func inflateChunk(_ room: Int) -> ([UInt8], Int32) {
        var result = Z_OK
        let chunk = [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
            stream.next_out = buffer.baseAddress
            stream.avail_out = UInt32(room)
            result = inflate(&stream, Z_NO_FLUSH)
            count = room - Int(stream.avail_out)
        }
        return (chunk, result)
    }
}

/// The compressors of one loop, made when first used. Confined to it.
final class Compressors {
    private var compressors: [GRPCCompression: Compressor] = [:]
    private var decompressors: [GRPCCompression: Decompressor] = [:]

    func compressor(_ compression: GRPCCompression) -> Compressor {
        if let found = compressors[compression] { return found }
        let made = Compressor(compression)
        compressors[compression] = made
        return made
    }

    func decompressor(_ compression: GRPCCompression) -> Decompressor {
        if let found = decompressors[compression] { return found }
        let made = Decompressor(compression)
        decompressors[compression] = made
        return made
    }
}
