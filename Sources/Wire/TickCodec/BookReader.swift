import MarketModel

extension BookRecord {
    /// The most levels a side that are read.
    public static let levelsMax = 100_000

    /// Becomes what an encoded `BookDelta` says; its names are not looked at, they are the log's track. Any bytes may
    /// be given. Its arrays keep their room, so that reading record after record allocates nothing.
    ///
    /// Throws where the bytes are no such message, or one without epoch or sequence, with a level that has no price or
    /// a size below 0, with an unknown state, or with more than ``levelsMax`` levels a side. What it holds then is
    /// undefined.
    public mutating func decode(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        head = Head(epoch: 0, sequence: 0)
        bids.removeAll(keepingCapacity: true)
        asks.removeAll(keepingCapacity: true)
        guard let base = bytes.baseAddress else { throw TickCodecError(.missing, field: 4, offset: -1) }
        var input = Input(base: base, end: bytes.count)
        var times = Times()
        while input.place < input.end { try decodeField(&input, &times) }
        head.eventTimeNs = try times.event.map { time throws(TickCodecError) in try time.ns(6) }
        head.receivedTimeNs = try times.received.ns(7)
        head.publishTimeNs = try times.publish.ns(8)
        guard head.epoch > 0 else { throw TickCodecError(.missing, field: 4, offset: -1) }
        guard head.sequence > 0 else { throw TickCodecError(.missing, field: 5, offset: -1) }
    }

    private struct Times {
        var event: WireTime?
        var received = WireTime()
        var publish = WireTime()
    }

    private mutating func decodeField(_ input: inout Input, _ times: inout Times) throws(TickCodecError) {
        input.fieldStart = input.place
        input.field = 0
        let tag = try input.tag()
        let field = Int(tag >> 3)
        input.field = field
        switch field {
        case 4, 5, 9, 10, 13:
            guard tag & 7 == 0 else { throw input.error(.wireType) }
            try store(try input.varint(), in: field, input)
        case 6, 7, 8, 11, 12:
            guard tag & 7 == 2 else { throw input.error(.wireType) }
            let range = try input.bytes()
            var inner = Input(base: input.base, end: range.upperBound)
            inner.place = range.lowerBound
            inner.field = field
            inner.fieldStart = input.fieldStart
            switch field {
            case 6: times.event = try (times.event ?? WireTime()).merged(&inner)
            case 7: times.received = try times.received.merged(&inner)
            case 8: times.publish = try times.publish.merged(&inner)
            case 11: try BookRecord.decodeLevel(&inner, into: &bids)
            default: try BookRecord.decodeLevel(&inner, into: &asks)
            }
        default: try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
        }
    }

    private mutating func store(
        _ value: UInt64, in field: Int, _ input: borrowing Input
    ) throws(TickCodecError) {
        switch field {
        case 4: head.epoch = value
        case 5: head.sequence = value
        case 9: head.venueSequence = value
        case 10: head.isSnapshot = value != 0
        default:
            guard let state = UInt8(exactly: value).flatMap(InstrumentState.init(rawValue:)) else {
                throw input.error(.outOfRange)
            }
            head.state = state
        }
    }

    private static func decodeLevel(_ input: inout Input, into levels: inout [PriceLevel]) throws(TickCodecError) {
        guard levels.count < levelsMax else { throw input.error(.outOfRange) }
        var values: (price: Int64, priceRest: Int32, size: Int64, sizeRest: Int32) = (0, 0, 0, 0)
        while input.place < input.end {
            let tag = try input.tag()
            guard (1...4).contains(tag >> 3) else {
                try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
                continue
            }
            guard tag & 7 == 0 else { throw input.error(.wireType) }
            let value = try input.varint()
            switch tag >> 3 {
            case 1: values.price = Int64(bitPattern: value)
            case 2: values.priceRest = Int32(truncatingIfNeeded: value)
            case 3: values.size = Int64(bitPattern: value)
            default: values.sizeRest = Int32(truncatingIfNeeded: value)
            }
        }
        guard let price = PriceMicros.join(micros: values.price, remainder: values.priceRest), price > 0,
            let size = QuantityMicros.join(micros: values.size, remainder: values.sizeRest), size >= 0
        else { throw input.error(.outOfRange) }
        levels.append(PriceLevel(price: price, size: size))
    }
}

/// A timestamp as its fields say it.
private struct WireTime {
    var seconds: Int64 = 0
    var nanos: Int32 = 0

    /// Timestamps that stand twice merge.
    func merged(_ input: inout Input) throws(TickCodecError) -> WireTime {
        var time = self
        while input.place < input.end {
            let tag = try input.tag()
            switch tag >> 3 {
            case 1, 2:
                guard tag & 7 == 0 else { throw input.error(.wireType) }
                let value = try input.varint()
                if tag >> 3 == 1 {
                    time.seconds = Int64(bitPattern: value)
                } else {
                    time.nanos = Int32(truncatingIfNeeded: value)
                }
            default: try input.skip(wireType: tag & 7, field: tag >> 3, depth: 0)
            }
        }
        return time
    }

    func ns(_ field: Int) throws(TickCodecError) -> Int64 {
        guard let ns = TimestampParts.join(seconds: seconds, nanos: nanos) else {
            throw TickCodecError(.outOfRange, field: field, offset: -1)
        }
        return ns
    }
}
