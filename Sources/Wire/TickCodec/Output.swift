import MarketModel

/// A place in a buffer whose room was established up front, with ``slackBytes`` to spare: fields are written by whole
/// words, and what a word holds past the end of its field is overwritten by the next.
struct Output {
    /// How far past the end of a field its last store may reach.
    static let slackBytes = 16

    var place: UnsafeMutableRawPointer

    @inline(__always)
    init(_ place: UnsafeMutableRawPointer) { self.place = place }

    @inline(__always)
    private mutating func store<Word: FixedWidthInteger & BitwiseCopyable>(_ word: Word, advance count: Int) {
        place.storeBytes(of: word, as: Word.self)
        place += count
    }

    /// A varint field with a number below 16.
    ///
    /// A branch for the lengths in bytes that are `likely`: a field most often has the length that it had in the tick
    /// before, and where the length is known its bytes take half the instructions.
    @inline(__always)
    mutating func varint(_ field: UInt64, _ value: UInt64, likely: (UInt64, UInt64)) {
        if _fastPath(isLength(likely.0, value)) {
            store(knownVarint(field, value, likely.0), advance: Int(truncatingIfNeeded: likely.0) &+ 1)
        } else if isLength(likely.1, value) {
            store(knownVarint(field, value, likely.1), advance: Int(truncatingIfNeeded: likely.1) &+ 1)
        } else {
            place = Self.anyVarint(place, field, value)
        }
    }

    /// The same of a value that most often takes one or two bytes, in no order that a branch predictor could learn.
    @inline(__always)
    mutating func short(_ field: UInt64, _ value: UInt64) {
        guard _fastPath(value < 1 &<< 14) else { return place = Self.anyVarint(place, field, value) }
        let high = value &>> 7
        let isLong = (high &+ 0x7f) &>> 7
        store(
            UInt32(truncatingIfNeeded: field &<< 3 | (value & 0x7f | isLong &<< 7) &<< 8 | high &<< 16),
            advance: Int(truncatingIfNeeded: isLong) &+ 2)
    }

    /// The same, omitted when 0.
    @inline(__always)
    mutating func nonZero(_ field: UInt64, _ value: UInt64, likely: (UInt64, UInt64)) {
        if value != 0 { varint(field, value, likely: likely) }
    }

    /// As a varint `value` has `count` bytes, a constant of 1...6.
    @inline(__always)
    private func isLength(_ count: UInt64, _ value: UInt64) -> Bool {
        let one: UInt64 = 1
        let least: UInt64 = count == 1 ? 0 : one &<< (7 &* count &- 7)
        return value &- least < (one &<< (7 &* count)) &- least
    }

    /// The tag and the varint, whose length is known.
    @inline(__always)
    private func knownVarint(_ field: UInt64, _ value: UInt64, _ count: UInt64) -> UInt64 {
        let groups = count <= 4 ? spreadFour(value) : count == 5 ? spreadFive(value) : spread(value)
        let continuation: UInt64 = 0x0080_8080_8080_8080 & ((1 &<< (8 &* count &- 8)) &- 1)
        return groups &<< 8 | (continuation &<< 8 | field &<< 3)
    }

    /// A varint field with a number below 16, of any length.
    @inline(never)
    private static func anyVarint(
        _ place: UnsafeMutableRawPointer, _ field: UInt64, _ value: UInt64
    ) -> UnsafeMutableRawPointer {
        guard value < 1 << 49 else { return longVarint(place, field, value) }
        let word = varintWord(groups: spread(value))
        place.storeBytes(of: word.bytes &<< 8 | field &<< 3, as: UInt64.self)
        return place + Int(truncatingIfNeeded: word.last) + 2
    }

    /// A varint field with a number of 16 or more, omitted when 0.
    @inline(__always)
    mutating func nonZeroWideTag(_ field: UInt64, _ value: UInt64) {
        if value == 0 { return }
        guard value < 1 << 42 else { return place = Self.longVarint(place, field, value) }
        let word = varintWord(groups: spread(value))
        store(word.bytes &<< 16 | wideTag(field, 0), advance: Int(truncatingIfNeeded: word.last) &+ 3)
    }

