import EventLog
import Synchronization

/// What the streams of one loop wait for, as the threads that append see it: the loop is woken at once for blocks that
/// have some of it, and for others when enough of them have come together (``TapeWaking``).
///
/// A bit stands for the hash of a symbol. Symbols may share one, so a loop may be woken for nothing; it is never left
/// asleep over what a stream of it wants. Symbols that are not ASCII are always wanted: different bytes may be the same
/// text.
///
/// What is wanted changes on the loop; any thread may ask.
final class TapeInterest: @unchecked Sendable {
    /// What is put off before the loop has to read it, in bytes: a hundred microseconds of its time, which what is
    /// wanted next would wait for.
    static let putOffBytesMax = 64 << 10
    /// What a block costs its reader beside its records, in bytes of records.
    static let blockBytes = 1024
    private static let bitCountLog2 = 15

    /// Wakes the loop, from any thread. Set once, before others know of this.
    var wake: @Sendable () -> Void = {}
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let everythingCount = Atomic<Int>(0)
    private let wantedCount = Atomic<Int>(0)
    private let putOff = Atomic<Int>(0)
    /// Confined to the loop: how many want each bit that is set.
    private var counts: [Int: Int] = [:]

    init() {
        words = .allocate(capacity: TapeInterest.wordCount)
        for word in 0..<TapeInterest.wordCount { (words + word).initialize(to: Atomic(0)) }
    }

    deinit {
        words.deinitialize(count: TapeInterest.wordCount)
        words.deallocate()
    }

    private static var wordCount: Int { (1 << bitCountLog2) / 64 }

    // MARK: On the loop

    /// Someone wants these symbols from now on; with none, everything. Wakes the loop: what was put off until now may
    /// have some of them.
    func add(_ symbols: some Collection<String>) {
        if symbols.isEmpty || symbols.contains(where: { TapeInterest.bit($0) == nil }) {
            everythingCount.add(1, ordering: .sequentiallyConsistent)
        }
        for bit in symbols.lazy.compactMap({ TapeInterest.bit($0) }) {
            let count = (counts[bit] ?? 0) + 1
            counts[bit] = count
            if count == 1 { words[bit / 64].bitwiseOr(1 << UInt64(bit % 64), ordering: .sequentiallyConsistent) }
        }
        wantedCount.store(counts.count, ordering: .sequentiallyConsistent)
        wake()
    }

    /// Takes back one ``add(_:)`` of the same symbols.
    func remove(_ symbols: some Collection<String>) {
        if symbols.isEmpty || symbols.contains(where: { TapeInterest.bit($0) == nil }) {
            everythingCount.subtract(1, ordering: .relaxed)
        }
        for bit in symbols.lazy.compactMap({ TapeInterest.bit($0) }) {
            guard let count = counts[bit] else { continue }
            counts[bit] = count > 1 ? count - 1 : nil
            if count == 1 { words[bit / 64].bitwiseAnd(~(1 << UInt64(bit % 64)), ordering: .relaxed) }
        }
        wantedCount.store(counts.count, ordering: .relaxed)
    }

    /// The log has something that the loop was not woken for.
    var hasPutOff: Bool { putOff.load(ordering: .relaxed) != 0 }

    /// The loop is about to read everything that is in the log.
    func willRead() { if hasPutOff { putOff.store(0, ordering: .sequentiallyConsistent) } }

    // MARK: From any thread

    var wantsEverything: Bool { everythingCount.load(ordering: .sequentiallyConsistent) > 0 }

    var wantsNothing: Bool { wantedCount.load(ordering: .sequentiallyConsistent) == 0 }

    func wants(bit: Int) -> Bool {
        words[bit / 64].load(ordering: .sequentiallyConsistent) & (1 << UInt64(bit % 64)) != 0
    }

    /// Counts what the loop need not read yet; true when it has become too much.
    func putOff(bytes: Int) -> Bool {
        putOff.add(bytes, ordering: .sequentiallyConsistent).newValue > TapeInterest.putOffBytesMax
    }

    /// The bit of a symbol's UTF-8 bytes; nil where they are not ASCII.
    static func bit(_ symbol: UnsafeRawBufferPointer) -> Int? {
        var hash = UInt64(truncatingIfNeeded: symbol.count)
        var all: UInt64 = 0
        var position = 0
        while position < symbol.count {
            var word: UInt64 = 0
            if position &+ 8 <= symbol.count {
                word = symbol.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            } else {
                for byte in symbol[position...] { word = word << 8 | UInt64(byte) }
            }
            all |= word
            hash = (hash ^ word) &* 0x9e37_79b9_7f4a_7c15
            hash ^= hash >> 32
            position &+= 8
        }
        guard all & 0x8080_8080_8080_8080 == 0 else { return nil }
        return Int(truncatingIfNeeded: (hash &* 0xff51_afd7_ed55_8ccd) >> UInt64(64 - bitCountLog2))
    }

    private static func bit(_ symbol: String) -> Int? {
        var symbol = symbol
        return symbol.withUTF8 { bit(UnsafeRawBufferPointer($0)) }
    }
}
