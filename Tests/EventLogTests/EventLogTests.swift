import EventLog
import Testing

struct BlockTests {
    @Test func `A built block gives back what went in`() {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 3))
        let a = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        let b = builder.register(BlockBuilder.Key(exchange: "X", symbol: "MSFT", feed: "f"))
        var expected: [(String, UInt64, [UInt8])] = []
        for i in 0..<1000 {
            let payload = [UInt8](repeating: UInt8(i & 0xff), count: i % 37)
            let sequence = UInt64(i % 2 == 0 ? i : i * 100)
            payload.withUnsafeBytes {
                builder.append(key: i % 2 == 0 ? a : b, epoch: 7, sequence: sequence, payload: $0)
            }
            expected.append((i % 2 == 0 ? "AAPL" : "MSFT", sequence, payload))
        }
        let block = builder.build()
        block.stamp(firstOffset: 500, appendTimeNs: 99) { _ in 4 }
        #expect(block.recordCount == 1000 && block.firstOffset == 500 && block.endOffset == 1500)
        for (i, record) in expected.enumerated() {
            #expect(block.symbol(track: block.track(of: i)) == record.0)
            #expect(block.sequence(of: i) == record.1)
            #expect(Array(block.payload(i)) == record.2)
        }
        #expect(block.previousOffset(track: 0) == 4)
        #expect(builder.isEmpty)
    }

    @Test func `A damaged image is refused at every byte and length, and never traps`() throws {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "f"))
        for i in 0..<5 { [UInt8(1), 2, 3].withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: UInt64(i), payload: $0) } }
        let block = builder.build()
        block.stamp(firstOffset: 0, appendTimeNs: 1) { _ in Block.noOffset }
        func copy(_ count: Int) -> UnsafeMutableRawBufferPointer {
            let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
            bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: block.image[..<count]))
            return UnsafeMutableRawBufferPointer(rebasing: bytes[..<count])
        }
        _ = try Block(owning: copy(block.image.count))
        for count in 0..<block.image.count { #expect(throws: BlockError.self) { try Block(owning: copy(count)) } }
        for position in 0..<block.image.count {
            for bit in 0..<8 {
                let bytes = copy(block.image.count)
                bytes[position] ^= 1 << bit
                #expect(throws: BlockError.self) { try Block(owning: bytes) }
                // Without the checksum the layout is still safe to use.
                let again = copy(block.image.count)
                again[position] ^= 1 << bit
                if let accepted = try? Block(owning: again, checkCRC: false) {
                    for i in 0..<accepted.recordCount {
                        _ = accepted.payload(i).count
                        _ = accepted.symbol(track: accepted.track(of: i))
                    }
                }
            }
        }
    }
}
