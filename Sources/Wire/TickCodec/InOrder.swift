// The way almost every tick is read: fields in the order of their numbers, as every encoder writes them, one word of eight
// bytes for a tag and its value, no loop over bytes.

/// A place in at least eight bytes, and the eight bytes there: what lies past the end reads as 0, which is no tag.
private struct Words {
    let base: UnsafeRawPointer
    let end: Int
    var place = 0
    var word: UInt64

    @inline(__always)
    init(base: UnsafeRawPointer, count: Int) {
        self.base = base
        end = count
        word = base.loadUnaligned(as: UInt64.self)
    }

    /// The eight bytes at `place`; never touches a byte outside the buffer.
    @inline(__always)
    func load(_ place: Int) -> UInt64 {
        let last = end &- 8
        if place <= last { return base.loadUnaligned(fromByteOffset: place, as: UInt64.self) }
        // The last eight bytes, less those before the place; from the end on nothing is left.
        return place < end
            ? base.loadUnaligned(fromByteOffset: last, as: UInt64.self) &>> UInt64((place &- last) &* 8) : 0
    }

    @inline(__always)
    mutating func advance(_ count: Int) {
        place &+= count
        word = load(place)
    }

    /// The tag of a field with a number below 16 is next.
    @inline(__always)
    func isNext(_ field: UInt64, _ wireType: UInt64) -> Bool {
        UInt8(truncatingIfNeeded: word) == UInt8(truncatingIfNeeded: field << 3 | wireType)
    }

    /// The tag of a field with a number of 16 or more is next.
    @inline(__always)
    func isNextWide(_ field: UInt64, _ wireType: UInt64) -> Bool {
        UInt16(truncatingIfNeeded: word)
            == UInt16(truncatingIfNeeded: (field & 15) << 3 | wireType | 0x80 | (field >> 4) << 8)
    }

    /// Takes a varint behind a tag; false and nothing taken where it is longer than 64 bits or cut off.
    @inline(__always)
    mutating func take(_ value: inout UInt64, tagBytes: Int) -> Bool {
        let bytes = word >> UInt64(8 * tagBytes)
        let stops = ~bytes & (0x8080_8080_8080_8080 >> UInt64(8 * tagBytes))
        if stops == 0 {
            guard let long = Self.longVarint(base, place &+ tagBytes, end) else { return false }
            value = long.value
            advance(tagBytes &+ long.count)
            return true
        }
        value = gather(bytes & (stops ^ (stops &- 1)) & 0x7f7f_7f7f_7f7f_7f7f)
        advance(stops.trailingZeroBitCount >> 3 &+ (tagBytes &+ 1))
        return true
    }

    /// Any varint: negative prices, epochs that are hashes.
    @inline(never)
    private static func longVarint(
        _ base: UnsafeRawPointer, _ place: Int, _ end: Int
    ) -> (value: UInt64, count: Int)? {
        var input = Input(base: base, end: end)
        input.place = place
        guard let value = try? input.varint() else { return nil }
        return (value, input.place - place)
    }

    /// Takes a varint of one or two bytes behind a wide tag; false where it is longer.
    @inline(__always)
    mutating func takeSmall(_ value: inout Int32) -> Bool {
        let bytes = UInt32(truncatingIfNeeded: word >> 16)
        if bytes & 0x80 == 0 {
            value = Int32(bitPattern: bytes & 0x7f)
            advance(3)
            return true
        }
        if bytes & 0x8000 != 0 { return false }
        value = Int32(bitPattern: bytes & 0x7f | (bytes & 0x7f00) >> 1)
        advance(4)
        return true
    }

    /// Takes a string of less than 128 bytes behind a tag; false where it is longer or past the end.
    @inline(__always)
    mutating func take(_ range: inout TickReader.ByteRange, tagBytes: Int) -> Bool {
        let length = Int(truncatingIfNeeded: word >> UInt64(8 * tagBytes) & 0xff)
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
        let length = word >> 8 & 0x7f
        let rest = load(place &+ 8)
        let bytes = rest >> 8
        let stops = ~bytes & 0x0080_8080_8080_8080
        let stop = UInt64(truncatingIfNeeded: stops.trailingZeroBitCount)
        // Field 2 fills the rest of the length.
        guard UInt8(truncatingIfNeeded: rest) == 0x10, stops != 0, stop >> 3 &+ 8 == length else { return false }
        let word = word >> 24
        if word != seconds.word { seconds = WireSecondsRead(word) }
        time.seconds = seconds.seconds
        time.nanos = Int32(truncatingIfNeeded: gather(bytes & (stops ^ (stops &- 1)) & 0x7f7f_7f7f_7f7f_7f7f))
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
        seconds = Int64(bitPattern: gather(word & 0x7f_7f7f_7f7f))
    }
}

