import Glibc

/// Numbers of keys that came lately, by their names: one comparison in place of a hash of all names and a look-up. What
/// it does not know, because it was never noted or another key has its place, is looked up. Used by one thread.
final class RecentKeys {
    /// A power of two.
    private static let count = 1024
    /// Longer names are not kept.
    private static let bytesMax = 48

    private struct Entry {
        var lengths: UInt64 = 0
        var number: Int32 = -1
        var names: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0)
    }

    /// Made with the first key.
    private var entries: UnsafeMutablePointer<Entry>?

    deinit { entries?.deallocate() }

    /// nil where it is not known.
    @inline(__always)
    func find(
        _ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer, _ feed: UnsafeRawBufferPointer
    ) -> Int? {
        guard let entries else { return nil }
        let entry = entries + RecentKeys.place(exchange, symbol, feed)
        guard entry.pointee.number >= 0, entry.pointee.lengths == RecentKeys.lengths(exchange, symbol, feed) else {
            return nil
        }
        let names = UnsafeRawPointer(entry) + MemoryLayout<Entry>.offset(of: \.names)!
        guard RecentKeys.isSame(names, exchange), RecentKeys.isSame(names + exchange.count, symbol),
            RecentKeys.isSame(names + (exchange.count &+ symbol.count), feed)
        else { return nil }
        return Int(entry.pointee.number)
    }

    func note(
        _ number: Int, _ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer,
        _ feed: UnsafeRawBufferPointer
    ) {
        guard exchange.count + symbol.count + feed.count <= RecentKeys.bytesMax, let short = Int32(exactly: number)
        else { return }
        let entries = entries ?? make()
        var entry = Entry()
        entry.number = short
        entry.lengths = RecentKeys.lengths(exchange, symbol, feed)
        withUnsafeMutableBytes(of: &entry.names) { names in
            names.copyBytes(from: exchange)
            names[exchange.count...].copyBytes(from: symbol)
            names[(exchange.count + symbol.count)...].copyBytes(from: feed)
        }
        entries[RecentKeys.place(exchange, symbol, feed)] = entry
    }

    func forget() {
        guard let entries else { return }
        entries.update(repeating: Entry(), count: RecentKeys.count)
    }

    private func make() -> UnsafeMutablePointer<Entry> {
        let made = UnsafeMutablePointer<Entry>.allocate(capacity: RecentKeys.count)
        made.initialize(repeating: Entry(), count: RecentKeys.count)
        entries = made
        return made
    }

    /// Where a key lies: by the ends of its names, in which a market's instruments differ.
    @inline(__always)
    private static func place(
        _ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer, _ feed: UnsafeRawBufferPointer
    ) -> Int {
        let hash = (tail(symbol) ^ tail(feed) &* 31) &+ UInt64(exchange.count)
        return Int(truncatingIfNeeded: (hash &* 0x9e37_79b9_7f4a_7c15) &>> 40) & (count &- 1)
    }

    /// The last eight bytes, or all of fewer.
    @inline(__always)
    private static func tail(_ name: UnsafeRawBufferPointer) -> UInt64 {
        let count = name.count
        if count >= 8 { return name.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self) }
        if count >= 4 {
            let last = UInt64(name.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self))
            return UInt64(name.loadUnaligned(fromByteOffset: 0, as: UInt32.self)) &<< 32 | last
        }
        return name.reduce(0) { $0 &<< 8 | UInt64($1) }
    }

    @inline(__always)
    private static func lengths(
        _ exchange: UnsafeRawBufferPointer, _ symbol: UnsafeRawBufferPointer, _ feed: UnsafeRawBufferPointer
    ) -> UInt64 {
        // No name is longer than a message.
        UInt64(exchange.count) | UInt64(symbol.count) &<< 16 | UInt64(feed.count) &<< 32
    }

    @inline(__always)
    private static func isSame(_ start: UnsafeRawPointer, _ name: UnsafeRawBufferPointer) -> Bool {
        guard let base = name.baseAddress, name.count > 0 else { return true }
        return memcmp(start, base, name.count) == 0
    }
}
