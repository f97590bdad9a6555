import Disk
import EventLog

/// Walks the appends of a segment file through a buffer that slides over it. Any bytes may be in the file.
struct AppendScanner: ~Copyable {
    enum Step {
        /// Its bytes are in ``bytes`` when they were asked for.
        case append(AppendHeader)
        case bad(String)
        case end
    }

    private let file: any DiskFile
    /// Nothing is read at or past it.
    let end: UInt64
    private var buffer: UnsafeMutableRawBufferPointer
    private var bufferStart: UInt64 = 0
    private var bufferCount = 0
    private let readLength: Int

    init(_ file: any DiskFile, end: UInt64, readLength: Int = 1 << 20) {
        self.file = file
        self.end = end
        self.readLength = readLength
        buffer = .allocate(byteCount: readLength, alignment: 8)
    }

    deinit { buffer.deallocate() }

    /// Whether the bytes are in the buffer, so that looking at them reads nothing.
    func holds(_ position: UInt64, _ count: Int) -> Bool {
        position >= bufferStart && position + UInt64(count) <= bufferStart + UInt64(bufferCount)
    }

    /// The bytes at `position`, as many as asked for or the file has.
    mutating func bytes(at position: UInt64, count: Int) throws(DiskError) -> UnsafeRawBufferPointer {
        let wanted = position >= end ? 0 : Int(min(UInt64(count), end - position))
        if position < bufferStart || position + UInt64(wanted) > bufferStart + UInt64(bufferCount) {
            let length = position >= end ? 0 : Int(min(UInt64(max(wanted, readLength)), end - position))
            if length > buffer.count {
                buffer.deallocate()
                buffer = .allocate(byteCount: length, alignment: 8)
            }
            bufferStart = position
            bufferCount = try file.read(at: position, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<length]))
        }
        let start = Int(position - bufferStart)
        return UnsafeRawBufferPointer(rebasing: buffer[start..<min(start + wanted, bufferCount)])
    }

    /// The append that begins at `position`; with `withBlocks` all its blocks are read and their checksums compared.
    mutating func step(at position: UInt64, withBlocks: Bool) throws(DiskError) -> Step {
        guard position < end else { return .end }
        let start = try bytes(at: position, count: AppendHeader.fixedLength)
        guard let length = AppendHeader.length(start) else { return .bad("no append header") }
        let header: AppendHeader
        do throws(FormatError) {
            header = try AppendHeader(try headerBytes(at: position, count: length))
        } catch {
            return .bad(error.reason)
        }
        guard UInt64(header.totalLength) <= end - position else { return .bad("the append is cut short") }
        if withBlocks, let reason = try damage(of: header, at: position) { return .bad(reason) }
        return .append(header)
    }

    private mutating func headerBytes(at position: UInt64, count: Int) throws(FormatError) -> UnsafeRawBufferPointer {
        do {
            return try bytes(at: position, count: count)
        } catch {
            throw FormatError(error.description)
        }
    }

    /// What is wrong with the append's blocks; nil when nothing is.
    private mutating func damage(of header: AppendHeader, at position: UInt64) throws(DiskError) -> String? {
        let all = try bytes(at: position, count: header.totalLength)
        guard all.count == header.totalLength else { return "the append is cut short" }
        var start = header.headerLength
        for entry in header.blocks {
            let image = UnsafeRawBufferPointer(rebasing: all[start..<(start + entry.imageLength)])
            let computed = crc32c(UnsafeRawBufferPointer(rebasing: image[Block.Field.imageLength...]))
            guard computed == entry.crc,
                UInt32(littleEndian: image.loadUnaligned(fromByteOffset: Block.Field.crc, as: UInt32.self)) == entry.crc
            else { return "a block's checksum is wrong" }
            start += entry.imageLength
        }
        return nil
    }

    /// The first place at or after `position` where an append with at least this number begins.
    mutating func next(after position: UInt64, numberMin: UInt64) throws(DiskError) -> (
        position: UInt64, header: AppendHeader
    )? {
        var position = (position + 7) & ~7
        while position < end {
            let window = try bytes(at: position, count: readLength)
            var found: UInt64?
            var offset = 0
            while offset + 4 <= window.count {
                if window.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                    == SegmentFormat.appendMagic.littleEndian
                {
                    found = position + UInt64(offset)
                    break
                }
                offset += 8
            }
            guard let candidate = found else {
                position += UInt64(max(window.count & ~7, 8))
                continue
            }
            if case .append(let header) = try step(at: candidate, withBlocks: false), header.number >= numberMin {
                return (candidate, header)
            }
            position = candidate + 8
        }
        return nil
    }
}

/// Reads a whole small file.
func contents(of file: any DiskFile, limit: UInt64 = 1 << 30) throws(DiskError) -> [UInt8] {
    let size = Int(min(try file.size(), limit))
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(size, 1), alignment: 8)
    defer { buffer.deallocate() }
    let count = try file.read(at: 0, into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<size]))
    return Array(buffer[..<count])
}
