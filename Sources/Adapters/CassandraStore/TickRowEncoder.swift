import CQLFrames
import MarketModel
import TickCodec

/// A partition of `tick_data`: an instrument's hour, and what is the same of all its rows.
struct TickPartition {
    /// Numbers partitions of this process.
    let number: Int
    let token: Int64
    /// For people: `BINANCE BTCUSDT 2024-08-08 09`.
    let name: String
    /// The first four values of a row, as they are bound.
    let key: [UInt8]
    let tradeDate: String
    let bucket: Int32

    /// Of an hour since 1970.
    init(number: Int, exchange: String, symbol: String, hour: Int64) {
        self.number = number
        bucket = Int32(truncatingIfNeeded: hour - floorDivide(hour, by: 24) * 24)
        tradeDate = TickPartition.date(day: floorDivide(hour, by: 24))
        name = "\(exchange) \(symbol) \(tradeDate) \(bucket < 10 ? "0" : "")\(bucket)"
        let buffer = CQLBuffer()
        var components: [[UInt8]] = []
        for text in [exchange, symbol, tradeDate] {
            components.append(Array(text.utf8))
            Array(text.utf8).withUnsafeBytes { buffer.append(value: $0) }
        }
        buffer.append(value: bucket)
        components.append(withUnsafeBytes(of: bucket.bigEndian) { Array($0) })
        key = Array(buffer.bytes)
        token = Murmur3.token(of: components)
    }

    static func hour(of filingTimeNs: Int64) -> Int64 { floorDivide(filingTimeNs, by: 3_600_000_000_000) }

    /// `2020-03-15` of a day since 1970, by the proleptic Gregorian calendar.
    static func date(day: Int64) -> String {
        // Howard Hinnant's days-to-civil: eras of 400 years that begin in March.
        let shifted = day + 719_468
        let era = floorDivide(shifted, by: 146_097)
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)
        func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(year)-\(two(calendarMonth))-\(two(dayOfMonth))"
    }

    /// The hour since 1970 that a partition's key names; nil where it names none.
    static func hour(tradeDate: String, bucket: Int64) -> Int64? {
        let parts = tradeDate.split(separator: "-").map { Int64($0) }
        guard parts.count == 3, let year = parts[0], let month = parts[1], let day = parts[2], (1...12).contains(month),
            (1...31).contains(day), (0...23).contains(bucket), (1600...2400).contains(year)
        else { return nil }
        let marchYear = month <= 2 ? year - 1 : year
        let era = floorDivide(marchYear, by: 400)
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return (era * 146_097 + dayOfEra - 719_468) * 24 + bucket
    }
}

/// Which columns an INSERT names: fewer values cost less on both sides, and most ticks need few.
enum TickRowShape: Int, CaseIterable {
    /// Bid and ask with their sizes, and what was paid last.
    case quote
    /// A trade, with its venue's words for it.
    case trade
    /// Every column.
    case full

    private static let key = ["exchange", "symbol", "trade_date", "bucket", "tick_time"]
    private static let common = [
        "event_time_ns", "receive_time_ns", "publish_time_ns", "feed_handler_id", "epoch", "sequence", "kind",
        "venue_sequence", "last_micros",
    ]
    private static let quoteOnly = ["bid_micros", "ask_micros", "bid_size_micros", "ask_size_micros"]
    private static let tradeOnly = ["volume", "volume_nano", "aggressor_side", "trade_id"]
    private static let rare = [
        "bid_nano", "ask_nano", "last_nano", "bid_size_nano", "ask_size_nano", "state", "update_bytes",
    ]

    var columns: [String] {
        let values =
            switch self {
            case .quote: Self.quoteOnly
            case .trade: Self.tradeOnly
            case .full: Self.quoteOnly + Self.tradeOnly + Self.rare
            }
        return Self.key + Self.common + values
    }

    /// With timestamp and time to live.
    var valueCount: Int {
        switch self {
        case .quote: 20
        case .trade: 20
        case .full: 31
        }
    }

    func insert(_ keyspace: String) -> String {
        let marks = columns.map { _ in "?" }.joined(separator: ", ")
        return "INSERT INTO \(keyspace).tick_data (\(columns.joined(separator: ", "))) VALUES (\(marks)) "
            + "USING TIMESTAMP ? AND TTL ?"
    }

    /// The one with the fewest columns that holds the tick.
    @inline(__always)
    static func of(_ reader: TickReader, isWhole: Bool) -> TickRowShape {
        let rests =
            reader.bidNanoRemainder | reader.askNanoRemainder | reader.lastNanoRemainder
            | reader.bidSizeNanoRemainder | reader.askSizeNanoRemainder | reader.stateNumber
        guard isWhole, rests == 0 else { return .full }
        let hasQuote =
            reader.bidMicros != nil || reader.askMicros != nil || reader.bidSizeMicros != nil
            || reader.askSizeMicros != nil
        let hasTrade =
            reader.volume != nil || reader.volumeNanoRemainder != 0 || reader.aggressorSideNumber != 0
            || !reader.tradeID.isEmpty
        return hasTrade ? hasQuote ? .full : .trade : .quote
    }
}

/// Writes ticks as bound values of an INSERT.
enum TickRowEncoder {
    /// Where a row's key, timestamp, time to live and feed come from.
    struct Place {
        let identity: TickRowIdentity
        let feed: UnsafeRawBufferPointer
        let timestampMicroseconds: Int64
        let timeToLive: Int32
    }

    @inline(__always)
    private static func append(_ value: Int64?, to buffer: CQLBuffer) {
        if let value { buffer.append(value: value) } else { buffer.appendUnset() }
    }

