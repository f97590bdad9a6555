import CLinux

/// Writes a batch of records as brokers keep it (magic 2), always by LZ4, however small: topics have `compression.type`
/// lz4, and a broker packs what comes otherwise anew, which takes it 130 kB of memory a batch. One at a time.
public struct RecordBatchEncoder {
    private let plain = KafkaBuffer(capacity: 64 << 10)
    private var count = 0

    public init() {}

    /// Forgets what was added.
    public mutating func begin() {
        plain.removeAll()
        count = 0
    }

    /// Adds a record. An empty key is a key of no bytes.
    public mutating func add(key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        let length =
            3 &+ KafkaBuffer.varintLength(count) &+ KafkaBuffer.varintLength(key.count) &+ key.count
            &+ KafkaBuffer.varintLength(value.count) &+ value.count
        plain.append(varint: length)
        // Attributes, and the time after the batch's.
        plain.append(UInt16(0))
        plain.append(varint: count)
        plain.append(varint: key.count)
        plain.append(key)
        plain.append(varint: value.count)
        plain.append(value)
        // No headers.
        plain.append(UInt8(0))
        count += 1
    }

    /// Appends the batch of all that was added. `timestampMs`: of each record. `sequence`: of the first one.
    public func end(into buffer: KafkaBuffer, timestampMs: Int64, producer: KafkaProducerID, sequence: Int32) {
        let start = buffer.count
        buffer.append(Int64(0))
        buffer.append(Int32(0))
        buffer.append(Int32(-1))
        buffer.append(UInt8(2))
        buffer.append(UInt32(0))
        buffer.append(UInt16(KafkaCodec.lz4.rawValue))
        buffer.append(Int32(count - 1))
        buffer.append(timestampMs)
        buffer.append(timestampMs)
        buffer.append(producer.id)
        buffer.append(producer.epoch)
        buffer.append(sequence)
        buffer.append(Int32(count))
        LZ4Frame.compress(plain.bytes, into: buffer)
        buffer.set(Int32(clamping: buffer.count - start - 12), at: start + 8)
        let checked = UnsafeRawBufferPointer(rebasing: buffer.bytes[(start + 21)...])
        buffer.set(clinux_crc32c(0, checked.baseAddress, checked.count), at: start + 17)
    }

    /// The sequence after so many records: it begins again at 0 after the largest.
    public static func sequence(_ sequence: Int32, after records: Int) -> Int32 {
        Int32(truncatingIfNeeded: (Int64(sequence) + Int64(records)) & 0x7fff_ffff)
    }
}
