import MarketModel
import TickCodec

/// SplitMix64: the same seed gives the same ticks.
struct SeededRandom: RandomNumberGenerator {
    var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }

    mutating func isOne(in count: Int) -> Bool { Int.random(in: 0..<count, using: &self) == 0 }

    /// Any bit length is as likely as any other; extremes and values beside powers of two often.
    mutating func wide() -> UInt64 {
        switch Int.random(in: 0..<10, using: &self) {
        case 0: return [0, 1, .max, UInt64(Int64.max), 1 << 63, .max - 1].randomElement(using: &self)!
        case 1: return (1 << UInt64.random(in: 0..<64, using: &self)) &- UInt64.random(in: 0...1, using: &self)
        default: return next() >> UInt64.random(in: 0..<64, using: &self)
        }
    }

    mutating func wideSigned() -> Int64 {
        let value = Int64(bitPattern: wide())
        return isOne(in: 4) ? 0 &- value : value
    }
}

extension SeededRandom {
    /// Ticks of every shape: usual ones, and with every field at its extremes.
    mutating func tick() -> Tick {
        let isUsual = isOne(in: 2)
        let now: Int64 = 1_732_000_000_123_456_789 + Int64.random(in: 0...9_000_000_000, using: &self)
        func time(_ random: inout SeededRandom) -> Int64 {
            if isUsual { return now + Int64.random(in: -2_000_000...2_000_000, using: &random) }
            switch Int.random(in: 0..<4, using: &random) {
            case 0: return random.wideSigned() / 1_000_000_000 * 1_000_000_000
            case 1: return (Int64.max / 1_000_000_000) * 1_000_000_000 + Int64.random(in: 0...9, using: &random)
            default: return random.wideSigned()
            }
        }
        func price(_ random: inout SeededRandom) -> Int64? {
            if random.isOne(in: 4) { return nil }
            return isUsual ? Int64.random(in: 1...9_000_000, using: &random) * 10_000_000 : random.wideSigned()
        }
        func size(_ random: inout SeededRandom) -> Int64? {
            if random.isOne(in: 4) { return nil }
            return isUsual ? Int64.random(in: 0...900_000, using: &random) * 1000 : random.wideSigned()
        }
        var tick = Tick(
            kind: TickKind(rawValue: UInt8.random(in: 0...3, using: &self))!, receivedTimeNs: time(&self),
            publishTimeNs: time(&self), epoch: wide(), sequence: wide())
        tick.state = isOne(in: 4) ? .stale : .live
        tick.aggressorSide = AggressorSide(rawValue: UInt8.random(in: 0...2, using: &self))!
        (tick.bid, tick.ask, tick.last) = (price(&self), price(&self), price(&self))
        (tick.bidSize, tick.askSize, tick.lastSize) = (size(&self), size(&self), size(&self))
        tick.eventTimeNs = isOne(in: 4) ? nil : time(&self)
        tick.venueSequence = isOne(in: 2) ? 0 : wide()
        tick.tradeID = isOne(in: 2) ? nil : wide()
        return tick
    }

    mutating func name() -> String {
        let count = isOne(in: 10) ? Int.random(in: 60...300, using: &self) : Int.random(in: 0...20, using: &self)
        return String((0..<count).map { _ in "ABCDEFGHIJ-_./é7".randomElement(using: &self)! })
    }
}

/// The bytes of a tick, in a buffer of exactly `lengthMax` bytes.
func encoded(_ tick: Tick, _ encoder: TickEncoder) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
        let exact = UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: buffer[..<encoder.lengthMax]))
        count = encoder.encode(tick, into: exact)
    }
}

/// `field=value` of every field that is present and not at its default, as the Python scripts print it.
func line(_ reader: TickReader) -> String {
    func hex(_ bytes: UnsafeRawBufferPointer) -> String? {
        bytes.isEmpty ? nil : bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
    func text(_ value: some FixedWidthInteger) -> String? { value == 0 ? nil : "\(value)" }
    func time(_ seconds: Int64, _ nanos: Int32, _ isPresent: Bool) -> String? {
        isPresent ? "\(seconds).\(nanos)" : nil
    }
    let fields: [String?] = [
        hex(reader.exchange), hex(reader.symbol), reader.bidMicros?.description, reader.askMicros?.description,
        reader.lastMicros?.description, reader.volume?.description,
        time(reader.eventTimestamp.seconds, reader.eventTimestamp.nanos, reader.hasEventTime),
        time(reader.receivedTimestamp.seconds, reader.receivedTimestamp.nanos, reader.hasReceivedTime),
        hex(reader.feed), text(reader.sequence), text(reader.epoch), text(reader.kindNumber),
        reader.bidSizeMicros?.description, reader.askSizeMicros?.description,
        time(reader.publishTimestamp.seconds, reader.publishTimestamp.nanos, reader.hasPublishTime),
        text(reader.bidNanoRemainder), text(reader.askNanoRemainder), text(reader.lastNanoRemainder),
        text(reader.bidSizeNanoRemainder), text(reader.askSizeNanoRemainder), text(reader.volumeNanoRemainder),
        text(reader.eventTimeSourceNumber), text(reader.venueSequence), text(reader.stateNumber),
        text(reader.aggressorSideNumber), hex(reader.tradeID), reader.hasConditions ? "1" : nil,
        reader.hasConflation ? "1" : nil, reader.hasExact ? "1" : nil,
    ]
    return fields.enumerated().compactMap { index, value in value.map { "\(index + 1)=\($0)" } }.joined(separator: " ")
}

func line(_ bytes: [UInt8]) throws -> String {
    try bytes.withUnsafeBytes { line(try TickReader($0)) }
}

/// Where the fields of an encoded tick end, from 0 on.
func fieldEnds(_ bytes: [UInt8]) -> [Int] {
    var ends = [0]
    var place = 0
    func varint() -> Int {
        var value = 0
        var shift = 0
        while true {
            let byte = Int(bytes[place])
            place += 1
            if shift < 56 { value |= (byte & 0x7f) << shift }
            shift += 7
            if byte < 0x80 { return value }
        }
    }
    while place < bytes.count {
        if varint() & 7 == 2 { place += varint() } else { _ = varint() }
        ends.append(place)
    }
    return ends
}
