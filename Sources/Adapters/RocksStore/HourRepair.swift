import EventLog
import MarketModel
import Synchronization
import TickStore

// Rows one by one, for `verify` and `repair`: an hour of an instrument is read whole, changed and put back in one
// batch.
extension RocksStore: RepairableStore {
    public func feedNumbers() throws(StoreError) -> [[UInt8]: UInt16] {
        try applyLock.withLock { _ throws(StoreError) in
            try shared.withLock { shared throws(StoreError) in try shared.checkOpen(database) }
            var numbers: [[UInt8]: UInt16] = [:]
            for (index, name) in applier.catalog.feeds.enumerated() { numbers[name] = UInt16(index + 1) }
            return numbers
        }
    }

    public var rowLifetimeNs: Int64? { limits.retentionNs }

    public func storedInstruments() throws(StoreError) -> [Instrument] {
        try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            return shared.entries.map { $0.instrument }
        }
    }

    public func bucketWidths() -> [Instrument: BucketWidths] { [:] }

    public func storedBuckets(
        _ instrument: Instrument, from fromNs: Int64, through throughNs: Int64
    ) throws(StoreError) -> [TickBucket] {
        guard let number = shared.withLock({ $0.numbers[instrument] }) else { return [] }
        let (first, last) = (hour(TickBucket(of: fromNs)), hour(TickBucket(of: throughNs)))
        return try use { () throws(StoreError) in
            var found: Set<Int32> = []
            let snapshot = database.snapshot()
            for space in [KeySpace.hours, .fresh] {
                let iterator = database.iterator(space, snapshot)
                var hour = first
                while true {
                    iterator.seek(BlockKey.start(number, hour))
                    guard try iterator.isValid(), let key = BlockKey(iterator.key), key.hour <= last else { break }
                    // Hours come before instruments: what follows may be another's, of this hour or a later one.
                    if key.instrument == number { found.insert(key.hour) }
                    let next = key.instrument < number ? key.hour : key.hour &+ 1
                    guard next > hour, next <= last else { break }
                    hour = next
                }
            }
            return found.sorted().compactMap { hour in
                let day = floorDivide(Int64(hour), by: 24)
                return TickBucket(day: day, number: Int64(hour) - day * 24)
            }
        }
    }

    /// Hours since 1970: all buckets of this store are an hour's.
    private func hour(_ bucket: TickBucket) -> Int32 { Int32(clamping: floorDivide(bucket.startMinute, by: 60)) }

    /// A row of an hour, by itself.
    private struct Row {
        let key: RowKey
        let filingTimeNs: Int64
        var frame: [UInt8]

        var identity: TickRowIdentity? {
            try? TickRowIdentity(
                filingTimeNs: filingTimeNs, epoch: key.epoch, sequence: key.sequence,
                feedNumber: UInt16(truncatingIfNeeded: key.low))
        }
    }

    public func forEachRow(_ bucket: StoredBucket, _ body: (AuditedRow) -> Void) throws(StoreError) {
        guard let number = shared.withLock({ $0.numbers[bucket.instrument] }) else { return }
        let rows = try use { () throws(StoreError) -> [Row] in
            try self.rows(HourID(instrument: number, hour: hour(bucket.bucket))).rows
        }
        for row in rows {
            guard let key = row.identity else { continue }
            row.frame.withUnsafeBytes { frame in
                let update = UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...])
                body(AuditedRow(key: key, update: update, writtenMicroseconds: nil))
            }
        }
    }

    private func rows(_ id: HourID) throws(StoreError) -> (rows: [Row], appendTimeNs: Int64) {
        let snapshot = database.snapshot()
        var sources: [BlockSource] = []
        for space in [KeySpace.hours, .fresh] {
            sources.append(
                try BlockSource(
                    database, space, snapshot, instrument: id.instrument, from: .least, firstHour: id.hour,
                    lastHour: id.hour))
        }
        let merge = RowMerge(sources, directory: database.directory)
        var rows: [Row] = []
        var appendTimeNs = Int64.min
        try merge.forEachRun { run throws(StoreError) in
            try merge.readRows(run.reader)
            appendTimeNs = max(appendTimeNs, run.reader.header.appendTimeNs)
            for index in run.range {
                let row = run.reader.rows[index]
                let frame = Array(run.reader.frames[Int(row.start)..<Int(row.end)])
                rows.append(Row(key: row.key, filingTimeNs: row.filingTimeNs, frame: frame))
            }
            return true
        }
        return (rows, appendTimeNs)
    }

    public func rewrite(_ rows: [RepairedRow], in bucket: StoredBucket, _ stamp: RepairStamp) throws(StoreError) {
        let feeds = try feedNumbers()
        var new: [Row] = []
        for row in rows {
            guard let feed = feeds[row.feed] else {
                throw StoreError(
                    .io,
                    "\(bucket): the store has no feed \(String(decoding: row.feed, as: UTF8.self)); start the writer"
                )
            }
            let key = RowKey(
                filingTimeNs: row.filingTimeNs, epoch: row.epoch, sequence: row.sequence, feed: feed)
            var frame: [UInt8] = [0]
            frame.appendBigEndian(UInt32(clamping: row.update.count))
            new.append(Row(key: key, filingTimeNs: row.filingTimeNs, frame: frame + row.update))
        }
        let newest = rows.map(\.appendTimeNs).max() ?? .min
        try change(bucket, newest) { rows in
            // The first of equal keys stays.
            var all: [Row] = []
            var taken: [RowPlace: Set<UInt64>] = [:]
            for row in new + rows where taken[row.key.place, default: []].insert(row.key.epoch).inserted {
                all.append(row)
            }
            rows = all
        }
    }

    public func remove(
        _ keys: [TickRowIdentity], from bucket: StoredBucket, _ stamp: RepairStamp
    ) throws(StoreError) {
        let gone = Set(keys)
        try change(bucket, .min) { rows in rows.removeAll { row in row.identity.map(gone.contains) ?? false } }
    }

    private func change(
        _ bucket: StoredBucket, _ appendTimeNs: Int64, _ body: (inout [Row]) -> Void
    ) throws(StoreError) {
        guard let number = shared.withLock({ $0.numbers[bucket.instrument] }) else {
            throw StoreError(.io, "the store has no instrument \(bucket.instrument); start the writer")
        }
        let id = HourID(instrument: number, hour: hour(bucket.bucket))
        try use { () throws(StoreError) in
            try mergeLock.withLock { _ throws(StoreError) in
                try applyLock.withLock { _ throws(StoreError) in
                    var (rows, knownNs) = try self.rows(id)
                    body(&rows)
                    rows.sort { $0.key < $1.key }
                    try put(rows, id, max(appendTimeNs, knownNs))
                    shared.withLock { $0.fresh[id] = nil }
                    try database.syncLog()
                }
            }
        }
    }

    /// Replaces what the hour has.
    private func put(_ rows: [Row], _ id: HourID, _ appendTimeNs: Int64) throws(StoreError) {
        let batch = WriteBatch(database)
        let (start, end) = (BlockKey.start(id.instrument, id.hour), BlockKey.end(id.instrument, id.hour))
        // A block may be put where one was deleted: deletes come first.
        batch.deleteRange(.fresh, from: start, to: end)
        batch.deleteRange(.hours, from: start, to: end)
        let builder = RowBlockBuilder()
        func finish() {
            guard !builder.isEmpty else { return }
            let key = BlockKey(instrument: id.instrument, hour: id.hour, first: builder.first, origin: nil)
            batch.put(.hours, key.bytes, Array(builder.build(.planes, level: limits.compressionLevel)))
        }
        builder.begin(hour: id.hour)
        for row in rows {
            if builder.rowCount >= limits.mergedRows || builder.framesLength >= limits.mergedBytes
                || !builder.hasRoom(row.frame.count), row.key.place != builder.lastPlace
            {
                finish()
                builder.begin(hour: id.hour)
            }
            builder.note(appendTimeNs: appendTimeNs)
            _ = row.frame.withUnsafeBytes { builder.append(row.key, filingTimeNs: row.filingTimeNs, frame: $0) }
        }
        finish()
        var count: [UInt8] = []
        count.appendLittleEndian(UInt64(rows.count))
        batch.put(.meta, MetaKey.count(id), count)
        try database.write(batch)
    }
}
