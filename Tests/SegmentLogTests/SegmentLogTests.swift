import EventLog
import FileDisk
import SegmentLog
import Simulation
import Testing

struct SegmentLogTests {
    @Test func `What was appended is read back from memory, from files and after a restart`() throws {
        let directory = TemporaryDirectory()
        var expected: [String] = []
        for start in 0..<3 {
            let log = try openLog(directory.path) {
                $0.segmentBytes = 64 << 10
                $0.tipBytes = 8 << 10
            }
            #expect(log.isContinuous && log.identity.generation == 1)
            for number in 0..<50 {
                let from = UInt64(start * 5000 + number * 100)
                let receipt = try log.append([makeBlock(ticks0, from: from, count: 100)], consumed: [])
                #expect(receipt.firstOffsets == [from])
                expected += (0..<100).map { "AAPL:\(from + UInt64($0))" }
            }
            try log.sync()
            #expect(try readAll(log, ticks0) == expected)
            #expect(
                log.lastPlace(.ticksRaw, feed: "sim", exchange: "X", symbol: "AAPL")?.offset
                    == UInt64(expected.count - 1))
            try log.close()
        }
    }

    @Test func `Orders are durable when append returns, with the offsets they consumed`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path)
        try log.append([makeBlock(ticks0, from: 0, count: 10)], consumed: [])
        try log.append(
            [
                makeBlock(orders0, symbol: "k", from: 0, count: 1),
                makeBlock(TopicPartition(.tradesExecuted, 0), symbol: "a", from: 0, count: 2),
            ],
            consumed: [GroupOffset(group: "g", place: ticks0, offset: 7)])
        #expect(log.endOffset(orders0, .durable) == 1)
        #expect(log.committedOffset(group: "g", ticks0) == 7)
        #expect(throws: LogError.self) { try log.commit([GroupOffset(group: "g", place: ticks0, offset: 11)]) }
        try log.commit([GroupOffset(group: "g", place: ticks0, offset: 3)])
        #expect(log.committedOffset(group: "g", ticks0) == 3)
        try log.close()
        let again = try openLog(directory.path)
        #expect(again.committedOffset(group: "g", ticks0) == 3)
        try again.close()
    }
}
