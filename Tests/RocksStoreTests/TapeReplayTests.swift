import EventLog
import MarketModel
import Repair
import RocksStore
import SegmentLog
import Simulation
import TestSupport
import Testing
import TickCodec
import TickStore

/// A range of the log read again, longer than what a replay holds before it writes: a few MiB.
struct TapeReplayTests {
    private static let count = 60_000
    private static let symbols = ["A", "B"]

    private static func world() throws -> VerifierTests.World {
        var world = try VerifierTests.World()
        for first in stride(from: 1, to: count, by: 5000) {
            for symbol in symbols { try world.append(symbol, Array(UInt64(first)..<UInt64(first + 5000))) }
        }
        return world
    }

    @Test func `A long range goes into a store, each tick as its row`() throws {
        let world = try Self.world()
        let folder = try TemporaryFolder()
        let store = try RocksStore(directory: folder.path + "/store", time: VirtualTime())
        defer { try? store.close() }
        // The writer was here: the store knows feed and instruments.
        for offset: UInt64 in [0, 5000] {
            guard
                case .block(let block, let index) = try world.log.readBlocking(
                    VerifierTests.place, at: offset, .durable)
            else { throw LogError(.damaged, "no block at \(offset)") }
            let time = try TickReader(block.payload(index)).filingTimeNs
            let row = TickRows.Row(
                block: 0, record: Int32(index), filingTimeNs: time, tradePrice: nil, tradeSize: 0)
            _ = try store.apply(TickRows(blocks: [block], rows: [row]), through: offset + 1, of: VerifierTests.place)
        }
        let count = try TapeReplay(world.log, RepairSelection()).run(into: store)
        #expect(count.ticks == 2 * Self.count && count.replayed == 2 * Self.count)
        let result = try Verifier.compare(log: world.log, store: store, range: Verifier.Range())
        #expect(result.lines.map(\.storeRows) == [Self.count, Self.count])
        #expect(result.lines.allSatisfy { $0.extra == 0 && $0.different == 0 })
    }

    @Test func `A long range goes into another log, in its order`() throws {
        let world = try Self.world()
        let target = try VerifierTests.World()
        let count = try TapeReplay(world.log, RepairSelection()).run(into: target.log)
        #expect(count.ticks == 2 * Self.count && count.replayed == 2 * Self.count)
        for symbol in Self.symbols {
            let logs = [world.log, target.log]
            let payloads = try logs.map { log in try Self.payloads(log, symbol) }
            #expect(payloads[0].count == Self.count && payloads[0] == payloads[1])
        }
    }

    private static func payloads(_ log: any EventLog, _ symbol: String) throws -> [[UInt8]] {
        var payloads: [[UInt8]] = []
        var offset: UInt64 = 0
        while case .block(let block, let first) = try log.readBlocking(VerifierTests.place, at: offset, .durable) {
            for index in first..<block.recordCount where block.symbol(track: block.track(of: index)) == symbol {
                payloads.append(Array(block.payload(index)))
            }
            offset = block.endOffset
        }
        return payloads
    }
}
