import MarketModel

// MARK: What stands in the bytes

extension TickReader {
    @inlinable @inline(__always)
    func has(_ field: UInt32) -> Bool { present & (1 &<< field) != 0 }

    @inlinable @inline(__always)
    func bytes(_ field: UInt32, _ range: ByteRange) -> UnsafeRawBufferPointer {
        has(field)
            ? UnsafeRawBufferPointer(start: base + Int(range.offset), count: Int(range.count))
            : UnsafeRawBufferPointer(start: base, count: 0)
    }

    @inlinable @inline(__always)
    func number<Number: FixedWidthInteger>(_ field: UInt32, _ value: Number) -> Number { has(field) ? value : 0 }

    /// UTF-8, not validated; empty where absent.
    @inlinable @inline(__always) public var exchange: UnsafeRawBufferPointer { bytes(1, exchangeRange) }
    @inlinable @inline(__always) public var symbol: UnsafeRawBufferPointer { bytes(2, symbolRange) }
    @inlinable @inline(__always) public var feed: UnsafeRawBufferPointer { bytes(9, feedRange) }
    /// The venue's id of the trade as text; empty where absent.
    @inlinable @inline(__always) public var tradeID: UnsafeRawBufferPointer { bytes(26, tradeIDRange) }

    @inlinable @inline(__always) public var bidMicros: Int64? { has(3) ? bidValue : nil }
    @inlinable @inline(__always) public var askMicros: Int64? { has(4) ? askValue : nil }
    @inlinable @inline(__always) public var lastMicros: Int64? { has(5) ? lastValue : nil }
    /// Whole units.
    @inlinable @inline(__always) public var volume: Int64? { has(6) ? volumeValue : nil }
    @inlinable @inline(__always) public var bidSizeMicros: Int64? { has(13) ? bidSizeValue : nil }
    @inlinable @inline(__always) public var askSizeMicros: Int64? { has(14) ? askSizeValue : nil }

    /// The order in which the publisher numbered the instrument's updates within its epoch; 0 where the bytes say none.
    @inlinable @inline(__always) public var sequence: UInt64 { number(10, sequenceValue) }
    /// The publisher's epoch.
    @inlinable @inline(__always) public var epoch: UInt64 { number(11, epochValue) }
    /// The venue's own sequence number; 0 where it has none.
    @inlinable @inline(__always) public var venueSequence: UInt64 { number(23, venueSequenceValue) }

    /// What the micros of each decimal cut off, in 1e-9, as it stands in the bytes.
    @inlinable @inline(__always) public var bidNanoRemainder: Int32 { number(16, bidRest) }
    @inlinable @inline(__always) public var askNanoRemainder: Int32 { number(17, askRest) }
    @inlinable @inline(__always) public var lastNanoRemainder: Int32 { number(18, lastRest) }
    @inlinable @inline(__always) public var bidSizeNanoRemainder: Int32 { number(19, bidSizeRest) }
    @inlinable @inline(__always) public var askSizeNanoRemainder: Int32 { number(20, askSizeRest) }
    @inlinable @inline(__always) public var volumeNanoRemainder: Int32 { number(21, volumeRest) }

    /// Numbers of the enums as they stand in the bytes, unknown ones included.
    @inlinable @inline(__always) public var kindNumber: Int32 { number(12, kindValue) }
    @inlinable @inline(__always) public var eventTimeSourceNumber: Int32 { number(22, eventTimeSourceValue) }
    @inlinable @inline(__always) public var stateNumber: Int32 { number(24, stateValue) }
    @inlinable @inline(__always) public var aggressorSideNumber: Int32 { number(25, aggressorSideValue) }

