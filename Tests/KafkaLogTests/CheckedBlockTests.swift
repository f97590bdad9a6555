import EventLog
import MarketModel
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import KafkaLog
@testable import WriterService

@Suite struct CheckedBlockTests {
    /// Rows and refusals as text.
    private func found(_ block: Block) -> [String] {
        var batch = Batch(next: block.firstOffset)
        batch.add(block, from: 0, block.topicPartition, deadLetteredThrough: 0)
        let rows = batch.rows.rows.map { row in
            let trade = row.tradePrice.map { "\($0) \(row.tradeSize)" } ?? "no trade"
            return "\(row.record) \(row.filingTimeNs) \(trade)"
        }
        return rows + batch.corrupt.map { "\($0.offset) \($0.code) \($0.reason) \($0.value)" }
    }

    private func encoded(_ symbol: String, _ feed: String, _ sequence: UInt64) -> [UInt8] {
        let encoder = TickEncoder(exchange: "SIMX", symbol: symbol, feed: feed)
        var tick = Tick(kind: .trade, receivedTimeNs: 1_700_000_000, publishTimeNs: 5, epoch: 1, sequence: sequence)
        tick.last = 7
        tick.lastSize = sequence % 2 == 0 ? nil : 3
        return [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
            count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    @Test func `A writer finds in blocks that were checked what it finds by reading each record`() throws {
        let names = ["AAPL", "A|B", "A\u{1}B", "Ä", String(repeating: "S", count: 200), "MSFT"]
        let feeds = ["sim", String(repeating: "f", count: 65), "f\u{7f}", ""]
        var (checked, refused) = (0, 0)
        for seed in 0..<300 {
            var random = SeededNumbers(seed: UInt64(seed))
            let assembler = BlockAssembler(TopicPartition(.ticksRaw, 0))
            for offset in 0..<40 {
                var sequence = UInt64(random.below(1 << 20) + 1)
                if random.below(40) == 0 { sequence = TickRowIdentity.sequenceMax + UInt64(random.below(2)) }
                var bytes = encoded(
                    random.below(20) == 0 ? names[random.below(names.count)] : "AAPL",
                    random.below(20) == 0 ? feeds[random.below(feeds.count)] : "sim", sequence)
                // In half of the seeds no byte is another.
                if seed % 2 == 0, random.below(20) == 0 {
                    bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next())
                }
                bytes.withUnsafeBytes {
                    _ = assembler.add(
                        $0, key: UnsafeRawBufferPointer(start: nil, count: 0), offset: UInt64(offset), timestampNs: 1)
                }
            }
            let block = try #require(assembler.end())
            let image = UnsafeMutableRawBufferPointer.allocate(byteCount: block.image.count, alignment: 8)
            image.copyMemory(from: block.image)
            let read = try Block(owning: image)
            #expect(!read.isChecked)
            #expect(found(block) == found(read), "seed \(seed)")
            if block.isChecked { checked += 1 }
            if found(block).contains(where: { $0.contains("SEQUENCE_TOO_LARGE") || $0.contains("NO_") }) {
                refused += 1
            }
        }
        #expect(checked > 100 && refused > 100)
    }
}
