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
        let words = place.identity.words
        buffer.append(valueHigh: words.high, low: words.low)
        append(reader.bidMicros, absent, to: buffer)
        append(reader.askMicros, absent, to: buffer)
        append(reader.lastMicros, absent, to: buffer)
        append(reader.volume, absent, to: buffer)
        let start = buffer.count
        buffer.append(bigEndian: Int32(0))
        appendDetail(reader, place.feed, to: buffer)
        buffer.set(bigEndian: Int32(buffer.count - start - 4), at: start)
        if let update { buffer.append(value: update) } else { append(absent, to: buffer) }
        buffer.append(value: place.timestampMicroseconds)
        buffer.append(value: place.timeToLive)
    }

    @inline(__always)
    private static func append(_ value: Int64?, _ absent: Absent, to buffer: CQLBuffer) {
        if let value { buffer.append(value: value) } else { append(absent, to: buffer) }
    }

    private static func append(_ absent: Absent, to buffer: CQLBuffer) {
        switch absent {
        case .unset: buffer.appendUnset()
        case .null: buffer.appendNull()
        }
    }

    /// The fields of `tick_detail` in their order, up to the last that is there.
    private static func appendDetail(_ reader: TickReader, _ feed: UnsafeRawBufferPointer, to buffer: CQLBuffer) {
        field(reader.eventTimeNs, to: buffer)
        buffer.append(value: reader.receivedTimeNs)
        buffer.append(value: reader.publishTimeNs)
        buffer.append(value: feed)
        buffer.append(value: Int64(bitPattern: reader.epoch))
        buffer.append(value: Int64(bitPattern: reader.sequence))
        byteField(reader.kindNumber, to: buffer)
        field(reader.venueSequence == 0 ? nil : Int64(bitPattern: reader.venueSequence), to: buffer)
        field(reader.bidSizeMicros, to: buffer)
        field(reader.askSizeMicros, to: buffer)
        let rests =
            reader.bidNanoRemainder | reader.askNanoRemainder | reader.lastNanoRemainder
            | reader.bidSizeNanoRemainder | reader.askSizeNanoRemainder
        let isRare = rests != 0 || reader.stateNumber != 0
        let isTrade =
            reader.aggressorSideNumber != 0 || !reader.tradeID.isEmpty || reader.volumeNanoRemainder != 0
        guard isRare || isTrade else { return }
        byteField(reader.aggressorSideNumber, to: buffer)
        field(reader.tick().tradeID.map { Int64(bitPattern: $0) }, to: buffer)
        intField(reader.volumeNanoRemainder, to: buffer)
        guard isRare else { return }
        intField(reader.bidNanoRemainder, to: buffer)
        intField(reader.askNanoRemainder, to: buffer)
        intField(reader.lastNanoRemainder, to: buffer)
        intField(reader.bidSizeNanoRemainder, to: buffer)
        intField(reader.askSizeNanoRemainder, to: buffer)
        byteField(reader.stateNumber, to: buffer)
    }

    @inline(__always)
    private static func field(_ value: Int64?, to buffer: CQLBuffer) {
        if let value { buffer.append(value: value) } else { buffer.appendNull() }
    }

    private static func intField(_ value: Int32, to buffer: CQLBuffer) {
        if value == 0 { buffer.appendNull() } else { buffer.append(value: value) }
    }

    @inline(__always)
    private static func byteField(_ value: Int32, to buffer: CQLBuffer) {
        guard value != 0 else { return buffer.appendNull() }
        buffer.append(bigEndian: Int32(1))
        buffer.append(byte: UInt8(truncatingIfNeeded: value))
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
