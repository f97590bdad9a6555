import CLinux

/// A run of consecutive records of one partition: the unit that is appended, stored, cached and handed from thread to
/// thread.
///
/// One allocation holds the whole image, which is byte for byte what lies on disk (little endian):
///
///     header   64 bytes  see `Block.Field`
///     entries   8 bytes  per record: position in the records region (4), track (2), sequence - track's base (2)
///     records            gRPC frames, back to back: 0, length (4, big endian), payload
///     padding            to a multiple of 8
///     tracks   48 bytes  each; then the names they point to; padding to a multiple of 8
///
/// A full stream to a client is one copy of the records region; an instrument is found through the tracks without
/// decoding.
///
/// Immutable and safe to share once the log has stamped it (``stamp(firstOffset:appendTimeNs:previousOffset:)``).
public final class Block: @unchecked Sendable {
    /// Positions of the header's fields in the image, in bytes.
    public enum Field {
        public static let magic = 0
        public static let crc = 4
        public static let imageLength = 8
        public static let topic = 12
        public static let partition = 14
        public static let firstOffset = 16
        public static let appendTimeNs = 24
        public static let recordCount = 32
        public static let trackCount = 36
        public static let recordsPosition = 40
        public static let recordsLength = 44
        public static let tracksPosition = 48
        public static let reserved = 52
    }

    public static let magic: UInt32 = 0x3142_4454  // "TDB1"
    public static let headerLength = 64
    public static let entryLength = 8
    public static let trackLength = 48
    /// The frame prefix of a gRPC message.
    public static let framePrefixLength = 5
    /// No earlier record of the track's instrument.
    public static let noOffset = UInt64.max
    /// The largest image accepted, in bytes.
    public static let imageLengthMax = 64 << 20

    public let image: UnsafeRawBufferPointer
    public let topicPartition: TopicPartition
    public let recordCount: Int
    public let trackCount: Int
    public let recordsPosition: Int
    public let recordsLength: Int
    public let tracksPosition: Int
    /// What each record reports, where the block was built in this process by a producer that said so; nil where
    /// records have to be decoded. Not part of the image.
    public let figures: [RecordFigures]?
    /// Whether who built it in this process found every record to be what its topic says, with values that its readers
    /// can hold, under the names, epoch and sequence of its track. Not part of the image.
    public let isChecked: Bool
    /// Which builder of this process made it; nil where it was read. Not part of the image.
    public let origin: Origin?

    /// A builder, and which of its keys each track has.
    public struct Origin: Sendable {
        public let builder: UInt64
        public let keys: [Int32]
    }

    /// Takes ownership of an image allocated with `malloc`-compatible `UnsafeMutableRawBufferPointer.allocate`, after
    /// checking every position in it (and the checksum unless told otherwise). Any bytes may be given; none trap.
    public convenience init(owning image: UnsafeMutableRawBufferPointer, checkCRC: Bool = true) throws(BlockError) {
        do {
            let layout = try BlockLayout(checking: UnsafeRawBufferPointer(image), checkCRC: checkCRC)
            self.init(image: UnsafeRawBufferPointer(image), layout: layout)
        } catch {
            image.deallocate()
            throw error
        }
    }

    init(
        image: UnsafeRawBufferPointer, layout: BlockLayout, figures: [RecordFigures]? = nil, isChecked: Bool = false,
        origin: Origin? = nil
    ) {
        self.image = image
        self.figures = figures
        self.isChecked = isChecked
        self.origin = origin
        topicPartition = layout.topicPartition
        recordCount = layout.recordCount
        trackCount = layout.trackCount
        recordsPosition = layout.recordsPosition
        recordsLength = layout.recordsLength
        tracksPosition = layout.tracksPosition
    }

    deinit { image.deallocate() }

