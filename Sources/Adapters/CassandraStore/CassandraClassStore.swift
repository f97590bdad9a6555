import COpenSSL
import CQLFrames
import CassandraCQL
import EventLog
import MarketModel
import Synchronization
import TickStore
import TimeSource

/// Consistency of what is written, by class.
public struct ClassConsistency: Sendable, Hashable {
    /// Published: trades LOCAL_QUORUM, the audit trail, which events are, EACH_QUORUM.
    public var trades = CQLConsistency.localQuorum
    public var events = CQLConsistency.eachQuorum
    public var positions = CQLConsistency.localQuorum
    /// Market data, as ticks are.
    public var books = CQLConsistency.localOne

    public init() {}
}

/// A ``ClassStore`` on the tables that `tapedeck schema apply` made: `trade_executions`, `event_store`, `positions`,
/// `order_book_snapshots`.
///
/// A row's key and its write timestamp follow from its record, so that writing it again changes nothing. Events of a
/// partition of the log are a chain: each row has SHA-256 over the hash before it and its own bytes; where the chain is
/// lies with the offset it goes through.
public final class CassandraClassStore: ClassStore, @unchecked Sendable {
    private let session: BlockingSession
    private let configuration: CassandraStoreConfiguration
    private let consistency: ClassConsistency
    private let insertExecution: CQLPrepared
    private let insertEvent: CQLPrepared
    private let insertPosition: CQLPrepared
    private let insertBook: CQLPrepared
    private let insertOffset: CQLPrepared
    /// Where the chain of a place stands, and through which offset it goes.
    private let chains = Mutex<[TopicPartition: Chain]>([:])
    private let isClosed = Mutex(false)

    private struct Chain {
        var next: UInt64 = 0
        var hash = CassandraClassStore.chainStart
    }

    /// What a chain begins with.
    public static let chainStart = [UInt8](repeating: 0, count: 32)

