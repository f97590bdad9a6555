// The way almost every tick is read: fields in the order of their numbers, as every encoder writes them, one word of
// eight bytes for a tag and its value, no loop over bytes.

/// A place in at least eight bytes, and the eight bytes there: what lies past the end reads as 0, which is no tag.
private struct Words {
    let base: UnsafeRawPointer
    let end: Int
    var place: Int
    var word: UInt64

    @inline(__always)
    init(base: UnsafeRawPointer, place: Int, end: Int) {
        self.base = base
        self.end = end
        self.place = place
        word = 0
        word = load(place)
    }

    /// The eight bytes at `place`; never touches a byte outside the buffer.
    @inline(__always)
    func load(_ place: Int) -> UInt64 {
        let last = end &- 8
        if place <= last { return base.loadUnaligned(fromByteOffset: place, as: UInt64.self) }
        return Self.loadEnd(base, place, end)
    }

    /// The last eight bytes, less those before the place; from the end on nothing is left.
    @inline(never)
    private static func loadEnd(_ base: UnsafeRawPointer, _ place: Int, _ end: Int) -> UInt64 {
        let last = end &- 8
        if place >= end { return 0 }
        return base.loadUnaligned(fromByteOffset: last, as: UInt64.self) &>> UInt64((place &- last) &* 8)
    }

    @inline(__always)
    mutating func advance(_ count: Int) {
        place &+= count
        word = load(place)
    }

    /// The tag of a field with a number below 16 is next.
    @inline(__always)
    func isNext(_ field: UInt64, _ wireType: UInt64) -> Bool {
        UInt8(truncatingIfNeeded: word) == UInt8(truncatingIfNeeded: field &<< 3 | wireType)
    }

    /// The tag of a field with a number of 16 or more is next.
    @inline(__always)
    func isNextWide(_ field: UInt64, _ wireType: UInt64) -> Bool {
        UInt16(truncatingIfNeeded: word)
            == UInt16(truncatingIfNeeded: (field & 15) &<< 3 | wireType | 0x80 | (field &>> 4) &<< 8)
    }

    /// Takes a varint behind a tag; false and nothing taken where it is longer than 64 bits or cut off.
    ///
    /// A branch for the lengths that are `likely`, beside the computation for all: a field most often has the length
    /// that it had in the tick before, and behind a predicted branch the next field's load need not wait for this
    /// one's.
    @inline(__always)
    mutating func take(_ value: inout UInt64, tagBytes: Int, likely: (Int, Int)) -> Bool {
        let bytes = word &>> UInt64(8 * tagBytes)
        let count: Int
        if Self.isLength(likely.0, bytes) {
            value = Self.gather(bytes, likely.0)
            count = likely.0
        } else if Self.isLength(likely.1, bytes) {
            value = Self.gather(bytes, likely.1)
            count = likely.1
        } else {
            let any = Self.anyVarint(bytes, base, place &+ tagBytes, end)
            if any.count == 0 { return false }
            value = any.value
            count = any.count
        }
        advance(tagBytes &+ count)
        return true
    }

    /// A varint in the low bytes of `bytes` has `count` bytes, a constant.
    @inline(__always)
    private static func isLength(_ count: Int, _ bytes: UInt64) -> Bool {
        let ends = (0x8080_8080_8080_8080 as UInt64) &>> UInt64(64 &- 8 &* count)
        return bytes & ends == ends &>> 8 & 0x0080_8080_8080_8080
    }

    /// Its value.
    @inline(__always)
    private static func gather(_ bytes: UInt64, _ count: Int) -> UInt64 {
        let groups = bytes & (0x7f7f_7f7f_7f7f_7f7f &>> UInt64(64 &- 8 &* count))
        if count <= 4 { return gatherFour(groups) }
        if count == 5 { return gatherFour(groups) | (groups & 0x7f_0000_0000) &>> 4 }
        return gatherWord(groups)
    }

    /// A varint of any length: `bytes` from `place` on, at least six. Count 0 where it is longer than 64 bits or cut
    /// off.
    @inline(never)
    private static func anyVarint(
        _ bytes: UInt64, _ base: UnsafeRawPointer, _ place: Int, _ end: Int
    ) -> (value: UInt64, count: Int) {
        let stops = ~bytes & 0x8080_8080_8080
        if stops != 0 {
            return (
                gatherWord(bytes & (stops ^ (stops &- 1)) & 0x7f7f_7f7f_7f7f_7f7f),
                stops.trailingZeroBitCount &>> 3 &+ 1
            )
        }
        // Negative prices, epochs that are hashes.
        var input = Input(base: base, end: end)
        input.place = place
        guard let value = try? input.varint() else { return (0, 0) }
        return (value, input.place - place)
    }

