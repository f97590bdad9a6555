import CQLFrames
import MarketModel
import TickCodec
import TickStore

/// A partition of `tick_data`: an instrument's bucket, and what is the same of all its rows.
struct TickPartition {
    /// Numbers partitions of this process.
    let number: Int
    let token: Int64
    /// For people: `BINANCE BTCUSDT 2024-08-08 09`, or `... 09:05-09:10` of another width than an hour.
    let name: String
    /// The first four values of a row, as they are bound.
    let key: [UInt8]

    init(number: Int, exchange: String, symbol: String, bucket: TickBucket) {
        self.number = number
        name = "\(exchange) \(symbol) \(bucket)"
        let buffer = CQLBuffer()
        var components: [[UInt8]] = []
        for text in [exchange, symbol, CivilTime.date(day: bucket.day)] {
            components.append(Array(text.utf8))
            Array(text.utf8).withUnsafeBytes { buffer.append(value: $0) }
        }
        buffer.append(value: bucket.number)
        components.append(withUnsafeBytes(of: bucket.number.bigEndian) { Array($0) })
        key = Array(buffer.bytes)
        token = Murmur3.token(of: components)
    }
}

/// Writes ticks as bound values of the INSERT.
enum TickRowEncoder {
    static let columns = [
        "exchange", "symbol", "trade_date", "bucket", "tick_time", "bid_micros", "ask_micros", "last_micros", "volume",
        "detail", "update_bytes",
    ]
    /// With timestamp and time to live.
    static let valueCount = columns.count + 2
    /// Columns that are not of the key.
    static let cellsMax = columns.count - 5

    static func insert(_ keyspace: String) -> String {
        let marks = columns.map { _ in "?" }.joined(separator: ", ")
        return "INSERT INTO \(keyspace).tick_data (\(columns.joined(separator: ", "))) VALUES (\(marks)) "
            + "USING TIMESTAMP ? AND TTL ?"
    }

    /// Where a row's key, timestamp, time to live and feed come from.
    struct Place {
        let identity: TickRowIdentity
        let feed: UnsafeRawBufferPointer
        let timestampMicroseconds: Int64
        let timeToLive: Int32
    }

    /// What a column becomes that the tick has nothing for.
    enum Absent {
        /// Nothing is written: for new rows.
        case unset
        /// What stood there goes: for rows that replace others.
        case null
    }

    /// Appends the values behind the partition's key. `update` is the whole update where the columns cannot give it
    /// back.
    static func append(
        _ reader: TickReader, _ place: Place, update: UnsafeRawBufferPointer?, absent: Absent = .unset,
        to buffer: CQLBuffer
    ) {
        let room = fixedBytesMax + place.feed.count + (update?.count ?? 0)
        buffer.append(atMost: room) { values in
            let words = place.identity.words
            values.append(valueHigh: words.high, low: words.low)
            append(reader.bidMicros, absent, to: &values)
            append(reader.askMicros, absent, to: &values)
            append(reader.lastMicros, absent, to: &values)
            append(reader.volume, absent, to: &values)
            values.append(nested: { appendDetail(reader, place.feed, to: &$0) })
            if let update { values.append(value: update) } else { append(absent, to: &values) }
            values.append(value: place.timestampMicroseconds)
            values.append(value: place.timeToLive)
        }
    }

    /// What values take without feed and update: none of the columns, and of the fields of `tick_detail`, has more than
    /// 12 bytes but the row's id.
    private static let fixedBytesMax = 20 + 4 * 12 + (4 + 19 * 12) + 4 + 12 + 8

    @inline(__always)
    private static func append(_ value: Int64?, _ absent: Absent, to values: inout CQLValueCursor) {
        if let value { values.append(value: value) } else { append(absent, to: &values) }
    }

    @inline(__always)
    private static func append(_ absent: Absent, to values: inout CQLValueCursor) {
        switch absent {
        case .unset: values.appendUnset()
        case .null: values.appendNull()
        }
    }

    /// The fields of `tick_detail` in their order, up to the last that is there.
    @inline(__always)
    private static func appendDetail(
        _ reader: TickReader, _ feed: UnsafeRawBufferPointer, to values: inout CQLValueCursor
    ) {
        field(reader.eventTimeNs, to: &values)
        values.append(value: reader.receivedTimeNs)
        values.append(value: reader.publishTimeNs)
        values.append(value: feed)
        values.append(value: Int64(bitPattern: reader.epoch))
        values.append(value: Int64(bitPattern: reader.sequence))
        byteField(reader.kindNumber, to: &values)
        field(reader.venueSequence == 0 ? nil : Int64(bitPattern: reader.venueSequence), to: &values)
        field(reader.bidSizeMicros, to: &values)
        field(reader.askSizeMicros, to: &values)
        let rests =
            reader.bidNanoRemainder | reader.askNanoRemainder | reader.lastNanoRemainder
            | reader.bidSizeNanoRemainder | reader.askSizeNanoRemainder
        let isRare = rests != 0 || reader.stateNumber != 0
        let isTrade =
            reader.aggressorSideNumber != 0 || !reader.tradeID.isEmpty || reader.volumeNanoRemainder != 0
        guard isRare || isTrade else { return }
        byteField(reader.aggressorSideNumber, to: &values)
        field(reader.numericTradeID.map { Int64(bitPattern: $0) }, to: &values)
        intField(reader.volumeNanoRemainder, to: &values)
        guard isRare else { return }
        intField(reader.bidNanoRemainder, to: &values)
        intField(reader.askNanoRemainder, to: &values)
        intField(reader.lastNanoRemainder, to: &values)
        intField(reader.bidSizeNanoRemainder, to: &values)
        intField(reader.askSizeNanoRemainder, to: &values)
        byteField(reader.stateNumber, to: &values)
    }

