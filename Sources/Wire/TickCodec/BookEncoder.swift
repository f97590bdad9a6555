import MarketModel

/// Encodes the book records of one instrument of one feed as `financial.marketdata.v1.BookDelta`.
///
/// Made once per (feed, instrument): the names are byte templates. Encoding allocates nothing and never fails.
public struct BookEncoder: Sendable {
    /// Fields 1 to 3 as they stand on the wire, padded to whole blocks of 16 bytes.
    private let template: [UInt8]
    private let namesCount: Int

    /// Names of any length; the wire omits empty ones.
    public init(exchange: String, symbol: String, feed: String) {
        let names = TickEncoder.field(1, exchange) + TickEncoder.field(2, symbol) + TickEncoder.field(3, feed)
        namesCount = names.count
        template = names + TickEncoder.padding(names.count)
    }

    /// All fields but names and levels at their longest.
    private static let scalarBytesMax = 3 * 11 + 3 * 19 + 2 + 2
    /// One level at its longest: two numbers and two remainders, its tag and its length.
    private static let levelBytesMax = 2 * 11 + 2 * 3 + 2

    /// The least size in bytes of a buffer given to ``encode(_:bids:asks:into:)`` for so many levels of both sides.
    public func lengthMax(levels count: Int) -> Int {
        namesCount + BookEncoder.scalarBytesMax + count * BookEncoder.levelBytesMax + Output.slackBytes
    }

    /// Writes a record to the start of `buffer`, which holds at least ``lengthMax(levels:)`` bytes, and returns its
    /// length in bytes.
    ///
    /// Fields stand in the order of their numbers, levels in the order given. Bytes of `buffer` past the length are
    /// left undefined.
    public func encode(
        _ head: BookRecord.Head, bids: [PriceLevel], asks: [PriceLevel], into buffer: UnsafeMutableRawBufferPointer
    ) -> Int {
        precondition(buffer.count >= lengthMax(levels: bids.count + asks.count))
        let start = buffer.baseAddress!
        var out = Output(start)
        template.withUnsafeBytes { out.template($0.baseAddress!, count: namesCount) }
        out.nonZero(4, head.epoch, likely: (6, 1))
        out.nonZero(5, head.sequence, likely: (3, 2))
        let times = WireTimes(
            event: head.eventTimeNs ?? head.receivedTimeNs, received: head.receivedTimeNs, publish: head.publishTimeNs)
        if _fastPath(times.isUsual) {
            if head.eventTimeNs != nil { times.event(6, &out) }
            times.received(7, &out)
            times.publish(8, &out)
        } else {
            if let event = head.eventTimeNs { out.timestamp(6, event) }
            out.timestamp(7, head.receivedTimeNs)
            out.timestamp(8, head.publishTimeNs)
        }
        out.nonZero(9, head.venueSequence, likely: (3, 6))
        out.nonZeroEnum(10, head.isSnapshot ? 1 : 0)
        for level in bids { out.level(11, level) }
        for level in asks { out.level(12, level) }
        out.nonZeroEnum(13, head.state.rawValue)
        return out.place - start
    }
}

extension Output {
    /// A `BookLevel` as a field with a number below 16.
    @inline(__always)
    fileprivate mutating func level(_ field: UInt8, _ level: PriceLevel) {
        let start = place
        place += 2
        let price = PriceMicros.split(level.price)
        let size = QuantityMicros.split(level.size)
        nonZero(1, UInt64(bitPattern: price.micros), likely: (4, 5))
        nonZero(2, UInt64(UInt32(bitPattern: price.remainder)), likely: (2, 1))
        nonZero(3, UInt64(bitPattern: size.micros), likely: (4, 5))
        nonZero(4, UInt64(UInt32(bitPattern: size.remainder)), likely: (2, 1))
        start.storeBytes(of: field &<< 3 | 2, as: UInt8.self)
        start.storeBytes(of: UInt8(truncatingIfNeeded: place - start - 2), toByteOffset: 1, as: UInt8.self)
    }
}