    /// An enum with a field number below 16 and a value below 128, omitted when 0.
    @inline(__always)
    mutating func nonZeroEnum(_ field: UInt64, _ value: UInt8) {
        if value != 0 { store(UInt16(truncatingIfNeeded: field &<< 3) | UInt16(value) &<< 8, advance: 2) }
    }

    /// The same with a field number of 16 or more.
    @inline(__always)
    mutating func nonZeroEnumWideTag(_ field: UInt64, _ value: UInt8) {
        if value != 0 {
            store(UInt32(truncatingIfNeeded: wideTag(field, 0)) | UInt32(value) &<< 16, advance: 3)
        }
    }

    @inline(__always)
    private func wideTag(_ field: UInt64, _ wireType: UInt64) -> UInt64 {
        (field & 15) &<< 3 | wireType | 0x80 | (field &>> 4) &<< 8
    }

    /// Any field, any value. It and the other rare ones go from place to place by value: were they to take self, the
    /// place would live in memory, and each field would wait for the store of the one before.
    @inline(never)
    private static func longVarint(
        _ place: UnsafeMutableRawPointer, _ field: UInt64, _ value: UInt64
    ) -> UnsafeMutableRawPointer {
        bytewise(bytewise(place, field &<< 3), value)
    }

    private static func bytewise(_ place: UnsafeMutableRawPointer, _ value: UInt64) -> UnsafeMutableRawPointer {
        var place = place
        var value = value
        while value >= 0x80 {
            place.storeBytes(of: UInt8(truncatingIfNeeded: value) | 0x80, as: UInt8.self)
            place += 1
            value >>= 7
        }
        place.storeBytes(of: UInt8(value), as: UInt8.self)
        return place + 1
    }

    /// `blocks` of 16 bytes, of which the first `count` bytes count.
    @inline(__always)
    mutating func template(_ blocks: UnsafeRawPointer, count: Int) {
        var offset = 0
        repeat {
            let block = blocks.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self)
            place.storeBytes(of: block, toByteOffset: offset, as: SIMD16<UInt8>.self)
            offset &+= 16
        } while offset < count
        place += count
    }
}

// MARK: Timestamps

/// The times of one tick, which most often lie in one second after 1978: one division for all, and known lengths.
struct WireTimes {
    /// The seconds as they stand on the wire, three bytes up.
    private let seconds: UInt64
    /// Nanos within that second.
    private let event: UInt64
    private let received: UInt64
    private let publish: UInt64
    /// All three lie in the same second, whose number has five bytes, and have nanos of four or five bytes.
    let isUsual: Bool

    @inline(__always)
    init(event eventNs: Int64, received receivedNs: Int64, publish publishNs: Int64) {
        let (number, receivedNanos) = UInt64(bitPattern: receivedNs).quotientAndRemainder(dividingBy: 1_000_000_000)
        let startNs = receivedNs &- Int64(bitPattern: receivedNanos)
        event = UInt64(bitPattern: eventNs &- startNs)
        received = receivedNanos
        publish = UInt64(bitPattern: publishNs &- startNs)
        // Before 1970 the number is past 2^33. The last second that Int64 begins is left out: there a time from
        // before 1970 would seem to be in it, since differences wrap.
        isUsual =
            number &- Self.secondsMin < 9_223_372_036 - Self.secondsMin && event &- Self.nanosMin < Self.nanosCount
            && received &- Self.nanosMin < Self.nanosCount && publish &- Self.nanosMin < Self.nanosCount
        seconds = (spreadFive(number) | 0x8080_8080) &<< 24
    }

    /// The least numbers whose varints have five and four bytes.
    private static var secondsMin: UInt64 { 1 << 28 }
    private static var nanosMin: UInt64 { 1 << 21 }
    private static var nanosCount: UInt64 { 1_000_000_000 - nanosMin }

