import EventLog
import TestSupport
import Testing

@testable import SegmentLog

/// Blocks read from files that are kept: in runs as they were read.
struct BlockCacheTests {
    /// Blocks of one record each at these offsets.
    private func blocks(_ offsets: Range<UInt64>, of place: TopicPartition = ticks0) -> [Block] {
        offsets.map { offset in
            let block = makeBlock(place, from: offset, count: 1)
            block.stamp(firstOffset: offset, appendTimeNs: 1, previousOffset: { _ in Block.noOffset })
            return block
        }
    }

    @Test("Each block of a run is found, and nothing beside it") func found() {
        let cache = BlockCache(byteCountMax: 1 << 20)
        cache.add(blocks(10..<20))
        cache.add(blocks(30..<31))
        cache.add(blocks(10..<12, of: orders0))
        for offset: UInt64 in 0..<40 {
            let isHeld = (10..<20).contains(offset) || offset == 30
            #expect(cache.find(ticks0, offset)?.firstOffset == (isHeld ? offset : nil))
            #expect(cache.find(orders0, offset)?.firstOffset == ((10..<12).contains(offset) ? offset : nil))
        }
    }

    @Test("The first in goes first, and a run of one small block counts as a page") func drops() {
        let cache = BlockCache(byteCountMax: 16 * 4096)
        for offset: UInt64 in 0..<5000 {
            cache.add(blocks(offset..<(offset + 1)))
            #expect(cache.find(ticks0, offset)?.firstOffset == offset)
            if offset >= 15 { #expect(cache.find(ticks0, offset - 15)?.firstOffset == offset - 15) }
            if offset >= 16 { #expect(cache.find(ticks0, offset - 16) == nil) }
        }
    }

    @Test("A run larger than the cache is kept until the next comes") func large() {
        let cache = BlockCache(byteCountMax: 1)
        cache.add(blocks(0..<100))
        #expect(cache.find(ticks0, 99)?.firstOffset == 99)
        cache.add(blocks(100..<101))
        #expect(cache.find(ticks0, 99) == nil)
        #expect(cache.find(ticks0, 100)?.firstOffset == 100)
    }

    @Test("Runs in any order that overlap: what is found is right, and the newest is found", arguments: 1...20)
    func overlapping(seed: Int) {
        var numbers = SeededNumbers(seed: UInt64(seed))
        let cache = BlockCache(byteCountMax: Int(numbers.next() % 20) * 4096)
        for _ in 0..<500 {
            let start = numbers.next() % 200
            let run = blocks(start..<(start + 1 + numbers.next() % 20))
            if cache.find(ticks0, start) == nil {
                cache.add(run)
                #expect(cache.find(ticks0, start)?.firstOffset == start)
            }
            let offset = numbers.next() % 220
            if let block = cache.find(ticks0, offset) { #expect(block.firstOffset == offset) }
        }
    }

    @Test(
        "What lies around a block that was read is read at once, without a thread that brings it", arguments: [1, 2, 5])
    func readAtOnce(blocksPerAppend: UInt64) throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) { $0.tipBytes = 1 }
        for first in stride(from: 0 as UInt64, to: 100, by: Int(blocksPerAppend)) {
            let sequences = first..<(first + blocksPerAppend)
            try log.append(sequences.map { makeBlock(ticks0, from: $0, count: 1) }, consumed: [])
        }
        func isRead(_ offset: UInt64) -> Bool {
            guard case .block(let block, 0) = log.read(ticks0, at: offset, .written) else { return false }
            return block.firstOffset == offset
        }
        #expect(!isRead(41))
        guard case .block = try log.readBlocking(ticks0, at: 41, .written) else { throw Unexpected(what: "no block") }
        for offset: UInt64 in 0..<100 { #expect(isRead(offset)) }
        try log.close()
    }
}
