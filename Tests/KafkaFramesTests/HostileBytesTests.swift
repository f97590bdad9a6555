import TestSupport
import Testing

@testable import KafkaFrames

@Suite struct HostileBytesTests {
    private static func batch(_ random: inout SeededNumbers, records: Int) -> (bytes: [UInt8], values: [[UInt8]]) {
        var encoder = RecordBatchEncoder()
        encoder.begin()
        var values: [[UInt8]] = []
        for number in 0..<records {
            let value = (0..<Int.random(in: 0...90, using: &random)).map { UInt8(truncatingIfNeeded: $0 / 7) }
            values.append(value)
            value.withUnsafeBytes { value in
                [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: number % 200).withUnsafeBytes {
                    encoder.add(key: $0, value: value)
                }
            }
        }
        let buffer = KafkaBuffer()
        encoder.end(into: buffer, timestampMs: 12_345, producer: KafkaProducerID(id: 9, epoch: 1), sequence: 3)
        return ([UInt8](buffer.bytes), values)
    }

    @Test func `A batch is read as it was written, and is compressed however small it is`() throws {
        var random = SeededNumbers(seed: 5)
        for records in [1, 2, 5, 40, 300, 1000] {
            let (bytes, values) = Self.batch(&random, records: records)
            var found: [[UInt8]] = []
            try bytes.withUnsafeBytes { bytes in
                var rest = bytes
                let batch = try #require(try RecordBatch.next(of: &rest))
                try batch.check()
                #expect(batch.codec == .lz4)
                #expect(batch.producerID == 9 && batch.recordCount == records && batch.lastOffset == Int64(records - 1))
                try KafkaRecord.read(batch, scratch: KafkaBuffer()) { record in
                    #expect(record.offset == Int64(found.count) && record.timestampMs == 12_345)
                    #expect(record.key.count == found.count % 200)
                    found.append([UInt8](record.value))
                    return true
                }
            }
            #expect(found == values)
        }
    }

    @Test func `Every changed byte behind the checksum is found, and no bytes trap`() {
        var random = SeededNumbers(seed: 6)
        let scratch = KafkaBuffer()
        for _ in 0..<(Checkout.isSoak ? 200_000 : 4000) {
            var (bytes, _) = Self.batch(&random, records: Int.random(in: 1...30, using: &random))
            let place = Int.random(in: 0..<bytes.count, using: &random)
            bytes[place] ^= UInt8.random(in: 1...255, using: &random)
            if Bool.random(using: &random) { bytes.removeLast(Int.random(in: 0..<bytes.count, using: &random)) }
            bytes.withUnsafeBytes { bytes in
                var rest = bytes
                guard let batch = try? RecordBatch.next(of: &rest) else { return }
                if place >= 21 { #expect(throws: KafkaFormatError.self) { try batch.check() } }
                // Whoever does not check meets the same bytes.
                try? KafkaRecord.read(batch, scratch: scratch) { record in
                    _ = try? record.header("schema")
                    return true
                }
            }
        }
    }

    @Test func `No bytes trap in any answer`() {
        var random = SeededNumbers(seed: 7)
        for _ in 0..<(Checkout.isSoak ? 2_000_000 : 40_000) {
            // Small numbers make counts that fit.
            let count = Int.random(in: 0...120, using: &random)
            let bytes = (0..<count).map { _ in
                Bool.random(using: &random)
                    ? UInt8(0) : UInt8.random(in: 0...(Bool.random(using: &random) ? 3 : 255), using: &random)
            }
            bytes.withUnsafeBytes { bytes in
                func read<T>(_ body: (inout KafkaReader) throws -> T) {
                    var reader = KafkaReader(bytes)
                    _ = try? body(&reader)
                }
                read { try KafkaVersions(&$0) }
                read { try KafkaMetadata(&$0) }
                read { try KafkaProduced(&$0) }
                read { try KafkaFetched(&$0) }
                read { try KafkaProducerID.read(&$0) }
                read { try KafkaLoginAnswer.handshake(&$0) }
                read { try KafkaLoginAnswer.authenticate(&$0) }
            }
        }
    }

    @Test func `No bytes trap in any codec, and none of them grows without bound`() {
        var random = SeededNumbers(seed: 8)
        let scratch = KafkaBuffer()
        let heads: [[UInt8]] = [
            [], [0x1f, 0x8b, 8, 0], [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7], [0x28, 0xb5, 0x2f, 0xfd],
        ]
        for _ in 0..<(Checkout.isSoak ? 500_000 : 20_000) {
            let head = heads[Int.random(in: 0..<heads.count, using: &random)]
            let bytes =
                head
                + (0..<Int.random(in: 0...60, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            for codec in KafkaCodec.allCases {
                bytes.withUnsafeBytes { _ = try? codec.decompress($0, scratch) }
                #expect(scratch.count <= 512 << 20)
            }
        }
    }

    @Test func `Numbers of every length are read as they were written`() throws {
        var random = SeededNumbers(seed: 9)
        var values = [0, 1, -1, 63, 64, -64, -65, .max, .min]
        for bits in 0..<63 {
            for _ in 0..<20 { values.append(Int.random(in: -(1 << bits)...(1 << bits), using: &random)) }
        }
        for value in values {
            let buffer = KafkaBuffer()
            buffer.append(varint: value)
            #expect(buffer.count == KafkaBuffer.varintLength(value))
            var reader = KafkaReader(buffer.bytes)
            #expect(try reader.varint() == value)
        }
    }
}
