import Synchronization

/// Collects records of one partition into a ``Block``. Used by one thread; reused for batch after batch.
///
/// A track is what consecutive sequences share: feed, epoch, exchange and symbol. A caller keeps the ``Key`` of each
/// instrument it publishes, so that appending costs an index and a copy.
public final class BlockBuilder {
    /// Names of a track, prepared once. For topics not keyed by instrument the exchange is empty and the symbol is the
    /// key.
    public struct Key: Sendable {
        public let keyHash: UInt64
        public let exchange: [UInt8]
        public let symbol: [UInt8]
        public let feed: [UInt8]

        /// Each name has at most 65,535 UTF-8 bytes.
        public init(exchange: String, symbol: String, feed: String) {
            self.exchange = Array(exchange.utf8)
            self.symbol = Array(symbol.utf8)
            self.feed = Array(feed.utf8)
            precondition(max(self.exchange.count, self.symbol.count, self.feed.count) <= Int(UInt16.max))
            keyHash = RecordKey.hash(exchange: self.exchange, symbol: self.symbol)
        }

        /// The same of names as bytes, with ``RecordKey/hash(exchange:symbol:)`` of them.
        public init(keyHash: UInt64, exchange: [UInt8], symbol: [UInt8], feed: [UInt8]) {
            precondition(max(exchange.count, symbol.count, feed.count) <= Int(UInt16.max))
            self.keyHash = keyHash
            self.exchange = exchange
            self.symbol = symbol
            self.feed = feed
        }
    }

    @usableFromInline struct Track {
        @usableFromInline let key: Int
        @usableFromInline let epoch: UInt64
        @usableFromInline let baseSequence: UInt64
        @inlinable
        init(key: Int, epoch: UInt64, baseSequence: UInt64) {
            self.key = key
            self.epoch = epoch
            self.baseSequence = baseSequence
        }
    }

    public let topicPartition: TopicPartition
    /// Of the keys that this builder knows, among those of all builders of the process, from 1 on.
    private var number = BlockBuilder.made.add(1, ordering: .relaxed).newValue
    private static let made = Atomic<UInt64>(0)
    // A builder belongs to one thread and no closure re-enters it, so that accesses need no checks at run time: they
    // were a third of what an append costs.
    /// Records collected so far.
    @exclusivity(unchecked) public private(set) var recordCount = 0

    /// What a block says of a registered key.
    private struct Registered {
        let keyHash: UInt64
        /// Of exchange, symbol and feed, 16 bits each from the lowest.
        let lengths: UInt64
        /// Where its names lie in `names`.
        let start: Int
        let count: Int
    }

    @exclusivity(unchecked) private var keys: [Registered] = []
    /// The names of all keys, back to back.
    @exclusivity(unchecked) private var names: [UInt8] = []
    @exclusivity(unchecked) @usableFromInline var trackOfKey: [Int32] = []
    @exclusivity(unchecked) @usableFromInline var tracks: [Track] = []
    @exclusivity(unchecked) @usableFromInline var entries: [UInt64] = []
    @exclusivity(unchecked) @usableFromInline var records: UnsafeMutableRawBufferPointer
    @exclusivity(unchecked) @usableFromInline var recordsLength = 0
    /// Of every record collected, or none.
    @exclusivity(unchecked) @usableFromInline var figures: [RecordFigures] = []
    /// Records collected that were checked.
    @exclusivity(unchecked) private var checkedCount = 0

    public init(_ topicPartition: TopicPartition, capacity: Int = 64 << 10) {
        self.topicPartition = topicPartition
        records = .allocate(byteCount: max(capacity, 64), alignment: 8)
    }

    deinit { records.deallocate() }

    /// Bytes of the records collected so far, frames included.
    public var byteCount: Int { recordsLength }
    public var isEmpty: Bool { recordCount == 0 }

