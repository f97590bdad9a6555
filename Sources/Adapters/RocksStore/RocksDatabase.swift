import CRocksDB
import CRocksLogger
import Glibc
import TickStore

/// The three key spaces of a store, each a column family.
enum KeySpace: Int, CaseIterable {
    /// Format, feeds, instruments, offsets, last ticks and day figures.
    case meta = 0
    /// Small blocks as they were applied.
    case fresh
    /// Merged blocks.
    case hours

    var name: String {
        switch self {
        case .meta: "default"
        case .fresh: "fresh"
        case .hours: "hours"
        }
    }
}

/// RocksDB with typed errors. Safe to call from any thread until ``close()``, which the owner calls last.
final class RocksDatabase: @unchecked Sendable {
    let directory: String
    private let database: OpaquePointer
    private let families: [OpaquePointer]
    private let writeOptions: OpaquePointer
    private let options: [OpaquePointer]
    private let cache: OpaquePointer

    init(directory: String, limits: RocksStoreLimits) throws(StoreError) {
        self.directory = directory
        cache = rocksdb_cache_create_lru(limits.blockCacheBytes)
        options = KeySpace.allCases.map { [cache] in RocksDatabase.options(for: $0, limits, cache: cache) }
        let names = KeySpace.allCases.map { strdup($0.name) }
        defer { for name in names { free(name) } }
        var handles = [OpaquePointer?](repeating: nil, count: names.count)
        var error: UnsafeMutablePointer<CChar>?
        let opened = rocksdb_open_column_families(
            options[0], directory, Int32(names.count), names.map { UnsafePointer($0) }, options.map { $0 }, &handles,
            &error)
        guard let opened else {
            let message = RocksDatabase.take(&error) ?? "unknown"
            for one in options { rocksdb_options_destroy(one) }
            rocksdb_cache_destroy(cache)
            throw StoreFailure.opening(directory, message)
        }
        database = opened
        families = handles.compactMap { $0 }
        writeOptions = rocksdb_writeoptions_create()
    }

    private static func options(for space: KeySpace, _ limits: RocksStoreLimits, cache: OpaquePointer) -> OpaquePointer
    {
        let options = rocksdb_options_create()!
        rocksdb_options_set_create_if_missing(options, 1)
        rocksdb_options_set_create_missing_column_families(options, 1)
        // Pages of an unsynced WAL reach the disk in any order: recover the longest prefix that is whole.
        rocksdb_options_set_wal_recovery_mode(options, 2)
        rocksdb_options_set_max_open_files(options, Int32(limits.openFilesMax))
        rocksdb_options_set_max_background_jobs(options, 2)
        rocksdb_options_set_max_total_wal_size(options, UInt64(limits.logBytesMax))
        crockslogger_discard(options)
        rocksdb_options_set_stats_dump_period_sec(options, 0)
        rocksdb_options_set_stats_persist_period_sec(options, 0)
        rocksdb_options_set_compression(options, 0)
        let table = rocksdb_block_based_options_create()!
        rocksdb_block_based_options_set_block_cache(table, cache)
        rocksdb_block_based_options_set_format_version(table, 5)
        switch space {
        case .meta:
            rocksdb_options_set_write_buffer_size(options, 8 << 20)
        case .fresh:
            // Fresh blocks are merged and deleted soon: rewriting them meanwhile is work for nothing.
            rocksdb_options_set_write_buffer_size(options, limits.writeBufferBytes)
            rocksdb_options_set_max_write_buffer_number(options, 4)
            rocksdb_options_set_level0_file_num_compaction_trigger(options, 8)
            rocksdb_options_set_level0_slowdown_writes_trigger(options, 40)
            rocksdb_options_set_level0_stop_writes_trigger(options, 60)
            rocksdb_options_set_target_file_size_base(options, UInt64(limits.writeBufferBytes))
            rocksdb_options_set_max_bytes_for_level_base(options, 8 * UInt64(limits.writeBufferBytes))
        case .hours:
            rocksdb_options_set_write_buffer_size(options, limits.writeBufferBytes)
            rocksdb_options_set_target_file_size_base(options, UInt64(limits.writeBufferBytes))
            rocksdb_options_set_max_bytes_for_level_base(options, 8 * UInt64(limits.writeBufferBytes))
        }
        rocksdb_options_set_block_based_table_factory(options, table)
        rocksdb_block_based_options_destroy(table)
        return options
    }

