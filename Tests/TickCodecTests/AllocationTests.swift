import Bench
import MarketModel
import TestSupport
import Testing
import TickCodec

/// What the hot way allocates: nothing; and that the count would show it if it did.
@Suite(.serialized) struct AllocationTests {
    private final class Box { var value = 1 }

    @Test func `Objects, arrays and plain memory are counted`() throws {
        var boxes: [Box] = []
        boxes.reserveCapacity(100)
        let objects = try #require(Allocations.count { for _ in 0..<100 { boxes.append(Box()) } })
        #expect(objects == 100)
        var arrays: [[UInt8]] = []
        arrays.reserveCapacity(10)
        #expect(Allocations.count { for n in 1...10 { arrays.append([UInt8](repeating: 1, count: n)) } } == 10)
        #expect(
            Allocations.count {
                UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8).deallocate()
                UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096).deallocate()
            } == 2)
        #expect(Allocations.count {} == 0)
        #expect(boxes.reduce(0) { $0 + $1.value } == 100 && arrays.count == 10)
    }

    @Test func `A tick is encoded and read without any allocation`() throws {
        var random = SeededRandom(seed: 1)
        let ticks = (0..<200).map { _ in random.tick() }
        let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "itch")
        let room = UnsafeMutableRawBufferPointer.allocate(byteCount: encoder.lengthMax, alignment: 8)
        defer { room.deallocate() }
        var reader = TickReader()
        var unread = 0
        let count = try #require(
            Allocations.count {
                ticks.withUnsafeBufferPointer { ticks in
                    for index in ticks.indices {
                        let length = encoder.encode(ticks.baseAddress! + index, into: room)
                        do { try reader.read(UnsafeRawBufferPointer(rebasing: room[..<length])) } catch { unread += 1 }
                    }
                }
            })
        #expect(count == 0)
        #expect(unread == 0)
    }
}