    @inlinable @inline(__always) public var hasEventTime: Bool { has(7) }
    @inlinable @inline(__always) public var hasReceivedTime: Bool { has(8) }
    @inlinable @inline(__always) public var hasPublishTime: Bool { has(15) }
    @inlinable @inline(__always) public var hasConditions: Bool { has(27) }
    @inlinable @inline(__always) public var hasConflation: Bool { has(28) }
    @inlinable @inline(__always) public var hasExact: Bool { has(29) }
    /// The last `Conflation` and `ExactDecimals` messages in the bytes; empty where absent.
    @inlinable @inline(__always) public var conflation: UnsafeRawBufferPointer { bytes(28, conflatedRange) }
    @inlinable @inline(__always) public var exact: UnsafeRawBufferPointer { bytes(29, exactRange) }
    /// Where a stream goes on after the update; empty where it does not say.
    @inlinable @inline(__always) public var resumeToken: UnsafeRawBufferPointer { bytes(31, resumeTokenRange) }
}

// MARK: Values put together

extension TickReader {
    /// Prices as mantissas at 1e-9; nil where absent or out of range.
    @inlinable @inline(__always) public var bid: Int64? {
        has(3) ? PriceMicros.join(micros: bidValue, remainder: bidNanoRemainder) : nil
    }
    @inlinable @inline(__always) public var ask: Int64? {
        has(4) ? PriceMicros.join(micros: askValue, remainder: askNanoRemainder) : nil
    }
    @inlinable @inline(__always) public var last: Int64? {
        has(5) ? PriceMicros.join(micros: lastValue, remainder: lastNanoRemainder) : nil
    }
    /// Sizes as mantissas at 1e-8; nil where absent, out of range or finer than that.
    @inlinable @inline(__always) public var bidSize: Int64? {
        has(13) ? QuantityMicros.join(micros: bidSizeValue, remainder: bidSizeNanoRemainder) : nil
    }
    @inlinable @inline(__always) public var askSize: Int64? {
        has(14) ? QuantityMicros.join(micros: askSizeValue, remainder: askSizeNanoRemainder) : nil
    }
    /// Size of this trade.
    @inlinable @inline(__always) public var lastSize: Int64? {
        has(6) ? VolumeUnits.join(units: volumeValue, remainder: volumeNanoRemainder) : nil
    }

    /// The times as they stand in the bytes, out of range too; 0 where absent.
    @inlinable @inline(__always) public var eventTimestamp: (seconds: Int64, nanos: Int32) {
        has(7) ? event.parts : (0, 0)
    }
    @inlinable @inline(__always) public var receivedTimestamp: (seconds: Int64, nanos: Int32) {
        has(8) ? received.parts : (0, 0)
    }
    @inlinable @inline(__always) public var publishTimestamp: (seconds: Int64, nanos: Int32) {
        has(15) ? publish.parts : (0, 0)
    }

    /// Nanoseconds since the Unix epoch; nil where the venue gave none or it is out of range.
    @inlinable @inline(__always) public var eventTimeNs: Int64? {
        has(7) ? event.ns : nil
    }
    /// 0 where absent or out of range.
    @inlinable @inline(__always) public var receivedTimeNs: Int64 {
        has(8) ? received.ns ?? 0 : 0
    }
    /// 0 where absent or out of range.
    @inlinable @inline(__always) public var publishTimeNs: Int64 {
        has(15) ? publish.ns ?? 0 : 0
    }
    /// The time under which the tick is filed, by ``FilingTime``: computed, whatever `event_time_source` says.
    @inlinable @inline(__always) public var filingTimeNs: Int64 {
        FilingTime.of(eventTimeNs: eventTimeNs, receivedTimeNs: receivedTimeNs).ns
    }

    /// Numbers that the schema does not know read as its 0.
    @inlinable @inline(__always) public var kind: TickKind {
        TickKind(rawValue: UInt8(exactly: kindNumber) ?? 0) ?? .unspecified
    }
    @inlinable @inline(__always) public var state: InstrumentState {
        InstrumentState(rawValue: UInt8(exactly: stateNumber) ?? 0) ?? .live
    }
    @inlinable @inline(__always) public var aggressorSide: AggressorSide {
        AggressorSide(rawValue: UInt8(exactly: aggressorSideNumber) ?? 0) ?? .unspecified
    }
    @inlinable @inline(__always) public var eventTimeSource: EventTimeSource {
        EventTimeSource(rawValue: UInt8(exactly: eventTimeSourceNumber) ?? 0) ?? .venue
    }

