import Glibc

/// Keys of tracks (exchange, symbol and feed), numbered densely in the order they were added, and found by a block's
/// track without making text of it: a look-up compares hash, lengths and, once, the bytes of all names.
public struct KeyTable: Sendable {
    private struct Key {
        let tag: UInt64
        let keyHash: UInt64
        let lengths: UInt64
        let start: Int
    }

    private var keys: [Key] = []
    /// The names of all keys, back to back.
    private var names: [UInt8] = []
    private var slots = [Int32](repeating: -1, count: 256)

    public init() {}

    public var count: Int { keys.count }

    /// The key's number, or nil. `tag` tells keys of the same names apart; it is the caller's.
    public func find(_ block: Block, track: Int, tag: UInt64 = 0) -> Int? {
        let (bytes, lengths) = block.names(track: track)
        return find(bytes, lengths, block.keyHash(track: track), tag)
    }

    /// As ``find(_:track:tag:)``, by names.
    public func find(exchange: [UInt8], symbol: [UInt8], feed: [UInt8], tag: UInt64 = 0) -> Int? {
        guard max(exchange.count, symbol.count, feed.count) <= Int(UInt16.max) else { return nil }
        let lengths = KeyTable.lengths(exchange, symbol, feed)
        return (exchange + symbol + feed).withUnsafeBytes {
            find($0, lengths, RecordKey.hash(exchange: exchange, symbol: symbol), tag)
        }
    }

    /// Adds a key that must not be there; returns its number. Each name has at most 65,535 bytes.
    public mutating func add(exchange: [UInt8], symbol: [UInt8], feed: [UInt8], tag: UInt64 = 0) -> Int {
        precondition(max(exchange.count, symbol.count, feed.count) <= Int(UInt16.max))
        let keyHash = RecordKey.hash(exchange: exchange, symbol: symbol)
        keys.append(
            Key(
                tag: tag, keyHash: keyHash, lengths: KeyTable.lengths(exchange, symbol, feed), start: names.count))
        names += exchange
        names += symbol
        names += feed
        if keys.count * 2 > slots.count {
            slots = [Int32](repeating: -1, count: slots.count * 4)
            for number in keys.indices { put(number) }
        } else {
            put(keys.count - 1)
        }
        return keys.count - 1
    }

    /// As ``find(_:track:tag:)``, by what ``Block/names(track:)`` and ``Block/keyHash(track:)`` of a block would say.
    public func find(
        _ bytes: UnsafeRawBufferPointer, _ lengths: UInt64, _ keyHash: UInt64, _ tag: UInt64 = 0
    ) -> Int? {
        let mask = slots.count &- 1
        var slot = KeyTable.hash(bytes, keyHash, tag) & mask
        while slots[slot] >= 0 {
            let number = Int(slots[slot])
            let key = keys[number]
            if key.keyHash == keyHash, key.lengths == lengths, key.tag == tag, isSame(key, bytes) { return number }
            slot = (slot &+ 1) & mask
        }
        return nil
    }

    private func isSame(_ key: Key, _ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
        return names.withUnsafeBytes { memcmp($0.baseAddress! + key.start, base, bytes.count) == 0 }
    }

    private mutating func put(_ number: Int) {
        let key = keys[number]
        let mask = slots.count - 1
        let length = Int(key.lengths & 0xffff) + Int(key.lengths >> 16 & 0xffff) + Int(key.lengths >> 32 & 0xffff)
        var slot = names.withUnsafeBytes {
            KeyTable.hash(
                UnsafeRawBufferPointer(rebasing: $0[key.start..<(key.start + length)]), key.keyHash, key.tag)
        }
        slot &= mask
        while slots[slot] >= 0 { slot = (slot + 1) & mask }
        slots[slot] = Int32(number)
    }

    /// What the hash of a track does not cover, the feed, is covered as far as its last eight bytes go.
    private static func hash(_ bytes: UnsafeRawBufferPointer, _ keyHash: UInt64, _ tag: UInt64) -> Int {
        let tail = bytes.count >= 8 ? bytes.loadUnaligned(fromByteOffset: bytes.count &- 8, as: UInt64.self) : 0
        var hash = keyHash ^ (tail &* 0x9e37_79b9_7f4a_7c15) ^ (tag &* 0xff51_afd7_ed55_8ccd)
        hash ^= hash >> 32
        return Int(truncatingIfNeeded: (hash &* 0x9e37_79b9_7f4a_7c15) >> 20)
    }

    private static func lengths(_ exchange: [UInt8], _ symbol: [UInt8], _ feed: [UInt8]) -> UInt64 {
        UInt64(exchange.count) | UInt64(symbol.count) << 16 | UInt64(feed.count) << 32
    }
}

/// Remembers which numbers of a ``KeyTable`` the keys of a builder in this process have: its blocks say by number which
/// key a track has, so that names are compared once and not for every block. Belongs to one table, with one tag for
/// each builder.
public struct KeyNumbers: Sendable {
    /// More builders than any process keeps; builders that are made for a block each are forgotten soon.
    private static let buildersMax = 256

    private var builder: UInt64 = 0
    /// By the builder's number of a key; -1 where it was not asked for yet.
    private var numbers: [Int32] = []
    private var others: [UInt64: [Int32]] = [:]

    public init() {}

    /// The numbers of all tracks of a block, -1 for keys that are not there, in place of what `found` holds.
    public mutating func find(_ block: Block, in table: KeyTable, tag: UInt64 = 0, into found: inout [Int]) {
        found.removeAll(keepingCapacity: true)
        guard let origin = block.origin else {
            for track in 0..<block.trackCount { found.append(table.find(block, track: track, tag: tag) ?? -1) }
            return
        }
        if origin.builder != builder { turn(to: origin.builder) }
        for track in 0..<block.trackCount {
            let key = Int(origin.keys[track])
            if key < numbers.count, numbers[key] >= 0 {
                found.append(Int(numbers[key]))
            } else {
                let number = table.find(block, track: track, tag: tag)
                found.append(number ?? -1)
                if let number { note(key, number) }
            }
        }
    }

    private mutating func turn(to next: UInt64) {
        if others.count >= KeyNumbers.buildersMax { others.removeAll(keepingCapacity: true) }
        others[builder] = numbers
        numbers = others.removeValue(forKey: next) ?? []
        builder = next
    }

    private mutating func note(_ key: Int, _ number: Int) {
        guard let number = Int32(exactly: number) else { return }
        while numbers.count <= key { numbers.append(-1) }
        numbers[key] = number
    }
}
