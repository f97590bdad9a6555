/// Where a row stands among its instrument's: filing time in units of 100 ns, then identity, as in the published
/// timeuuid.
///
/// Rows with equal `time` and `low` but another epoch or sequence are different ticks that the published key cannot
/// tell apart; here both stay, next to each other.
struct RowKey: Comparable {
    /// Filing time in units of 100 ns since 1970.
    let time: Int64
    /// 6 bits of the epoch, 40 of the sequence, 16 of the feed number.
    let low: UInt64
    let epoch: UInt64
    let sequence: UInt64

    @inline(__always)
    init(filingTimeNs: Int64, epoch: UInt64, sequence: UInt64, feed: UInt16) {
        time = RowKey.time(filingTimeNs)
        low = RowKey.low(epoch: epoch, sequence: sequence, feed: feed)
        self.epoch = epoch
        self.sequence = sequence
    }

    @inline(__always)
    static func time(_ filingTimeNs: Int64) -> Int64 {
        // Floor division: times before 1970 keep their order.
        filingTimeNs >= 0 ? filingTimeNs / 100 : (filingTimeNs &+ 1) / 100 &- 1
    }

    @inline(__always)
    static func low(epoch: UInt64, sequence: UInt64, feed: UInt16) -> UInt64 {
        (epoch & 0x3f) << 56 | (sequence & 0xff_ffff_ffff) << 16 | UInt64(feed)
    }

    @inline(__always)
    static func < (a: RowKey, b: RowKey) -> Bool {
        if a.time != b.time { return a.time < b.time }
        if a.low != b.low { return a.low < b.low }
        if a.epoch != b.epoch { return a.epoch < b.epoch }
        return a.sequence < b.sequence
    }

    /// The part that blocks carry as their bounds.
    var place: RowPlace { RowPlace(time: time, low: low) }
}

/// A row's place as far as keys of blocks tell it.
struct RowPlace: Comparable, Hashable {
    var time: Int64
    var low: UInt64

    static let least = RowPlace(time: .min, low: 0)
    static let greatest = RowPlace(time: .max, low: .max)

    @inline(__always)
    static func < (a: RowPlace, b: RowPlace) -> Bool {
        a.time != b.time ? a.time < b.time : a.low < b.low
    }
}

/// Hours since 1970 of a filing time: blocks never cross one.
enum Hour {
    static let lengthNs: Int64 = 3_600_000_000_000

    @inline(__always)
    static func of(_ filingTimeNs: Int64) -> Int32 {
        let (quotient, remainder) = filingTimeNs.quotientAndRemainder(dividingBy: lengthNs)
        // The quotient of an Int64 of nanoseconds lies within +-2,562,048.
        return Int32(truncatingIfNeeded: remainder < 0 ? quotient - 1 : quotient)
    }

    /// Nanoseconds from the hour's start, 0..<3.6e12. The first hour of all begins before the range of Int64: wrapping
    /// is right.
    @inline(__always)
    static func offset(_ filingTimeNs: Int64, in hour: Int32) -> UInt64 {
        UInt64(bitPattern: filingTimeNs &- Int64(hour) &* lengthNs)
    }

    @inline(__always)
    static func time(_ hour: Int32, _ offset: UInt64) -> Int64 {
        Int64(hour) &* lengthNs &+ Int64(bitPattern: offset)
    }
}

/// Keys of blocks: hour, instrument, place of the first row, then what makes fresh blocks distinct; big endian, so that
/// RocksDB's byte order is row order.
///
/// The hour comes first because rows come, and go, by the hour: files of different hours do not overlap, so compactions
/// move them as they are, and retention drops them whole.
struct BlockKey: Hashable {
    var instrument: UInt32
    var hour: Int32
    var first: RowPlace
    /// Topic, partition and end offset of the apply that wrote a fresh block; nil for merged ones.
    var origin: Origin?

    struct Origin: Hashable {
        var topic: UInt16
        var partition: UInt16
        var next: UInt64
        /// Of several blocks of the instrument and hour in one apply.
        var part: UInt16
    }

    static let mergedLength = 24
    static let freshLength = 38

    init(instrument: UInt32, hour: Int32, first: RowPlace, origin: Origin?) {
        self.instrument = instrument
        self.hour = hour
        self.first = first
        self.origin = origin
    }

    /// nil where the bytes have another length.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == BlockKey.mergedLength || bytes.count == BlockKey.freshLength else { return nil }
        func load<T: FixedWidthInteger>(_ position: Int) -> T {
            T(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
        }
        hour = Int32(bitPattern: (load(0) as UInt32) ^ 0x8000_0000)
        instrument = load(4)
        first = RowPlace(time: Int64(bitPattern: (load(8) as UInt64) ^ (1 << 63)), low: load(16))
        origin =
            bytes.count == BlockKey.freshLength
            ? Origin(topic: load(24), partition: load(26), next: load(28), part: load(36)) : nil
    }

    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(BlockKey.freshLength)
        bytes.appendBigEndian(UInt32(bitPattern: hour) ^ 0x8000_0000)
        bytes.appendBigEndian(instrument)
        bytes.appendBigEndian(UInt64(bitPattern: first.time) ^ (1 << 63))
        bytes.appendBigEndian(first.low)
        if let origin {
            bytes.appendBigEndian(origin.topic)
            bytes.appendBigEndian(origin.partition)
            bytes.appendBigEndian(origin.next)
            bytes.appendBigEndian(origin.part)
        }
        return bytes
    }

    /// Where an hour's blocks begin.
    static func start(_ instrument: UInt32, _ hour: Int32) -> [UInt8] {
        BlockKey(instrument: instrument, hour: hour, first: .least, origin: nil).bytes
    }

    /// Past every block of the hour.
    static func end(_ instrument: UInt32, _ hour: Int32) -> [UInt8] {
        BlockKey(instrument: instrument, hour: hour, first: .greatest, origin: nil).bytes
            + [UInt8](repeating: 0xff, count: freshLength - mergedLength + 1)
    }
}

extension [UInt8] {
    mutating func appendBigEndian<T: FixedWidthInteger>(_ value: T) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }

    mutating func appendLittleEndian<T: FixedWidthInteger>(_ value: T) {
        Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
    }
}

/// An hour of an instrument: the unit that is merged and dropped.
struct HourID: Hashable, Comparable {
    let instrument: UInt32
    let hour: Int32

    static func < (a: HourID, b: HourID) -> Bool { (a.hour, a.instrument) < (b.hour, b.instrument) }
}