extension TickReader {
    /// Reads fields as long as they stand in the order of their numbers and have their usual form; returns the place where
    /// that ends. Fields before it are whole; the rest, and any error, is for ``readAny(from:)``.
    @inline(__always)
    mutating func readOrdered() -> Int {
        var input = Words(base: base, count: count)
        var found: UInt32 = 0
        if readLow(&input, &found), input.word != 0 { readHigh(&input, &found) }
        present = found
        // A varint cut off by the end takes a byte more than there is: read again for the error.
        return input.place <= count ? input.place : 0
    }

    /// Fields 1 to 15.
    @inline(__always)
    private mutating func readLow(_ input: inout Words, _ found: inout UInt32) -> Bool {
        var value: UInt64 = 0
        var seconds = WireSecondsRead()
        if input.isNext(1, 2) {
            guard input.take(&exchangeRange, tagBytes: 1) else { return false }
            found |= 1 << 1
        }
        if input.isNext(2, 2) {
            guard input.take(&symbolRange, tagBytes: 1) else { return false }
            found |= 1 << 2
        }
        if input.isNext(3, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            bidValue = Int64(bitPattern: value)
            found |= 1 << 3
        }
        if input.isNext(4, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            askValue = Int64(bitPattern: value)
            found |= 1 << 4
        }
        if input.isNext(5, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            lastValue = Int64(bitPattern: value)
            found |= 1 << 5
        }
        if input.isNext(6, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            volumeValue = Int64(bitPattern: value)
            found |= 1 << 6
        }
        if input.isNext(7, 2) {
            guard input.take(&event, &seconds) else { return false }
            found |= 1 << 7
        }
        if input.isNext(8, 2) {
            guard input.take(&received, &seconds) else { return false }
            found |= 1 << 8
        }
        if input.isNext(9, 2) {
            guard input.take(&feedRange, tagBytes: 1) else { return false }
            found |= 1 << 9
        }
        if input.isNext(10, 0) {
            guard input.take(&sequence, tagBytes: 1) else { return false }
            found |= 1 << 10
        }
        if input.isNext(11, 0) {
            guard input.take(&epoch, tagBytes: 1) else { return false }
            found |= 1 << 11
        }
        if input.isNext(12, 0) {
            let kind = input.word >> 8 & 0xff
            guard kind < 0x80 else { return false }
            kindNumber = Int32(truncatingIfNeeded: kind)
            input.advance(2)
            found |= 1 << 12
        }
        if input.isNext(13, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            bidSizeValue = Int64(bitPattern: value)
            found |= 1 << 13
        }
        if input.isNext(14, 0) {
            guard input.take(&value, tagBytes: 1) else { return false }
            askSizeValue = Int64(bitPattern: value)
            found |= 1 << 14
        }
        if input.isNext(15, 2) {
            guard input.take(&publish, &seconds) else { return false }
            found |= 1 << 15
        }
        return true
    }

    /// Fields 16 to 26.
    @inline(__always)
    private mutating func readHigh(_ input: inout Words, _ found: inout UInt32) {
        guard Self.small(&input, &found, 16, &bidNanoRemainder), Self.small(&input, &found, 17, &askNanoRemainder),
            Self.small(&input, &found, 18, &lastNanoRemainder), Self.small(&input, &found, 19, &bidSizeNanoRemainder),
            Self.small(&input, &found, 20, &askSizeNanoRemainder)
        else { return }
        var value: UInt64 = 0
        if input.isNextWide(21, 0) {
            guard input.take(&value, tagBytes: 2) else { return }
            volumeNanoRemainder = Int32(truncatingIfNeeded: value)
            found |= 1 << 21
        }
        guard Self.small(&input, &found, 22, &eventTimeSourceNumber) else { return }
        if input.isNextWide(23, 0) {
            guard input.take(&venueSequence, tagBytes: 2) else { return }
            found |= 1 << 23
        }
        guard Self.small(&input, &found, 24, &stateNumber), Self.small(&input, &found, 25, &aggressorSideNumber) else {
            return
        }
        if input.isNextWide(26, 2) {
            guard input.take(&tradeIDRange, tagBytes: 2) else { return }
            found |= 1 << 26
        }
    }

    @inline(__always)
    private static func small(
        _ input: inout Words, _ found: inout UInt32, _ field: UInt64, _ value: inout Int32
    ) -> Bool {
        guard input.isNextWide(field, 0) else { return true }
        found |= 1 << UInt32(truncatingIfNeeded: field)
        return input.takeSmall(&value)
    }
}
