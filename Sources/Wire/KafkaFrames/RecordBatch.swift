import CLinux

/// A batch of records as brokers keep it (magic 2). Borrowed.
public struct RecordBatch {
    static let headLength = 61

    public let baseOffset: Int64
    public let lastOffset: Int64
    public let codec: KafkaCodec
    /// The records are markers of transactions' ends.
    public let isControl: Bool
    public let isTransactional: Bool
    /// Whether the broker's time of appending is that of every record.
    public let hasAppendTime: Bool
    public let firstTimestampMs: Int64
    public let maxTimestampMs: Int64
    public let producerID: Int64
    public let recordCount: Int
    /// Compressed by ``codec``.
    public let records: UnsafeRawBufferPointer
    private let checksum: UInt32
    private let checked: UnsafeRawBufferPointer

    /// The checksum that it carries, and that of its bytes: the same where it is what was written.
    public var checksums: (carried: UInt32, actual: UInt32) {
        (checksum, clinux_crc32c(0, checked.baseAddress, checked.count))
    }

    /// Throws where it is not what was written.
    public func check() throws(KafkaFormatError) {
        let (carried, actual) = checksums
        guard carried == actual else {
            throw KafkaFormatError(at: 17, "the checksum of the batch at offset \(baseOffset) is wrong")
        }
    }

    /// Takes the first of some batches, and leaves the others; nil where none is whole. Throws for an older format.
    public static func next(of bytes: inout UnsafeRawBufferPointer) throws(KafkaFormatError) -> RecordBatch? {
        guard bytes.count >= 17 else { return nil }
        var reader = KafkaReader(bytes)
        let baseOffset = try reader.integer(Int64.self)
        let length = Int(try reader.integer(Int32.self))
        guard length >= 9 else { throw reader.fail("a batch of \(length) bytes") }
        guard reader.left >= length else { return nil }
        let whole = try reader.take(length)
        bytes = UnsafeRawBufferPointer(rebasing: bytes[(12 + length)...])
        return try RecordBatch(whole, baseOffset)
    }

    private init(_ bytes: UnsafeRawBufferPointer, _ baseOffset: Int64) throws(KafkaFormatError) {
        var reader = KafkaReader(bytes)
        self.baseOffset = baseOffset
        try reader.skip(4)
        let magic = try reader.integer(UInt8.self)
        guard magic == 2 else {
            throw reader.fail("records in format \(magic) of before Kafka 0.11; a topic that is written anew has 2")
        }
        checksum = try reader.integer()
        checked = UnsafeRawBufferPointer(rebasing: bytes[reader.position...])
        let attributes = try reader.integer(UInt16.self)
        guard let codec = KafkaCodec(rawValue: UInt8(attributes & 7)) else {
            throw reader.fail("records compressed by codec \(attributes & 7)")
        }
        self.codec = codec
        hasAppendTime = attributes & 8 != 0
        isTransactional = attributes & 16 != 0
        isControl = attributes & 32 != 0
        let delta = try reader.integer(Int32.self)
        guard baseOffset >= 0, delta >= 0, baseOffset <= Int64.max - Int64(delta) - 1 else {
            throw reader.fail("a batch of offsets that are none")
        }
        lastOffset = baseOffset + Int64(delta)
        firstTimestampMs = try reader.integer()
        maxTimestampMs = try reader.integer()
        producerID = try reader.integer()
        try reader.skip(6)
        recordCount = Int(try reader.integer(Int32.self))
        records = try reader.take(reader.left)
    }
}

/// A record of a batch. Borrowed.
public struct KafkaRecord {
    public let offset: Int64
    public let timestampMs: Int64
    /// Without bytes where there is none.
    public let key: UnsafeRawBufferPointer
    public let value: UnsafeRawBufferPointer
    private let headerCount: Int
    private let headers: UnsafeRawBufferPointer

    fileprivate init(_ reader: inout KafkaReader, _ batch: RecordBatch) throws(KafkaFormatError) {
        let length = try reader.varint()
        var body = KafkaReader(try reader.take(length))
        try body.skip(1)
        let timestamp = batch.firstTimestampMs.addingReportingOverflow(Int64(try body.varint())).partialValue
        timestampMs = batch.hasAppendTime ? batch.maxTimestampMs : timestamp
        let delta = try body.varint()
        guard delta >= 0, Int64(delta) <= batch.lastOffset - batch.baseOffset else {
            throw reader.fail("a record outside its batch")
        }
        offset = batch.baseOffset + Int64(delta)
        key = try KafkaRecord.bytes(&body)
        value = try KafkaRecord.bytes(&body)
        headerCount = try body.varint()
        headers = try body.take(body.left)
    }

    private static func bytes(_ reader: inout KafkaReader) throws(KafkaFormatError) -> UnsafeRawBufferPointer {
        let count = try reader.varint()
        return count < 0 ? UnsafeRawBufferPointer(start: nil, count: 0) : try reader.take(count)
    }

    /// The value of the last header of a name; nil where there is none.
    public func header(_ name: String) throws(KafkaFormatError) -> UnsafeRawBufferPointer? {
        guard headerCount > 0 else { return nil }
        var found: UnsafeRawBufferPointer?
        var reader = KafkaReader(headers)
        for _ in 0..<headerCount {
            let key = try KafkaRecord.bytes(&reader)
            let value = try KafkaRecord.bytes(&reader)
            if key.elementsEqual(name.utf8) { found = value }
        }
        return found
    }

    /// All records of a batch; `scratch` holds what they are unpacked to. `body` says false to end.
    public static func read(
        _ batch: RecordBatch, scratch: KafkaBuffer, _ body: (KafkaRecord) -> Bool
    ) throws(KafkaFormatError) {
        var reader = KafkaReader(try batch.codec.decompress(batch.records, scratch))
        for _ in 0..<max(batch.recordCount, 0) {
            guard body(try KafkaRecord(&reader, batch)) else { return }
        }
    }
}

/// Which batches of a partition count, as transactions end. For one run of batches in order.
public struct KafkaTransactionFilter {
    private var aborted: [KafkaAbortedTransaction]
    private var open: Set<Int64> = []

    /// `aborted`: those that the broker names beside the batches.
    public init(_ aborted: [KafkaAbortedTransaction]) {
        self.aborted = aborted.sorted { $0.firstOffset > $1.firstOffset }
    }

    /// Whether the records of the next batch are for readers.
    public mutating func takes(_ batch: RecordBatch) -> Bool {
        guard batch.isTransactional || batch.isControl else { return true }
        while let first = aborted.last, first.firstOffset <= batch.lastOffset {
            open.insert(first.producerID)
            aborted.removeLast()
        }
        if batch.isControl {
            // Whichever its end is, another transaction of the producer begins after it.
            open.remove(batch.producerID)
            return false
        }
        return !open.contains(batch.producerID)
    }
}
