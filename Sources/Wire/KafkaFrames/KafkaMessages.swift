/// A message of the protocol, with the one version of it that is spoken here: the oldest that has what is needed and
/// that Kafka 4 still takes. All of them are from before Kafka 2.2.
public struct KafkaAPI: Hashable, Sendable {
    public let key: Int16
    public let version: Int16
    public let name: String

    public static let produce = KafkaAPI(key: 0, version: 7, name: "Produce")
    public static let fetch = KafkaAPI(key: 1, version: 10, name: "Fetch")
    public static let metadata = KafkaAPI(key: 3, version: 5, name: "Metadata")
    public static let saslHandshake = KafkaAPI(key: 17, version: 1, name: "SaslHandshake")
    public static let apiVersions = KafkaAPI(key: 18, version: 0, name: "ApiVersions")
    public static let initProducerID = KafkaAPI(key: 22, version: 1, name: "InitProducerId")
    public static let saslAuthenticate = KafkaAPI(key: 36, version: 1, name: "SaslAuthenticate")

    /// Appends the length, which is set later by ``finish(_:at:)``, and the header of a request; returns where.
    public func begin(_ buffer: KafkaBuffer, correlation: Int32, clientID: String) -> Int {
        let start = buffer.count
        buffer.append(Int32(0))
        buffer.append(key)
        buffer.append(version)
        buffer.append(correlation)
        buffer.append(string: clientID)
        return start
    }

    /// The request that begins at `start` is all there is.
    public static func finish(_ buffer: KafkaBuffer, at start: Int) {
        buffer.set(Int32(clamping: buffer.count - start - 4), at: start)
    }
}

// MARK: Requests

/// The bodies of requests.
public enum KafkaRequest {
    /// Asks for a way to log in.
    public static func saslHandshake(_ buffer: KafkaBuffer, mechanism: String) { buffer.append(string: mechanism) }

    /// A step of the login.
    public static func saslAuthenticate(_ buffer: KafkaBuffer, _ bytes: [UInt8]) { buffer.append(bytes: bytes) }

    /// Topics are not made by asking for them.
    public static func metadata(_ buffer: KafkaBuffer, topics: [String]) {
        buffer.append(Int32(topics.count))
        for topic in topics { buffer.append(string: topic) }
        buffer.append(UInt8(0))
    }

    /// For a producer that is idempotent and has no transactions.
    public static func initProducerID(_ buffer: KafkaBuffer) {
        buffer.append(string: nil)
        buffer.append(Int32.max)
    }

    /// `body` appends one batch for each partition by ``beginPartition(_:_:)`` and ``endPartition(_:at:)``; `topics` in
    /// the order in which it does, with how many of each.
    public static func produce(
        _ buffer: KafkaBuffer, timeoutMs: Int32, topics: [(name: String, partitions: Int)],
        _ body: (_ topic: Int) -> Void
    ) {
        buffer.append(string: nil)
        buffer.append(Int16(-1))
        buffer.append(timeoutMs)
        buffer.append(Int32(topics.count))
        for (index, topic) in topics.enumerated() {
            buffer.append(string: topic.name)
            buffer.append(Int32(topic.partitions))
            body(index)
        }
    }

    /// Returns what ``endPartition(_:at:)`` needs.
    public static func beginPartition(_ buffer: KafkaBuffer, _ partition: Int32) -> Int {
        buffer.append(partition)
        buffer.append(Int32(0))
        return buffer.count
    }

    /// The batch that began at `start` is all there is.
    public static func endPartition(_ buffer: KafkaBuffer, at start: Int) {
        buffer.set(Int32(clamping: buffer.count - start), at: start - 4)
    }
}

// MARK: Answers

/// What a broker speaks.
public struct KafkaVersions {
    public let error: KafkaError
    private var ranges: [Int16: ClosedRange<Int16>] = [:]

    public init(_ reader: inout KafkaReader) throws(KafkaFormatError) {
        error = KafkaError(try reader.integer())
        for _ in 0..<(try reader.count(least: 6)) {
            let key = try reader.integer(Int16.self)
            let least = try reader.integer(Int16.self)
            let most = try reader.integer(Int16.self)
            if least <= most { ranges[key] = least...most }
        }
    }

    /// Whether the version that is spoken here is among them.
    public func contains(_ api: KafkaAPI) -> Bool { ranges[api.key]?.contains(api.version) == true }
}

/// Brokers, and who leads which partition.
public struct KafkaMetadata {
    /// Where a broker is reached.
    public struct Broker: Hashable, Sendable {
        public let node: Int32
        public let host: String
        public let port: Int32
    }

    /// Who leads a partition.
    public struct Partition: Hashable, Sendable {
        public let error: KafkaError
        public let index: Int32
        /// Negative where there is none.
        public let leader: Int32
    }

    /// The partitions of a topic.
    public struct Topic: Hashable, Sendable {
        public let error: KafkaError
        public let name: String
        public let partitions: [Partition]
    }