    /// Opens the store. Throws `.unreachable` where no node answers, `.io` where the tables are not there.
    public init(
        _ configuration: CassandraStoreConfiguration, consistency: ClassConsistency = ClassConsistency(),
        report: @escaping @Sendable (CQLSessionEvent) -> Void = { _ in }
    ) throws(StoreError) {
        self.configuration = configuration
        self.consistency = consistency
        let session = try BlockingSession(configuration, report: report)
        self.session = session
        let keyspace = configuration.keyspace
        do {
            try CassandraStore.checkVersion(session, keyspace)
            insertExecution = try session.prepare(
                "INSERT INTO \(keyspace).trade_executions (account_id, trade_date, execution_time, trade_id, "
                    + "symbol, side, quantity_micros, price_micros, fees_micros, venue, exchange, order_id, "
                    + "execution_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?")
            insertEvent = try session.prepare(
                "INSERT INTO \(keyspace).event_store (entity_type, entity_id, day, event_time, event_type, payload, "
                    + "metadata, sequence, chain_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?")
            insertPosition = try session.prepare(
                "INSERT INTO \(keyspace).positions (account_id, exchange, symbol, quantity_micros, "
                    + "average_price_micros, average_price_nano, realized_pnl_micros, unrealized_pnl_micros, sequence, "
                    + "execution_id, execution_time, update_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                    + "USING TIMESTAMP ?")
            insertBook = try session.prepare(
                "INSERT INTO \(keyspace).order_book_snapshots (\(CassandraClassStore.bookColumns)) "
                    + "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?")
            insertOffset = try session.prepare(
                "INSERT INTO \(keyspace).writer_offsets (log, topic, partition, next_offset, chain_hash) "
                    + "VALUES (?, ?, ?, ?, ?)")
        } catch {
            session.close()
            throw error
        }
    }

    deinit { close() }

    public func close() {
        let wasClosed = isClosed.withLock { closed in
            defer { closed = true }
            return closed
        }
        if !wasClosed { session.close() }
    }

    public func release(_ place: TopicPartition) { chains.withLock { $0[place] = nil } }

    public func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? {
        let rows = try session.query(
            "SELECT next_offset, chain_hash FROM \(configuration.keyspace).writer_offsets "
                + "WHERE log = ? AND topic = ? AND partition = ?",
            [
                (.text(configuration.log), .text), (.int(Int32(place.topic.number)), .int),
                (.int(Int32(place.partition)), .int),
            ], configuration.readConsistency)
        guard let row = rows.first, let next = row[0].integer else { return nil }
        var hash = CassandraClassStore.chainStart
        if case .blob(let bytes) = row[1], bytes.count == hash.count { hash = bytes }
        let chain = Chain(next: UInt64(bitPattern: next), hash: hash)
        chains.withLock { $0[place] = chain }
        return chain.next
    }

    public func write(_ records: [ClassRecord], through next: UInt64, of place: TopicPartition) throws(StoreError) {
        let chain = chains.withLock { $0[place] } ?? Chain()
        guard next > chain.next else { return }
        var hash = chain.hash
        var requests: [BlockingSession.Request] = []
        for record in records where record.offset >= chain.next {
            switch record.body {
            case .execution(let row):
                requests.append(try session.request(insertExecution, values(row), consistency.trades))
            case .event(let row):
                hash = CassandraClassStore.link(hash, row.payload)
                requests.append(
                    try session.request(insertEvent, try values(row, record.offset, place, hash), consistency.events))
            case .book(let row):
                for level in 0..<max(row.bids.count, row.asks.count, 1) {
                    requests.append(try session.request(insertBook, values(row, level), consistency.books))
                }
            case .position(let row):
                requests.append(try session.request(insertPosition, values(row), consistency.positions))
            }
        }
        // All of them, then how far they go.
        try carryOut(requests, place)
        let offset: [CQLValue] = [
            .text(configuration.log), .int(Int32(place.topic.number)), .int(Int32(place.partition)),
            .bigint(Int64(bitPattern: next)), .blob(hash),
        ]
        // As it is read: a level that is asked of one class holds up no other.
        try carryOut([try session.request(insertOffset, offset, .localQuorum)], place)
        let last = hash
        chains.withLock { $0[place] = Chain(next: next, hash: last) }
    }

    private func carryOut(
        _ requests: [BlockingSession.Request], _ place: TopicPartition
    ) throws(StoreError) {
        guard !requests.isEmpty else { return }
        for outcome in session.ask(requests, keyspace: configuration.keyspace) {
            if case .failure(let error) = outcome { throw session.failure(error, "write rows of \(place)") }
        }
    }

    // MARK: Rows

    private static let dayNs: Int64 = 86_400_000_000_000

    private static func day(_ ns: Int64) -> CQLValue { .text(CivilTime.date(day: floorDivide(ns, by: dayNs))) }

    private static func uuid(_ identity: TickRowIdentity) -> CQLValue {
        .uuid(CQLUUID(high: identity.words.high, low: identity.words.low))
    }

    private func values(_ row: StoredExecution) -> [CQLValue] {
        let identity = CassandraClassStore.tradeID(row)
        return [
            .text(row.account), CassandraClassStore.day(row.executionTimeNs),
            .timestamp(floorDivide(row.executionTimeNs, by: 1_000_000)), CassandraClassStore.uuid(identity),
            .text(row.symbol), .text(row.side), .bigint(row.quantityMicros), .bigint(row.priceMicros),
            .bigint(row.feeMicros), .text(row.venue), .text(row.exchange), .text(row.orderID), .text(row.executionID),
            .bigint(floorDivide(row.executionTimeNs, by: 1000)),
        ]
    }

    /// A key that is a pure function of the execution's time and id: it stands for `IF NOT EXISTS`, which costs a round
    /// of Paxos for each row.
    static func tradeID(_ row: StoredExecution) -> TickRowIdentity {
        let hash = sha256([row.executionID.utf8.map { $0 }])
        let word = hash.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let sequence = word & TickRowIdentity.sequenceMax
        guard
            let identity = try? TickRowIdentity(
                filingTimeNs: row.executionTimeNs, epoch: word >> 56, sequence: sequence,
                feedNumber: UInt16(truncatingIfNeeded: word >> 40))
        else { preconditionFailure("40 bits fit") }
        return identity
    }

    private func values(
        _ row: StoredEvent, _ offset: UInt64, _ place: TopicPartition, _ hash: [UInt8]
    ) throws(StoreError) -> [CQLValue] {
        let identity: TickRowIdentity
        do {
            // In the order of the log where times are equal.
            identity = try TickRowIdentity(
                filingTimeNs: row.timeNs, epoch: UInt64(place.topic.number), sequence: offset,
                feedNumber: place.partition)
        } catch {
            throw StoreError(.io, "\(place) at offset \(offset): \(error)")
        }
        let metadata = row.metadata + [("partition", "\(place.partition)"), ("topic", place.topic.name)]
        return [
            .text(row.entityType), .text(row.entityID), CassandraClassStore.day(row.timeNs),
            CassandraClassStore.uuid(identity), .text(row.eventType), .blob(row.payload),
            .map(metadata.sorted { $0.0 < $1.0 }.map { CQLMapEntry(.text($0.0), .text($0.1)) }),
            .bigint(Int64(bitPattern: offset)), .blob(hash), .bigint(floorDivide(row.timeNs, by: 1000)),
        ]
    }

    private func values(_ row: StoredPosition) -> [CQLValue] {
        [
            .text(row.account), .text(row.exchange), .text(row.symbol), .bigint(row.quantityMicros),
            .bigint(row.averagePriceMicros), .int(row.averagePriceNano), .bigint(row.realizedMicros),
            .bigint(row.unrealizedMicros), .bigint(Int64(bitPattern: row.sequence)), .text(row.executionID),
            .timestamp(floorDivide(row.executionTimeNs, by: 1_000_000)),
            .timestamp(floorDivide(row.updateTimeNs, by: 1_000_000)),
            // An update that comes late never replaces a later one.
            .bigint(Int64(bitPattern: row.sequence)),
        ]
    }

    // MARK: Books

    private static let bookColumns =
        "exchange, symbol, snapshot_hour, snapshot_time, depth_level, bid_micros, bid_size, ask_micros, ask_size, "
        + "bid_nano, bid_size_nano, ask_nano, ask_size_nano, feed_handler_id, epoch, sequence"
    private static let hourNs: Int64 = 3_600_000_000_000

    /// `2020-03-15T14` of an hour since 1970.
    private static func hour(_ number: Int64) -> CQLValue {
        let day = floorDivide(number, by: 24)
        let hour = number - day * 24
        return .text("\(CivilTime.date(day: day))T\(hour < 10 ? "0" : "")\(hour)")
    }

    /// One level of a book, both sides; a book without levels is one row without prices.
    private func values(_ row: StoredBook, _ level: Int) -> [CQLValue] {
        func side(_ levels: [PriceLevel]) -> (price: CQLValue, size: CQLValue, priceNano: CQLValue, sizeNano: CQLValue)
        {
            guard level < levels.count else { return (.null, .null, .null, .null) }
            let price = PriceMicros.split(levels[level].price)
            let size = QuantityMicros.split(levels[level].size)
            return (.bigint(price.micros), .bigint(size.micros), .int(price.remainder), .int(size.remainder))
        }
        let (bid, ask) = (side(row.bids), side(row.asks))
        return [
            .text(row.exchange), .text(row.symbol),
            CassandraClassStore.hour(floorDivide(row.timeNs, by: CassandraClassStore.hourNs)),
            .timestamp(floorDivide(row.timeNs, by: 1_000_000)), .int(Int32(level)), bid.price, bid.size, ask.price,
            ask.size, bid.priceNano, bid.sizeNano, ask.priceNano, ask.sizeNano, .text(row.feed),
            .bigint(Int64(bitPattern: row.epoch)), .bigint(Int64(bitPattern: row.sequence)),
            .bigint(floorDivide(row.timeNs, by: 1000)),
        ]
    }

    /// The newest whole book of an instrument at or before a time, of the last `hours` hours; nil where there is none.
    /// Records of `books.deltas` from behind its sequence on bring it to any later time.
    public func book(_ instrument: Instrument, at timeNs: Int64, hours: Int64 = 24) throws(StoreError) -> StoredBook? {
        let last = floorDivide(timeNs, by: CassandraClassStore.hourNs)
        for hour in stride(from: last, through: last - hours, by: -1) {
            let rows = try session.query(
                "SELECT \(CassandraClassStore.bookColumns) FROM \(configuration.keyspace).order_book_snapshots "
                    + "WHERE exchange = ? AND symbol = ? AND snapshot_hour = ? AND snapshot_time <= ?",
                [
                    (.text(instrument.exchange), .text), (.text(instrument.symbol), .text),
                    (CassandraClassStore.hour(hour), .text),
                    (.timestamp(floorDivide(timeNs, by: 1_000_000)), .timestamp),
                ], configuration.readConsistency)
            if let book = CassandraClassStore.book(instrument, rows) { return book }
        }
        return nil
    }

    /// The newest book of rows in the table's order: of equal times that of the highest epoch and sequence.
    private static func book(_ instrument: Instrument, _ rows: [[CQLValue]]) -> StoredBook? {
        func number(_ row: [CQLValue], _ column: Int) -> UInt64 { UInt64(bitPattern: row[column].integer ?? 0) }
        guard let first = rows.first, case .timestamp(let milliseconds) = first[3] else { return nil }
        let newest = rows.prefix { $0[3] == first[3] }
        guard let top = newest.max(by: { (number($0, 14), number($0, 15)) < (number($1, 14), number($1, 15)) }) else {
            return nil
        }
        var book = StoredBook()
        book.exchange = instrument.exchange
        book.symbol = instrument.symbol
        book.feed = top[13].string ?? ""
        book.timeNs = milliseconds * 1_000_000
        book.epoch = number(top, 14)
        book.sequence = number(top, 15)
        func level(_ row: [CQLValue], _ price: Int, _ priceNano: Int) -> PriceLevel? {
            guard let micros = row[price].integer, let size = row[price + 1].integer,
                let joined = PriceMicros.join(
                    micros: micros, remainder: Int32(truncatingIfNeeded: row[priceNano].integer ?? 0)),
                let quantity = QuantityMicros.join(
                    micros: size, remainder: Int32(truncatingIfNeeded: row[priceNano + 1].integer ?? 0))
            else { return nil }
            return PriceLevel(price: joined, size: quantity)
        }
        for row in newest where row[14] == top[14] && row[15] == top[15] {
            if let bid = level(row, 5, 9) { book.bids.append(bid) }
            if let ask = level(row, 7, 11) { book.asks.append(ask) }
        }
        return book
    }

    // MARK: The chain

    /// The hash behind `previous` of an event with these bytes.
    public static func link(_ previous: [UInt8], _ payload: [UInt8]) -> [UInt8] { sha256([previous, payload]) }

    private static func sha256(_ parts: [[UInt8]]) -> [UInt8] {
        let bytes = parts.flatMap { $0 }
        var hash = [UInt8](repeating: 0, count: 32)
        SHA256(bytes, bytes.count, &hash)
        return hash
    }
}
