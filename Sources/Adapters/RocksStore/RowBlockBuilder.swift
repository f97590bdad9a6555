import CZstd

/// Collects rows of one instrument and hour, in order, into a block. Used by one thread, reused block after block.
final class RowBlockBuilder {
    private let keys = Scratch(16 << 10)
    private let frames = Scratch()
    private let value = Scratch()
    private let body = Scratch()
    private let compressor = ZSTD_createCCtx()
    private let planes = PlaneCodec()
    private var tracks: [RowBlock.Track] = []
    private var track = 0
    private var hour: Int32 = 0
    private(set) var rowCount = 0
    private(set) var framesLength = 0
    private(set) var first = RowPlace.least
    private var lastKey: RowKey?
    private(set) var appendTimeNs = Int64.min

    deinit { ZSTD_freeCCtx(compressor) }

    var isEmpty: Bool { rowCount == 0 }
    var lastPlace: RowPlace? { lastKey?.place }
    /// Whether another row of `frameLength` bytes fits the format's limits.
    func hasRoom(_ frameLength: Int) -> Bool {
        rowCount < RowBlock.rowsMax && framesLength + frameLength <= RowBlock.framesLengthMax
            && tracks.count < Int(UInt16.max)
    }

    func begin(hour: Int32) {
        self.hour = hour
        rowCount = 0
        framesLength = 0
        lastKey = nil
        appendTimeNs = .min
        track = 0
        tracks.removeAll(keepingCapacity: true)
    }

    func note(appendTimeNs: Int64) { self.appendTimeNs = max(self.appendTimeNs, appendTimeNs) }

    /// Appends a row; keys come in ascending order. A row whose key is there already is left out: false.
    @inline(__always)
    func append(_ key: RowKey, filingTimeNs: Int64, frame: UnsafeRawBufferPointer) -> Bool {
        if let lastKey {
            if !(lastKey < key) {
                precondition(lastKey == key, "rows out of order")
                return false
            }
        } else {
            first = key.place
        }
        lastKey = key
        let feed = UInt16(truncatingIfNeeded: key.low)
        if track >= tracks.count || tracks[track].epoch != key.epoch || tracks[track].feed != feed
            || key.sequence &- tracks[track].baseSequence > UInt64(UInt32.max)
        {
            findTrack(feed: feed, epoch: key.epoch, sequence: key.sequence)
        }
        let position = rowCount &* RowBlock.keyLength
        keys.grow(position &+ RowBlock.keyLength, keeping: position)
        let keyBase = keys.bytes.baseAddress!
        RowBlock.storeLE(
            RowBlock.packKey(offset: Hour.offset(filingTimeNs, in: hour), track: track), keyBase, position)
        RowBlock.storeLE(UInt32(truncatingIfNeeded: key.sequence &- tracks[track].baseSequence), keyBase, position &+ 8)
        frames.grow(framesLength &+ frame.count, keeping: framesLength)
        (frames.bytes.baseAddress! + framesLength).copyMemory(from: frame.baseAddress!, byteCount: frame.count)
        framesLength &+= frame.count
        rowCount &+= 1
        return true
    }

    private func findTrack(feed: UInt16, epoch: UInt64, sequence: UInt64) {
        for index in tracks.indices {
            let known = tracks[index]
            if known.feed == feed, known.epoch == epoch, sequence &- known.baseSequence <= UInt64(UInt32.max) {
                track = index
                return
            }
        }
        track = tracks.count
        tracks.append(RowBlock.Track(feed: feed, epoch: epoch, baseSequence: sequence))
    }

    /// The block of what was collected, at least one row; valid until the next call.
    func build(_ codec: RowBlock.Codec, level: Int32 = 3) -> UnsafeRawBufferPointer {
        precondition(rowCount > 0)
        let keysLength = rowCount * RowBlock.keyLength
        let plainLength = keysLength + framesLength
        let bodyPosition = RowBlock.headerLength + tracks.count * RowBlock.trackLength
        switch codec {
        case .plain:
            let out = value.reserve(bodyPosition + plainLength)
            let base = out.baseAddress! + bodyPosition
            base.copyMemory(from: keys.bytes.baseAddress!, byteCount: keysLength)
            (base + keysLength).copyMemory(from: frames.bytes.baseAddress!, byteCount: framesLength)
            return finish(.plain, bodyPosition, plainLength)
        case .planes:
            let allKeys = UnsafeRawBufferPointer(rebasing: keys.bytes[..<keysLength])
            let allFrames = UnsafeRawBufferPointer(rebasing: frames.bytes[..<framesLength])
            let areDerived = PlaneCodec.areKeysDerived(allKeys, allFrames, rowCount, tracks, hour)
            guard
                let length = planes.pack(
                    keys: allKeys, frames: allFrames, rowCount: rowCount, areDerived: areDerived, level: level,
                    into: value, at: bodyPosition)
            else { return build(.zstd, level: level) }
            return finish(.planes, bodyPosition, length)
        case .zstd:
            let plain = body.reserve(plainLength)
            plain.baseAddress!.copyMemory(from: keys.bytes.baseAddress!, byteCount: keysLength)
            (plain.baseAddress! + keysLength).copyMemory(from: frames.bytes.baseAddress!, byteCount: framesLength)
            let bound = ZSTD_compressBound(plainLength)
            let out = value.reserve(bodyPosition + bound)
            let length = ZSTD_compressCCtx(
                compressor, out.baseAddress! + bodyPosition, bound, plain.baseAddress!, plainLength, level)
            guard ZSTD_isError(length) == 0, length < plainLength else { return build(.plain) }
            return finish(.zstd, bodyPosition, length)
        }
    }

    private func finish(_ codec: RowBlock.Codec, _ bodyPosition: Int, _ bodyLength: Int) -> UnsafeRawBufferPointer {
        let out = UnsafeMutableRawBufferPointer(rebasing: value.bytes[..<(bodyPosition + bodyLength)])
        for (index, track) in tracks.enumerated() { RowBlock.writeTrack(track, out.baseAddress!, index) }
        RowBlock.writeHeader(
            out, codec: codec, trackCount: tracks.count, rowCount: rowCount, framesLength: framesLength,
            bodyLength: bodyLength, first: first, last: lastKey!.place, appendTimeNs: appendTimeNs)
        return UnsafeRawBufferPointer(out)
    }
}
