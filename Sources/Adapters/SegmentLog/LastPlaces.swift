import EventLog

/// The latest record of each (topic, partition, feed, exchange, symbol) of a stream.
///
/// Readers look under the stream's state lock. The appending thread, the only one that changes it, may look without. It
/// keeps the chain as of the append it is preparing apart (``WriterChain``), since that append may yet fail.
final class LastPlaceTable {
    typealias Entry = Checkpoint.LastPlaceEntry

    private(set) var entries: [Entry] = []
    private var hashes: [UInt64] = []
    private var slots = [Int32](repeating: -1, count: 256)

    static func hash(_ place: TopicPartition, keyHash: UInt64, feed: UnsafeRawBufferPointer) -> UInt64 {
        var hash = keyHash ^ (UInt64(place.topic.number) << 32 | UInt64(place.partition) << 48)
        for byte in feed { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash ^= hash >> 32
        return hash &* 0x9e37_79b9_7f4a_7c15
    }

    /// The entry's number, or nil.
    func find(
        _ hash: UInt64, _ place: TopicPartition, _ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer,
        _ feed: UnsafeRawBufferPointer
    ) -> Int? {
        var slot = Int(truncatingIfNeeded: hash >> 20) & (slots.count - 1)
        while slots[slot] >= 0 {
            let number = Int(slots[slot])
            if hashes[number] == hash, entries[number].place == place, same(entries[number].symbol, symbol),
                same(entries[number].exchange, exchange), same(entries[number].feed, feed)
            {
                return number
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        return nil
    }

    func find(_ block: Block, track: Int) -> Int? {
        let feed = block.feedBytes(track: track)
        let hash = LastPlaceTable.hash(block.topicPartition, keyHash: block.keyHash(track: track), feed: feed)
        return find(
            hash, block.topicPartition, block.exchangeBytes(track: track), block.symbolBytes(track: track), feed)
    }

    /// Adds an entry that must not be there; its offset may be ``Block/noOffset`` until its append is written.
    func insert(_ entry: Entry) -> Int {
        let keyHash = RecordKey.hash(exchange: entry.exchange, symbol: entry.symbol)
        let hash = entry.feed.withUnsafeBytes { LastPlaceTable.hash(entry.place, keyHash: keyHash, feed: $0) }
        entries.append(entry)
        hashes.append(hash)
        if entries.count * 2 > slots.count {
            slots = [Int32](repeating: -1, count: slots.count * 4)
            for number in entries.indices { put(number) }
        } else {
            put(entries.count - 1)
        }
        return entries.count - 1
    }

    func update(
        _ number: Int, offset: UInt64, epoch: UInt64, sequence: UInt64, appendNumber: UInt64, generation: UInt32
    ) {
        entries[number].offset = offset
        entries[number].epoch = epoch
        entries[number].sequence = sequence
        entries[number].appendNumber = appendNumber
        entries[number].generation = generation
    }

    /// The newest over all partitions; a topic may once have had another number of them.
    func latest(_ topic: Topic, partitions: Int, feed: String, exchange: String, symbol: String) -> Entry? {
        let feed = Array(feed.utf8)
        let exchange = Array(exchange.utf8)
        let symbol = Array(symbol.utf8)
        let keyHash = RecordKey.hash(exchange: exchange, symbol: symbol)
        var latest: Entry?
        for partition in 0..<partitions {
            let place = TopicPartition(topic, UInt16(partition))
            let found = feed.withUnsafeBytes { feed in
                exchange.withUnsafeBytes { exchange in
                    symbol.withUnsafeBytes { symbol in
                        find(LastPlaceTable.hash(place, keyHash: keyHash, feed: feed), place, exchange, symbol, feed)
                    }
                }
            }
            guard let number = found, entries[number].offset != Block.noOffset else { continue }
            if latest.map({ $0.appendNumber < entries[number].appendNumber }) ?? true { latest = entries[number] }
        }
        return latest
    }

    private func put(_ number: Int) {
        var slot = Int(truncatingIfNeeded: hashes[number] >> 20) & (slots.count - 1)
        while slots[slot] >= 0 { slot = (slot + 1) & (slots.count - 1) }
        slots[slot] = Int32(number)
    }

    private func same(_ a: [UInt8], _ b: UnsafeRawBufferPointer) -> Bool {
        a.count == b.count && a.withUnsafeBytes { $0.elementsEqual(b) }
    }
}

extension Checkpoint.LastPlaceEntry {
    init(_ block: Block, track: Int) {
        self.init(
            place: block.topicPartition, exchange: Array(block.exchangeBytes(track: track)),
            symbol: Array(block.symbolBytes(track: track)), feed: Array(block.feedBytes(track: track)),
            offset: Block.noOffset, epoch: 0, sequence: 0, appendNumber: 0,
            generation: 0)
    }

    var lastPlace: LastPlace {
        LastPlace(
            feed: String(decoding: feed, as: UTF8.self), exchange: String(decoding: exchange, as: UTF8.self),
            symbol: String(decoding: symbol, as: UTF8.self), place: place, offset: offset, epoch: epoch,
            sequence: sequence, generation: generation)
    }
}

/// The appending thread's view: each entry's latest offset including the append in preparation, and what that append
/// changes.
struct WriterChain {
    struct Change {
        var entry: Int
        var offset: UInt64
        var epoch: UInt64
        var sequence: UInt64
    }

    private var offsets: [UInt64] = []
    private(set) var changes: [Change] = []
    private var lastIndex: [Int32] = []
    private var entryOfTrack: [Int] = []

    mutating func begin(_ table: LastPlaceTable) {
        changes.removeAll(keepingCapacity: true)
        while offsets.count < table.entries.count { offsets.append(table.entries[offsets.count].offset) }
    }

    /// Finds the entries of a block's tracks. Ones not known yet are made by `insert`.
    mutating func resolve(_ block: Block, _ table: LastPlaceTable, insert: (Checkpoint.LastPlaceEntry) -> Int) {
        entryOfTrack.removeAll(keepingCapacity: true)
        for track in 0..<block.trackCount {
            if let number = table.find(block, track: track) {
                entryOfTrack.append(number)
                continue
            }
            let known = entryOfTrack.indices.first { WriterChain.isSameKey(block, $0, track) }
            let number = known.map { entryOfTrack[$0] } ?? insert(Checkpoint.LastPlaceEntry(block, track: track))
            while offsets.count <= number { offsets.append(Block.noOffset) }
            entryOfTrack.append(number)
        }
    }

    func previousOffset(track: Int) -> UInt64 { offsets[entryOfTrack[track]] }

    /// After the block was stamped: its last record of each track becomes the latest.
    mutating func advance(_ block: Block) {
        lastIndex.removeAll(keepingCapacity: true)
        for _ in 0..<block.trackCount { lastIndex.append(-1) }
        for index in 0..<block.recordCount { lastIndex[block.track(of: index)] = Int32(index) }
        for track in 0..<block.trackCount where lastIndex[track] >= 0 {
            let index = Int(lastIndex[track])
            let offset = block.firstOffset + UInt64(index)
            let entry = entryOfTrack[track]
            // Two tracks of one instrument (an epoch ended in this block): the later record counts.
            if offsets[entry] != Block.noOffset, offsets[entry] > offset { continue }
            offsets[entry] = offset
            changes.append(
                Change(
                    entry: entry, offset: offset, epoch: block.epoch(track: track), sequence: block.sequence(of: index))
            )
        }
    }

    /// The append failed: what it changed is as it was.
    mutating func undo(_ table: LastPlaceTable) {
        for change in changes { offsets[change.entry] = table.entries[change.entry].offset }
        changes.removeAll(keepingCapacity: true)
    }

    private static func isSameKey(_ block: Block, _ a: Int, _ b: Int) -> Bool {
        block.keyHash(track: a) == block.keyHash(track: b)
            && block.symbolBytes(track: a).elementsEqual(block.symbolBytes(track: b))
            && block.exchangeBytes(track: a).elementsEqual(block.exchangeBytes(track: b))
            && block.feedBytes(track: a).elementsEqual(block.feedBytes(track: b))
    }
}
