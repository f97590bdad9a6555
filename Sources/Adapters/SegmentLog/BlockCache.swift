import EventLog
import Synchronization

/// Blocks read from files and verified, up to a number of bytes; the first in goes first.
///
/// Blocks that were read together lie together: a block may hold one tick, and a list of hundreds of thousands would
/// cost more to keep in order than what it saves.
final class BlockCache: Sendable {
    /// Blocks of a partition that follow each other.
    private struct Run {
        let blocks: [Block]
        /// No run counts as less than a page, so that there are few.
        let byteCount: Int

        init(_ blocks: [Block]) {
            self.blocks = blocks
            byteCount = max(4096, blocks.reduce(0) { $0 + $1.image.count })
        }

        var firstOffset: UInt64 { blocks[0].firstOffset }

        func find(_ offset: UInt64) -> Block? {
            let after = blocks.partition { $0.firstOffset > offset }
            guard after > 0, offset < blocks[after - 1].endOffset else { return nil }
            return blocks[after - 1]
        }
    }

    private struct State {
        var runs: [TopicPartition: [Run]] = [:]
        var order: [(place: TopicPartition, firstOffset: UInt64)] = []
        var head = 0
        var byteCount = 0
    }

    private let byteCountMax: Int
    private let state = Mutex(State())

    init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

    func find(_ place: TopicPartition, _ offset: UInt64) -> Block? {
        state.withLock { state in
            guard let runs = state.runs[place] else { return nil }
            let after = runs.partition { $0.firstOffset > offset }
            return after > 0 ? runs[after - 1].find(offset) : nil
        }
    }

    /// Blocks of one partition that follow each other, at least one.
    func add(_ blocks: [Block]) {
        let run = Run(blocks)
        let place = blocks[0].topicPartition
        // What goes is freed after the lock is: a loop may wait for it.
        _ = state.withLock { state -> [Run] in
            guard BlockCache.insert(run, &state.runs[place, default: []]) else { return [] }
            state.order.append((place, run.firstOffset))
            state.byteCount += run.byteCount
            var dropped: [Run] = []
            while state.byteCount > byteCountMax, state.head + 1 < state.order.count {
                if let oldest = BlockCache.dropOldest(&state) { dropped.append(oldest) }
            }
            return dropped
        }
    }

    private static func dropOldest(_ state: inout State) -> Run? {
        let oldest = state.order[state.head]
        state.head += 1
        if state.head > 1024, state.head * 2 > state.order.count {
            state.order.removeFirst(state.head)
            state.head = 0
        }
        guard let run = remove(oldest.firstOffset, &state.runs[oldest.place, default: []]) else { return nil }
        state.byteCount -= run.byteCount
        return run
    }

    /// False where one that begins there is held.
    private static func insert(_ run: Run, _ runs: inout [Run]) -> Bool {
        let at = runs.partition { $0.firstOffset >= run.firstOffset }
        if at < runs.count, runs[at].firstOffset == run.firstOffset { return false }
        runs.insert(run, at: at)
        return true
    }

    private static func remove(_ firstOffset: UInt64, _ runs: inout [Run]) -> Run? {
        let at = runs.partition { $0.firstOffset >= firstOffset }
        guard at < runs.count, runs[at].firstOffset == firstOffset else { return nil }
        return runs.remove(at: at)
    }
}
