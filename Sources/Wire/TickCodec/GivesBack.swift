import Glibc
import MarketModel

// A store keeps a tick's values in columns of their own. Where an encoder makes the same bytes of them again, as of
// almost every tick, the bytes need not be kept.

extension TickEncoder {
    /// Whether ``encode(_:into:)`` of the reader's tick gives the very bytes that it has read. `scratch` holds at least
    /// ``lengthMax`` bytes, for the rare ticks that have to be encoded to know.
    public func givesBack(_ reader: TickReader, scratch: UnsafeMutableRawBufferPointer) -> Bool {
        guard !reader.hasConditions, !reader.hasConflation, !reader.hasExact else { return false }
        if isPlain(reader) { return true }
        let length = encode(reader.tick(), into: scratch)
        return length == reader.count && memcmp(scratch.baseAddress!, reader.base, length) == 0
    }

    /// Whether it is known without encoding: fields stand in order, with values that are written as they are, and no
    /// byte more than those need.
    func isPlain(_ reader: TickReader) -> Bool {
        guard reader.isOrdered, reader.present & Self.rareFields == 0, hasNames(reader),
            let times = Self.timesLength(reader), let numbers = Self.numbersLength(reader),
            let enums = Self.enumsLength(reader)
        else { return false }
        return reader.count == namesCount + feedCount + times + numbers + enums
    }

    /// Remainders of decimals.
    private static var rareFields: UInt32 { 0b111111 << 16 }

    private func hasNames(_ reader: TickReader) -> Bool {
        guard reader.count >= namesCount, reader.has(9) == (feedCount != 0) else { return false }
        return templates.withUnsafeBytes { templates in
            let template = templates.baseAddress!
            guard memcmp(reader.base, template, namesCount) == 0 else { return false }
            if feedCount == 0 { return true }
            // The feed's field ends with its bytes; in front of them stand at least the times.
            let start = Int(reader.feedRange.offset) + Int(reader.feedRange.count) - feedCount
            return start >= namesCount && memcmp(reader.base + start, template + feedStart, feedCount) == 0
        }
    }

    /// Bytes that fields 7, 8 and 15 need; nil where they have no usual form.
    private static func timesLength(_ reader: TickReader) -> Int? {
        guard reader.has(8), reader.has(15), let received = timeLength(reader.received),
            let publish = timeLength(reader.publish)
        else { return nil }
        guard reader.has(7) else { return received + publish }
        return timeLength(reader.event).map { $0 + received + publish }
    }

    /// Of seconds with five bytes, and of nanos that are not 0.
    @inline(__always)
    private static func timeLength(_ time: TickReader.TimeFields) -> Int? {
        guard time.nanos == TickReader.TimeFields.joined else { return nil }
        let (seconds, nanos) = UInt64(bitPattern: time.value).quotientAndRemainder(dividingBy: 1_000_000_000)
        guard seconds >= 1 << 28, seconds < 1 << 34, nanos != 0 else { return nil }
        return 2 + 6 + 1 + varintLength(nanos)
    }

    /// Bytes that fields 3 to 6, 10, 11, 13, 14 and 23 need; nil where one is not written as it is.
    private static func numbersLength(_ reader: TickReader) -> Int? {
        var length = 0
        // A tick's decimals are finer than the schema's: what they can hold is less.
        func add(_ field: UInt32, _ value: Int64, below limit: Int64) -> Bool {
            guard reader.has(field) else { return true }
            length += 1 + varintLength(UInt64(bitPattern: value))
            return value >= 0 && value < limit
        }
        func add(_ field: UInt32, _ value: UInt64, tag: Int) -> Bool {
            guard reader.has(field) else { return true }
            length += tag + varintLength(value)
            return value != 0
        }
        guard add(3, reader.bidValue, below: 1 << 53), add(4, reader.askValue, below: 1 << 53),
            add(5, reader.lastValue, below: 1 << 53), add(6, reader.volumeValue, below: 1 << 36),
            add(10, reader.sequenceValue, tag: 1), add(11, reader.epochValue, tag: 1),
            add(13, reader.bidSizeValue, below: 1 << 53), add(14, reader.askSizeValue, below: 1 << 53),
            add(23, reader.venueSequenceValue, tag: 2)
        else { return nil }
        return length
    }

    /// Bytes that fields 12, 22 and 24 to 26 need; nil where one is not written as it is.
    private static func enumsLength(_ reader: TickReader) -> Int? {
        let source = FilingTime.of(eventTimeNs: reader.eventTimeNs, receivedTimeNs: reader.receivedTimeNs).source
        guard Int32(reader.kind.rawValue) == reader.kindNumber, Int32(reader.state.rawValue) == reader.stateNumber,
            Int32(reader.aggressorSide.rawValue) == reader.aggressorSideNumber,
            Int32(source.rawValue) == reader.eventTimeSourceNumber
        else { return nil }
        var length = 0
        if reader.kindNumber != 0 { length += 2 }
        if reader.eventTimeSourceNumber != 0 { length += 3 }
        if reader.stateNumber != 0 { length += 3 }
        if reader.aggressorSideNumber != 0 { length += 3 }
        if reader.has(26) {
            guard reader.numericTradeID != nil else { return nil }
            length += 3 + Int(reader.tradeIDRange.count)
        }
        return length
    }

    /// Bytes of a number's shortest varint.
    @inline(__always)
    private static func varintLength(_ value: UInt64) -> Int { ((63 - (value | 1).leadingZeroBitCount) * 9 + 73) >> 6 }
}