    /// Closes the database; nothing may be called afterwards.
    func close() {
        for family in families { rocksdb_column_family_handle_destroy(family) }
        rocksdb_close(database)
        rocksdb_writeoptions_destroy(writeOptions)
        for one in options { rocksdb_options_destroy(one) }
        rocksdb_cache_destroy(cache)
    }

    /// Frees RocksDB's message and gives it as a string; nil where there is none.
    static func take(_ error: inout UnsafeMutablePointer<CChar>?) -> String? {
        guard let message = error else { return nil }
        defer {
            rocksdb_free(message)
            error = nil
        }
        return String(cString: message)
    }

    private func check(_ error: inout UnsafeMutablePointer<CChar>?) throws(StoreError) {
        if let message = RocksDatabase.take(&error) { throw StoreFailure.of(directory, message) }
    }

    func get(_ space: KeySpace, _ key: [UInt8]) throws(StoreError) -> [UInt8]? {
        let readOptions = rocksdb_readoptions_create()
        defer { rocksdb_readoptions_destroy(readOptions) }
        var error: UnsafeMutablePointer<CChar>?
        var length = 0
        let value = key.withUnsafeBytes { bytes in
            rocksdb_get_cf(
                database, readOptions, families[space.rawValue], bytes.bindMemory(to: CChar.self).baseAddress,
                key.count,
                &length, &error)
        }
        try check(&error)
        guard let value else { return nil }
        defer { rocksdb_free(value) }
        return Array(UnsafeRawBufferPointer(start: value, count: length))
    }

    /// Writes a batch atomically: in the operating system's hands when it returns, durable after ``syncLog()``.
    func write(_ batch: WriteBatch) throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        rocksdb_write(database, writeOptions, batch.pointer, &error)
        try check(&error)
    }

    /// Makes every write before it durable.
    func syncLog() throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        rocksdb_flush_wal(database, 1, &error)
        try check(&error)
    }

    func family(_ space: KeySpace) -> OpaquePointer { families[space.rawValue] }

    func snapshot() -> Snapshot { Snapshot(database) }

    func iterator(_ space: KeySpace, _ snapshot: Snapshot?) -> RowIterator {
        RowIterator(database, families[space.rawValue], snapshot, directory: directory)
    }

    /// A property of one key space, as a number; 0 where RocksDB does not know it.
    func number(_ property: String, _ space: KeySpace) -> UInt64 {
        var value: UInt64 = 0
        return rocksdb_property_int_cf(database, families[space.rawValue], property, &value) == 0 ? value : 0
    }

    /// Writes what is in memory to files, then rewrites a key space without what was deleted.
    func compact(_ space: KeySpace) throws(StoreError) {
        try flush(space)
        rocksdb_compact_range_cf(database, families[space.rawValue], nil, 0, nil, 0)
    }

    func flush(_ space: KeySpace) throws(StoreError) {
        let flushOptions = rocksdb_flushoptions_create()
        defer { rocksdb_flushoptions_destroy(flushOptions) }
        var error: UnsafeMutablePointer<CChar>?
        rocksdb_flush_cf(database, flushOptions, families[space.rawValue], &error)
        try check(&error)
    }

    /// Bytes that a range of keys takes in files, about.
    func bytes(_ space: KeySpace, from: [UInt8], to: [UInt8]) -> UInt64 {
        var size: UInt64 = 0
        var error: UnsafeMutablePointer<CChar>?
        from.withUnsafeBytes { from in
            to.withUnsafeBytes { to in
                var starts = [from.bindMemory(to: CChar.self).baseAddress]
                var ends = [to.bindMemory(to: CChar.self).baseAddress]
                var startLength = from.count
                var endLength = to.count
                rocksdb_approximate_sizes_cf(
                    database, families[space.rawValue], 1, &starts, &startLength, &ends, &endLength, &size, &error)
            }
        }
        _ = RocksDatabase.take(&error)
        return size
    }

    /// Gives back the space of a range that was deleted, as far as files lie within it.
    func dropFiles(_ space: KeySpace, from: [UInt8], to: [UInt8]) throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        from.withUnsafeBytes { from in
            to.withUnsafeBytes { to in
                rocksdb_delete_file_in_range_cf(
                    database, families[space.rawValue], from.bindMemory(to: CChar.self).baseAddress, from.count,
                    to.bindMemory(to: CChar.self).baseAddress, to.count, &error)
            }
        }
        try check(&error)
    }

    /// A consistent copy of the store, hard-linked where the file system allows it. The directory must not exist.
    func checkpoint(to directory: String) throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        let checkpoint = rocksdb_checkpoint_object_create(database, &error)
        try check(&error)
        guard let checkpoint else { throw StoreError(.io, "\(directory): no checkpoint could be made; try again") }
        defer { rocksdb_checkpoint_object_destroy(checkpoint) }
        rocksdb_checkpoint_create(checkpoint, directory, 0, &error)
        if let message = RocksDatabase.take(&error) { throw StoreFailure.of(directory, message) }
    }
}