    @inline(__always) func event(_ field: UInt64, _ out: inout Output) { out.timestamp(field, seconds, event) }
    @inline(__always) func received(_ field: UInt64, _ out: inout Output) { out.timestamp(field, seconds, received) }
    @inline(__always) func publish(_ field: UInt64, _ out: inout Output) { out.timestamp(field, seconds, publish) }
}

extension Output {
    /// A timestamp field with a number below 16, of seconds as they stand on the wire and nanos of four or five bytes.
    @inline(__always)
    fileprivate mutating func timestamp(_ field: UInt64, _ seconds: UInt64, _ nanos: UInt64) {
        let groups = spreadFive(nanos)
        // The fifth byte is 0...3: 1 where it stands.
        let fifth = ((groups &>> 32) &+ 3) &>> 2
        let bytes = groups | fifth &<< 31 | 0x80_8080
        let length = fifth &+ 11
        place.storeBytes(
            of: seconds | length &<< 8 | (0x08 &<< 16 | field &<< 3 | 2), as: UInt64.self)
        place.storeBytes(of: bytes &<< 8 | 0x10, toByteOffset: 8, as: UInt64.self)
        place += Int(truncatingIfNeeded: length) &+ 2
    }

    /// The same of any time.
    @inline(__always)
    mutating func timestamp(_ field: UInt64, _ ns: Int64) { place = Self.rareTimestamp(place, field, ns) }

    /// Any time: before 1978, of whole seconds.
    @inline(never)
    private static func rareTimestamp(
        _ place: UnsafeMutableRawPointer, _ field: UInt64, _ ns: Int64
    ) -> UnsafeMutableRawPointer {
        let (seconds, nanos) = TimestampParts.split(ns)
        let length = bytewise(place, field &<< 3 | 2)
        var end = length + 1
        if seconds != 0 { end = longVarint(end, 1, UInt64(bitPattern: seconds)) }
        if nanos != 0 { end = longVarint(end, 2, UInt64(nanos)) }
        length.storeBytes(of: UInt8(end - length - 1), as: UInt8.self)
        return end
    }
}

// MARK: Numbers as text

extension Output {
    /// A string field with a number of 16 or more: `value` in decimal.
    @inline(__always)
    mutating func decimal(_ field: UInt64, _ value: UInt64) {
        store(UInt16(truncatingIfNeeded: wideTag(field, 2)), advance: 2)
        place = Self.digits(place, value)
    }

    /// The length and the digits of `value`.
    @inline(never)
    private static func digits(_ length: UnsafeMutableRawPointer, _ value: UInt64) -> UnsafeMutableRawPointer {
        var out = Output(length + 1)
        let (high, low) = value.quotientAndRemainder(dividingBy: 100_000_000)
        if high == 0 {
            out.leadingDigits(low)
        } else {
            let (top, middle) = high.quotientAndRemainder(dividingBy: 100_000_000)
            if top == 0 {
                out.leadingDigits(middle)
            } else {
                out.leadingDigits(top)
                out.store(eightDigits(middle) | 0x3030_3030_3030_3030, advance: 8)
            }
            out.store(eightDigits(low) | 0x3030_3030_3030_3030, advance: 8)
        }
        length.storeBytes(of: UInt8(out.place - length - 1), as: UInt8.self)
        return out.place
    }

    /// `value`, below 10^8, without leading zeros.
    @inline(__always)
    private mutating func leadingDigits(_ value: UInt64) {
        let digits = Self.eightDigits(value)
        let zeros = min(digits.trailingZeroBitCount &>> 3, 7)
        store((digits | 0x3030_3030_3030_3030) &>> UInt64(zeros * 8), advance: 8 - zeros)
    }

    /// The decimal digits of `value`, below 10^8, one in each byte, the first in the lowest.
    @inline(__always)
    private static func eightDigits(_ value: UInt64) -> UInt64 {
        let fours = value / 10_000 | (value % 10_000) &<< 32
        let hundreds = (fours &* 10_486) &>> 20 & 0x7f_0000_007f
        let twos = hundreds | (fours &- hundreds &* 100) &<< 16
        let tens = (twos &* 103) &>> 10 & 0x000f_000f_000f_000f
        return tens | (twos &- tens &* 10) &<< 8
    }
}