    /// Makes a key known to this builder, until it forgets its keys. Returns its number.
    public func register(_ key: Key) -> Int {
        let start = names.count
        names += key.exchange
        names += key.symbol
        names += key.feed
        let lengths =
            UInt64(key.exchange.count) | UInt64(key.symbol.count) << 16 | UInt64(key.feed.count) << 32
        keys.append(
            Registered(keyHash: key.keyHash, lengths: lengths, start: start, count: names.count - start))
        trackOfKey.append(-1)
        return keys.count - 1
    }

    /// Forgets all keys, which are numbered anew from then on. Only while it is empty.
    public func forgetKeys() {
        precondition(isEmpty)
        keys = []
        names = []
        trackOfKey = []
        number = BlockBuilder.made.add(1, ordering: .relaxed).newValue
    }

    /// Appends one record: `encode` writes at most `lengthMax` bytes into the buffer and returns how many. Where every
    /// record of a block comes with its figures, the block has them.
    @inlinable
    public func append(
        key: Int, epoch: UInt64, sequence: UInt64, lengthMax: Int, figures: RecordFigures? = nil,
        encode: (UnsafeMutableRawBufferPointer) -> Int
    ) {
        let start = recordsLength
        if records.count &- start < lengthMax &+ Block.framePrefixLength {
            grow(lengthMax &+ Block.framePrefixLength)
        }
        let body = UnsafeMutableRawBufferPointer(
            rebasing: records[(start &+ Block.framePrefixLength)..<(start &+ Block.framePrefixLength &+ lengthMax)])
        let length = encode(body)
        precondition(length >= 0 && length <= lengthMax)
        records[start] = 0
        records.storeBytes(of: UInt32(length).bigEndian, toByteOffset: start &+ 1, as: UInt32.self)
        let end = start &+ Block.framePrefixLength &+ length
        if let figures { self.figures.append(figures) }
        finish(start: start, end: end, key: key, epoch: epoch, sequence: sequence)
    }

    /// Appends one record that is encoded already. Where all of a block were checked, the block says so
    /// (``Block/isChecked``).
    public func append(
        key: Int, epoch: UInt64, sequence: UInt64, payload: UnsafeRawBufferPointer, figures: RecordFigures? = nil,
        isChecked: Bool = false
    ) {
        if isChecked { checkedCount &+= 1 }
        append(key: key, epoch: epoch, sequence: sequence, lengthMax: payload.count, figures: figures) { buffer in
            buffer.copyMemory(from: payload)
            return payload.count
        }
    }

