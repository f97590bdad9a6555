// The embedded tick store, on RocksDB: rows in small blocks as the writer applies them, merged into full compressed
// blocks; last ticks, day figures and the offset they go through in the same atomic batch. WriterService feeds it,
// EdgeService and Repair ask it.

import DayFigures
import EventLog
import MarketModel
import Synchronization
import TickStore
import TimeSource

/// A ``TickStore`` in one directory, opened by one process at a time.
///
/// `apply` returns when the operating system has the write (the end of the process loses nothing); a thread of the
/// store makes it durable at least every second, and what `apply` returns says how far that is.
public final class RocksStore: TickStore, @unchecked Sendable {
    /// Version of everything below the directory.
    static let formatVersion: UInt32 = 1

    /// What readers see without a file. Guarded by the mutex.
    struct Shared {
        struct Entry {
            let instrument: Instrument
            var latest: LatestTick?
            var place: Int
        }

        var numbers: [Instrument: UInt32] = [:]
        var entries: [Entry] = []
        var places: [TopicPartition: Int] = [:]
        var applied: [UInt64] = []
        var durable: [UInt64] = []
        var held: [TopicPartition: HeldOffsets] = [:]
        var isClosed = false
        /// Scans and merges under way, which close waits for.
        var users = 0
        /// Fresh blocks of each hour that has some.
        var fresh: [HourID: FreshCount] = [:]
        /// Whether `fresh` has what an earlier start left.
        var hasFoundFresh = false
        /// The newest filing time of each instrument.
        var newestNs: [UInt32: Int64] = [:]
        /// Why the store could not sync or merge in the background; told to the next apply.
        var failure: StoreError?
        var counters = RocksStoreCounters()
    }

    struct FreshCount {
        var blocks = 0
        var rows = 0
    }

    let database: RocksDatabase
    let limits: RocksStoreLimits
    // Owned by the holder of applyLock.
    let applier: Applier
    let time: any TimeSource
    // Owned by the holder of mergeLock.
    let hourMerge: HourMerge
    let mergeLock = Mutex<Void>(())
    private let threads = Mutex<[BackgroundThread]>([])
    let applyLock = Mutex<Void>(())
    let shared: Mutex<Shared>

    /// Opens the store in a directory, made when absent (its parent exists).
    ///
    /// Throws `.locked` when another process has it, `.readOnly`, `.unknownFormat` for a newer version's, `.damaged`,
    /// `.io`.
    public init(
        directory: String, time: any TimeSource, calendar: SessionCalendar = .utc,
        limits: RocksStoreLimits = RocksStoreLimits()
    ) throws(StoreError) {
        self.limits = limits
        self.time = time
        database = try RocksDatabase(directory: directory, limits: limits)
        do {
            try RocksStore.checkFormat(database)
            applier = try Applier(database, calendar: calendar)
            hourMerge = HourMerge(database, limits)
            shared = Mutex(try RocksStore.load(database, applier.catalog, applier.index.held))
        } catch {
            database.close()
            throw error
        }
        if limits.hasBackgroundWork { startThreads() }
    }

    private func startThreads() {
        let sync = BackgroundThread(intervalMs: limits.syncIntervalMs) { [weak self] in self?.syncInBackground() }
        let merge = BackgroundThread(intervalMs: limits.syncIntervalMs) { [weak self] in self?.mergeInBackground() }
        threads.withLock { $0 = [sync, merge] }
    }

    deinit { try? close() }

    private static func checkFormat(_ database: RocksDatabase) throws(StoreError) {
        if let bytes = try database.get(.meta, MetaKey.format) {
            let version: UInt32? = bytes.withUnsafeBytes {
                var reader = RecordReader($0)
                return reader.integer()
            }
            guard let version else { throw StoreFailure.damaged(database.directory, "the format record is damaged") }
            guard version <= formatVersion else {
                throw StoreError(
                    .unknownFormat,
                    "\(database.directory): written by a newer version (format \(version), this one knows "
                        + "\(formatVersion)); start that version, or choose another data directory")
            }
            return
        }
        let batch = WriteBatch(database)
        var value: [UInt8] = []
        value.appendLittleEndian(formatVersion)
        batch.put(.meta, MetaKey.format, value)
        try database.write(batch)
        try database.syncLog()
    }

    private static func load(
        _ database: RocksDatabase, _ catalog: Catalog, _ held: [TopicPartition: HeldOffsets]
    ) throws(StoreError) -> sending Shared {
        var shared = Shared()
        shared.held = held
        let iterator = database.iterator(.meta, nil)
        iterator.seek([MetaKey.offsetPrefix])
        while try iterator.isValid(), iterator.key[0] == MetaKey.offsetPrefix {
            let key = iterator.key
            guard key.count == 5, iterator.value.count == 8,
                let topic = Topic(number: UInt16(bigEndian: key.loadUnaligned(fromByteOffset: 1, as: UInt16.self)))
            else { throw StoreFailure.damaged(database.directory, "an offset record is damaged") }
            let partition = UInt16(bigEndian: key.loadUnaligned(fromByteOffset: 3, as: UInt16.self))
            let next: UInt64 = RowBlock.loadLE(iterator.value, 0)
            shared.places[TopicPartition(topic, partition)] = shared.applied.count
            shared.applied.append(next)
            iterator.next()
        }
        // What recovery found is in synced files or a WAL that is synced before anything else is promised.
        try database.syncLog()
        shared.durable = shared.applied
        for (number, entry) in catalog.entries.enumerated() {
            shared.numbers[entry.instrument] = UInt32(number)
            shared.entries.append(Shared.Entry(instrument: entry.instrument, latest: nil, place: 0))
            if let record = entry.record { shared.show(record, of: UInt32(number)) }
        }
        return shared
    }

