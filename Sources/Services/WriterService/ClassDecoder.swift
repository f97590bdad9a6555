import EventLog
import MarketModel
import MarketProto
import Protobuf
import TickCodec
import TickStore

/// Reads records of a partition of a topic that is no tick's; says why one cannot be a row.
struct ClassDecoder {
    struct Refusal: Error {
        let code: String
        let reason: String
    }

    /// Topics it reads.
    static let topics: [Topic] = [
        .tradesExecuted, .ordersLifecycle, .auditEvents, .positionsUpdates, .booksDeltas,
    ]

    /// Of an instrument's book that was stored last: its feed's epoch and the hour.
    private struct BookMark: Hashable {
        let epoch: UInt64
        let hour: Int64
    }

    private var books: [String: BookMark] = [:]
    private var record = BookRecord()

    /// What is to be stored of a record; nil where nothing is.
    mutating func body(_ topic: Topic, _ block: Block, _ index: Int) throws(Refusal) -> ClassRecord.Body? {
        let payload = block.payload(index)
        switch topic {
        case .tradesExecuted: return .execution(try ClassDecoder.execution(payload))
        case .ordersLifecycle: return .event(try ClassDecoder.lifecycle(payload))
        case .auditEvents: return .event(try ClassDecoder.audit(payload))
        case .positionsUpdates: return .position(try ClassDecoder.position(payload))
        default: return try book(payload, block, block.track(of: index))
        }
    }

    /// The first whole book of each hour and of each epoch: feeds publish one every 10 s at least while a book changes.
    private mutating func book(
        _ payload: UnsafeRawBufferPointer, _ block: Block, _ track: Int
    ) throws(Refusal) -> ClassRecord.Body? {
        do {
            try record.decode(payload)
        } catch {
            throw Refusal(code: "UNDECODABLE", reason: "\(error)")
        }
        var book = StoredBook()
        book.exchange = block.exchange(track: track)
        book.symbol = block.symbol(track: track)
        book.feed = block.feed(track: track)
        do {
            _ = try Instrument(exchange: book.exchange, symbol: book.symbol)
        } catch {
            throw Refusal(code: "NO_INSTRUMENT", reason: error.description)
        }
        guard record.head.isSnapshot, record.head.state == .live else { return nil }
        book.timeNs =
            FilingTime.of(eventTimeNs: record.head.eventTimeNs, receivedTimeNs: record.head.receivedTimeNs).ns
        book.epoch = record.head.epoch
        book.sequence = record.head.sequence
        let mark = BookMark(epoch: book.epoch, hour: floorDivide(book.timeNs, by: 3_600_000_000_000))
        let name = "\(book.exchange)|\(book.symbol)|\(book.feed)"
        guard books[name] != mark else { return nil }
        books[name] = mark
        book.bids = record.bids
        book.asks = record.asks
        return .book(book)
    }

    private static func decode<Message: ProtoMessage>(
        _ payload: UnsafeRawBufferPointer, as _: Message.Type
    ) throws(Refusal) -> Message {
        do {
            return try Message(decoding: payload)
        } catch {
            throw Refusal(code: "UNDECODABLE", reason: "\(error)")
        }
    }

    private static func required(_ text: String, _ name: String) throws(Refusal) -> String {
        // A part of a row's key has at most 64 KiB; names are far below.
        guard !text.isEmpty, text.utf8.count <= 256 else {
            throw Refusal(
                code: "INVALID_VALUE", reason: "\(name) has \(text.utf8.count) bytes; from 1 to 256 are needed")
        }
        return text
    }

    private static func required(_ time: WellKnown.Timestamp?, _ name: String) throws(Refusal) -> Int64 {
        guard let ns = time?.ns else { throw Refusal(code: "INVALID_VALUE", reason: "\(name) is absent or too far") }
        return ns
    }

