import MarketModel

/// The hot path's codec: feeds fill `Tick`s and encode them here once; log, edge and store pass the bytes on and look
/// into them with ``TickReader``.
///
/// Encodes the ticks of one instrument of one feed as `financial.marketdata.v1.PriceUpdate`.
///
/// Made once per (feed, instrument): names and feed id are byte templates. Encoding allocates nothing and never fails.
public struct TickEncoder: Sendable {
    /// Fields 1 and 2, then from `feedStart` field 9, as they stand on the wire, each padded to whole blocks of 16
    /// bytes.
    let templates: [UInt8]
    let namesCount: Int
    let feedStart: Int
    let feedCount: Int

    /// The least size in bytes of a buffer given to ``encode(_:into:)``. No tick of this instrument is longer.
    public let lengthMax: Int

    /// Names of any length; the wire omits empty ones.
    public init(exchange: String, symbol: String, feed: String) {
        let names = Self.field(1, exchange) + Self.field(2, symbol)
        let feed = Self.field(9, feed)
        namesCount = names.count
        feedCount = feed.count
        let namesPadded = names + Self.padding(names.count)
        feedStart = namesPadded.count
        templates = namesPadded + feed + Self.padding(feed.count)
        lengthMax = names.count + feed.count + Self.scalarBytesMax + Output.slackBytes
    }

    /// All fields but the names at their longest.
    private static let scalarBytesMax = 4 * 11 + 3 * 19 + 2 * 11 + 2 + 2 * 11 + 5 * 4 + 7 + 3 + 12 + 3 + 3 + 23

    /// A string field as it stands on the wire; nothing where it is empty.
    static func field(_ number: UInt8, _ text: String) -> [UInt8] {
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

    /// What makes `count` bytes whole blocks, at least one.
    static func padding(_ count: Int) -> [UInt8] {
        [UInt8](repeating: 0, count: max((count + 15) & ~15, 16) - count)
    }

    /// Writes `tick` to the start of `buffer`, which holds at least ``lengthMax`` bytes, and returns its length in
    /// bytes.
    ///
    /// Fields stand in the order of their numbers. Bytes of `buffer` past the length are left undefined.
    @inlinable @inline(__always)
    public func encode(_ tick: Tick, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        withUnsafePointer(to: tick) { encode($0, into: buffer) }
    }

    /// The same of a tick in memory, which is not copied first: an eighth of the time.
    public func encode(_ tick: UnsafePointer<Tick>, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        precondition(buffer.count >= lengthMax)
        let start = buffer.baseAddress!
        return templates.withUnsafeBytes { templates in
            var out = Output(start)
            let template = templates.baseAddress!
            out.template(template, count: namesCount)
            let rest = values(tick, feed: template + feedStart, &out)
            if _slowPath(rest.mustWriteRemainders) { out.place = rest.write(out.place) }
            enums(tick, rest.source, &out)
            return out.place - start
        }
    }

    /// Fields 3 to 15.
    @inline(__always)
    private func values(_ tick: UnsafePointer<Tick>, feed: UnsafeRawPointer, _ out: inout Output) -> Remainders {
        var rest = Remainders()
        if let bid = tick.pointee.bid { rest.bid = out.price(3, bid) }
        if let ask = tick.pointee.ask { rest.ask = out.price(4, ask) }
        if let last = tick.pointee.last { rest.last = out.price(5, last) }
        if let size = tick.pointee.lastSize {
            rest.volume = out.volume(6, size)
        }
        let times = WireTimes(
            event: tick.pointee.eventTimeNs ?? tick.pointee.receivedTimeNs, received: tick.pointee.receivedTimeNs,
            publish: tick.pointee.publishTimeNs)
        if _fastPath(times.isUsual) {
            if tick.pointee.eventTimeNs != nil { times.event(7, &out) } else { rest.source = .received }
            times.received(8, &out)
        } else {
            rest.source =
                FilingTime.of(eventTimeNs: tick.pointee.eventTimeNs, receivedTimeNs: tick.pointee.receivedTimeNs).source
            if let event = tick.pointee.eventTimeNs { out.timestamp(7, event) }
            out.timestamp(8, tick.pointee.receivedTimeNs)
        }
        out.template(feed, count: feedCount)
        out.nonZero(10, tick.pointee.sequence, likely: (3, 4))
        out.nonZero(11, tick.pointee.epoch, likely: (6, 1))
        out.nonZeroEnum(12, tick.pointee.kind.rawValue)
        if let size = tick.pointee.bidSize { rest.bidSize = out.size(13, size) }
        if let size = tick.pointee.askSize { rest.askSize = out.size(14, size) }
        if _fastPath(times.isUsual) { times.publish(15, &out) } else { out.timestamp(15, tick.pointee.publishTimeNs) }
        return rest
    }

    /// Fields 22 to 26.
    @inline(__always)
    private func enums(_ tick: UnsafePointer<Tick>, _ source: EventTimeSource, _ out: inout Output) {
        out.nonZeroEnumWideTag(22, source.rawValue)
        out.nonZeroWideTag(23, tick.pointee.venueSequence)
        out.nonZeroEnumWideTag(24, tick.pointee.state.rawValue)
        out.nonZeroEnumWideTag(25, tick.pointee.aggressorSide.rawValue)
        if let id = tick.pointee.tradeID { out.decimal(26, id) }
    }
}

/// What fields up to 15 leave for those behind.
private struct Remainders {
    /// Field 22.
    var source = EventTimeSource.venue
    /// What micros and whole units cut off: fields 16 to 21, most often all 0.
    var bid: UInt32 = 0
    var ask: UInt32 = 0
    var last: UInt32 = 0
    var bidSize: UInt32 = 0
    var askSize: UInt32 = 0
    var volume: UInt32 = 0

