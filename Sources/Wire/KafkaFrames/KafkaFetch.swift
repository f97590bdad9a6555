/// One partition in a request to read.
public struct KafkaFetchPartition: Hashable, Sendable {
    public let index: Int32
    public let offset: Int64
    /// Bytes of its records; nil: ``KafkaFetchRequest/partitionBytesMax``.
    public let bytesMax: Int32?

    public init(index: Int32, offset: Int64, bytesMax: Int32? = nil) {
        self.index = index
        self.offset = offset
        self.bytesMax = bytesMax
    }
}

/// A request to read. In a session (KIP-227) it names what is new or read further, and what is to be left out.
public struct KafkaFetchRequest {
    /// The longest that the broker waits for ``bytesLeast``, milliseconds.
    public var waitMs: Int32 = 100
    public var bytesLeast: Int32 = 1
    /// Bytes of all records, and of those of one partition; a first batch that is longer comes all the same.
    public var bytesMax: Int32 = 10 << 20
    public var partitionBytesMax: Int32 = 1 << 20
    /// 0 with epoch 0: a session is to begin.
    public var session: Int32 = 0
    public var epoch: Int32 = 0
    public var topics: [(name: String, partitions: [KafkaFetchPartition])] = []
    public var forgotten: [(name: String, partitions: [Int32])] = []

    public init() {}

    /// Records of transactions that are not committed are not read.
    public func append(to buffer: KafkaBuffer) {
        buffer.append(Int32(-1))
        buffer.append(waitMs)
        buffer.append(bytesLeast)
        buffer.append(bytesMax)
        buffer.append(UInt8(1))
        buffer.append(session)
        buffer.append(epoch)
        buffer.append(Int32(topics.count))
        for topic in topics {
            buffer.append(string: topic.name)
            buffer.append(Int32(topic.partitions.count))
            for partition in topic.partitions {
                buffer.append(partition.index)
                // The leader's epoch and the start of the log are not known here.
                buffer.append(Int32(-1))
                buffer.append(partition.offset)
                buffer.append(Int64(-1))
                buffer.append(partition.bytesMax ?? partitionBytesMax)
            }
        }
        buffer.append(Int32(forgotten.count))
        for topic in forgotten {
            buffer.append(string: topic.name)
            buffer.append(Int32(topic.partitions.count))
            for partition in topic.partitions { buffer.append(partition) }
        }
    }
}

/// A transaction that was given up: what its producer wrote from an offset on, until the marker of its end, counts as
/// not written.
public struct KafkaAbortedTransaction: Hashable, Sendable {
    public let producerID: Int64
    public let firstOffset: Int64

    public init(producerID: Int64, firstOffset: Int64) {
        self.producerID = producerID
        self.firstOffset = firstOffset
    }
}

/// What was read. Records are borrowed from the answer.
public struct KafkaFetched {
    /// Of one partition.
    public struct Partition {
        public let index: Int32
        public let error: KafkaError
        public let highWatermark: Int64
        /// Where records of open transactions begin; what is read ends before it.
        public let lastStableOffset: Int64
        public let logStartOffset: Int64
        public let aborted: [KafkaAbortedTransaction]
        /// Batches as the broker keeps them, the last of which may be cut off.
        public let records: UnsafeRawBufferPointer
    }

    public let error: KafkaError
    /// 0 where the broker has no place for a session.
    public let session: Int32
    public private(set) var topics: [(name: String, partitions: [Partition])] = []

    public init(_ reader: inout KafkaReader) throws(KafkaFormatError) {
        try reader.skip(4)
        error = KafkaError(try reader.integer())
        session = try reader.integer()
        for _ in 0..<(try reader.count(least: 6)) {
            let name = try reader.string()
            var partitions: [Partition] = []
            for _ in 0..<(try reader.count(least: 38)) { partitions.append(try KafkaFetched.partition(&reader)) }
            topics.append((name, partitions))
        }
    }

    private static func partition(_ reader: inout KafkaReader) throws(KafkaFormatError) -> Partition {
        let index = try reader.integer(Int32.self)
        let error = KafkaError(try reader.integer())
        let highWatermark = try reader.integer(Int64.self)
        let lastStableOffset = try reader.integer(Int64.self)
        let logStartOffset = try reader.integer(Int64.self)
        var aborted: [KafkaAbortedTransaction] = []
        for _ in 0..<(try reader.count(least: 16)) {
            let producerID = try reader.integer(Int64.self)
            aborted.append(KafkaAbortedTransaction(producerID: producerID, firstOffset: try reader.integer()))
        }
        return Partition(
            index: index, error: error, highWatermark: highWatermark, lastStableOffset: lastStableOffset,
            logStartOffset: logStartOffset, aborted: aborted,
            records: try reader.optionalBytes() ?? UnsafeRawBufferPointer(start: nil, count: 0))
    }
}