    /// Takes a varint of one or two bytes behind a wide tag; false where it is longer.
    @inline(__always)
    mutating func takeSmall(_ value: inout Int32) -> Bool {
        let bytes = UInt32(truncatingIfNeeded: word &>> 16)
        if bytes & 0x80 == 0 {
            value = Int32(bitPattern: bytes & 0x7f)
            advance(3)
            return true
        }
        if bytes & 0x8000 != 0 { return false }
        value = Int32(bitPattern: bytes & 0x7f | (bytes & 0x7f00) &>> 1)
        advance(4)
        return true
    }

    /// Takes a string of less than 128 bytes behind a tag; false where it is longer or past the end.
    @inline(__always)
    mutating func take(_ range: inout TickReader.ByteRange, tagBytes: Int) -> Bool {
        let length = Int(truncatingIfNeeded: word &>> UInt64(8 * tagBytes) & 0xff)
        let start = place &+ (tagBytes &+ 1)
        guard length < 0x80, length <= end &- start else { return false }
        range = TickReader.ByteRange(start, length)
        advance(tagBytes &+ 1 &+ length)
        return true
    }

    /// Takes a timestamp of five bytes of seconds (1978 to 3058) and up to seven of nanos; false for any other.
    @inline(__always)
    mutating func take(_ time: inout TickReader.TimeFields, _ seconds: inout WireSecondsRead) -> Bool {
        // Length below 128, field 1, four bytes that go on and one that does not.
        guard word & 0x8080_8080_80ff_8000 == 0x0080_8080_8008_0000 else { return false }
        let length = word &>> 8 & 0x7f
        let rest = load(place &+ 8)
        let word = word &>> 24
        if word != seconds.word { seconds = WireSecondsRead(word) }
        time.seconds = seconds.seconds
        if length == 12, rest & 0x8080_8080_80ff == 0x0080_8080_8010 {
            // Nanos of five bytes, as three of four times have.
            let bytes = rest &>> 8 & 0x7f_7f7f_7f7f
            time.nanos = Int32(truncatingIfNeeded: gatherFour(bytes) | (bytes & 0x7f_0000_0000) &>> 4)
            advance(14)
            return true
        }
        let bytes = rest &>> 8
        let stops = ~bytes & 0x0080_8080_8080_8080
        let stop = UInt64(truncatingIfNeeded: stops.trailingZeroBitCount)
        // Field 2 fills the rest of the length.
        guard UInt8(truncatingIfNeeded: rest) == 0x10, stops != 0, stop &>> 3 &+ 8 == length else { return false }
        time.nanos = Int32(truncatingIfNeeded: gatherWord(bytes & (stops ^ (stops &- 1)) & 0x7f7f_7f7f_7f7f_7f7f))
        advance(Int(truncatingIfNeeded: length &+ 2))
        return true
    }
}

/// The seconds of the timestamp before, as bytes and as a number: the next most often has the same.
private struct WireSecondsRead {
    var word: UInt64 = 0
    var seconds: Int64 = 0

    @inline(__always)
    init() {}

    @inline(__always)
    init(_ word: UInt64) {
        self.word = word
        seconds = Int64(bitPattern: gatherWord(word & 0x7f_7f7f_7f7f))
    }
}

extension TickReader {
    /// Reads fields as long as they stand in the order of their numbers and have their usual form; returns the place
    /// where that ends. Fields before it are whole; the rest, and any error, is for ``readAny(from:)``.
    ///
    /// In steps that are not inlined: the compiler stops inlining in functions beyond a size. A step that meets an
    /// unusual field stays at it, and so do those behind.
    @inline(__always)
    mutating func readOrdered() -> Int {
        var place = readNamesAndPrices(0)
        place = readTimesToSizes(place)
        if place < count { place = readHigh(place) }
        // A varint cut off by the end takes a byte more than there is: read again for the error.
        return place <= count ? place : 0
    }

