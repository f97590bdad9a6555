import CLinux
import Disk

/// Little-endian values, one after the other, for headers and metadata.
struct ByteWriter {
    var bytes: [UInt8] = []

    mutating func put(_ value: some FixedWidthInteger) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    /// At most 65,535 bytes.
    mutating func put(_ text: String) { put(Array(text.utf8)) }

    mutating func put(_ name: [UInt8]) {
        put(UInt16(name.count))
        bytes.append(contentsOf: name)
    }

    mutating func pad(to multiple: Int) {
        while bytes.count % multiple != 0 { bytes.append(0) }
    }

    mutating func set(_ value: some FixedWidthInteger, at position: Int) {
        withUnsafeBytes(of: value.littleEndian) { source in
            for (index, byte) in source.enumerated() { bytes[position + index] = byte }
        }
    }
}

/// Why bytes could not be read: always the same reason, since a checksum stands before every structure.
struct FormatError: Error {
    let reason: String
    init(_ reason: String) { self.reason = reason }
}

/// Reads little-endian values from any bytes; never past their end.
struct ByteReader {
    let bytes: UnsafeRawBufferPointer
    private(set) var position: Int

    init(_ bytes: UnsafeRawBufferPointer, at position: Int = 0) {
        self.bytes = bytes
        self.position = position
    }

    mutating func get<T: FixedWidthInteger>(_ type: T.Type = T.self) throws(FormatError) -> T {
        let size = MemoryLayout<T>.size
        guard position >= 0, bytes.count - position >= size else { throw FormatError("too short") }
        defer { position += size }
        return T(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    mutating func name() throws(FormatError) -> [UInt8] {
        let count = Int(try get(UInt16.self))
        guard bytes.count - position >= count else { throw FormatError("too short") }
        defer { position += count }
        return Array(bytes[position..<(position + count)])
    }

    mutating func text() throws(FormatError) -> String { String(decoding: try name(), as: UTF8.self) }

    /// A count of items that take at least `size` bytes each.
    mutating func count(of size: Int) throws(FormatError) -> Int {
        let count = Int(try get(UInt32.self))
        guard count <= (bytes.count - position) / size else { throw FormatError("a count of \(count) does not fit") }
        return count
    }
}

func crc32c(_ bytes: UnsafeRawBufferPointer) -> UInt32 { clinux_crc32c(0, bytes.baseAddress, bytes.count) }

extension DiskFile {
    /// Writes bytes, and buffers behind them, in one go.
    func write(at offset: UInt64, _ bytes: [UInt8], _ more: [UnsafeRawBufferPointer] = []) throws(DiskError) {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(DiskError) in try self.write(at: offset, [bytes] + more) }
        }
        try result.get()
    }
}
