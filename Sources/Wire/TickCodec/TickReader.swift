import MarketModel

/// Reads the fields of one encoded `financial.marketdata.v1.PriceUpdate` without copying or allocating.
///
/// One pass finds all fields; the values are put together when asked for. The bytes are borrowed: a reader, and what it
/// returns as bytes, is valid while they live and do not change. Not Sendable.
///
/// Fields may stand in any order, unknown ones are skipped, the last of a repeated scalar counts and timestamps merge, as
/// the protobuf specification says. A value that a ``Tick`` cannot hold reads as absent (or 0): ``check()`` finds it.
public struct TickReader {
    /// The deepest nesting of groups among unknown fields.
    public static let groupDepthMax = 64

    @usableFromInline let base: UnsafeRawPointer
    @usableFromInline let count: Int
    /// Bit n: field n stands in the bytes.
    @usableFromInline var present: UInt32 = 0
    @usableFromInline var exchangeRange = ByteRange()
    @usableFromInline var symbolRange = ByteRange()
    @usableFromInline var feedRange = ByteRange()
    @usableFromInline var tradeIDRange = ByteRange()
    @usableFromInline var conflatedRange = ByteRange()
    @usableFromInline var exactRange = ByteRange()
    @usableFromInline var bidValue: Int64 = 0
    @usableFromInline var askValue: Int64 = 0
    @usableFromInline var lastValue: Int64 = 0
    @usableFromInline var volumeValue: Int64 = 0
    @usableFromInline var bidSizeValue: Int64 = 0
    @usableFromInline var askSizeValue: Int64 = 0
    @usableFromInline var event = TimeFields()
    @usableFromInline var received = TimeFields()
    @usableFromInline var publish = TimeFields()
    /// The order in which the publisher numbered the instrument's updates within its epoch; 0 where the bytes say none.
    public internal(set) var sequence: UInt64 = 0
    /// The publisher's epoch.
    public internal(set) var epoch: UInt64 = 0
    /// The venue's own sequence number; 0 where it has none.
    public internal(set) var venueSequence: UInt64 = 0
    /// What the micros of each decimal cut off, in 1e-9, as it stands in the bytes.
    public internal(set) var bidNanoRemainder: Int32 = 0
    public internal(set) var askNanoRemainder: Int32 = 0
    public internal(set) var lastNanoRemainder: Int32 = 0
    public internal(set) var bidSizeNanoRemainder: Int32 = 0
    public internal(set) var askSizeNanoRemainder: Int32 = 0
    public internal(set) var volumeNanoRemainder: Int32 = 0
    /// Numbers of the enums as they stand in the bytes, unknown ones included.
    public internal(set) var kindNumber: Int32 = 0
    public internal(set) var stateNumber: Int32 = 0
    public internal(set) var aggressorSideNumber: Int32 = 0
    public internal(set) var eventTimeSourceNumber: Int32 = 0

    /// Finds the fields of `bytes`; throws ``TickCodecError`` with the place where they are not a `PriceUpdate`.
    public init(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        // An empty message is a valid one; its pointer is never read.
        base = bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1)!
        count = bytes.count
        try readFields()
    }

    /// Where some bytes lie in the message.
    @usableFromInline
    struct ByteRange {
        @usableFromInline var offset: UInt32 = 0
        @usableFromInline var count: UInt32 = 0
        init() {}
        init(_ offset: Int, _ count: Int) {
            self.offset = UInt32(truncatingIfNeeded: offset)
            self.count = UInt32(truncatingIfNeeded: count)
        }
    }

    @usableFromInline
    struct TimeFields {
        @usableFromInline var seconds: Int64 = 0
        @usableFromInline var nanos: Int32 = 0
        init() {}
    }
}

// MARK: The pass over the bytes

extension TickReader {
    /// Any field order, up to the last byte.
    private mutating func readFields() throws(TickCodecError) {
        var input = Input(base: base, end: count)
        while input.place < input.end {
            let start = input.place
            let tag = try input.tag()
            try readField(tag, start, &input)
        }
    }

    private mutating func readField(_ tag: UInt32, _ start: Int, _ input: inout Input) throws(TickCodecError) {
        let field = Int(tag >> 3)
        input.field = field
        input.fieldStart = start
        switch field {
        case 3, 4, 5, 6, 10, 11, 12, 13, 14, 16...25:
            guard tag & 7 == 0 else { throw input.error(.wireType) }
            store(try input.varint(), in: field)
        case 1, 2, 9, 26, 27, 28, 29:
            guard tag & 7 == 2 else { throw input.error(.wireType) }
            store(try input.bytes(), in: field)
        case 7, 8, 15:
            guard tag & 7 == 2 else { throw input.error(.wireType) }
            let range = try input.bytes()
            let time = field == 7 ? \TickReader.event : field == 8 ? \TickReader.received : \TickReader.publish
            try readTime(range, &self[keyPath: time], input)
        default:
            try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
            return
        }
        present |= 1 << UInt32(field)
    }

    private mutating func store(_ value: UInt64, in field: Int) {
        let signed = Int64(bitPattern: value)
        let small = Int32(truncatingIfNeeded: value)
        switch field {
        case 3: bidValue = signed
        case 4: askValue = signed
        case 5: lastValue = signed
        case 6: volumeValue = signed
        case 10: sequence = value
        case 11: epoch = value
        case 12: kindNumber = small
        case 13: bidSizeValue = signed
        case 14: askSizeValue = signed
        case 16: bidNanoRemainder = small
        case 17: askNanoRemainder = small
        case 18: lastNanoRemainder = small
        case 19: bidSizeNanoRemainder = small
        case 20: askSizeNanoRemainder = small
        case 21: volumeNanoRemainder = small
        case 22: eventTimeSourceNumber = small
        case 23: venueSequence = value
        case 24: stateNumber = small
        default: aggressorSideNumber = small
        }
    }

    private mutating func store(_ range: Range<Int>, in field: Int) {
        let place = ByteRange(range.lowerBound, range.count)
        switch field {
        case 1: exchangeRange = place
        case 2: symbolRange = place
        case 9: feedRange = place
        case 26: tradeIDRange = place
        case 28: conflatedRange = place
        case 29: exactRange = place
        default: break
        }
    }

    private func readTime(
        _ range: Range<Int>, _ time: inout TimeFields, _ outer: borrowing Input
    ) throws(TickCodecError) {
        var input = Input(base: base, end: range.upperBound)
        input.place = range.lowerBound
        input.field = outer.field
        input.fieldStart = outer.fieldStart
        while input.place < input.end {
            let tag = try input.tag()
            switch tag >> 3 {
            case 1:
                guard tag & 7 == 0 else { throw input.error(.wireType) }
                time.seconds = Int64(bitPattern: try input.varint())
            case 2:
                guard tag & 7 == 0 else { throw input.error(.wireType) }
                time.nanos = Int32(truncatingIfNeeded: try input.varint())
            default: try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
            }
        }
    }
}
