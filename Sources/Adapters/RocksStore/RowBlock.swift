import CLinux
import TickStore

/// How a block of rows lies in the database, little endian:
///
///     header  64 bytes  see `Field`
///     tracks  24 bytes  each: feed number (2), padding (6), epoch (8), base sequence (8)
///     body              for `.plain`: keys, then frames; otherwise those, packed (see ``PlaneCodec``)
///
/// A key is 12 bytes: nanoseconds within the hour (42 bits) with the track above them (16 bits from bit 48), and the
/// sequence less the track's base (4). Frames are gRPC frames as in the log.
enum RowBlock {
    enum Field {
        static let version = 0
        static let codec = 1
        static let trackCount = 2
        static let rowCount = 4
        static let framesLength = 8
        static let bodyLength = 12
        static let firstTime = 16
        static let firstLow = 24
        static let lastTime = 32
        static let lastLow = 40
        /// When the newest of the rows was appended to the log, ns.
        static let appendTimeNs = 48
        /// CRC-32C of everything but these four bytes.
        static let crc = 56
        static let reserved = 60
    }

    enum Codec: UInt8 {
        case plain = 0
        case zstd = 1
        case planes = 2
    }

    static let version: UInt8 = 1
    static let headerLength = 64
    static let trackLength = 24
    static let keyLength = 12
    static let framePrefixLength = 5
    /// Rows and bytes of frames that no block exceeds.
    static let rowsMax = 1 << 20
    static let framesLengthMax = 80 << 20

    struct Track: Hashable {
        var feed: UInt16
        var epoch: UInt64
        var baseSequence: UInt64
    }

    /// What the first 64 bytes say, checked.
    struct Header {
        let codec: Codec
        let trackCount: Int
        let rowCount: Int
        let framesLength: Int
        let bodyLength: Int
        let first: RowPlace
        let last: RowPlace
        let appendTimeNs: Int64

        /// nil where the bytes are no block; any may be given.
        init?(_ bytes: UnsafeRawBufferPointer) {
            guard bytes.count >= headerLength, bytes[Field.version] == version,
                let codec = Codec(rawValue: bytes[Field.codec])
            else { return nil }
            self.codec = codec
            trackCount = Int(loadLE(bytes, Field.trackCount) as UInt16)
            rowCount = Int(loadLE(bytes, Field.rowCount) as UInt32)
            framesLength = Int(loadLE(bytes, Field.framesLength) as UInt32)
            bodyLength = Int(loadLE(bytes, Field.bodyLength) as UInt32)
            first = RowPlace(time: loadLE(bytes, Field.firstTime), low: loadLE(bytes, Field.firstLow))
            last = RowPlace(time: loadLE(bytes, Field.lastTime), low: loadLE(bytes, Field.lastLow))
            appendTimeNs = loadLE(bytes, Field.appendTimeNs)
            guard rowCount > 0, rowCount <= rowsMax, trackCount > 0, framesLength <= framesLengthMax,
                framesLength >= rowCount * framePrefixLength, first <= last,
                bytes.count == headerLength + trackCount * trackLength + bodyLength
            else { return nil }
        }

        var bodyPosition: Int { headerLength + trackCount * trackLength }
    }

    @inline(__always)
    static func loadLE<T: FixedWidthInteger>(_ bytes: UnsafeRawBufferPointer, _ position: Int) -> T {
        T(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    @inline(__always)
    static func storeLE<T: FixedWidthInteger>(_ value: T, _ bytes: UnsafeMutableRawPointer, _ position: Int) {
        bytes.storeBytes(of: value.littleEndian, toByteOffset: position, as: T.self)
    }

    static func crc(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let head = clinux_crc32c(0, bytes.baseAddress!, Field.crc)
        return clinux_crc32c(head, bytes.baseAddress! + Field.reserved, bytes.count - Field.reserved)
    }

    static func writeHeader(
        _ bytes: UnsafeMutableRawBufferPointer, codec: Codec, trackCount: Int, rowCount: Int, framesLength: Int,
        bodyLength: Int, first: RowPlace, last: RowPlace, appendTimeNs: Int64
    ) {
        let base = bytes.baseAddress!
        base.storeBytes(of: version, toByteOffset: Field.version, as: UInt8.self)
        base.storeBytes(of: codec.rawValue, toByteOffset: Field.codec, as: UInt8.self)
        storeLE(UInt16(trackCount), base, Field.trackCount)
        storeLE(UInt32(rowCount), base, Field.rowCount)
        storeLE(UInt32(framesLength), base, Field.framesLength)
        storeLE(UInt32(bodyLength), base, Field.bodyLength)
        storeLE(first.time, base, Field.firstTime)
        storeLE(first.low, base, Field.firstLow)
        storeLE(last.time, base, Field.lastTime)
        storeLE(last.low, base, Field.lastLow)
        storeLE(appendTimeNs, base, Field.appendTimeNs)
        storeLE(UInt32(0), base, Field.reserved)
        storeLE(crc(UnsafeRawBufferPointer(bytes)), base, Field.crc)
    }

    static func writeTrack(_ track: Track, _ bytes: UnsafeMutableRawPointer, _ index: Int) {
        let position = headerLength + index * trackLength
        storeLE(UInt64(track.feed), bytes, position)
        storeLE(track.epoch, bytes, position + 8)
        storeLE(track.baseSequence, bytes, position + 16)
    }

    static func readTrack(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> Track {
        let position = headerLength + index * trackLength
        return Track(
            feed: loadLE(bytes, position), epoch: loadLE(bytes, position + 8),
            baseSequence: loadLE(bytes, position + 16))
    }

    @inline(__always)
    static func packKey(offset: UInt64, track: Int) -> UInt64 { offset | UInt64(track) << 48 }
}

/// Bytes that grow and are reused. Used by one thread.
final class Scratch {
    private(set) var bytes: UnsafeMutableRawBufferPointer

    init(_ capacity: Int = 64 << 10) {
        bytes = .allocate(byteCount: capacity, alignment: 16)
    }

    deinit { bytes.deallocate() }

    /// At least `count` bytes; what was there before is lost when they grow.
    func reserve(_ count: Int) -> UnsafeMutableRawBufferPointer {
        if bytes.count < count {
            bytes.deallocate()
            bytes = .allocate(byteCount: max(count, bytes.capacityAfterGrowth), alignment: 16)
        }
        return bytes
    }

    /// At least `count` bytes; the first `kept` stay.
    func grow(_ count: Int, keeping kept: Int) {
        guard bytes.count < count else { return }
        let larger = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(count, bytes.capacityAfterGrowth), alignment: 16)
        larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<kept]))
        bytes.deallocate()
        bytes = larger
    }
}

extension UnsafeMutableRawBufferPointer {
    fileprivate var capacityAfterGrowth: Int { count + count / 2 }
}
