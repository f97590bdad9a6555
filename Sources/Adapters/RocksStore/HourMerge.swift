import TickStore

/// Merges fresh blocks of one hour of an instrument into full ones, replacing them in one batch. Used by one thread.
final class HourMerge {
    /// What one merge did.
    struct Result {
        var freshBlocks = 0
        var freshRows = 0
        /// Rows that two blocks had.
        var repeatedRows = 0
        /// Rows whose published key another tick has too.
        var conflictingRows = 0
    }

    /// How much one merge takes on, so that its batch stays small.
    private static let freshBytesMax = 32 << 20
    private static let freshBlocksMax = 4096

    private let database: RocksDatabase
    private let limits: RocksStoreLimits
    private let builder = RowBlockBuilder()
    private let batch: WriteBatch

    init(_ database: RocksDatabase, _ limits: RocksStoreLimits) {
        self.database = database
        self.limits = limits
        batch = WriteBatch(database)
    }

    /// Merges a bounded part of the hour's fresh blocks; `freshBlocks` of the result is 0 when there are none.
    func merge(_ id: HourID) throws(StoreError) -> Result {
        let snapshot = database.snapshot()
        guard let extent = try extent(id, snapshot) else { return Result() }
        let from = try start(id, snapshot, before: extent.first)
        let fresh = try BlockSource(
            database, .fresh, snapshot, instrument: id.instrument, from: .least, firstHour: id.hour, lastHour: id.hour,
            keepsTaken: true, takenMax: extent.blocks)
        let merged = try BlockSource(
            database, .hours, snapshot, instrument: id.instrument, from: from, firstHour: id.hour, lastHour: id.hour,
            through: extent.last, keepsTaken: true)
        var result = Result(freshBlocks: extent.blocks, freshRows: extent.rows)
        let rowsOut = try write(id, [merged, fresh], &result)
        for key in merged.taken { batch.delete(.hours, key.bytes) }
        for key in fresh.taken { batch.delete(.fresh, key.bytes) }
        // A block may be put where one was deleted: deletes come first.
        for (key, value) in outputs { batch.put(.hours, key, value) }
        outputs.removeAll(keepingCapacity: true)
        let known = try count(id)
        let kept = known >= mergedRowsIn ? known - mergedRowsIn : 0
        result.repeatedRows = max(0, mergedRowsIn + extent.rows - rowsOut)
        var value: [UInt8] = []
        value.appendLittleEndian(UInt64(kept + rowsOut))
        batch.put(.meta, MetaKey.count(id), value)
        try database.write(batch)
        return result
    }

    private var outputs: [([UInt8], [UInt8])] = []
    private var mergedRowsIn = 0

    /// How many merged rows the hour has.
    private func count(_ id: HourID) throws(StoreError) -> Int {
        guard let bytes = try database.get(.meta, MetaKey.count(id)), bytes.count == 8 else { return 0 }
        return Int(bytes.withUnsafeBytes { RowBlock.loadLE($0, 0) as UInt64 } & 0xffff_ffff_ffff)
    }

    private struct Extent {
        var first: RowPlace
        var last: RowPlace
        var blocks = 0
        var rows = 0
        var bytes = 0
    }

    /// The first fresh blocks of the hour, as many as one merge takes on.
    private func extent(_ id: HourID, _ snapshot: Snapshot) throws(StoreError) -> Extent? {
        let iterator = database.iterator(.fresh, snapshot)
        iterator.seek(BlockKey.start(id.instrument, id.hour))
        var extent: Extent?
        while try iterator.isValid(), let key = BlockKey(iterator.key), key.instrument == id.instrument,
            key.hour == id.hour
        {
            guard let header = RowBlock.Header(iterator.value) else {
                throw StoreFailure.damaged(
                    database.directory, "the rows of instrument \(id.instrument), hour \(id.hour) have a damaged header"
                )
            }
            var next = extent ?? Extent(first: key.first, last: header.last)
            next.last = max(next.last, header.last)
            next.blocks += 1
            next.rows += header.rowCount
            next.bytes += header.framesLength
            extent = next
            if next.bytes >= Self.freshBytesMax || next.blocks >= Self.freshBlocksMax { break }
            iterator.next()
        }
        return extent
    }

    /// Where merging begins: at the block before the fresh rows when that one is not full, so that open hours end in
    /// few blocks.
    private func start(_ id: HourID, _ snapshot: Snapshot, before first: RowPlace) throws(StoreError) -> RowPlace {
        let iterator = database.iterator(.hours, snapshot)
        iterator.seekBack(BlockKey(instrument: id.instrument, hour: id.hour, first: first, origin: nil).bytes)
        guard try iterator.isValid(), let key = BlockKey(iterator.key), key.instrument == id.instrument,
            key.hour == id.hour, let header = RowBlock.Header(iterator.value),
            header.rowCount < limits.mergedRows, header.framesLength < limits.mergedBytes
        else { return first }
        return min(first, key.first)
    }

    private func write(_ id: HourID, _ sources: [BlockSource], _ result: inout Result) throws(StoreError) -> Int {
        batch.clear()
        outputs.removeAll(keepingCapacity: true)
        mergedRowsIn = 0
        builder.begin(hour: id.hour)
        var rowsOut = 0
        var last: RowPlace?
        var conflicts = 0
        let merge = RowMerge(sources, directory: database.directory)
        merge.onOpen = { [self] reader, isMerged in if isMerged { mergedRowsIn += reader.rowCount } }
        try merge.forEachRun { run throws(StoreError) in
            try merge.readRows(run.reader)
            let frames = run.reader.frames
            for index in run.range {
                let row = run.reader.rows[index]
                if row.key.place == last { conflicts += 1 }
                last = row.key.place
                let frame = UnsafeRawBufferPointer(rebasing: frames[Int(row.start)..<Int(row.end)])
                if builder.rowCount >= limits.mergedRows || builder.framesLength >= limits.mergedBytes
                    || !builder.hasRoom(frame.count)
                {
                    // Rows that differ only in what the key leaves out share a block: a key stands for one block.
                    if row.key.place != builder.lastPlace { finish(id) }
                }
                builder.note(appendTimeNs: run.reader.header.appendTimeNs)
                if builder.append(row.key, filingTimeNs: row.filingTimeNs, frame: frame) { rowsOut += 1 }
            }
            return true
        }
        finish(id)
        result.conflictingRows = conflicts
        return rowsOut
    }

    private func finish(_ id: HourID) {
        guard !builder.isEmpty else { return }
        let key = BlockKey(instrument: id.instrument, hour: id.hour, first: builder.first, origin: nil)
        outputs.append((key.bytes, Array(builder.build(.planes, level: limits.compressionLevel))))
        builder.begin(hour: id.hour)
    }
}
