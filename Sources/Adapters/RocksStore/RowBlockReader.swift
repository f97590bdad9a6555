import CZstd
import TickCodec
import TickStore

/// One row of an opened block.
struct Row {
    var key: RowKey
    var filingTimeNs: Int64
    /// Where its frame begins and ends among the block's frames.
    var start: Int32
    var end: Int32
}

/// One block, unpacked: its frames, and its rows' keys once they are asked for. Used by one thread, reused block after
/// block.
final class RowBlockReader {
    private let body = Scratch()
    private let decompressor = ZSTD_createDCtx()
    private var tracks: [RowBlock.Track] = []
    private var keysLength = 0
    private var hour: Int32 = 0
    private(set) var rowCount = 0
    private(set) var framesLength = 0
    private(set) var header: RowBlock.Header!
    private(set) var rows: [Row] = []
    private var hasRows = false
    private var hasDerivedKeys = false
    private let planes = PlaneCodec()

    deinit { ZSTD_freeDCtx(decompressor) }

    /// Unpacks a copy of `value`. Throws ``RowBlockError`` for anything that is not a block of this hour.
    func open(_ value: UnsafeRawBufferPointer, hour: Int32) throws(RowBlockError) {
        guard let header = RowBlock.Header(value) else { throw .header }
        guard RowBlock.crc(value) == RowBlock.loadLE(value, RowBlock.Field.crc) as UInt32 else { throw .checksum }
        self.header = header
        self.hour = hour
        rowCount = header.rowCount
        framesLength = header.framesLength
        hasRows = false
        hasDerivedKeys = false
        tracks.removeAll(keepingCapacity: true)
        for index in 0..<header.trackCount { tracks.append(RowBlock.readTrack(value, index)) }
        keysLength = rowCount * RowBlock.keyLength
        let length = keysLength + framesLength
        let packed = UnsafeRawBufferPointer(rebasing: value[header.bodyPosition...])
        let out = body.reserve(length)
        switch header.codec {
        case .plain:
            guard packed.count == length else { throw .body }
            out.copyMemory(from: packed)
            try checkFrames()
        case .zstd:
            let count = ZSTD_decompressDCtx(decompressor, out.baseAddress, length, packed.baseAddress, packed.count)
            guard count == length else { throw .body }
            try checkFrames()
        case .planes:
            let keys = UnsafeMutableRawBufferPointer(rebasing: out[..<keysLength])
            let frames = UnsafeMutableRawBufferPointer(rebasing: out[keysLength..<length])
            guard let areDerived = planes.unpack(packed, keys: keys, frames: frames, rowCount: rowCount) else {
                throw .body
            }
            hasDerivedKeys = areDerived
        }
    }

    /// The unpacked frames, valid until the next ``open(_:hour:)``.
    var frames: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: body.bytes[keysLength..<(keysLength + framesLength)])
    }

    private func checkFrames() throws(RowBlockError) {
        let frames = frames
        var position = 0
        for _ in 0..<rowCount {
            guard framesLength - position >= RowBlock.framePrefixLength else { throw .frames }
            let length = Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
            guard frames[position] == 0, length <= framesLength - position - RowBlock.framePrefixLength else {
                throw .frames
            }
            position += RowBlock.framePrefixLength + length
        }
        guard position == framesLength else { throw .frames }
    }

    /// Fills ``rows``. Throws when keys and tracks do not fit each other or the header.
    func readRows() throws(RowBlockError) {
        if hasRows { return }
        rows.removeAll(keepingCapacity: true)
        rows.reserveCapacity(rowCount)
        let keys = UnsafeRawBufferPointer(rebasing: body.bytes[..<keysLength])
        let frames = frames
        var start = 0
        for index in 0..<rowCount {
            let length = Int(UInt32(bigEndian: frames.loadUnaligned(fromByteOffset: start + 1, as: UInt32.self)))
            let end = start + RowBlock.framePrefixLength + length
            let row =
                hasDerivedKeys
                ? derivedRow(UnsafeRawBufferPointer(rebasing: frames[(start + RowBlock.framePrefixLength)..<end]))
                : storedRow(keys, index)
            guard var row, Hour.of(row.filingTimeNs) == hour else { throw .keys }
            row.start = Int32(start)
            row.end = Int32(end)
            if let last = rows.last, row.key < last.key { throw .keys }
            rows.append(row)
            start = end
        }
        guard rows[0].key.place == header.first, rows[rowCount - 1].key.place == header.last else { throw .keys }
        hasRows = true
    }

    private func storedRow(_ keys: UnsafeRawBufferPointer, _ index: Int) -> Row? {
        let packed: UInt64 = RowBlock.loadLE(keys, index * RowBlock.keyLength)
        let delta: UInt32 = RowBlock.loadLE(keys, index * RowBlock.keyLength + 8)
        let track = Int(packed >> 48)
        guard track < tracks.count else { return nil }
        let filingTimeNs = Hour.time(hour, packed & 0xffff_ffff_ffff)
        let key = RowKey(
            filingTimeNs: filingTimeNs, epoch: tracks[track].epoch,
            sequence: tracks[track].baseSequence &+ UInt64(delta), feed: tracks[track].feed)
        return Row(key: key, filingTimeNs: filingTimeNs, start: 0, end: 0)
    }

    private func derivedRow(_ payload: UnsafeRawBufferPointer) -> Row? {
        guard let reader = try? TickReader(payload) else { return nil }
        let filingTimeNs = reader.filingTimeNs
        let key = RowKey(
            filingTimeNs: filingTimeNs, epoch: tracks[0].epoch, sequence: reader.sequence, feed: tracks[0].feed)
        return Row(key: key, filingTimeNs: filingTimeNs, start: 0, end: 0)
    }
}

/// Why a value is not a block of rows.
enum RowBlockError: String, Error {
    case header, checksum, body, frames, keys
}
