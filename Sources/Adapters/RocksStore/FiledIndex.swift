import EventLog
import TickStore

/// Which records of the log the store holds, and where their rows are filed: a run of records is one entry, written
/// with the rows. Owned by whoever holds the store's apply lock.
struct FiledIndex {
    private let database: RocksDatabase
    private(set) var held: [TopicPartition: HeldOffsets] = [:]
    /// The run of each place that the next records may join.
    private var open: [TopicPartition: FiledRecords] = [:]
    private var before: (held: [TopicPartition: HeldOffsets], open: [TopicPartition: FiledRecords])?

    init(_ database: RocksDatabase) throws(StoreError) {
        self.database = database
        let iterator = database.iterator(.meta, nil)
        iterator.seek([MetaKey.heldPrefix])
        while try iterator.isValid(), iterator.key[0] == MetaKey.heldPrefix {
            let key = UnsafeRawBufferPointer(rebasing: iterator.key[1...])
            guard let place = FiledIndex.place(key), let offsets = FiledIndex.offsets(iterator.value) else {
                throw StoreFailure.damaged(database.directory, "a record of held offsets is damaged")
            }
            held[place] = offsets
            iterator.next()
        }
    }

    /// Puts what the rows' records add; ``didWrite()`` or ``rollBack()`` follows.
    mutating func add(_ rows: TickRows, from offset: UInt64, _ place: TopicPartition, to batch: WriteBatch) {
        before = (held, open)
        var times = FilingTimes()
        times.add(rows)
        for range in rows.offsets(from: offset) {
            let new = FiledRecords(offsets: range, times: times)
            let run = open[place]?.joined(by: new) ?? new
            open[place] = run
            held[place, default: HeldOffsets()].insert(range)
            batch.put(.meta, MetaKey.filed(place, run.offsets.lowerBound), FiledIndex.bytes(run))
        }
        batch.put(.meta, MetaKey.held(place), FiledIndex.bytes(held[place] ?? HeldOffsets()))
    }

    mutating func didWrite() { before = nil }

    mutating func rollBack() {
        guard let before else { return }
        (held, open) = before
        self.before = nil
    }

    /// Forgets the runs that have a row in one of the hours.
    mutating func forget(_ hours: Set<Int32>) throws(StoreError) {
        var left = held
        let batch = WriteBatch(database)
        try FiledIndex.forEach(database, from: [MetaKey.filedPrefix]) { place, run in
            guard run.times.ranges.contains(where: { FiledIndex.touches($0, hours) }) else { return true }
            left[place]?.remove(run.offsets)
            batch.delete(.meta, MetaKey.filed(place, run.offsets.lowerBound))
            return true
        }
        for (place, offsets) in left where offsets != held[place] {
            batch.put(.meta, MetaKey.held(place), FiledIndex.bytes(offsets))
        }
        try database.write(batch)
        held = left
        open = [:]
    }

    private static func touches(_ range: ClosedRange<Int64>, _ hours: Set<Int32>) -> Bool {
        let (first, last) = (Hour.of(range.lowerBound), Hour.of(range.upperBound))
        return hours.contains { $0 >= first && $0 <= last }
    }

    /// The runs of a place that have some of the offsets, ascending.
    static func runs(
        _ database: RocksDatabase, _ place: TopicPartition, _ offsets: Range<UInt64>
    ) throws(StoreError) -> [FiledRecords] {
        guard !offsets.isEmpty else { return [] }
        // The first one may begin before.
        let iterator = database.iterator(.meta, nil)
        var start = MetaKey.filed(place, offsets.lowerBound)
        iterator.seekBack(start)
        if try iterator.isValid(), let (known, run) = entry(iterator.key, iterator.value), known == place,
            run.offsets.upperBound > offsets.lowerBound
        {
            start = MetaKey.filed(place, run.offsets.lowerBound)
        }
        var found: [FiledRecords] = []
        try forEach(database, from: start) { known, run in
            guard known == place, run.offsets.lowerBound < offsets.upperBound else { return false }
            found.append(run)
            return true
        }
        return found
    }

    private static func forEach(
        _ database: RocksDatabase, from start: [UInt8], _ body: (TopicPartition, FiledRecords) -> Bool
    ) throws(StoreError) {
        let iterator = database.iterator(.meta, nil)
        iterator.seek(start)
        while try iterator.isValid(), iterator.key[0] == MetaKey.filedPrefix {
            guard let (place, run) = entry(iterator.key, iterator.value) else {
                throw StoreFailure.damaged(database.directory, "a record of where rows are filed is damaged")
            }
            guard body(place, run) else { return }
            iterator.next()
        }
    }

    // MARK: Bytes

    static func bytes(_ held: HeldOffsets) -> [UInt8] {
        var bytes: [UInt8] = []
        for range in held.ranges {
            bytes.appendLittleEndian(range.lowerBound)
            bytes.appendLittleEndian(range.upperBound)
        }
        return bytes
    }

    static func bytes(_ run: FiledRecords) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(run.offsets.upperBound)
        for range in run.times.ranges {
            bytes.appendLittleEndian(UInt64(bitPattern: range.lowerBound))
            bytes.appendLittleEndian(UInt64(bitPattern: range.upperBound))
        }
        return bytes
    }

    /// nil for what is none.
    static func offsets(_ value: UnsafeRawBufferPointer) -> HeldOffsets? {
        guard let pairs = pairs(value) else { return nil }
        var ranges: [Range<UInt64>] = []
        for (first, end) in pairs {
            guard first < end else { return nil }
            ranges.append(first..<end)
        }
        return HeldOffsets(ranges: ranges)
    }

    /// nil for what is none.
    static func entry(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) -> (TopicPartition, FiledRecords)? {
        guard key.count == 13, key[0] == MetaKey.filedPrefix, value.count >= 8,
            let place = place(UnsafeRawBufferPointer(rebasing: key[1..<5])),
            let pairs = pairs(UnsafeRawBufferPointer(rebasing: value[8...]))
        else { return nil }
        let first = UInt64(bigEndian: key.loadUnaligned(fromByteOffset: 5, as: UInt64.self))
        let end: UInt64 = RowBlock.loadLE(value, 0)
        var ranges: [ClosedRange<Int64>] = []
        for (first, last) in pairs {
            let (first, last) = (Int64(bitPattern: first), Int64(bitPattern: last))
            guard first <= last else { return nil }
            ranges.append(first...last)
        }
        guard first < end, let times = FilingTimes(ranges: ranges) else { return nil }
        return (place, FiledRecords(offsets: first..<end, times: times))
    }

    private static func place(_ key: UnsafeRawBufferPointer) -> TopicPartition? {
        guard key.count == 4,
            let topic = Topic(number: UInt16(bigEndian: key.loadUnaligned(fromByteOffset: 0, as: UInt16.self)))
        else { return nil }
        return TopicPartition(topic, UInt16(bigEndian: key.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
    }

    private static func pairs(_ value: UnsafeRawBufferPointer) -> [(UInt64, UInt64)]? {
        guard value.count % 16 == 0 else { return nil }
        return stride(from: 0, to: value.count, by: 16).map {
            (RowBlock.loadLE(value, $0), RowBlock.loadLE(value, $0 + 8))
        }
    }
}
