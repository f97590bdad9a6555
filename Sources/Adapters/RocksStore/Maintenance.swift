import Synchronization
import TickStore
import TimeSource

/// What the store did beside applying and answering, since it was opened.
public struct RocksStoreCounters: Sendable, Hashable {
    /// Merges of a part of an hour, and the fresh blocks and rows that went into them.
    public var merges = 0
    public var mergedBlocks = 0
    public var mergedRows = 0
    /// Rows found in two blocks, of which one was kept.
    public var repeatedRows = 0
    /// Rows met while merging that share their published key with another tick; both are kept.
    public var conflictingRows = 0
    /// Hours of an instrument dropped because of their age, and because of the share of the disk.
    public var expiredHours = 0
    public var evictedHours = 0
}

// Syncing, merging and retention: on the store's own threads, or when called.
extension RocksStore {
    public var counters: RocksStoreCounters { shared.withLock { $0.counters } }

    func syncInBackground() {
        do { try syncAll() } catch { noteFailure(error) }
    }

    func mergeInBackground() {
        do {
            try findFresh()
            try merge(all: false)
            try retain()
        } catch { noteFailure(error) }
    }

    private func noteFailure(_ error: StoreError) {
        shared.withLock { if !$0.isClosed { $0.failure = error } }
    }

    /// Merges fresh blocks into full ones: of closed hours and of those with many, or of every hour. Returns when done.
    public func merge(all: Bool) throws(StoreError) {
        if all { try findFresh() }
        for id in due(all: all) {
            while try mergeOnce(id, all: all) {}
        }
    }

    /// Merges everything and rewrites the files without what was deleted, as time would. For benches and tools.
    public func settle() throws(StoreError) {
        try merge(all: true)
        try use { () throws(StoreError) in
            for space in KeySpace.allCases { try database.compact(space) }
        }
    }

    /// Merges a part of an hour; false when nothing is left of it that is due.
    private func mergeOnce(_ id: HourID, all: Bool) throws(StoreError) -> Bool {
        try use { () throws(StoreError) in
            try mergeLock.withLock { _ throws(StoreError) in
                let result = try hourMerge.merge(id)
                return shared.withLock { shared in
                    shared.counters.merges += result.freshBlocks > 0 ? 1 : 0
                    shared.counters.mergedBlocks += result.freshBlocks
                    shared.counters.mergedRows += result.freshRows
                    shared.counters.repeatedRows += result.repeatedRows
                    shared.counters.conflictingRows += result.conflictingRows
                    var left = shared.fresh[id] ?? FreshCount()
                    left.blocks -= result.freshBlocks
                    left.rows -= result.freshRows
                    let isEmpty = result.freshBlocks == 0 || left.blocks <= 0
                    shared.fresh[id] = isEmpty ? nil : left
                    return !isEmpty && !shared.isClosed && (all || isDue(id, left, shared))
                }
            }
        }
    }

    private func isDue(_ id: HourID, _ count: FreshCount, _ shared: borrowing Shared) -> Bool {
        if count.blocks >= limits.freshBlocksMax || count.rows >= limits.freshRowsMax { return true }
        guard let newest = shared.newestNs[id.instrument] else { return false }
        let (late, overflow) = newest.subtractingReportingOverflow(limits.latenessNs)
        return !overflow && Hour.of(late) > id.hour
    }

    private func due(all: Bool) -> [HourID] {
        shared.withLock { shared in
            shared.fresh.filter { all || isDue($0.key, $0.value, shared) }.map { $0.key }.sorted()
        }
    }

    /// Counts the fresh blocks that an earlier start left, once.
    private func findFresh() throws(StoreError) {
        try use { () throws(StoreError) in
            try mergeLock.withLock { _ throws(StoreError) in
                if shared.withLock({ $0.hasFoundFresh }) { return }
                var found: [HourID: FreshCount] = [:]
                var newest: [UInt32: Int64] = [:]
                try forEachFresh { key, header in
                    let id = HourID(instrument: key.instrument, hour: key.hour)
                    found[id, default: FreshCount()].blocks += 1
                    found[id, default: FreshCount()].rows += header.rowCount
                    newest[key.instrument] = max(
                        newest[key.instrument] ?? .min, header.last.time.multipliedReportingOverflow(by: 100).0)
                }
                shared.withLock { shared in
                    // What was applied meanwhile may be counted twice: a merge that finds less than was counted sets it
                    // right.
                    for (id, count) in found where shared.fresh[id].map({ $0.blocks < count.blocks }) ?? true {
                        shared.fresh[id] = count
                    }
                    for (instrument, ns) in newest {
                        shared.newestNs[instrument] = max(shared.newestNs[instrument] ?? .min, ns)
                    }
                    shared.hasFoundFresh = true
                }
            }
        }
    }

    private func forEachFresh(_ body: (BlockKey, RowBlock.Header) throws(StoreError) -> Void) throws(StoreError) {
        let iterator = database.iterator(.fresh, database.snapshot())
        iterator.seek([])
        while try iterator.isValid() {
            guard let key = BlockKey(iterator.key), let header = RowBlock.Header(iterator.value) else {
                throw StoreFailure.damaged(database.directory, "a fresh block of rows is damaged")
            }
            try body(key, header)
            iterator.next()
        }
    }