    @inline(__always)
    private static func field(_ value: Int64?, to values: inout CQLValueCursor) {
        if let value { values.append(value: value) } else { values.appendNull() }
    }

    @inline(__always)
    private static func intField(_ value: Int32, to values: inout CQLValueCursor) {
        if value == 0 { values.appendNull() } else { values.append(value: value) }
    }

    @inline(__always)
    private static func byteField(_ value: Int32, to values: inout CQLValueCursor) {
        if value == 0 { values.appendNull() } else { values.append(value: UInt8(truncatingIfNeeded: value)) }
    }
}

/// Puts ticks together again from rows of `tick_data`.
enum TickRowDecoder {
    /// Columns that are read, in this order.
    static let columns = ["bid_micros", "ask_micros", "last_micros", "volume", "detail", "update_bytes"]
    static let bytesColumn = 5

    /// The tick that the columns say, and its feed; nil where they say none.
    static func tick(_ row: CQLRow) -> (tick: Tick, feed: [UInt8])? {
        guard let bytes = row.bytes(4), let detail = try? TickDetail(bytes) else { return nil }
        var tick = Tick(
            kind: TickKind(rawValue: detail.kind) ?? .unspecified, receivedTimeNs: detail.receiveTimeNs,
            publishTimeNs: detail.publishTimeNs, epoch: UInt64(bitPattern: detail.epoch),
            sequence: UInt64(bitPattern: detail.sequence))
        tick.bid = row.int64(0).flatMap { PriceMicros.join(micros: $0, remainder: detail.bidNano) }
        tick.ask = row.int64(1).flatMap { PriceMicros.join(micros: $0, remainder: detail.askNano) }
        tick.last = row.int64(2).flatMap { PriceMicros.join(micros: $0, remainder: detail.lastNano) }
        tick.lastSize = row.int64(3).flatMap { VolumeUnits.join(units: $0, remainder: detail.volumeNano) }
        tick.eventTimeNs = detail.eventTimeNs
        tick.bidSize = detail.bidSizeMicros.flatMap {
            QuantityMicros.join(micros: $0, remainder: detail.bidSizeNano)
        }
        tick.askSize = detail.askSizeMicros.flatMap {
            QuantityMicros.join(micros: $0, remainder: detail.askSizeNano)
        }
        tick.venueSequence = detail.venueSequence.map { UInt64(bitPattern: $0) } ?? 0
        tick.state = InstrumentState(rawValue: detail.state) ?? .live
        tick.aggressorSide = AggressorSide(rawValue: detail.aggressorSide) ?? .unspecified
        tick.tradeID = detail.tradeID.map { UInt64(bitPattern: $0) }
        return (tick, detail.feed)
    }
}

/// A `tick_detail` read from its bytes: fields behind their lengths, those behind the last absent.
private struct TickDetail {
    var eventTimeNs: Int64?
    var receiveTimeNs: Int64
    var publishTimeNs: Int64
    var feed: [UInt8]
    var epoch: Int64
    var sequence: Int64
    var kind: UInt8
    var venueSequence: Int64?
    var bidSizeMicros: Int64?
    var askSizeMicros: Int64?
    var aggressorSide: UInt8
    var tradeID: Int64?
    var volumeNano: Int32
    var bidNano: Int32
    var askNano: Int32
    var lastNano: Int32
    var bidSizeNano: Int32
    var askSizeNano: Int32
    var state: UInt8

    private struct Incomplete: Error {}

    init(_ bytes: UnsafeRawBufferPointer) throws {
        var reader = CQLReader(bytes)
        func next() throws -> UnsafeRawBufferPointer? {
            reader.remaining == 0 ? nil : try reader.optionalBytes()
        }
        func number<T: FixedWidthInteger>(_: T.Type) throws -> T? {
            guard let field = try next() else { return nil }
            guard field.count == MemoryLayout<T>.size else { throw Incomplete() }
            return T(bigEndian: field.loadUnaligned(as: T.self))
        }
        func required() throws -> Int64 {
            guard let value = try number(Int64.self) else { throw Incomplete() }
            return value
        }
        eventTimeNs = try number(Int64.self)
        receiveTimeNs = try required()
        publishTimeNs = try required()
        feed = try next().map(Array.init) ?? []
        epoch = try required()
        sequence = try required()
        kind = try number(UInt8.self) ?? 0
        venueSequence = try number(Int64.self)
        bidSizeMicros = try number(Int64.self)
        askSizeMicros = try number(Int64.self)
        aggressorSide = try number(UInt8.self) ?? 0
        tradeID = try number(Int64.self)
        volumeNano = try number(Int32.self) ?? 0
        bidNano = try number(Int32.self) ?? 0
        askNano = try number(Int32.self) ?? 0
        lastNano = try number(Int32.self) ?? 0
        bidSizeNano = try number(Int32.self) ?? 0
        askSizeNano = try number(Int32.self) ?? 0
        state = try number(UInt8.self) ?? 0
    }
}
