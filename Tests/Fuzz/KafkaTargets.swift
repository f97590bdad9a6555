import CLinux

@testable import KafkaFrames

extension FuzzTarget {
    /// Answers of Kafka's brokers: the first byte chooses the message.
    static let kafkaAnswer = FuzzTarget(
        name: "kafkaanswer", lengthMax: 512,
        seeds: {
            let metadata = KafkaBuffer()
            metadata.append(Int32(0))
            metadata.append(Int32(1))
            metadata.append(Int32(1))
            metadata.append(string: "host")
            metadata.append(Int32(9092))
            metadata.append(string: nil)
            metadata.append(string: "id")
            metadata.append(Int32(1))
            metadata.append(Int32(1))
            metadata.append(Int16(0))
            metadata.append(string: "topic")
            metadata.append(UInt8(0))
            metadata.append(Int32(1))
            metadata.append(Int16(0))
            metadata.append(Int32(0))
            metadata.append(Int32(1))
            for _ in 0..<3 { metadata.append(Int32(0)) }
            let fetched = KafkaBuffer()
            fetched.append(Int32(0))
            fetched.append(Int16(0))
            fetched.append(Int32(1))
            fetched.append(Int32(1))
            fetched.append(string: "topic")
            fetched.append(Int32(1))
            fetched.append(Int32(0))
            fetched.append(Int16(0))
            for _ in 0..<3 { fetched.append(Int64(9)) }
            fetched.append(Int32(1))
            fetched.append(Int64(1))
            fetched.append(Int64(2))
            fetched.append(bytes: kafkaBatch(3))
            return [[0] + metadata.bytes, [1] + fetched.bytes, [2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0]]
        },
        run: { bytes in
            guard let kind = bytes.first else { return }
            var reader = KafkaReader(bytes.dropping(1))
            switch kind % 7 {
            case 0: _ = try? KafkaMetadata(&reader)
            case 1: _ = try? KafkaFetched(&reader)
            case 2: _ = try? KafkaProduced(&reader)
            case 3: _ = try? KafkaVersions(&reader)
            case 4: _ = try? KafkaProducerID.read(&reader)
            case 5: _ = try? KafkaLoginAnswer.handshake(&reader)
            default: _ = try? KafkaLoginAnswer.authenticate(&reader)
            }
        })

    /// Batches of records, whose checksums are put right before they are read: the first byte chooses the codec.
    /// Records stay in their batch.
    static let kafkaRecords = FuzzTarget(
        name: "kafkarecords", lengthMax: 1024,
        seeds: { [1, 2, 9, 60].flatMap { count in (0...4).map { [UInt8($0)] + kafkaBatch(count) } } },
        run: { bytes in
            guard bytes.count > 62 else { return }
            var batch = [UInt8](bytes.dropping(1))
            batch[22] = batch[22] & 0xf8 | bytes[0] % 6
            withUnsafeBytes(of: Int32(batch.count - 12).bigEndian) { batch.replaceSubrange(8..<12, with: $0) }
            let crc = batch.withUnsafeBytes { clinux_crc32c(0, $0.baseAddress.map { $0 + 21 }, $0.count - 21) }
            withUnsafeBytes(of: crc.bigEndian) { batch.replaceSubrange(17..<21, with: $0) }
            batch.withUnsafeBytes { raw in
                var rest = raw
                guard let head = try? RecordBatch.next(of: &rest) else { return }
                require((try? head.check()) != nil && rest.isEmpty, "a checksum that is right")
                var filter = KafkaTransactionFilter([
                    KafkaAbortedTransaction(producerID: head.producerID, firstOffset: 0)
                ])
                let isTaken = filter.takes(head)
                require(!isTaken || !head.isControl && !head.isTransactional, "a marker for readers")
                try? KafkaRecord.read(head, scratch: kafkaScratch) { record in
                    require((head.baseOffset...head.lastOffset).contains(record.offset), "a record outside its batch")
                    _ = try? record.header("schema")
                    return true
                }
            }
        })

    nonisolated(unsafe) private static let kafkaScratch = KafkaBuffer()

    private static func kafkaBatch(_ count: Int) -> [UInt8] {
        var encoder = RecordBatchEncoder()
        encoder.begin()
        for number in 0..<count {
            let value = [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: number * 3 % 40)
            value.withUnsafeBytes { encoder.add(key: UnsafeRawBufferPointer(rebasing: $0.prefix(2)), value: $0) }
        }
        let buffer = KafkaBuffer()
        encoder.end(into: buffer, timestampMs: 1, producer: KafkaProducerID(id: 1, epoch: 0), sequence: 0)
        return [UInt8](buffer.bytes)
    }
}
