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
            let entries = state.entries[place, default: []]
            let at = BlockCache.first(entries, endingAfter: block.firstOffset)
            // Fetches that began elsewhere cut blocks elsewhere: what overlaps one that is here is left out.
            if at < entries.count, entries[at].block.firstOffset < block.endOffset { return }
            state.entries[place, default: []].insert(Entry(from: from, block: block), at: at)
            state.order.append((place, block.endOffset, block.image.count))
            state.byteCount += block.image.count
            while state.byteCount > byteCountMax, state.head + 1 < state.order.count { BlockCache.dropOldest(&state) }
        }
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
        let entries = state.entries[oldest.place] ?? []
        let at = first(entries, endingAfter: oldest.end - 1)
        if at < entries.count, entries[at].block.endOffset == oldest.end {
            state.entries[oldest.place]?.remove(at: at)
        }
        if state.head > 1024, state.head * 2 > state.order.count {
            state.order.removeFirst(state.head)
            state.head = 0
        }
    }
}
