// Fields in any order, byte by byte, with every error: what ``TickReader/readOrdered()`` leaves.

extension TickReader {
    /// Reads the fields from byte `start` to the end.
    @inline(never)
    mutating func readAny(from start: Int) throws(TickCodecError) {
        var input = Input(base: base, end: count)
        input.place = start
        while input.place < input.end { try readField(&input) }
    }

    /// Reads one field.
    private mutating func readField(_ input: inout Input) throws(TickCodecError) {
        let start = input.place
        input.fieldStart = start
        input.field = 0
        let tag = try input.tag()
        let field = Int(tag >> 3)
        input.field = field
        switch field {
        case 3, 4, 5, 6, 10, 11, 12, 13, 14, 16...25:
            guard tag & 7 == 0 else { throw input.error(.wireType) }
            store(try input.varint(), in: field)
        case 1, 2, 9, 26, 27, 28, 29, 31:
            guard tag & 7 == 2 else { throw input.error(.wireType) }
            store(try input.bytes(), in: field)
        case 7, 8, 15:
            guard tag & 7 == 2 else { throw input.error(.wireType) }
            let range = try input.bytes()
            let isFirst = !has(UInt32(field))
            switch field {
            case 7: try Self.readTime(range, &event, isFirst, input)
            case 8: try Self.readTime(range, &received, isFirst, input)
            default: try Self.readTime(range, &publish, isFirst, input)
            }
        default:
            return try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
        }
        present |= 1 << UInt32(field)
    }

    mutating func store(_ value: UInt64, in field: Int) {
        let signed = Int64(bitPattern: value)
        let small = Int32(truncatingIfNeeded: value)
        switch field {
        case 3: bidValue = signed
        case 4: askValue = signed
        case 5: lastValue = signed
        case 6: volumeValue = signed
        case 10: sequenceValue = value
        case 11: epochValue = value
        case 12: kindValue = small
        case 13: bidSizeValue = signed
        case 14: askSizeValue = signed
        case 16: bidRest = small
        case 17: askRest = small
        case 18: lastRest = small
        case 19: bidSizeRest = small
        case 20: askSizeRest = small
        case 21: volumeRest = small
        case 22: eventTimeSourceValue = small
        case 23: venueSequenceValue = value
        case 24: stateValue = small
        default: aggressorSideValue = small
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
        case 31: resumeTokenRange = place
        default: break
        }
    }

    private static func readTime(
        _ range: Range<Int>, _ time: inout TimeFields, _ isFirst: Bool, _ outer: borrowing Input
    ) throws(TickCodecError) {
        var input = Input(base: outer.base, end: range.upperBound)
        input.place = range.lowerBound
        input.field = outer.field
        input.fieldStart = outer.fieldStart
        // Timestamps that stand twice merge.
        let parts = isFirst ? (seconds: 0, nanos: 0) : time.parts
        time.value = parts.seconds
        time.nanos = Int64(parts.nanos)
        while input.place < input.end {
            let tag = try input.tag()
            switch tag >> 3 {
            case 1:
                guard tag & 7 == 0 else { throw input.error(.wireType) }
                time.value = Int64(bitPattern: try input.varint())
            case 2:
                guard tag & 7 == 0 else { throw input.error(.wireType) }
                time.nanos = Int64(Int32(truncatingIfNeeded: try input.varint()))
            default: try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
            }
        }
    }
}