    /// Offset of the first record; meaningless before ``stamp(firstOffset:appendTimeNs:previousOffset:)``.
    @inlinable
    public var firstOffset: UInt64 { load(Field.firstOffset) }
    /// One past the last record's offset.
    @inlinable
    public var endOffset: UInt64 { firstOffset &+ UInt64(recordCount) }
    /// When the log appended it, nanoseconds since the epoch.
    @inlinable
    public var appendTimeNs: Int64 { load(Field.appendTimeNs) }
    /// All records as gRPC frames.
    @inlinable
    public var records: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: image[recordsPosition..<(recordsPosition + recordsLength)])
    }

    /// The frame of one record within ``records``. `index` is in `0..<recordCount`.
    @inlinable
    public func frameRange(_ index: Int) -> Range<Int> {
        precondition(index >= 0 && index < recordCount)
        let start = Int(load(Block.headerLength &+ index &* Block.entryLength) as UInt32)
        let end =
            index &+ 1 == recordCount
            ? recordsLength : Int(load(Block.headerLength &+ (index &+ 1) &* Block.entryLength) as UInt32)
        return start..<end
    }

    /// How many records end in the first `position` bytes of ``records``.
    public func recordsEnded(by position: Int) -> Int {
        if position >= recordsLength { return recordCount }
        var low = 0
        var high = recordCount
        while low < high {
            let middle = (low &+ high) / 2
            if frameRange(middle).upperBound <= position { low = middle &+ 1 } else { high = middle }
        }
        return low
    }

    /// One record without its frame prefix.
    @inlinable
    public func payload(_ index: Int) -> UnsafeRawBufferPointer {
        let range = frameRange(index)
        let start = recordsPosition &+ range.lowerBound &+ Block.framePrefixLength
        return UnsafeRawBufferPointer(rebasing: image[start..<(recordsPosition &+ range.upperBound)])
    }

    /// Which track a record belongs to.
    @inlinable
    public func track(of index: Int) -> Int {
        precondition(index >= 0 && index < recordCount)
        return Int(load(Block.headerLength &+ index &* Block.entryLength &+ 4) as UInt16)
    }

    /// The record's sequence within its track's epoch.
    @inlinable
    public func sequence(of index: Int) -> UInt64 {
        let delta: UInt16 = load(Block.headerLength &+ index &* Block.entryLength &+ 6)
        return baseSequence(track: track(of: index)) &+ UInt64(delta)
    }

    /// Hash of the track's exchange and symbol (``RecordKey/hash(exchange:symbol:)``); equal names have equal hashes.
    @inlinable
    public func keyHash(track: Int) -> UInt64 { load(trackBase(track)) }
    /// The epoch that all records of the track belong to.
    @inlinable
    public func epoch(track: Int) -> UInt64 { load(trackBase(track) &+ 8) }
    /// The sequence that the entries of the track count from.
    @inlinable
    public func baseSequence(track: Int) -> UInt64 { load(trackBase(track) &+ 16) }
    /// Offset of the latest record of the same topic, partition, feed, exchange and symbol before this block;
    /// ``noOffset`` where there is none.
    @inlinable
    public func previousOffset(track: Int) -> UInt64 { load(trackBase(track) &+ 24) }

    /// UTF-8 bytes of the names. On topics that are not keyed by instrument the exchange is empty and the symbol is the
    /// key.
    public func exchangeBytes(track: Int) -> UnsafeRawBufferPointer { names(track, 0) }
    /// As ``exchangeBytes(track:)``.
    public func symbolBytes(track: Int) -> UnsafeRawBufferPointer { names(track, 1) }
    /// As ``exchangeBytes(track:)``.
    public func feedBytes(track: Int) -> UnsafeRawBufferPointer { names(track, 2) }

    /// All names of a track back to back (exchange, symbol, feed), and their lengths, 16 bits each from the lowest.
    @inlinable
    public func names(track: Int) -> (bytes: UnsafeRawBufferPointer, lengths: UInt64) {
        let base = trackBase(track)
        let start = Int(load(base &+ 32) as UInt32)
        let lengths = (load(base &+ 36) as UInt64) & 0xffff_ffff_ffff
        let count =
            Int(lengths & 0xffff) &+ Int(lengths >> 16 & 0xffff) &+ Int(lengths >> 32)
        return (UnsafeRawBufferPointer(rebasing: image[start..<(start &+ count)]), lengths)
    }

    /// The names as text; costs an allocation each.
    public func exchange(track: Int) -> String { String(decoding: exchangeBytes(track: track), as: UTF8.self) }
    /// As ``exchange(track:)``.
    public func symbol(track: Int) -> String { String(decoding: symbolBytes(track: track), as: UTF8.self) }
    /// As ``exchange(track:)``.
    public func feed(track: Int) -> String { String(decoding: feedBytes(track: track), as: UTF8.self) }

    /// For the log alone, before the block is shown to anyone: gives the records their offsets, links each track to its
    /// previous record and seals the image with its checksum.
    public func stamp(firstOffset: UInt64, appendTimeNs: Int64, previousOffset: (_ track: Int) -> UInt64) {
        let bytes = UnsafeMutableRawBufferPointer(mutating: image)
        bytes.storeBytes(of: firstOffset.littleEndian, toByteOffset: Field.firstOffset, as: UInt64.self)
        bytes.storeBytes(of: appendTimeNs.littleEndian, toByteOffset: Field.appendTimeNs, as: Int64.self)
        for track in 0..<trackCount {
            bytes.storeBytes(
                of: previousOffset(track).littleEndian, toByteOffset: trackBase(track) + 24, as: UInt64.self)
        }
        bytes.storeBytes(of: Block.crc(of: image).littleEndian, toByteOffset: Field.crc, as: UInt32.self)
    }

    static func crc(of image: UnsafeRawBufferPointer) -> UInt32 {
        clinux_crc32c(0, image.baseAddress! + Field.imageLength, image.count - Field.imageLength)
    }

    @inlinable
    func trackBase(_ track: Int) -> Int {
        precondition(track >= 0 && track < trackCount)
        return tracksPosition &+ track &* Block.trackLength
    }

    @inlinable
    func load<T: FixedWidthInteger>(_ position: Int) -> T {
        T(littleEndian: image.loadUnaligned(fromByteOffset: position, as: T.self))
    }

    private func names(_ track: Int, _ which: Int) -> UnsafeRawBufferPointer {
        let base = trackBase(track)
        var start = Int(load(base + 32) as UInt32)
        var position = base + 36
        for _ in 0..<which {
            start += Int(load(position) as UInt16)
            position += 2
        }
        return UnsafeRawBufferPointer(rebasing: image[start..<(start + Int(load(position) as UInt16))])
    }
}

