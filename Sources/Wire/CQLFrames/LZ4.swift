import CLZ4

/// LZ4 blocks. The length of what was compressed is kept beside them by whoever writes them.
enum LZ4 {
    /// The most that a block can grow by decompression: a byte stands for at most 255.
    static let ratioMax = 255

    /// Appends the compressed bytes; false where they would not be shorter.
    static func compress(_ bytes: UnsafeRawBufferPointer, into buffer: CQLBuffer) -> Bool {
        guard bytes.count > 0, bytes.count <= Int(LZ4_MAX_INPUT_SIZE) else { return false }
        let start = buffer.count
        let room = Int(LZ4_compressBound(Int32(bytes.count)))
        let place = buffer.append(uninitialized: room).assumingMemoryBound(to: CChar.self)
        let count = LZ4_compress_default(
            bytes.bindMemory(to: CChar.self).baseAddress, place, Int32(bytes.count), Int32(room))
        guard count > 0, count < bytes.count else {
            buffer.truncate(to: start)
            return false
        }
        buffer.truncate(to: start + Int(count))
        return true
    }

    /// Appends exactly `length` decompressed bytes.
    static func decompress(
        _ bytes: UnsafeRawBufferPointer, length: Int, into buffer: CQLBuffer
    ) throws(CQLFormatError) {
        guard length <= bytes.count.multipliedReportingOverflow(by: ratioMax).partialValue, length <= Int(Int32.max)
        else {
            throw CQLFormatError(.compression, at: 0, "\(bytes.count) compressed bytes cannot stand for \(length)")
        }
        guard length > 0 else { return }
        let start = buffer.count
        let place = buffer.append(uninitialized: length).assumingMemoryBound(to: CChar.self)
        let count = LZ4_decompress_safe(
            bytes.bindMemory(to: CChar.self).baseAddress, place, Int32(bytes.count), Int32(length))
        guard Int(count) == length else {
            buffer.truncate(to: start)
            throw CQLFormatError(.compression, at: 0, "\(bytes.count) bytes are not LZ4 of \(length) bytes")
        }
    }
}
