// The way almost every tick is read: fields in the order of their numbers, as every encoder writes them, one word of
// eight bytes for a tag and its value, no loop over bytes.

/// A place with at least 16 bytes behind it, and the first eight of them. Ends where fewer are left.
private struct Words {
    let base: UnsafeRawPointer
    /// The last place.
    let limit: Int
    var place: Int
    var word: UInt64
    /// Of the timestamp before, which most often has the same second: its bytes 2 to 7, and what they say in ns.
    var secondBytes: UInt64 = 0
    var secondNs: UInt64 = 0

    /// `limit` is not negative.
    @inline(__always)
    init(base: UnsafeRawPointer, limit: Int) {
        self.base = base
        self.limit = limit
        place = 0
        word = base.loadUnaligned(as: UInt64.self)
    }

    /// False at the end.
    @inline(__always)
    mutating func advance(_ count: Int) -> Bool {
        place &+= count
        guard _fastPath(place <= limit) else { return false }
        word = base.loadUnaligned(fromByteOffset: place, as: UInt64.self)
        return true
    }

    /// The tag of a field with a number below 16 is next.
    @inline(__always)
    func isNext(_ field: UInt64, _ wireType: UInt64) -> Bool {
        UInt8(truncatingIfNeeded: word) == UInt8(truncatingIfNeeded: field &<< 3 | wireType)
    }

    /// The value of the varint behind the tag, and its length in bytes; 0 where it is not one.
    ///
    /// A branch for the lengths that are `likely`: a field most often has the length that it had in the tick before,
    /// and behind a predicted branch the next field's load need not wait for this one's.
    @inline(__always)
    func varint(likely: (Int, Int)) -> (value: UInt64, count: Int) {
        let bytes = word &>> 8
        if _fastPath(Self.isLength(likely.0, bytes)) { return (Self.gather(bytes, likely.0), likely.0) }
        if Self.isLength(likely.1, bytes) { return (Self.gather(bytes, likely.1), likely.1) }
        return Self.anyVarint(base, place &+ 1, limit &+ 16)
    }