    /// Drops hours that are past their time, then, above the bound on bytes, those appended longest ago.
    public func retain() throws(StoreError) {
        try use { () throws(StoreError) in
            try mergeLock.withLock { _ throws(StoreError) in
                if limits.retentionNs == nil, limits.diskBytesMax == nil { return }
                var hours = try ages()
                if let retention = limits.retentionNs {
                    let (oldest, overflow) = time.wallNs().subtractingReportingOverflow(retention)
                    let expired = overflow ? [] : hours.filter { $0.ageNs < oldest }
                    try forgetFiled(Set(expired.map { $0.id.hour }))
                    for (id, _) in expired { try drop(id) }
                    hours.removeAll { hour in expired.contains { $0.id == hour.id } }
                    shared.withLock { $0.counters.expiredHours += expired.count }
                }
                guard let bytesMax = limits.diskBytesMax else { return }
                var bytes = diskBytes()
                guard bytes > bytesMax else { return }
                // Sizes of ranges are known for what is in files only.
                for space in [KeySpace.fresh, .hours] { try database.flush(space) }
                var forgotten: Set<Int32> = []
                for (id, _) in hours.sorted(by: { ($0.ageNs, $0.id) < ($1.ageNs, $1.id) }) {
                    guard bytes > bytesMax else { break }
                    if forgotten.insert(id.hour).inserted { try forgetFiled([id.hour]) }
                    let freed = [KeySpace.fresh, .hours].reduce(0 as UInt64) {
                        $0
                            + database.bytes(
                                $1, from: BlockKey.start(id.instrument, id.hour),
                                to: BlockKey.end(id.instrument, id.hour))
                    }
                    try drop(id)
                    bytes -= min(bytes, freed)
                    shared.withLock { $0.counters.evictedHours += 1 }
                }
                for space in [KeySpace.fresh, .hours] { try database.compact(space) }
            }
        }
    }

    /// Before rows are dropped, so that nobody is told that they are there.
    private func forgetFiled(_ hours: Set<Int32>) throws(StoreError) {
        guard !hours.isEmpty else { return }
        try applyLock.withLock { _ throws(StoreError) in
            try applier.forgetFiled(hours)
            shared.withLock { $0.held = applier.index.held }
        }
    }

    /// Every hour with when its newest row was appended, about.
    private func ages() throws(StoreError) -> [(id: HourID, ageNs: Int64)] {
        var hours: [(id: HourID, ageNs: Int64)] = []
        let iterator = database.iterator(.meta, nil)
        iterator.seek([MetaKey.agePrefix])
        while try iterator.isValid(), iterator.key[0] == MetaKey.agePrefix {
            guard let id = MetaKey.hour(iterator.key), iterator.value.count == 8 else {
                throw StoreFailure.damaged(database.directory, "the age of an hour is damaged")
            }
            hours.append((id, RowBlock.loadLE(iterator.value, 0)))
            iterator.next()
        }
        return hours
    }

    private func drop(_ id: HourID) throws(StoreError) {
        let start = BlockKey.start(id.instrument, id.hour)
        let end = BlockKey.end(id.instrument, id.hour)
        try applyLock.withLock { _ throws(StoreError) in
            let batch = WriteBatch(database)
            batch.deleteRange(.fresh, from: start, to: end)
            batch.deleteRange(.hours, from: start, to: end)
            batch.delete(.meta, MetaKey.age(id))
            batch.delete(.meta, MetaKey.count(id))
            try database.write(batch)
            applier.forgetAge(id)
            shared.withLock { $0.fresh[id] = nil }
        }
    }

    private func diskBytes() -> UInt64 {
        KeySpace.allCases.reduce(0) { $0 + database.number("rocksdb.live-sst-files-size", $1) }
    }

    /// Rows are exact when the fresh blocks do not overlap anything, so that none can be there twice; else nil.
    public func statistics() throws(StoreError) -> StoreStatistics {
        try use { () throws(StoreError) in
            let count = shared.withLock { $0.entries.lazy.filter { $0.latest != nil }.count }
            let memory = KeySpace.allCases.reduce(0 as UInt64) {
                $0 + database.number("rocksdb.cur-size-all-mem-tables", $1)
            }
            return StoreStatistics(instrumentCount: count, rowCount: try rowCount(), diskBytes: diskBytes() + memory)
        }
    }

    private func rowCount() throws(StoreError) -> UInt64? {
        try mergeLock.withLock { _ throws(StoreError) -> UInt64? in
            var rows: UInt64 = 0
            let counts = database.iterator(.meta, nil)
            counts.seek([MetaKey.countPrefix])
            while try counts.isValid(), counts.key[0] == MetaKey.countPrefix, counts.value.count == 8 {
                rows &+= RowBlock.loadLE(counts.value, 0) as UInt64
                counts.next()
            }
            var last: (id: HourID, place: RowPlace)?
            var overlaps = false
            let merged = database.iterator(.hours, nil)
            try forEachFresh { key, header throws(StoreError) in
                rows &+= UInt64(header.rowCount)
                let id = HourID(instrument: key.instrument, hour: key.hour)
                if let last, last.id == id {
                    if header.first <= last.place { overlaps = true }
                } else {
                    merged.seekBack(BlockKey.end(id.instrument, id.hour))
                    if try merged.isValid(), let known = BlockKey(merged.key), known.instrument == id.instrument,
                        known.hour == id.hour, let mergedHeader = RowBlock.Header(merged.value),
                        header.first <= mergedHeader.last
                    {
                        overlaps = true
                    }
                }
                last = (id, max(header.last, last?.id == id ? last?.place ?? .least : .least))
            }
            return overlaps ? nil : rows
        }
    }
}