    public func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        try applyLock.withLock { _ throws(StoreError) -> UInt64 in
            let (applied, durable) = try shared.withLock { shared throws(StoreError) -> (UInt64?, UInt64) in
                try shared.checkOpen(database)
                if let failure = shared.failure {
                    shared.failure = nil
                    throw failure
                }
                guard let index = shared.places[place] else { return (nil, 0) }
                return (shared.applied[index], shared.durable[index])
            }
            if let applied, next <= applied { return durable }
            try applier.apply(rows, from: applied ?? 0, through: next, of: place)
            return shared.withLock { shared in publish(&shared, next, place) }
        }
    }

    /// Shows an apply to readers; returns the durable offset.
    private func publish(_ shared: inout Shared, _ next: UInt64, _ place: TopicPartition) -> UInt64 {
        let index: Int
        if let known = shared.places[place] {
            index = known
        } else {
            index = shared.applied.count
            shared.places[place] = index
            shared.applied.append(0)
            shared.durable.append(0)
        }
        shared.applied[index] = next
        shared.held[place] = applier.index.held[place]
        let entries = applier.catalog.entries
        while shared.entries.count < entries.count {
            let number = shared.entries.count
            shared.numbers[entries[number].instrument] = UInt32(number)
            shared.entries.append(Shared.Entry(instrument: entries[number].instrument, latest: nil, place: index))
        }
        for number in applier.changed {
            if let record = entries[Int(number)].record { shared.show(record, of: number) }
        }
        for block in applier.freshBlocks {
            shared.fresh[block.id, default: FreshCount()].blocks += 1
            shared.fresh[block.id, default: FreshCount()].rows += block.rows
            shared.newestNs[block.id.instrument] = max(
                shared.newestNs[block.id.instrument] ?? .min, block.newestNs)
        }
        return shared.durable[index]
    }

    public func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? {
        try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            return shared.places[place].map { shared.applied[$0] }
        }
    }

    public func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try syncAll()
        return try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            return shared.places[place].map { shared.durable[$0] } ?? 0
        }
    }

    /// Makes everything applied durable.
    func syncAll() throws(StoreError) {
        try use { () throws(StoreError) in
            let applied = shared.withLock { $0.applied }
            try database.syncLog()
            shared.withLock { shared in
                for (index, next) in applied.enumerated() where shared.durable[index] < next {
                    shared.durable[index] = next
                }
            }
        }
    }

    public func instruments() throws(StoreError) -> [Instrument] {
        try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            return shared.entries.filter { $0.latest != nil }.map { $0.instrument }.sorted()
        }
    }

    public func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick? {
        try shared.withLock { shared throws(StoreError) -> LatestTick? in
            try shared.checkOpen(database)
            guard let number = shared.numbers[instrument] else { return nil }
            let entry = shared.entries[Int(number)]
            guard let latest = entry.latest else { return nil }
            return LatestTick(update: latest.update, nextOffset: shared.applied[entry.place], day: latest.day)
        }
    }

    public func scan(_ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool) throws(StoreError) {
        let number = try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            return shared.numbers[instrument]
        }
        guard let number, from < to else { return }
        try use { () throws(StoreError) in
            try RowScan(database, number, from: from, to: to).run(body)
        }
    }

    public func heldOffsets(_ place: TopicPartition) -> HeldOffsets {
        shared.withLock { $0.held[place] ?? HeldOffsets() }
    }

    public func filed(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords] {
        try use { () throws(StoreError) in try FiledIndex.runs(database, place, offsets) }
    }

    /// Makes a consistent copy that opens as a store of its own, while this one goes on. `directory` must not exist.
    public func checkpoint(to directory: String) throws(StoreError) {
        try use { () throws(StoreError) in try database.checkpoint(to: directory) }
    }

    public func close() throws(StoreError) {
        let wasClosed = shared.withLock { shared in
            defer { shared.isClosed = true }
            return shared.isClosed
        }
        if wasClosed { return }
        for thread in threads.withLock({ $0 }) { thread.stop() }
        applyLock.withLock { _ in }
        while shared.withLock({ $0.users > 0 }) { time.sleep(ns: 1_000_000) }
        defer { database.close() }
        try database.syncLog()
        // In files, the next start has no write-ahead log to read.
        for space in KeySpace.allCases { try database.flush(space) }
    }

    /// Runs `body` while the database is sure to be open.
    func use<T>(_ body: () throws(StoreError) -> T) throws(StoreError) -> T {
        try shared.withLock { shared throws(StoreError) in
            try shared.checkOpen(database)
            shared.users += 1
        }
        defer { shared.withLock { $0.users -= 1 } }
        return try body()
    }
}

extension RocksStore.Shared {
    func checkOpen(_ database: RocksDatabase) throws(StoreError) {
        if isClosed { throw StoreError(.closed, "\(database.directory): the store is closed") }
    }

    mutating func show(_ record: InstrumentRecord, of number: UInt32) {
        guard record.figures.newest != nil else { return }
        entries[Int(number)].latest = LatestTick(update: record.update, nextOffset: 0, day: record.figures.record)
        if let place = places[record.place] { entries[Int(number)].place = place }
    }
}
