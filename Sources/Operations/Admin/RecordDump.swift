import EventLog
import MarketModel
import MarketProto
import Protobuf
import TickCodec

/// Which records `tapedeck dump` prints. Empty means all; times are filing times, for ticks alone.
public struct RecordFilter: Sendable {
    public var symbols: Set<String>
    public var exchange: String
    public var fromNs: Int64
    public var toNs: Int64

    public init(symbols: [String], exchange: String, fromNs: Int64, toNs: Int64) {
        self.symbols = Set(symbols)
        self.exchange = exchange
        self.fromNs = fromNs
        self.toNs = toNs
    }

    func matches(exchange: String, symbol: String) -> Bool {
        (self.exchange.isEmpty || self.exchange == exchange) && (symbols.isEmpty || symbols.contains(symbol))
    }
}

/// Records of a topic as lines.
public struct RecordDump {
    private let topic: Topic
    private let filter: RecordFilter
    private var left: Int
    private let json: Bool

    /// `limit` is the most records printed; nil for all.
    public init(topic: Topic, filter: RecordFilter, limit: Int?, json: Bool) {
        self.topic = topic
        self.filter = filter
        left = limit ?? .max
        self.json = json
    }

    /// Prints one partition, oldest first. What is damaged is said in a line of its own.
    public mutating func dump(_ log: any EventLog, _ place: TopicPartition, _ print: (String) -> Void) throws(LogError)
    {
        var next = log.startOffset(place)
        while left > 0 {
            switch try log.readBlocking(place, at: next, .written) {
            case .block(let block, let index):
                for record in index..<block.recordCount where left > 0 {
                    if let line = line(block, record) {
                        print(line)
                        left -= 1
                    }
                }
                next = block.endOffset
            case .atEnd, .onDisk: return
            case .expired(let oldest): next = oldest
            case .damaged(let after, let reason):
                print(json ? "{\"damaged\":[\(next),\(after)]}" : "\(place) \(next)-\(after) damaged: \(reason)")
                next = after
            }
        }
    }

    private func line(_ block: Block, _ record: Int) -> String? {
        let track = block.track(of: record)
        guard filter.matches(exchange: block.exchange(track: track), symbol: block.symbol(track: track)) else {
            return nil
        }
        let payload = block.payload(record)
        if topic == .ticksRaw, let reader = try? TickReader(payload) {
            guard reader.filingTimeNs >= filter.fromNs, reader.filingTimeNs < filter.toNs else { return nil }
        }
        let offset = block.firstOffset + UInt64(record)
        guard let text = RecordDump.json(topic, payload) else {
            let hex = payload.prefix(64).map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
            return json
                ? "{\"offset\":\(offset),\"bytes\":\"\(hex)\"}"
                : "\(block.topicPartition) \(offset)  undecodable \(hex)"
        }
        return json ? "{\"offset\":\(offset),\"value\":\(text)}" : "\(block.topicPartition) \(offset)  \(text)"
    }

    /// A record's value as JSON; nil where the bytes are none of the topic's message.
    static func json(_ topic: Topic, _ payload: UnsafeRawBufferPointer) -> String? {
        if topic.isDeadLetter { return try? Proto.DeadLetter(decoding: payload).json() }
        switch topic {
        case .ticksRaw: return try? Proto.PriceUpdate(decoding: payload).json()
        case .booksDeltas: return try? Proto.BookDelta(decoding: payload).json()
        case .ordersCommands: return try? Proto.OrderCommand(decoding: payload).json()
        case .ordersLifecycle: return try? Proto.OrderStatusUpdate(decoding: payload).json()
        case .tradesExecuted: return try? Proto.ExecutionReport(decoding: payload).json()
        case .positionsUpdates: return try? Proto.PositionUpdate(decoding: payload).json()
        default: return nil
        }
    }
}