    /// The same of one that has one or two bytes, in no order that a predictor could learn.
    @inline(__always)
    func shortVarint() -> (value: UInt64, count: Int) {
        let bytes = UInt32(truncatingIfNeeded: word &>> 8)
        guard bytes & 0x8080 != 0x8080 else { return Self.anyVarint(base, place &+ 1, limit &+ 16) }
        let isLong = bytes &>> 7 & 1
        let value = bytes & 0x7f | (bytes &>> 1 & 0x3f80) & (0 &- isLong)
        return (UInt64(value), Int(isLong) &+ 1)
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

    /// One of any length. Count 0 where it is longer than 64 bits or cut off.
    @inline(never)
    static func anyVarint(_ base: UnsafeRawPointer, _ place: Int, _ end: Int) -> (value: UInt64, count: Int) {
        if _fastPath(end &- place >= 10) {
            let bytes = base.loadUnaligned(fromByteOffset: place, as: UInt64.self)
            let ends = ~bytes & 0x8080_8080_8080_8080
            if _fastPath(ends != 0) {
                // Its bytes are those up to the first without the top bit.
                let groups = bytes & (ends ^ (ends &- 1)) & 0x7f7f_7f7f_7f7f_7f7f
                return (gatherWord(groups), ends.trailingZeroBitCount &>> 3 &+ 1)
            }
            // Negative prices, epochs that are hashes.
            let low = gatherWord(bytes & 0x7f7f_7f7f_7f7f_7f7f)
            let rest = base.loadUnaligned(fromByteOffset: place &+ 8, as: UInt16.self)
            if rest & 0x80 == 0 { return (low | UInt64(rest & 0x7f) &<< 56, 9) }
            return rest &>> 8 > 1 ? (0, 0) : (low | UInt64(rest & 0x7f) &<< 56 | UInt64(rest &>> 8) &<< 63, 10)
        }
        var input = Input(base: base, end: end)
        input.place = place
        guard let value = try? input.varint() else { return (0, 0) }
        return (value, input.place - place)
    }

    /// Bytes of the string behind the tag; nil where there are 128 or more, or more than are left.
    @inline(__always)
    func string() -> Int? {
        let length = Int(truncatingIfNeeded: word &>> 8 & 0xff)
        return _fastPath(length < 0x80 && length <= limit &+ 14 &- place) ? length : nil
    }

    /// The timestamp behind the tag in ns since the Unix epoch, and what its field takes in bytes, if its numbers have
    /// their usual lengths: five bytes of seconds (from 1978 on), five or four of nanos. 0 bytes for any other.
    ///
    /// Touches no byte behind the field, and none behind `left` bytes, which are at least 8.
    @inline(__always)
    mutating func time(left: Int) -> (ns: Int64, count: Int) {
        if word &>> 16 != secondBytes {
            secondNs = Self.secondNs(word &>> 16)
            guard secondNs != 0 else { return (0, 0) }
            secondBytes = word &>> 16
        }
        let nanos: UInt64
        let count: Int
        if word & 0xff00 == 0x0c00, left >= 14 {
            let rest = base.loadUnaligned(fromByteOffset: place &+ 6, as: UInt64.self) &>> 16
            guard rest & 0x8080_8080_80ff == 0x0080_8080_8010 else { return (0, 0) }
            nanos = gatherFour(rest &>> 8 & 0x7f7f_7f7f) | (rest &>> 40) &<< 28
            count = 14
        } else if word & 0xff00 == 0x0b00, left >= 13 {
            let rest = base.loadUnaligned(fromByteOffset: place &+ 5, as: UInt64.self) &>> 24
            guard rest & 0x80_8080_80ff == 0x8080_8010 else { return (0, 0) }
            nanos = gatherFour(rest &>> 8)
            count = 13
        } else {
            return (0, 0)
        }
        guard nanos < 1_000_000_000 else { return (0, 0) }
        return (Int64(bitPattern: secondNs &+ nanos), count)
    }

    /// Field 1, a number of five bytes, in ns; 0 for other bytes, or where ns would not fit 64 bits.
    @inline(__always)
    private static func secondNs(_ bytes: UInt64) -> UInt64 {
        let seconds = gatherFour(bytes &>> 8 & 0x7f7f_7f7f) | (bytes &>> 40) &<< 28
        guard bytes & 0x8080_8080_80ff == 0x0080_8080_8008, seconds < 9_223_372_036 else { return 0 }
        return seconds &* 1_000_000_000
    }
}

extension TickReader {
    /// Reads fields as long as they stand in the order of their numbers and have their usual form; returns the place
    /// where that ends. Fields before it are whole; the rest, and any error, is for ``readAny(from:)``.
    @inline(__always)
    mutating func readOrdered() -> Int {
        guard count >= 16 else { return 0 }
        var input = Words(base: base, limit: count &- 16)
        var found: UInt32 = 0
        readWords(&input, &found)
        var place = input.place
        if place < count { place = readEnd(input, &found) }
        present |= found
        return place
    }

    /// Fields 1 to 14.
    @inline(__always)
    private mutating func readWords(_ input: inout Words, _ found: inout UInt32) {
        if _fastPath(input.isNext(1, 2)) {
            guard let length = input.string() else { return }
            exchangeRange = ByteRange(input.place &+ 2, length)
            found |= 1 &<< 1
            guard input.advance(length &+ 2) else { return }
        }
        if _fastPath(input.isNext(2, 2)) {
            guard let length = input.string() else { return }
            symbolRange = ByteRange(input.place &+ 2, length)
            found |= 1 &<< 2
            guard input.advance(length &+ 2) else { return }
        }
        guard Self.number(&input, &found, 3, &bidValue, likely: (4, 5)),
            Self.number(&input, &found, 4, &askValue, likely: (4, 5)),
            Self.number(&input, &found, 5, &lastValue, likely: (4, 5))
        else { return }
        if input.isNext(6, 0) {
            let volume = input.shortVarint()
            if volume.count == 0 { return }
            volumeValue = Int64(bitPattern: volume.value)
            found |= 1 &<< 6
            guard input.advance(volume.count &+ 1) else { return }
        }
        guard Self.time(&input, &found, 7, &event), Self.time(&input, &found, 8, &received) else { return }
        if _fastPath(input.isNext(9, 2)) {
            guard let length = input.string() else { return }
            feedRange = ByteRange(input.place &+ 2, length)
            found |= 1 &<< 9
            guard input.advance(length &+ 2) else { return }
        }
        guard Self.number(&input, &found, 10, &sequenceValue, likely: (3, 4)),
            Self.number(&input, &found, 11, &epochValue, likely: (6, 2))
        else { return }
        if _fastPath(input.isNext(12, 0)) {
            let kind = input.word &>> 8 & 0xff
            guard kind < 0x80 else { return }
            kindValue = Int32(truncatingIfNeeded: kind)
            found |= 1 &<< 12
            guard input.advance(2) else { return }
        }
        guard Self.number(&input, &found, 13, &bidSizeValue, likely: (5, 4)) else { return }
        _ = Self.number(&input, &found, 14, &askSizeValue, likely: (5, 4))
    }