    /// Appends the values behind the partition's key. `update` is the whole update where the columns cannot give it
    /// back.
    static func append(
        _ reader: TickReader, _ place: Place, _ shape: TickRowShape, update: UnsafeRawBufferPointer?,
        to buffer: CQLBuffer
    ) {
        let words = place.identity.words
        buffer.append(valueHigh: words.high, low: words.low)
        append(reader.eventTimeNs, to: buffer)
        buffer.append(value: reader.receivedTimeNs)
        buffer.append(value: reader.publishTimeNs)
        buffer.append(value: place.feed)
        buffer.append(value: Int64(bitPattern: reader.epoch))
        buffer.append(value: Int64(bitPattern: reader.sequence))
        appendByte(reader.kindNumber, to: buffer)
        append(reader.venueSequence == 0 ? nil : Int64(bitPattern: reader.venueSequence), to: buffer)
        append(reader.lastMicros, to: buffer)
        if shape != .trade {
            append(reader.bidMicros, to: buffer)
            append(reader.askMicros, to: buffer)
            append(reader.bidSizeMicros, to: buffer)
            append(reader.askSizeMicros, to: buffer)
        }
        if shape != .quote { appendTrade(reader, to: buffer) }
        if shape == .full { appendRare(reader, update, to: buffer) }
        buffer.append(value: place.timestampMicroseconds)
        buffer.append(value: place.timeToLive)
    }

    private static func appendTrade(_ reader: TickReader, to buffer: CQLBuffer) {
        append(reader.volume, to: buffer)
        appendRest(reader.volumeNanoRemainder, to: buffer)
        appendEnumeration(reader.aggressorSideNumber, to: buffer)
        append(reader.tick().tradeID.map { Int64(bitPattern: $0) }, to: buffer)
    }

    private static func appendRare(
        _ reader: TickReader, _ update: UnsafeRawBufferPointer?, to buffer: CQLBuffer
    ) {
        appendRest(reader.bidNanoRemainder, to: buffer)
        appendRest(reader.askNanoRemainder, to: buffer)
        appendRest(reader.lastNanoRemainder, to: buffer)
        appendRest(reader.bidSizeNanoRemainder, to: buffer)
        appendRest(reader.askSizeNanoRemainder, to: buffer)
        appendEnumeration(reader.stateNumber, to: buffer)
        if let update { buffer.append(value: update) } else { buffer.appendUnset() }
    }

    private static func appendRest(_ value: Int32, to buffer: CQLBuffer) {
        if value == 0 { buffer.appendUnset() } else { buffer.append(value: value) }
    }

    private static func appendEnumeration(_ value: Int32, to buffer: CQLBuffer) {
        if value == 0 { buffer.appendUnset() } else { appendByte(value, to: buffer) }
    }

    @inline(__always)
    private static func appendByte(_ value: Int32, to buffer: CQLBuffer) {
        buffer.append(bigEndian: Int32(1))
        buffer.append(byte: UInt8(truncatingIfNeeded: value))
    }
}

/// Puts ticks together again from rows of `tick_data`.
enum TickRowDecoder {
    /// Columns that are read, in this order.
    static let columns = [
        "tick_time", "bid_micros", "ask_micros", "last_micros", "volume", "event_time_ns", "receive_time_ns",
        "publish_time_ns", "feed_handler_id", "epoch", "sequence", "kind", "bid_size_micros", "ask_size_micros",
        "venue_sequence", "bid_nano", "ask_nano", "last_nano", "bid_size_nano", "ask_size_nano", "volume_nano", "state",
        "aggressor_side", "trade_id", "update_bytes",
    ]
    static let feedColumn = 8
    static let bytesColumn = 24

    /// The tick that the columns say; nil where they say none.
    static func tick(_ row: CQLRow) -> Tick? {
        guard let receive = row.int64(6), let publish = row.int64(7), let epoch = row.int64(9),
            let sequence = row.int64(10)
        else { return nil }
        var tick = Tick(
            kind: TickKind(rawValue: byte(row, 11)) ?? .unspecified, receivedTimeNs: receive, publishTimeNs: publish,
            epoch: UInt64(bitPattern: epoch), sequence: UInt64(bitPattern: sequence))
        tick.bid = row.int64(1).flatMap { PriceMicros.join(micros: $0, remainder: row.int32(15) ?? 0) }
        tick.ask = row.int64(2).flatMap { PriceMicros.join(micros: $0, remainder: row.int32(16) ?? 0) }
        tick.last = row.int64(3).flatMap { PriceMicros.join(micros: $0, remainder: row.int32(17) ?? 0) }
        tick.lastSize = row.int64(4).flatMap { VolumeUnits.join(units: $0, remainder: row.int32(20) ?? 0) }
        tick.eventTimeNs = row.int64(5)
        tick.bidSize = row.int64(12).flatMap { QuantityMicros.join(micros: $0, remainder: row.int32(18) ?? 0) }
        tick.askSize = row.int64(13).flatMap { QuantityMicros.join(micros: $0, remainder: row.int32(19) ?? 0) }
        tick.venueSequence = row.int64(14).map { UInt64(bitPattern: $0) } ?? 0
        tick.state = InstrumentState(rawValue: byte(row, 21)) ?? .live
        tick.aggressorSide = AggressorSide(rawValue: byte(row, 22)) ?? .unspecified
        tick.tradeID = row.int64(23).map { UInt64(bitPattern: $0) }
        return tick
    }

    private static func byte(_ row: CQLRow, _ column: Int) -> UInt8 { row.bytes(column)?.first ?? 0 }
}