    private static func execution(_ payload: UnsafeRawBufferPointer) throws(Refusal) -> StoredExecution {
        let report = try decode(payload, as: Proto.ExecutionReport.self)
        var row = StoredExecution()
        row.account = try required(report.account, "account")
        row.executionID = try required(report.executionId, "execution_id")
        row.symbol = try required(report.symbol, "symbol")
        row.side = report.side
        guard row.side == "BUY" || row.side == "SELL" else {
            throw Refusal(code: "INVALID_VALUE", reason: "side is \"\(row.side.prefix(20))\", not BUY or SELL")
        }
        guard report.fillQuantityMicros > 0 else {
            throw Refusal(code: "INVALID_VALUE", reason: "fill_quantity_micros is \(report.fillQuantityMicros)")
        }
        row.orderID = report.orderId
        row.exchange = report.exchange
        row.venue = report.venue
        row.quantityMicros = report.fillQuantityMicros
        row.priceMicros = report.fillPriceMicros
        row.feeMicros = report.feeMicros
        row.executionTimeNs = try required(report.executionTime, "execution_time")
        return row
    }

    private static let statuses: Set<String> = ["NEW", "PARTIAL", "FILLED", "CANCELLED", "REJECTED"]

    private static func lifecycle(_ payload: UnsafeRawBufferPointer) throws(Refusal) -> StoredEvent {
        let update = try decode(payload, as: Proto.OrderStatusUpdate.self)
        guard statuses.contains(update.status) else {
            throw Refusal(code: "INVALID_VALUE", reason: "status \"\(update.status.prefix(20))\" is none")
        }
        var event = StoredEvent()
        event.entityType = "order"
        event.entityID = try required(update.orderId, "order_id")
        event.eventType = update.status
        event.timeNs = try required(update.statusTime, "status_time")
        event.payload = Array(payload)
        event.metadata = [
            ("account", update.account), ("exchange", update.exchange), ("reason_code", update.reasonCode),
            ("symbol", update.symbol),
        ].filter { !$0.1.isEmpty }
        return event
    }

    private static func audit(_ payload: UnsafeRawBufferPointer) throws(Refusal) -> StoredEvent {
        let said = try decode(payload, as: Proto.AuditEvent.self)
        guard said.sequence > 0, said.sequence < 1 << 62 else {
            throw Refusal(code: "INVALID_VALUE", reason: "sequence is \(said.sequence)")
        }
        var event = StoredEvent()
        event.entityType = try required(said.entityType, "entity_type")
        event.entityID = try required(said.entityId, "entity_id")
        event.eventType = try required(said.action, "action")
        event.timeNs = try required(said.eventTime, "event_time")
        event.payload = Array(payload)
        event.metadata = [
            ("account", said.account), ("actor", try required(said.actor, "actor")),
            ("reason_code", said.reasonCode), ("request_id", said.requestId),
            ("shard", "\(said.shard)"), ("shard_sequence", "\(said.sequence)"),
        ].filter { !$0.1.isEmpty }
        return event
    }

    private static func position(_ payload: UnsafeRawBufferPointer) throws(Refusal) -> StoredPosition {
        let update = try decode(payload, as: Proto.PositionUpdate.self)
        var row = StoredPosition()
        row.account = try required(update.account, "account")
        row.symbol = try required(update.symbol, "symbol")
        row.exchange = try required(update.exchange, "exchange")
        guard update.sequence > 0, update.sequence < 1 << 62 else {
            throw Refusal(code: "INVALID_VALUE", reason: "sequence is \(update.sequence)")
        }
        row.sequence = update.sequence
        row.quantityMicros = update.quantityMicros
        row.averagePriceMicros = update.averagePriceMicros
        row.averagePriceNano = update.averagePriceNanoRemainder
        row.realizedMicros = update.realizedPnlMicros
        row.unrealizedMicros = update.unrealizedPnlMicros
        row.executionID = update.executionId
        row.executionTimeNs = try required(update.executionTime, "execution_time")
        row.updateTimeNs = try required(update.updateTime, "update_time")
        return row
    }
}
