import MarketModel

/// Encodes the ticks of one instrument of one feed as `financial.marketdata.v1.PriceUpdate`.
///
/// Made once per (feed, instrument): names and feed id are byte templates. Encoding allocates nothing and never fails.
public struct TickEncoder: Sendable {
    /// Fields 1 and 2, and field 9, as they stand on the wire.
    private let names: [UInt8]
    private let feed: [UInt8]

    /// The least size in bytes of a buffer given to ``encode(_:into:)``. No tick of this instrument is longer.
    public let lengthMax: Int

    public init(exchange: String, symbol: String, feed: String) {
        names = Self.field(1, exchange) + Self.field(2, symbol)
        self.feed = Self.field(9, feed)
        lengthMax = names.count + self.feed.count + Self.scalarBytesMax + Self.slackBytes
    }

    /// All fields but the names at their longest.
    private static let scalarBytesMax = 4 * 11 + 3 * 19 + 2 * 11 + 2 + 2 * 11 + 5 * 4 + 7 + 3 + 12 + 3 + 3 + 23
    /// How far past the end of a field its last store may reach.
    private static let slackBytes = 16

    private static func field(_ number: UInt8, _ text: String) -> [UInt8] {
        if text.isEmpty { return [] }
        var bytes = [number << 3 | 2]
        var length = text.utf8.count
        while length >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: length) | 0x80)
            length >>= 7
        }
        bytes.append(UInt8(length))
        return bytes + Array(text.utf8)
    }

    /// Writes `tick` to the start of `buffer`, which holds at least ``lengthMax`` bytes, and returns its length in bytes.
    ///
    /// Fields stand in the order of their numbers. Bytes of `buffer` past the length are left undefined.
    public func encode(_ tick: borrowing Tick, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        precondition(buffer.count >= lengthMax)
        var out = Output(buffer.baseAddress!)
        out.bytes(names)
        let bid = tick.bid.map(PriceMicros.split)
        let ask = tick.ask.map(PriceMicros.split)
        let last = tick.last.map(PriceMicros.split)
        let volume = tick.lastSize.map(VolumeUnits.split)
        let bidSize = tick.bidSize.map(QuantityMicros.split)
        let askSize = tick.askSize.map(QuantityMicros.split)
        if let bid { out.varint(3, UInt64(bitPattern: bid.micros)) }
        if let ask { out.varint(4, UInt64(bitPattern: ask.micros)) }
        if let last { out.varint(5, UInt64(bitPattern: last.micros)) }
        if let volume { out.varint(6, UInt64(bitPattern: volume.units)) }
        if let event = tick.eventTimeNs { out.timestamp(7, event) }
        out.timestamp(8, tick.receivedTimeNs)
        out.bytes(feed)
        out.nonZero(10, tick.sequence)
        out.nonZero(11, tick.epoch)
        out.nonZero(12, UInt64(tick.kind.rawValue))
        if let bidSize { out.varint(13, UInt64(bitPattern: bidSize.micros)) }
        if let askSize { out.varint(14, UInt64(bitPattern: askSize.micros)) }
        out.timestamp(15, tick.publishTimeNs)
        out.nonZero(16, UInt64(bid?.remainder ?? 0))
        out.nonZero(17, UInt64(ask?.remainder ?? 0))
        out.nonZero(18, UInt64(last?.remainder ?? 0))
        out.nonZero(19, UInt64(bidSize?.remainder ?? 0))
        out.nonZero(20, UInt64(askSize?.remainder ?? 0))
        out.nonZero(21, UInt64(volume?.remainder ?? 0))
        let source = FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).source
        out.nonZero(22, UInt64(source.rawValue))
        out.nonZero(23, tick.venueSequence)
        out.nonZero(24, UInt64(tick.state.rawValue))
        out.nonZero(25, UInt64(tick.aggressorSide.rawValue))
        if let id = tick.tradeID { out.decimal(26, id) }
        return out.place - buffer.baseAddress!
    }
}

/// A place in a buffer whose room was established up front.
struct Output {
    var place: UnsafeMutableRawPointer

    init(_ place: UnsafeMutableRawPointer) { self.place = place }

    mutating func byte(_ value: UInt8) {
        place.storeBytes(of: value, as: UInt8.self)
        place += 1
    }

    mutating func bytes(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { if let base = $0.baseAddress { place.copyMemory(from: base, byteCount: $0.count) } }
        place += bytes.count
    }

    mutating func raw(_ value: UInt64) {
        var value = value
        while value >= 0x80 {
            byte(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        byte(UInt8(value))
    }

    mutating func varint(_ field: UInt64, _ value: UInt64) {
        raw(field << 3)
        raw(value)
    }

    mutating func nonZero(_ field: UInt64, _ value: UInt64) {
        if value != 0 { varint(field, value) }
    }

    mutating func timestamp(_ field: UInt64, _ ns: Int64) {
        let (seconds, nanos) = TimestampParts.split(ns)
        raw(field << 3 | 2)
        let length = place
        place += 1
        nonZero(1, UInt64(bitPattern: seconds))
        nonZero(2, UInt64(nanos))
        length.storeBytes(of: UInt8(place - length - 1), as: UInt8.self)
    }

    mutating func decimal(_ field: UInt64, _ value: UInt64) {
        raw(field << 3 | 2)
        var digits = 1
        var rest = value
        while rest >= 10 {
            digits += 1
            rest /= 10
        }
        byte(UInt8(digits))
        rest = value
        for position in (0..<digits).reversed() {
            place.storeBytes(of: UInt8(rest % 10) + 0x30, toByteOffset: position, as: UInt8.self)
            rest /= 10
        }
        place += digits
    }
}