/// Puts and deletes that take effect together. Used by one thread.
final class WriteBatch {
    let pointer: OpaquePointer
    private let database: RocksDatabase

    init(_ database: RocksDatabase) {
        self.database = database
        pointer = rocksdb_writebatch_create()
    }

    deinit { rocksdb_writebatch_destroy(pointer) }

    func clear() { rocksdb_writebatch_clear(pointer) }
    var count: Int { Int(rocksdb_writebatch_count(pointer)) }

    func put(_ space: KeySpace, _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        rocksdb_writebatch_put_cf(
            pointer, database.family(space), key.bindMemory(to: CChar.self).baseAddress, key.count,
            value.bindMemory(to: CChar.self).baseAddress, value.count)
    }

    func put(_ space: KeySpace, _ key: [UInt8], _ value: [UInt8]) {
        key.withUnsafeBytes { key in value.withUnsafeBytes { put(space, key, $0) } }
    }

    func delete(_ space: KeySpace, _ key: [UInt8]) {
        key.withUnsafeBytes {
            rocksdb_writebatch_delete_cf(
                pointer, database.family(space), $0.bindMemory(to: CChar.self).baseAddress, key.count)
        }
    }

    func deleteRange(_ space: KeySpace, from: [UInt8], to: [UInt8]) {
        from.withUnsafeBytes { from in
            to.withUnsafeBytes { to in
                rocksdb_writebatch_delete_range_cf(
                    pointer, database.family(space), from.bindMemory(to: CChar.self).baseAddress, from.count,
                    to.bindMemory(to: CChar.self).baseAddress, to.count)
            }
        }
    }
}

/// One state of the database, shared by several iterators.
final class Snapshot {
    private let database: OpaquePointer
    let pointer: OpaquePointer

    init(_ database: OpaquePointer) {
        self.database = database
        pointer = rocksdb_create_snapshot(database)
    }

    deinit { rocksdb_release_snapshot(database, pointer) }
}

/// Walks keys in order. Used by one thread; keys and values are valid until the next move.
final class RowIterator {
    private let iterator: OpaquePointer
    private let options: OpaquePointer
    private let snapshot: Snapshot?
    private let directory: String

    init(_ database: OpaquePointer, _ family: OpaquePointer, _ snapshot: Snapshot?, directory: String) {
        self.snapshot = snapshot
        self.directory = directory
        options = rocksdb_readoptions_create()
        if let snapshot { rocksdb_readoptions_set_snapshot(options, snapshot.pointer) }
        rocksdb_readoptions_set_fill_cache(options, 0)
        iterator = rocksdb_create_iterator_cf(database, options, family)
    }

    deinit {
        rocksdb_iter_destroy(iterator)
        rocksdb_readoptions_destroy(options)
    }

    func seek(_ key: [UInt8]) {
        key.withUnsafeBytes {
            rocksdb_iter_seek(iterator, $0.bindMemory(to: CChar.self).baseAddress, key.count)
        }
    }

    /// Moves to the last key at or before `key`.
    func seekBack(_ key: [UInt8]) {
        key.withUnsafeBytes {
            rocksdb_iter_seek_for_prev(iterator, $0.bindMemory(to: CChar.self).baseAddress, key.count)
        }
    }

    func next() { rocksdb_iter_next(iterator) }

    /// False at the end. Throws when the end is an error.
    func isValid() throws(StoreError) -> Bool {
        if rocksdb_iter_valid(iterator) != 0 { return true }
        var error: UnsafeMutablePointer<CChar>?
        rocksdb_iter_get_error(iterator, &error)
        if let message = RocksDatabase.take(&error) { throw StoreFailure.of(directory, message) }
        return false
    }

    var key: UnsafeRawBufferPointer {
        var length = 0
        let bytes = rocksdb_iter_key(iterator, &length)
        return UnsafeRawBufferPointer(start: bytes, count: length)
    }

    var value: UnsafeRawBufferPointer {
        var length = 0
        let bytes = rocksdb_iter_value(iterator, &length)
        return UnsafeRawBufferPointer(start: bytes, count: length)
    }
}
