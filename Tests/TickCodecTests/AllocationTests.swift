import Glibc
import MarketModel
import Testing
import TickCodec

/// Counts what one thread allocates as Swift objects, by the runtime's hook for profilers.
private enum Allocations {
    private typealias Allocate = @convention(c) (UnsafeRawPointer?, Int, Int) -> UnsafeMutableRawPointer?

    nonisolated(unsafe) private static var count = 0
    nonisolated(unsafe) private static var thread = pthread_self()
    nonisolated(unsafe) private static var original: Allocate?

    static func count(_ body: () throws -> Void) throws -> Int {
        let hook = try #require(dlsym(nil, "_swift_allocObject")).assumingMemoryBound(to: Allocate.self)
        let name = "_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly"
        let isOn = try #require(dlsym(nil, name)).assumingMemoryBound(to: Bool.self)
        original = hook.pointee
        (count, thread) = (0, pthread_self())
        hook.pointee = { metadata, size, alignmentMask in
            if pthread_equal(pthread_self(), Allocations.thread) != 0 { Allocations.count += 1 }
            return Allocations.original?(metadata, size, alignmentMask)
        }
        isOn.pointee = true
        defer {
            isOn.pointee = false
            if let original { hook.pointee = original }
        }
        try body()
        return count
    }
}

struct AllocationTests {
    @Test func `Neither encoding nor reading allocates, and the counter counts`() throws {
        var random = SeededRandom(seed: 61)
        let ticks = (0..<500).map { _ in random.tick() }
        let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: "binance")
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: encoder.lengthMax, alignment: 8)
        defer { buffer.deallocate() }
        var sum: Int64 = 0
        let count = try Allocations.count {
            for tick in ticks {
                let length = encoder.encode(tick, into: buffer)
                let reader = try TickReader(UnsafeRawBufferPointer(rebasing: buffer[..<length]))
                sum &+= reader.bid ?? 0 &+ reader.filingTimeNs &+ Int64(reader.tradeID.count)
                sum &+= reader.tick().last ?? 0
            }
        }
        #expect(count == 0, "\(sum)")
        var lists: [[Int]] = []
        #expect(try Allocations.count { for index in 0..<100 { lists.append([index]) } } >= 100)
    }
}