    /// The block of all records collected, not yet stamped; the builder is empty afterwards. At least one record is
    /// needed.
    public func build() -> Block {
        precondition(recordCount > 0)
        let recordsPosition = Block.headerLength + recordCount * Block.entryLength
        let tracksPosition = (recordsPosition + recordsLength + 7) & ~7
        var namesPosition = tracksPosition + tracks.count * Block.trackLength
        let namesLength = tracks.reduce(0) { $0 + keys[$1.key].count }
        let imageLength = (namesPosition + namesLength + 7) & ~7
        precondition(imageLength <= Block.imageLengthMax, "a block of \(imageLength) bytes")
        let image = UnsafeMutableRawBufferPointer.allocate(byteCount: imageLength, alignment: 8)
        zero(image, 0, Block.headerLength)
        func store<T: FixedWidthInteger>(_ value: T, _ position: Int) {
            image.storeBytes(of: value.littleEndian, toByteOffset: position, as: T.self)
        }
        store(Block.magic, Block.Field.magic)
        store(UInt32(imageLength), Block.Field.imageLength)
        store(topicPartition.topic.number, Block.Field.topic)
        store(topicPartition.partition, Block.Field.partition)
        store(UInt32(recordCount), Block.Field.recordCount)
        store(UInt32(tracks.count), Block.Field.trackCount)
        store(UInt32(recordsPosition), Block.Field.recordsPosition)
        store(UInt32(recordsLength), Block.Field.recordsLength)
        store(UInt32(tracksPosition), Block.Field.tracksPosition)
        entries.withUnsafeBytes { source in
            (image.baseAddress! + Block.headerLength).copyMemory(from: source.baseAddress!, byteCount: source.count)
        }
        (image.baseAddress! + recordsPosition).copyMemory(from: records.baseAddress!, byteCount: recordsLength)
        zero(image, recordsPosition + recordsLength, tracksPosition)
        for (index, track) in tracks.enumerated() {
            let key = keys[track.key]
            let base = tracksPosition + index * Block.trackLength
            store(key.keyHash, base)
            store(track.epoch, base + 8)
            store(track.baseSequence, base + 16)
            store(Block.noOffset, base + 24)
            store(UInt32(namesPosition), base + 32)
            store(key.lengths, base + 36)
            store(UInt32(0), base + 44)
            names.withUnsafeBytes { bytes in
                if let source = bytes.baseAddress {
                    (image.baseAddress! + namesPosition).copyMemory(from: source + key.start, byteCount: key.count)
                }
            }
            namesPosition += key.count
        }
        zero(image, namesPosition, imageLength)
        let layout = BlockLayout(
            topicPartition: topicPartition, recordCount: recordCount, trackCount: tracks.count,
            recordsPosition: recordsPosition, recordsLength: recordsLength, tracksPosition: tracksPosition)
        let figures = figures.count == recordCount ? figures : nil
        let origin = Block.Origin(builder: number, keys: tracks.map { Int32(truncatingIfNeeded: $0.key) })
        let isChecked = checkedCount == recordCount
        reset()
        return Block(
            image: UnsafeRawBufferPointer(image), layout: layout, figures: figures, isChecked: isChecked, origin: origin
        )
    }

    private func reset() {
        for track in tracks { trackOfKey[track.key] = -1 }
        tracks.removeAll(keepingCapacity: true)
        entries.removeAll(keepingCapacity: true)
        if !figures.isEmpty {
            figures = []
            figures.reserveCapacity(recordCount)
        }
        recordsLength = 0
        recordCount = 0
        checkedCount = 0
    }

    private func zero(_ image: UnsafeMutableRawBufferPointer, _ start: Int, _ end: Int) {
        for position in start..<end { image[position] = 0 }
    }

    @usableFromInline
    func grow(_ needed: Int) {
        let larger = UnsafeMutableRawBufferPointer.allocate(
            byteCount: max(records.count * 2, recordsLength + needed), alignment: 8)
        larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: records[..<recordsLength]))
        records.deallocate()
        records = larger
    }

    @usableFromInline
    func finish(start: Int, end: Int, key: Int, epoch: UInt64, sequence: UInt64) {
        var track = Int(trackOfKey[key])
        if track < 0 || tracks[track].epoch != epoch || sequence < tracks[track].baseSequence
            || sequence &- tracks[track].baseSequence > UInt64(UInt16.max)
        {
            track = tracks.count
            precondition(track <= Int(UInt16.max), "too many tracks in one block")
            tracks.append(Track(key: key, epoch: epoch, baseSequence: sequence))
            trackOfKey[key] = Int32(track)
        }
        let delta = sequence &- tracks[track].baseSequence
        entries.append((UInt64(UInt32(start)) | UInt64(track) << 32 | delta << 48).littleEndian)
        recordsLength = end
        recordCount += 1
    }
}

extension BlockLayout {
    init(
        topicPartition: TopicPartition, recordCount: Int, trackCount: Int, recordsPosition: Int, recordsLength: Int,
        tracksPosition: Int
    ) {
        self.topicPartition = topicPartition
        self.recordCount = recordCount
        self.trackCount = trackCount
        self.recordsPosition = recordsPosition
        self.recordsLength = recordsLength
        self.tracksPosition = tracksPosition
    }
}