/// Why bytes are not a block.
public enum BlockError: Error, Hashable, Sendable, CustomStringConvertible {
    case tooShort(Int)
    case badMagic(UInt32)
    case badLength(UInt32)
    case badChecksum(stored: UInt32, computed: UInt32)
    case unknownTopic(UInt16)
    case badLayout(String)

    public var description: String {
        switch self {
        case .tooShort(let count): "\(count) bytes are too short for a block"
        case .badMagic(let magic): "not a block (magic 0x\(String(magic, radix: 16)))"
        case .badLength(let length): "the block's length \(length) does not fit its image"
        case .badChecksum(let stored, let computed):
            "checksum 0x\(String(stored, radix: 16)) stored, 0x\(String(computed, radix: 16)) computed"
        case .unknownTopic(let number): "unknown topic number \(number)"
        case .badLayout(let what): "bad block layout: \(what)"
        }
    }
}

/// The positions in an image, checked.
struct BlockLayout {
    let topicPartition: TopicPartition
    let recordCount: Int
    let trackCount: Int
    let recordsPosition: Int
    let recordsLength: Int
    let tracksPosition: Int

    init(checking image: UnsafeRawBufferPointer, checkCRC: Bool) throws(BlockError) {
        func load<T: FixedWidthInteger>(_ position: Int) -> T {
            T(littleEndian: image.loadUnaligned(fromByteOffset: position, as: T.self))
        }
        guard image.count >= Block.headerLength else { throw .tooShort(image.count) }
        let magic: UInt32 = load(Block.Field.magic)
        guard magic == Block.magic else { throw .badMagic(magic) }
        let imageLength: UInt32 = load(Block.Field.imageLength)
        guard Int(imageLength) == image.count, image.count <= Block.imageLengthMax, image.count % 8 == 0 else {
            throw .badLength(imageLength)
        }
        if checkCRC {
            let stored: UInt32 = load(Block.Field.crc)
            let computed = Block.crc(of: image)
            guard stored == computed else { throw .badChecksum(stored: stored, computed: computed) }
        }
        let number: UInt16 = load(Block.Field.topic)
        guard let topic = Topic(number: number) else { throw .unknownTopic(number) }
        topicPartition = TopicPartition(topic, load(Block.Field.partition))
        recordCount = Int(load(Block.Field.recordCount) as UInt32)
        trackCount = Int(load(Block.Field.trackCount) as UInt32)
        recordsPosition = Int(load(Block.Field.recordsPosition) as UInt32)
        recordsLength = Int(load(Block.Field.recordsLength) as UInt32)
        tracksPosition = Int(load(Block.Field.tracksPosition) as UInt32)
        guard recordCount > 0, trackCount > 0, trackCount <= Int(UInt16.max) + 1 else {
            throw .badLayout("\(recordCount) records, \(trackCount) tracks")
        }
        guard recordsPosition == Block.headerLength + recordCount * Block.entryLength,
            recordsPosition + recordsLength <= tracksPosition,
            tracksPosition + trackCount * Block.trackLength <= image.count
        else { throw .badLayout("regions overlap or leave the image") }
        try checkEntries(image)
        try checkTracks(image)
    }

