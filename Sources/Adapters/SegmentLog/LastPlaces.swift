import EventLog

/// The latest record of each (topic, partition, feed, exchange, symbol) of a stream.
///
/// Readers look under the stream's state lock. The appending thread, the only one that changes it, may look without. It
/// keeps the chain as of the append it is preparing apart (``WriterChain``), since that append may yet fail.
final class LastPlaceTable {
    typealias Entry = Checkpoint.LastPlaceEntry

    private(set) var entries: [Entry] = []
    /// Numbers the entries.
    private var keys = KeyTable()

    private static func tag(_ place: TopicPartition) -> UInt64 {
        UInt64(place.topic.number) << 16 | UInt64(place.partition)
    }

    /// The entry's number, or nil.
    func find(_ block: Block, track: Int) -> Int? {
        keys.find(block, track: track, tag: LastPlaceTable.tag(block.topicPartition))
    }

    /// The entries of all tracks of a block, -1 where there is none.
    func find(_ block: Block, _ numbers: inout KeyNumbers, into found: inout [Int]) {
        numbers.find(block, in: keys, tag: LastPlaceTable.tag(block.topicPartition), into: &found)
    }

    /// Adds an entry that must not be there; its offset may be ``Block/noOffset`` until its append is written.
    func insert(_ entry: Entry) -> Int {
        entries.append(entry)
        return keys.add(
            exchange: entry.exchange, symbol: entry.symbol, feed: entry.feed, tag: LastPlaceTable.tag(entry.place))
    }

    func update(
        _ number: Int, offset: UInt64, epoch: UInt64, sequence: UInt64, appendNumber: UInt64, generation: UInt32
    ) {
        LastPlaceTable.set(&entries[number], offset, epoch, sequence, appendNumber, generation)
    }

    private static func set(
        _ entry: inout Entry, _ offset: UInt64, _ epoch: UInt64, _ sequence: UInt64, _ appendNumber: UInt64,
        _ generation: UInt32
    ) {
        entry.offset = offset
        entry.epoch = epoch
        entry.sequence = sequence
        entry.appendNumber = appendNumber
        entry.generation = generation
    }

    /// The newest over all partitions; a topic may once have had another number of them.
    func latest(_ topic: Topic, partitions: Int, feed: String, exchange: String, symbol: String) -> Entry? {
        let feed = Array(feed.utf8)
        let exchange = Array(exchange.utf8)
        let symbol = Array(symbol.utf8)
        var latest: Entry?
        for partition in 0..<partitions {
            let place = TopicPartition(topic, UInt16(partition))
            let found = keys.find(exchange: exchange, symbol: symbol, feed: feed, tag: LastPlaceTable.tag(place))
            guard let number = found, entries[number].offset != Block.noOffset else { continue }
            if latest.map({ $0.appendNumber < entries[number].appendNumber }) ?? true { latest = entries[number] }
        }
        return latest
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
    private var numbers = KeyNumbers()

    mutating func begin(_ table: LastPlaceTable) {
        changes.removeAll(keepingCapacity: true)
        while offsets.count < table.entries.count { offsets.append(table.entries[offsets.count].offset) }
    }

    /// Finds the entries of a block's tracks. Ones not known yet are made by `insert`.
    mutating func resolve(_ block: Block, _ table: LastPlaceTable, insert: (Checkpoint.LastPlaceEntry) -> Int) {
        table.find(block, &numbers, into: &entryOfTrack)
        for track in 0..<block.trackCount where entryOfTrack[track] < 0 {
            // Two tracks may have one key, new in this block.
            let number =
                table.find(block, track: track) ?? insert(Checkpoint.LastPlaceEntry(block, track: track))
            while offsets.count <= number { offsets.append(Block.noOffset) }
            entryOfTrack[track] = number
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
}
