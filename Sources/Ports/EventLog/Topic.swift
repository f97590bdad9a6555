/// A topic of the log. Dead-letter topics carry the source's number with the high bit set.
public struct Topic: Hashable, Sendable, CustomStringConvertible {
    public let number: UInt16

    public static let ticksRaw = Topic(1)
    public static let booksDeltas = Topic(2)
    public static let ordersCommands = Topic(3)
    public static let ordersLifecycle = Topic(4)
    public static let tradesExecuted = Topic(5)
    public static let positionsUpdates = Topic(6)
    public static let auditEvents = Topic(7)
    public static let instruments = Topic(8)

    /// The topics that are not dead-letter topics.
    public static let sources: [Topic] = [
        .ticksRaw, .booksDeltas, .ordersCommands, .ordersLifecycle, .tradesExecuted, .positionsUpdates, .auditEvents,
        .instruments,
    ]

    private static let names = [
        "ticks.raw", "books.deltas", "orders.commands", "orders.lifecycle", "trades.executed", "positions.updates",
        "audit.events", "instruments",
    ]
    private static let deadLetterBit: UInt16 = 0x8000

    private init(_ number: UInt16) { self.number = number }

    /// nil for a number that no topic has.
    public init?(number: UInt16) {
        let source = number & ~Topic.deadLetterBit
        guard source >= 1, Int(source) <= Topic.names.count else { return nil }
        self.number = number
    }

    public init?(name: String) {
        guard let topic = Topic.sources.lazy.flatMap({ [$0, $0.deadLetter] }).first(where: { $0.name == name }) else {
            return nil
        }
        self = topic
    }

    /// Where records that a consumer of this topic refused go.
    public var deadLetter: Topic { Topic(number | Topic.deadLetterBit) }
    public var isDeadLetter: Bool { number & Topic.deadLetterBit != 0 }

    public var name: String {
        let source = Topic.names[Int(number & ~Topic.deadLetterBit) - 1]
        return isDeadLetter ? source + ".dlq" : source
    }

    public var description: String { name }

    /// Which append stream the topic's records go to, and when they are visible.
    public var durability: DurabilityClass {
        switch Topic(number & ~Topic.deadLetterBit) {
        case .ticksRaw, .booksDeltas, .instruments: .ticks
        default: .orders
        }
    }
}

/// When an append is acknowledged and shown. Each class is one append stream of the log.
public enum DurabilityClass: UInt8, CaseIterable, Sendable {
    /// Acknowledged when written, synced within a few milliseconds.
    case ticks = 0
    /// Acknowledged and visible when synced.
    case orders = 1
}

/// A place in the log: the record `offset` of a partition.
public struct TopicPartition: Hashable, Sendable, CustomStringConvertible {
    public let topic: Topic
    public let partition: UInt16

    public init(_ topic: Topic, _ partition: UInt16) {
        self.topic = topic
        self.partition = partition
    }

    public var description: String { "\(topic.name)/\(partition)" }
}