    public private(set) var brokers: [Broker] = []
    public private(set) var topics: [Topic] = []

    public init(_ reader: inout KafkaReader) throws(KafkaFormatError) {
        try reader.skip(4)
        for _ in 0..<(try reader.count(least: 12)) {
            let node = try reader.integer(Int32.self)
            let host = try reader.string()
            brokers.append(Broker(node: node, host: host, port: try reader.integer()))
            _ = try reader.optionalString()
        }
        _ = try reader.optionalString()
        try reader.skip(4)
        for _ in 0..<(try reader.count(least: 9)) { topics.append(try KafkaMetadata.topic(&reader)) }
    }

    private static func topic(_ reader: inout KafkaReader) throws(KafkaFormatError) -> Topic {
        let error = KafkaError(try reader.integer())
        let name = try reader.string()
        try reader.skip(1)
        var partitions: [Partition] = []
        for _ in 0..<(try reader.count(least: 22)) {
            let error = KafkaError(try reader.integer())
            let index = try reader.integer(Int32.self)
            partitions.append(Partition(error: error, index: index, leader: try reader.integer()))
            // Replicas, those in sync, and those away.
            for _ in 0..<3 { try reader.skip(try reader.count(least: 4) * 4) }
        }
        return Topic(error: error, name: name, partitions: partitions)
    }
}

/// What names this producer to the brokers.
public struct KafkaProducerID: Hashable, Sendable {
    public let id: Int64
    public let epoch: Int16

    public init(id: Int64, epoch: Int16) {
        self.id = id
        self.epoch = epoch
    }

    /// The answer to ``KafkaAPI/initProducerID``.
    public static func read(
        _ reader: inout KafkaReader
    ) throws(KafkaFormatError) -> (error: KafkaError, id: KafkaProducerID) {
        try reader.skip(4)
        let error = KafkaError(try reader.integer())
        let id = try reader.integer(Int64.self)
        return (error, KafkaProducerID(id: id, epoch: try reader.integer()))
    }
}

/// What became of the batches of one request.
public struct KafkaProduced {
    /// Of one partition.
    public struct Partition: Hashable, Sendable {
        public let topic: String
        public let index: Int32
        public let error: KafkaError
        /// Of the batch's first record; negative where it is not known.
        public let baseOffset: Int64
    }

    public private(set) var partitions: [Partition] = []

    public init(_ reader: inout KafkaReader) throws(KafkaFormatError) {
        for _ in 0..<(try reader.count(least: 6)) {
            let topic = try reader.string()
            for _ in 0..<(try reader.count(least: 30)) {
                let index = try reader.integer(Int32.self)
                let error = KafkaError(try reader.integer())
                partitions.append(
                    Partition(topic: topic, index: index, error: error, baseOffset: try reader.integer()))
                try reader.skip(16)
            }
        }
        try reader.skip(4)
    }
}

/// An answer to a step of a login.
public enum KafkaLoginAnswer {
    /// Which mechanisms the broker knows.
    public static func handshake(
        _ reader: inout KafkaReader
    ) throws(KafkaFormatError) -> (error: KafkaError, mechanisms: [String]) {
        let error = KafkaError(try reader.integer())
        var mechanisms: [String] = []
        for _ in 0..<(try reader.count(least: 2)) { mechanisms.append(try reader.string()) }
        return (error, mechanisms)
    }

    /// What the broker says to a step.
    public static func authenticate(
        _ reader: inout KafkaReader
    ) throws(KafkaFormatError) -> (error: KafkaError, message: String?, bytes: [UInt8]) {
        let error = KafkaError(try reader.integer())
        let message = try reader.optionalString()
        let bytes = try reader.optionalBytes().map { [UInt8]($0) } ?? []
        return (error, message, bytes)
    }
}

/// An error code of the protocol; 0 is none.
public struct KafkaError: Hashable, Sendable {
    public let code: Int16

    public init(_ code: Int16) { self.code = code }

    public static let none = KafkaError(0)
    public static let offsetOutOfRange = KafkaError(1)
    public static let outOfOrderSequence = KafkaError(45)
    public static let duplicateSequence = KafkaError(46)
    public static let unknownProducerID = KafkaError(59)
    public static let invalidProducerEpoch = KafkaError(47)

    /// Whether there is no leader just now.
    public var isElecting: Bool { code == 5 }

    /// Whether somebody else leads now, or nobody, so that metadata has to be learned again.
    public var isOfLeadership: Bool { [3, 5, 6, 9, 72, 74, 75, 100].contains(code) }

    /// Whether the broker may have written the records that it says this of: it was not in time, too few copies were,
    /// or it does not know.
    public var mayBeStored: Bool { [-1, 7, 13, 20, 56].contains(code) }

    /// Whether the same request may do better later.
    public var isRetriable: Bool { isOfLeadership || [7, 8, 13, 14, 15, 16, 19, 20, 56, 89].contains(code) }
}
