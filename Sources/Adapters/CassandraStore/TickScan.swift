import CQLFrames
import CassandraCQL
import EventLog
import MarketModel
import TickCodec
import TickStore

/// One scan: the instrument's partitions in order, several asked for at once, pages put together as frames.
struct TickScan {
    /// Partitions that are asked for while the first is read.
    static let partitionsAtOnceMax = 4
    static let pageSize: Int32 = 2000

    private let store: CassandraStore
    private let instrument: Instrument
    private let from: Int64
    private let to: Int64

    init(_ store: CassandraStore, _ instrument: Instrument, from: Int64, to: Int64) {
        self.store = store
        self.instrument = instrument
        self.from = from
        self.to = to
    }

    static func select(_ keyspace: String) -> String {
        "SELECT \(TickRowDecoder.columns.joined(separator: ", ")) FROM \(keyspace).tick_data "
            + "WHERE exchange = ? AND symbol = ? AND trade_date = ? AND bucket = ? ORDER BY tick_time ASC"
    }

    func run(_ body: (RowBatch) -> Bool) throws(StoreError) {
        // In ascending order. Buckets lie in one another only where a width was set by hand for a date that had rows.
        let buckets = try store.storedBuckets(instrument, from: from, through: to - 1)
        var builder = FrameBuilder(instrument, from: from, to: to)
        var start = 0
        while start < buckets.count {
            let part = Array(buckets[start..<min(start + TickScan.partitionsAtOnceMax, buckets.count)])
            start += part.count
            var requests: [BlockingSession.Request] = []
            for bucket in part { requests.append(try request(bucket, from: nil)) }
            let outcomes = store.session.ask(requests, keyspace: store.configuration.keyspace)
            for (bucket, outcome) in zip(part, outcomes) {
                var rows = try rows(outcome, bucket)
                while true {
                    guard try builder.take(rows, body) else { return }
                    guard let state = rows.metadata.pagingState else { break }
                    rows = try self.rows(
                        store.session.ask(
                            [try request(bucket, from: state)], keyspace: store.configuration.keyspace)[0], bucket)
                }
            }
        }
    }

    private func request(
        _ bucket: TickBucket, from state: [UInt8]?
    ) throws(StoreError) -> BlockingSession.Request {
        let key: [CQLValue] = [
            .text(instrument.exchange), .text(instrument.symbol), .text(CivilTime.date(day: bucket.day)),
            .int(bucket.number),
        ]
        return try store.session.request(
            store.selectRows, key, store.configuration.readConsistency, pageSize: TickScan.pageSize, from: state)
    }

    private func rows(_ outcome: CQLCall.Outcome, _ bucket: TickBucket) throws(StoreError) -> CQLRows {
        switch outcome {
        case .failure(let error):
            throw store.session.failure(error, "read \(instrument) \(bucket)")
        case .success(let answer):
            guard case .result(.rows(let rows)) = answer.response,
                rows.metadata.columnCount == TickRowDecoder.columns.count
            else { throw StoreError(.damaged, "tick_data has other columns than were asked for") }
            return rows
        }
    }
}

/// Puts rows together as gRPC frames.
private struct FrameBuilder {
    private let exchange: String
    private let symbol: String
    private let from: Int64
    private let to: Int64
    private var encoders: [[UInt8]: TickEncoder] = [:]
    private let frames = CQLBuffer(capacity: 256 << 10)

    init(_ instrument: Instrument, from: Int64, to: Int64) {
        exchange = instrument.exchange
        symbol = instrument.symbol
        self.from = from
        self.to = to
    }

    /// False where the reader wants no more.
    mutating func take(_ rows: CQLRows, _ body: (RowBatch) -> Bool) throws(StoreError) -> Bool {
        frames.removeAll(keeping: 8 << 20)
        var count = 0
        try rows.forEach { (row) throws(StoreError) in
            if try append(row) { count += 1 }
        }
        guard count > 0 else { return true }
        return body(RowBatch(frames: frames.bytes, count: count))
    }

    private mutating func append(_ row: CQLRow) throws(StoreError) -> Bool {
        if let bytes = row.bytes(TickRowDecoder.bytesColumn) {
            guard let reader = try? TickReader(bytes) else {
                throw StoreError(.damaged, "a row of \(exchange) \(symbol) holds bytes that are no tick")
            }
            guard isWanted(reader.filingTimeNs) else { return false }
            begin(bytes.count)
            frames.append(bytes)
            return true
        }
        guard let (tick, feed) = TickRowDecoder.tick(row) else {
            throw StoreError(.damaged, "a row of \(exchange) \(symbol) lacks columns of a tick")
        }
        guard isWanted(FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).ns) else {
            return false
        }
        let encoder = encoder(feed)
        let start = frames.count
        begin(0)
        let place = UnsafeMutableRawBufferPointer(
            start: frames.append(uninitialized: encoder.lengthMax), count: encoder.lengthMax)
        let length = encoder.encode(tick, into: place)
        frames.truncate(to: start + Block.framePrefixLength + length)
        frames.set(bigEndian: UInt32(length), at: start + 1)
        return true
    }

    private func isWanted(_ filingTimeNs: Int64) -> Bool { filingTimeNs >= from && filingTimeNs < to }

    private func begin(_ length: Int) {
        frames.append(byte: 0)
        frames.append(bigEndian: UInt32(length))
    }

    private mutating func encoder(_ feed: [UInt8]) -> TickEncoder {
        if let known = encoders[feed] { return known }
        let made = TickEncoder(exchange: exchange, symbol: symbol, feed: String(decoding: feed, as: UTF8.self))
        encoders[feed] = made
        return made
    }
}