    /// The tick without its names. Exact where ``check()`` passes; a trade id that is not a 64-bit number reads as nil.
    public func tick() -> Tick {
        var tick = Tick(
            kind: kind, receivedTimeNs: receivedTimeNs, publishTimeNs: publishTimeNs, epoch: epoch, sequence: sequence)
        tick.state = state
        tick.aggressorSide = aggressorSide
        tick.bid = bid
        tick.ask = ask
        tick.last = last
        tick.bidSize = bidSize
        tick.askSize = askSize
        tick.lastSize = lastSize
        tick.eventTimeNs = eventTimeNs
        tick.venueSequence = venueSequence
        tick.tradeID = numericTradeID
        return tick
    }

    /// The trade id as a number; nil where it is absent, not decimal, or written with leading zeros.
    public var numericTradeID: UInt64? {
        let text = tradeID
        if text.isEmpty || text.count > 1 && text[0] == UInt8(ascii: "0") { return nil }
        var value: UInt64 = 0
        for byte in text {
            let digit = byte &- 0x30
            guard digit < 10 else { return nil }
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(UInt64(digit))
            if overflow || carry { return nil }
            value = sum
        }
        return value
    }

    /// Throws when a value is outside what the schema allows or a ``Tick`` can hold exactly: remainders, times, sizes
    /// below zero, enum numbers, a tick without receive or publish time.
    public func check() throws(TickCodecError) {
        func refuse(_ problem: TickCodecError.Problem, _ field: Int) -> TickCodecError {
            TickCodecError(problem, field: field, offset: -1)
        }
        if has(3), bid == nil { throw refuse(.outOfRange, 3) }
        if has(4), ask == nil { throw refuse(.outOfRange, 4) }
        if has(5), last == nil { throw refuse(.outOfRange, 5) }
        if has(6), lastSize ?? -1 < 0 { throw refuse(.outOfRange, 6) }
        if has(13), bidSize ?? -1 < 0 { throw refuse(.outOfRange, 13) }
        if has(14), askSize ?? -1 < 0 { throw refuse(.outOfRange, 14) }
        // A remainder belongs to a value.
        if !has(3), bidNanoRemainder != 0 { throw refuse(.outOfRange, 16) }
        if !has(4), askNanoRemainder != 0 { throw refuse(.outOfRange, 17) }
        if !has(5), lastNanoRemainder != 0 { throw refuse(.outOfRange, 18) }
        if !has(13), bidSizeNanoRemainder != 0 { throw refuse(.outOfRange, 19) }
        if !has(14), askSizeNanoRemainder != 0 { throw refuse(.outOfRange, 20) }
        if !has(6), volumeNanoRemainder != 0 { throw refuse(.outOfRange, 21) }
        if has(7), eventTimeNs == nil { throw refuse(.outOfRange, 7) }
        if !has(8) { throw refuse(.missing, 8) }
        if received.ns == nil { throw refuse(.outOfRange, 8) }
        if !has(15) { throw refuse(.missing, 15) }
        if publish.ns == nil { throw refuse(.outOfRange, 15) }
        if Int32(kind.rawValue) != kindNumber { throw refuse(.outOfRange, 12) }
        if Int32(eventTimeSource.rawValue) != eventTimeSourceNumber { throw refuse(.outOfRange, 22) }
        if Int32(state.rawValue) != stateNumber { throw refuse(.outOfRange, 24) }
        if Int32(aggressorSide.rawValue) != aggressorSideNumber { throw refuse(.outOfRange, 25) }
    }
}