    @inline(__always)
    var mustWriteRemainders: Bool { bid | ask | last | bidSize | askSize | volume != 0 }

    @inline(never)
    func write(_ place: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer {
        var out = Output(place)
        out.nonZeroWideTag(16, UInt64(bid))
        out.nonZeroWideTag(17, UInt64(ask))
        out.nonZeroWideTag(18, UInt64(last))
        out.nonZeroWideTag(19, UInt64(bidSize))
        out.nonZeroWideTag(20, UInt64(askSize))
        out.nonZeroWideTag(21, UInt64(volume))
        return out.place
    }
}

extension Output {
    /// Field 3, 4 or 5, from a price at 1e-9; returns the remainder.
    @inline(__always)
    fileprivate mutating func price(_ field: UInt64, _ mantissa: Int64) -> UInt32 {
        if mantissa < 0 {
            let parts = PriceMicros.split(mantissa)
            varint(field, UInt64(bitPattern: parts.micros), likely: (4, 5))
            return UInt32(bitPattern: parts.remainder)
        }
        let (micros, remainder) = UInt64(bitPattern: mantissa).quotientAndRemainder(dividingBy: 1000)
        varint(field, micros, likely: (4, 5))
        return UInt32(truncatingIfNeeded: remainder)
    }

    /// Field 6, from a size at 1e-8; returns the remainder.
    @inline(__always)
    fileprivate mutating func volume(_ field: UInt64, _ mantissa: Int64) -> UInt32 {
        if mantissa < 0 {
            let parts = VolumeUnits.split(mantissa)
            short(field, UInt64(bitPattern: parts.units))
            return UInt32(bitPattern: parts.remainder)
        }
        let (units, remainder) = UInt64(bitPattern: mantissa).quotientAndRemainder(dividingBy: 100_000_000)
        short(field, units)
        return UInt32(truncatingIfNeeded: remainder) &* 10
    }

    /// Field 13 or 14, from a size at 1e-8; returns the remainder.
    @inline(__always)
    fileprivate mutating func size(_ field: UInt64, _ mantissa: Int64) -> UInt32 {
        if mantissa < 0 {
            let parts = QuantityMicros.split(mantissa)
            varint(field, UInt64(bitPattern: parts.micros), likely: (5, 4))
            return UInt32(bitPattern: parts.remainder)
        }
        let (micros, remainder) = UInt64(bitPattern: mantissa).quotientAndRemainder(dividingBy: 100)
        varint(field, micros, likely: (5, 4))
        return UInt32(truncatingIfNeeded: remainder) &* 10
    }
}
