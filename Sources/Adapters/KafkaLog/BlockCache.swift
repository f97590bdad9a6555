import EventLog
import Synchronization

/// Blocks fetched for readers behind the tip, up to a number of bytes; the first in goes first.
final class BlockCache: Sendable {
    private struct Entry {
        /// There is nothing between here and the block.
        let from: UInt64
        let block: Block
    }

    private struct State {
        var entries: [TopicPartition: [Entry]] = [:]
        var order: [(place: TopicPartition, end: UInt64, bytes: Int)] = []
        var head = 0
        var byteCount = 0
    }

    private let byteCountMax: Int
    private let state = Mutex(State())

    init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

    /// nil where it is not here.
    func find(_ place: TopicPartition, _ offset: UInt64) -> ReadResult? {
        state.withLock { state in
            guard let entries = state.entries[place] else { return nil }
            let at = BlockCache.first(entries, endingAfter: offset)
            guard at < entries.count, entries[at].from <= offset else { return nil }
            let block = entries[at].block
            return .block(block, index: Int(max(offset, block.firstOffset) - block.firstOffset))
        }
    }

    /// `from`: an offset that was asked for and led to this block.
    func add(_ block: Block, from: UInt64) {
        let place = block.topicPartition
        state.withLock { state in
            guard BlockCache.insert(Entry(from: from, block: block), &state.entries[place, default: []]) else { return }
            state.order.append((place, block.endOffset, block.image.count))
            state.byteCount += block.image.count
            while state.byteCount > byteCountMax, state.head + 1 < state.order.count { BlockCache.dropOldest(&state) }
        }
    }

    /// False where it overlaps one that is here: fetches that began elsewhere cut blocks elsewhere.
    private static func insert(_ entry: Entry, _ entries: inout [Entry]) -> Bool {
        let at = first(entries, endingAfter: entry.block.firstOffset)
        if at < entries.count, entries[at].block.firstOffset < entry.block.endOffset { return false }
        entries.insert(entry, at: at)
        return true
    }

    private static func first(_ entries: [Entry], endingAfter offset: UInt64) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].block.endOffset > offset { high = middle } else { low = middle + 1 }
        }
        return low
    }

    private static func dropOldest(_ state: inout State) {
        let oldest = state.order[state.head]
        state.head += 1
        state.byteCount -= oldest.bytes
        remove(endingAt: oldest.end, &state.entries[oldest.place, default: []])
        if state.head > 1024, state.head * 2 > state.order.count {
            state.order.removeFirst(state.head)
            state.head = 0
        }
    }

    private static func remove(endingAt end: UInt64, _ entries: inout [Entry]) {
        let at = first(entries, endingAfter: end - 1)
        if at < entries.count, entries[at].block.endOffset == end { entries.remove(at: at) }
    }
}