    /// A number, if it is next. False where the words end or it has no usual form.
    @inline(__always)
    private static func number<Number: FixedWidthInteger>(
        _ input: inout Words, _ found: inout UInt32, _ field: UInt64, _ value: inout Number, likely: (Int, Int)
    ) -> Bool {
        guard input.isNext(field, 0) else { return true }
        let number = input.varint(likely: likely)
        if number.count == 0 { return false }
        value = Number(truncatingIfNeeded: number.value)
        found |= 1 &<< UInt32(truncatingIfNeeded: field)
        return input.advance(number.count &+ 1)
    }

    /// A timestamp, the same.
    @inline(__always)
    private static func time(
        _ input: inout Words, _ found: inout UInt32, _ field: UInt64, _ time: inout TimeFields
    ) -> Bool {
        guard _fastPath(input.isNext(field, 2)) else { return true }
        let value = input.time(left: 16)
        if value.count == 0 { return false }
        time = TimeFields(ns: value.ns)
        found |= 1 &<< UInt32(truncatingIfNeeded: field)
        return input.advance(value.count)
    }

    /// Fields 15 to 26, where fewer than 16 bytes may be left.
    @inline(__always)
    private mutating func readEnd(_ start: Words, _ found: inout UInt32) -> Int {
        var input = start
        if count &- input.place >= 8 {
            input.word = base.loadUnaligned(fromByteOffset: input.place, as: UInt64.self)
            if input.isNext(15, 2) {
                let time = input.time(left: count &- input.place)
                if time.count == 0 { return input.place }
                publish = TimeFields(ns: time.ns)
                found |= 1 &<< 15
                input.place &+= time.count
            }
        }
        // A trade's side, most often the last field.
        if count &- input.place == 3, readSide(input.place, &found) { return count }
        while input.place < count {
            let length = readHigh(input.place, &found)
            if length == 0 { break }
            input.place &+= length
        }
        return input.place
    }

    /// Field 25, if it is that.
    @inline(__always)
    private mutating func readSide(_ place: Int, _ found: inout UInt32) -> Bool {
        let side = base.load(fromByteOffset: place &+ 2, as: Int8.self)
        guard base.loadUnaligned(fromByteOffset: place, as: UInt16.self) == 0x01c8, side >= 0 else { return false }
        aggressorSideValue = Int32(side)
        found |= 1 &<< 25
        return true
    }

    /// One field from 16 to 26 in its usual form; its length in bytes, 0 for any other.
    /// So is one that stands behind a field of a greater number, or again.
    @inline(never)
    private mutating func readHigh(_ place: Int, _ found: inout UInt32) -> Int {
        let left = count &- place
        guard left >= 3 else { return 0 }
        let tag = base.loadUnaligned(fromByteOffset: place, as: UInt16.self)
        let first = base.load(fromByteOffset: place &+ 2, as: UInt8.self)
        if tag & 0xff87 == 0x0180 {
            let field = 16 &+ Int(tag &>> 3 & 15)
            guard field <= 25, found &>> UInt32(truncatingIfNeeded: field) == 0 else { return 0 }
            found |= 1 &<< UInt32(truncatingIfNeeded: field)
            if first < 0x80 {
                store(UInt64(first), in: field)
                return 3
            }
            let number = Words.anyVarint(base, place &+ 2, count)
            if number.count == 0 { return 0 }
            store(number.value, in: field)
            return number.count &+ 2
        }
        // A trade's id.
        guard tag == 0x01d2, first < 0x80, Int(first) &+ 3 <= left, found &>> 26 == 0 else { return 0 }
        tradeIDRange = ByteRange(place &+ 3, Int(first))
        found |= 1 &<< 26
        return Int(first) &+ 3
    }
}
