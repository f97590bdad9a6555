import Testing

@testable import HTTP2

@Suite
struct StreamTableTests {
    private final class Item {
        let id: Int32
        init(_ id: Int32) { self.id = id }
    }

    @Test func `A table of streams holds what a dictionary holds`() {
        var table = HTTP2StreamTable<Item>()
        var expected: [Int32: Item] = [:]
        var random: UInt64 = 1
        func next(_ below: UInt64) -> Int32 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int32((random >> 33) % below)
        }
        for step in 0..<20_000 {
            // Numbers that fall on the same few places, and ones that rise.
            let id = step % 3 == 0 ? 1 + 64 * next(40) : 1 + 2 * next(300)
            if let known = expected[id] {
                let found = table.find(id)?.takeUnretainedValue()
                #expect(found === known)
                if next(3) > 0 {
                    let removed = table.remove(id)
                    #expect(removed === known)
                    expected[id] = nil
                }
            } else {
                let isThere = table.find(id) != nil
                let isRemoved = table.remove(id) != nil
                #expect(!isThere && !isRemoved)
                expected[id] = Item(id)
                if let item = expected[id] { table.insert(item, id) }
            }
            let (count, isEmpty) = (table.count, table.isEmpty)
            #expect(count == expected.count && isEmpty == expected.isEmpty)
        }
        let inOrder = table.inOrder.map(\.id)
        #expect(inOrder == expected.keys.sorted())
        weak let last = expected.values.first
        table.removeAll()
        expected = [:]
        let left = (table.isEmpty, table.find(1) == nil)
        #expect(left.0 && left.1)
        #expect(last == nil, "the table let go of what it held")
    }
}
