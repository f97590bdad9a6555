import MarketModel

/// Encodes the ticks of one instrument of one feed as `financial.marketdata.v1.PriceUpdate`.
///
/// Made once per (feed, instrument): names and feed id are byte templates. Encoding allocates nothing and never fails.
public struct TickEncoder: Sendable {
    /// Fields 1 and 2, then from `feedStart` field 9, as they stand on the wire, each padded to whole blocks of 16 bytes.
    private let templates: [UInt8]
    private let namesCount: Int
    private let feedStart: Int
    private let feedCount: Int

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

    /// What makes `count` bytes whole blocks, at least one.
    private static func padding(_ count: Int) -> [UInt8] {
        [UInt8](repeating: 0, count: max(count + 15 & ~15, 16) - count)
    }

    /// Writes `tick` to the start of `buffer`, which holds at least ``lengthMax`` bytes, and returns its length in bytes.
    ///
    /// Fields stand in the order of their numbers. Bytes of `buffer` past the length are left undefined.
    public func encode(_ tick: Tick, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        precondition(buffer.count >= lengthMax)
        let start = buffer.baseAddress!
        return templates.withUnsafeBytes { templates in
            var out = Output(start)
            let template = templates.baseAddress!
            out.template(template, count: namesCount)
            let rest = values(tick, feed: template + feedStart, &out)
            if rest.mustWriteRemainders { out.place = rest.write(out.place) }
            enums(tick, &out)
            return out.place - start
        }
    }

    /// Fields 3 to 15.
    @inline(__always)
    private func values(_ tick: Tick, feed: UnsafeRawPointer, _ out: inout Output) -> Remainders {
        var rest = Remainders()
        out.prices(tick.bid, tick.ask, &rest)
        if let last = tick.last {
            let parts = PriceMicros.split(last)
            out.varint(5, UInt64(bitPattern: parts.micros))
            rest.last = UInt32(bitPattern: parts.remainder)
        }
        if let size = tick.lastSize {
            let parts = VolumeUnits.split(size)
            out.varint(6, UInt64(bitPattern: parts.units))
            rest.volume = UInt32(bitPattern: parts.remainder)
        }
        let times = WireTimes(
            event: tick.eventTimeNs ?? tick.receivedTimeNs, received: tick.receivedTimeNs, publish: tick.publishTimeNs)
        if times.isOneSecond {
            if tick.eventTimeNs != nil { times.event(&out) }
            times.received(&out)
        } else {
            if let event = tick.eventTimeNs { out.timestamp(7, event) }
            out.timestamp(8, tick.receivedTimeNs)
        }
        out.template(feed, count: feedCount)
        if tick.sequence != 0, tick.epoch != 0, tick.sequence | tick.epoch < 1 << 49 {
            out.varints(10, tick.sequence, 11, tick.epoch)
        } else {
            out.nonZero(10, tick.sequence)
            out.nonZero(11, tick.epoch)
        }
        out.nonZeroEnum(12, tick.kind.rawValue)
        out.sizes(tick.bidSize, tick.askSize, &rest)
        if times.isOneSecond { times.publish(&out) } else { out.timestamp(15, tick.publishTimeNs) }
        return rest
    }

    /// Fields 22 to 26.
    @inline(__always)
    private func enums(_ tick: Tick, _ out: inout Output) {
        let source = FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).source
        out.nonZeroEnumWideTag(22, source.rawValue)
        out.nonZeroWideTag(23, tick.venueSequence)
        out.nonZeroEnumWideTag(24, tick.state.rawValue)
        out.nonZeroEnumWideTag(25, tick.aggressorSide.rawValue)
        if let id = tick.tradeID { out.decimal(26, id) }
    }
}

/// What micros and whole units cut off: fields 16 to 21, most often all 0.
private struct Remainders {
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
    /// Fields 3 and 4, from prices at 1e-9.
    @inline(__always)
    fileprivate mutating func prices(_ bid: Int64?, _ ask: Int64?, _ rest: inout Remainders) {
        // Below 2^58, and so not below zero: micros have up to seven groups.
        if let bid, let ask, UInt64(bitPattern: bid | ask) < 1 << 58 {
            let bidMicros = UInt64(bitPattern: bid) / 1000
            let askMicros = UInt64(bitPattern: ask) / 1000
            varints(3, bidMicros, 4, askMicros)
            rest.bid = UInt32(truncatingIfNeeded: UInt64(bitPattern: bid) &- bidMicros &* 1000)
            rest.ask = UInt32(truncatingIfNeeded: UInt64(bitPattern: ask) &- askMicros &* 1000)
            return
        }
        if let bid {
            let parts = PriceMicros.split(bid)
            varint(3, UInt64(bitPattern: parts.micros))
            rest.bid = UInt32(bitPattern: parts.remainder)
        }
        if let ask {
            let parts = PriceMicros.split(ask)
            varint(4, UInt64(bitPattern: parts.micros))
            rest.ask = UInt32(bitPattern: parts.remainder)
        }
    }

    /// Fields 13 and 14, from sizes at 1e-8.
    @inline(__always)
    fileprivate mutating func sizes(_ bid: Int64?, _ ask: Int64?, _ rest: inout Remainders) {
        if let bid, let ask, UInt64(bitPattern: bid | ask) < 1 << 55 {
            let bidMicros = UInt64(bitPattern: bid) / 100
            let askMicros = UInt64(bitPattern: ask) / 100
            varints(13, bidMicros, 14, askMicros)
            rest.bidSize = UInt32(truncatingIfNeeded: UInt64(bitPattern: bid) &- bidMicros &* 100) &* 10
            rest.askSize = UInt32(truncatingIfNeeded: UInt64(bitPattern: ask) &- askMicros &* 100) &* 10
            return
        }
        if let bid {
            let parts = QuantityMicros.split(bid)
            varint(13, UInt64(bitPattern: parts.micros))
            rest.bidSize = UInt32(bitPattern: parts.remainder)
        }
        if let ask {
            let parts = QuantityMicros.split(ask)
            varint(14, UInt64(bitPattern: parts.micros))
            rest.askSize = UInt32(bitPattern: parts.remainder)
        }
    }
}