    /// Fields 1 to 6.
    @inline(never)
    private mutating func readNamesAndPrices(_ start: Int) -> Int {
        var input = Words(base: base, place: start, end: count)
        var found: UInt32 = 0
        defer { present |= found }
        var value: UInt64 = 0
        if input.isNext(1, 2) {
            guard input.take(&exchangeRange, tagBytes: 1) else { return input.place }
            found |= 1 &<< 1
        }
        if input.isNext(2, 2) {
            guard input.take(&symbolRange, tagBytes: 1) else { return input.place }
            found |= 1 &<< 2
        }
        if input.isNext(3, 0) {
            guard input.take(&value, tagBytes: 1, likely: (5, 4)) else { return input.place }
            bidValue = Int64(bitPattern: value)
            found |= 1 &<< 3
        }
        if input.isNext(4, 0) {
            guard input.take(&value, tagBytes: 1, likely: (5, 4)) else { return input.place }
            askValue = Int64(bitPattern: value)
            found |= 1 &<< 4
        }
        if input.isNext(5, 0) {
            guard input.take(&value, tagBytes: 1, likely: (5, 4)) else { return input.place }
            lastValue = Int64(bitPattern: value)
            found |= 1 &<< 5
        }
        if input.isNext(6, 0) {
            guard input.take(&value, tagBytes: 1, likely: (1, 2)) else { return input.place }
            volumeValue = Int64(bitPattern: value)
            found |= 1 &<< 6
        }
        return input.place
    }

    /// Fields 7 to 15.
    @inline(never)
    private mutating func readTimesToSizes(_ start: Int) -> Int {
        var input = Words(base: base, place: start, end: count)
        var found: UInt32 = 0
        defer { present |= found }
        var value: UInt64 = 0
        var seconds = WireSecondsRead()
        if input.isNext(7, 2) {
            guard input.take(&event, &seconds) else { return input.place }
            found |= 1 &<< 7
        }
        if input.isNext(8, 2) {
            guard input.take(&received, &seconds) else { return input.place }
            found |= 1 &<< 8
        }
        if input.isNext(9, 2) {
            guard input.take(&feedRange, tagBytes: 1) else { return input.place }
            found |= 1 &<< 9
        }
        if input.isNext(10, 0) {
            guard input.take(&sequence, tagBytes: 1, likely: (3, 4)) else { return input.place }
            found |= 1 &<< 10
        }
        if input.isNext(11, 0) {
            guard input.take(&epoch, tagBytes: 1, likely: (6, 2)) else { return input.place }
            found |= 1 &<< 11
        }
        if input.isNext(12, 0) {
            let kind = input.word &>> 8 & 0xff
            guard kind < 0x80 else { return input.place }
            kindNumber = Int32(truncatingIfNeeded: kind)
            input.advance(2)
            found |= 1 &<< 12
        }
        if input.isNext(13, 0) {
            guard input.take(&value, tagBytes: 1, likely: (5, 4)) else { return input.place }
            bidSizeValue = Int64(bitPattern: value)
            found |= 1 &<< 13
        }
        if input.isNext(14, 0) {
            guard input.take(&value, tagBytes: 1, likely: (5, 4)) else { return input.place }
            askSizeValue = Int64(bitPattern: value)
            found |= 1 &<< 14
        }
        if input.isNext(15, 2) {
            guard input.take(&publish, &seconds) else { return input.place }
            found |= 1 &<< 15
        }
        return input.place
    }

    /// Fields 16 to 26.
    @inline(never)
    private mutating func readHigh(_ start: Int) -> Int {
        var input = Words(base: base, place: start, end: count)
        var found: UInt32 = 0
        defer { present |= found }
        guard Self.small(&input, &found, 16, &bidNanoRemainder), Self.small(&input, &found, 17, &askNanoRemainder),
            Self.small(&input, &found, 18, &lastNanoRemainder), Self.small(&input, &found, 19, &bidSizeNanoRemainder),
            Self.small(&input, &found, 20, &askSizeNanoRemainder)
        else { return input.place }
        var value: UInt64 = 0
        if input.isNextWide(21, 0) {
            guard input.take(&value, tagBytes: 2, likely: (5, 4)) else { return input.place }
            volumeNanoRemainder = Int32(truncatingIfNeeded: value)
            found |= 1 &<< 21
        }
        guard Self.small(&input, &found, 22, &eventTimeSourceNumber) else { return input.place }
        if input.isNextWide(23, 0) {
            guard input.take(&venueSequence, tagBytes: 2, likely: (5, 6)) else { return input.place }
            found |= 1 &<< 23
        }
        guard Self.small(&input, &found, 24, &stateNumber), Self.small(&input, &found, 25, &aggressorSideNumber) else {
            return input.place
        }
        if input.isNextWide(26, 2) {
            guard input.take(&tradeIDRange, tagBytes: 2) else { return input.place }
            found |= 1 &<< 26
        }
        return input.place
    }

    @inline(__always)
    private static func small(
        _ input: inout Words, _ found: inout UInt32, _ field: UInt64, _ value: inout Int32
    ) -> Bool {
        guard input.isNextWide(field, 0) else { return true }
        found |= 1 &<< UInt32(truncatingIfNeeded: field)
        return input.takeSmall(&value)
    }
}
