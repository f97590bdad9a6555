import Testing

@testable import CassandraStore

struct AdaptiveWritesTests {
    @Test func `Answers in time let more go, where the bound is reached; late ones take a quarter, once`() {
        var writes = AdaptiveWrites(targetMilliseconds: 500, rowsMax: 500)
        let start = writes.inFlightMax
        for _ in 0..<start { writes.answered(after: 20, at: 1000, isFull: false) }
        #expect(writes.inFlightMax == start, "nothing waited for more room")
        for _ in 0..<start { writes.answered(after: 20, at: 1000, isFull: true) }
        #expect(writes.inFlightMax == start + 1)
        for _ in 0..<1_000_000 { writes.answered(after: 500, at: 1000, isFull: true) }
        #expect(writes.inFlightMax == 512)
        for _ in 0..<100 { writes.answered(after: 501, at: 2000, isFull: true) }
        #expect(writes.inFlightMax == 384 && writes.rowsMax == 500)
        writes.answered(after: 501, at: 2501, isFull: true)
        #expect(writes.inFlightMax == 288)
    }

    @Test func `A node that has too much gets fewer batches and fewer rows in each, and more again later`() {
        var writes = AdaptiveWrites(targetMilliseconds: 500, rowsMax: 500)
        for second in 1...30 { writes.refused(at: UInt64(second) * 1000) }
        #expect(writes.inFlightMax == 8 && writes.rowsMax == 25)
        for _ in 0..<8 { writes.answered(after: 3, at: 40_000, isFull: true) }
        #expect(writes.inFlightMax == 9 && writes.rowsMax == 50)
        for _ in 0..<10_000 { writes.answered(after: 3, at: 50_000, isFull: false) }
        #expect(writes.inFlightMax == 9 && writes.rowsMax == 500)
    }

    @Test func `The queue gives what came first, and keeps nothing that was taken`() {
        final class Item {}
        var queue = Queue<Item>()
        weak var first: Item?
        for number in 0..<1000 {
            let item = Item()
            if number == 0 { first = item }
            queue.append(item)
        }
        #expect(first != nil)
        _ = queue.next()
        #expect(first == nil)
        for _ in 1..<1000 { #expect(queue.next() != nil) }
        #expect(queue.isEmpty && queue.next() == nil)
    }
}