    private func checkEntries(_ image: UnsafeRawBufferPointer) throws(BlockError) {
        var expected = 0
        for index in 0..<recordCount {
            let base = Block.headerLength + index * Block.entryLength
            let position = Int(UInt32(littleEndian: image.loadUnaligned(fromByteOffset: base, as: UInt32.self)))
            let track = Int(UInt16(littleEndian: image.loadUnaligned(fromByteOffset: base + 4, as: UInt16.self)))
            guard track < trackCount else { throw .badLayout("record \(index) names track \(track)") }
            guard position == expected, position + Block.framePrefixLength <= recordsLength else {
                throw .badLayout("record \(index) is at \(position), not \(expected)")
            }
            let frame = recordsPosition + position
            let length = Int(UInt32(bigEndian: image.loadUnaligned(fromByteOffset: frame + 1, as: UInt32.self)))
            guard image[frame] == 0, length <= recordsLength - position - Block.framePrefixLength else {
                throw .badLayout("record \(index) has length \(length)")
            }
            expected = position + Block.framePrefixLength + length
        }
        guard expected == recordsLength else { throw .badLayout("records end at \(expected), not \(recordsLength)") }
    }

    private func checkTracks(_ image: UnsafeRawBufferPointer) throws(BlockError) {
        for track in 0..<trackCount {
            let base = tracksPosition + track * Block.trackLength
            var end = Int(UInt32(littleEndian: image.loadUnaligned(fromByteOffset: base + 32, as: UInt32.self)))
            guard end >= tracksPosition + trackCount * Block.trackLength else {
                throw .badLayout("track \(track) has its names at \(end)")
            }
            for i in 0..<3 {
                end += Int(
                    UInt16(littleEndian: image.loadUnaligned(fromByteOffset: base + 36 + 2 * i, as: UInt16.self)))
            }
            guard end <= image.count else { throw .badLayout("track \(track) has names past the end") }
        }
    }
}

/// Hash of a record's key, the same on every machine and run. It is stored in blocks, so it never changes.
public enum RecordKey {
    /// FNV-1a over exchange, `|` and symbol.
    @inlinable
    public static func hash(exchange: some Sequence<UInt8>, symbol: some Sequence<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in exchange { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ UInt64(UInt8(ascii: "|"))) &* 0x100_0000_01b3
        for byte in symbol { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return hash
    }
}

/// CRC-32C, as blocks, segment files and tokens carry it.
public enum Checksum {
    /// CRC-32C (Castagnoli) of the bytes; 0 for none.
    public static func crc32c(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        guard let base = bytes.baseAddress else { return 0 }
        return clinux_crc32c(0, base, bytes.count)
    }
}
