/// The key of a stored tick: a version 1 UUID that is a pure function of (filing time, epoch, sequence, feed), so that
/// writing a record again writes the same row.
///
/// Layout, as Cassandra's `timeuuid`: 60 bits of filing time in 100 ns since 1582-10-15 (RFC 4122, 4.1.4); then
/// variant and the low 6 bits of the epoch in one byte, the sequence in 5 bytes and the feed number in 2, both big
/// endian, with these 7 bytes XOR 0x80, because Cassandra compares the low half as signed bytes. So the row order, in
/// either store, is (filing time, epoch bits, sequence, feed number), each as an unsigned number.
public struct TickRowIdentity: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The largest sequence that fits: 2^40 - 1, which at 100,000 updates a second is 127 days of one epoch.
    public static let sequenceMax: UInt64 = 1 << 40 - 1

    /// Filing time in 100 ns since 1582-10-15, in 0..<2^60.
    public let time: UInt64
    /// Epoch bits, sequence and feed number from the top down: 6, 40 and 16 bits below two of 0.
    @usableFromInline let rest: UInt64

    /// From 1582-10-15 to 1970-01-01 in 100 ns.
    @usableFromInline static let unixEpoch: Int64 = 0x01b2_1dd2_1381_4000

    /// `filingTimeNs` is in nanoseconds since the Unix epoch; what is finer than 100 ns is cut off, toward the past.
    /// Throws when `sequence` is past ``sequenceMax``.
    @inlinable
    public init(filingTimeNs: Int64, epoch: UInt64, sequence: UInt64, feedNumber: UInt16) throws(TickRowIdentityError) {
        guard sequence <= Self.sequenceMax else { throw .sequence(sequence) }
        time = UInt64(floorDivide(filingTimeNs, by: 100) + Self.unixEpoch)
        rest = (epoch & 0x3f) << 56 | sequence << 16 | UInt64(feedNumber)
    }

    /// Reads the 16 bytes of a key; throws when they are not a version 1 UUID of the RFC's variant.
    public init(_ bytes: UnsafeRawBufferPointer) throws(TickRowIdentityError) {
        guard bytes.count == 16 else { throw .length(bytes.count) }
        let high = UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))
        let low = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        guard high >> 12 & 0xf == 1, low >> 62 == 2 else { throw .notVersion1 }
        time = (high & 0xfff) << 48 | (high >> 16 & 0xffff) << 32 | high >> 32
        rest = (low ^ Self.signs) & ~(3 << 62)
    }

    /// Bytes 0...7 and 8...15 of the key as big endian numbers.
    @inlinable
    public var words: (high: UInt64, low: UInt64) {
        let high = time << 32 | (time >> 32 & 0xffff) << 16 | 1 << 12 | time >> 48
        return (high, (rest | 2 << 62) ^ Self.signs)
    }

    @usableFromInline static let signs: UInt64 = 0x0080_8080_8080_8080

    /// Writes the 16 bytes of the key to `bytes`, which holds at least that many.
    @inlinable
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        let words = words
        bytes.storeBytes(of: words.high.bigEndian, as: UInt64.self)
        bytes.storeBytes(of: words.low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }

    /// The filing time in nanoseconds since the Unix epoch, to 100 ns; nil where a foreign key's is outside
    /// 1677...2262.
    @inlinable
    public var filingTimeNs: Int64? {
        let (ns, overflow) = (Int64(time) - Self.unixEpoch).multipliedReportingOverflow(by: 100)
        return overflow ? nil : ns
    }

    /// The low 6 bits of the epoch.
    @inlinable public var epochBits: UInt8 { UInt8(truncatingIfNeeded: rest >> 56) }
    @inlinable public var sequence: UInt64 { rest >> 16 & Self.sequenceMax }
    @inlinable public var feedNumber: UInt16 { UInt16(truncatingIfNeeded: rest) }

    /// The order of rows in a store.
    @inlinable
    public static func < (a: TickRowIdentity, b: TickRowIdentity) -> Bool {
        a.time != b.time ? a.time < b.time : a.rest < b.rest
    }

    /// The UUID as text: 8-4-4-4-12 lower-case hexadecimal digits.
    public var description: String {
        let words = words
        var text = ""
        for (word, place) in [(words.high, 0), (words.low, 8)] {
            for byte in 0..<8 {
                if [4, 6, 8, 10].contains(place + byte) { text += "-" }
                let value = UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * byte))
                text += (value < 16 ? "0" : "") + String(value, radix: 16)
            }
        }
        return text
    }
}

/// Why there is no row identity.
public enum TickRowIdentityError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The sequence does not fit 40 bits: the feed must begin a new epoch.
    case sequence(UInt64)
    /// A key is 16 bytes.
    case length(Int)
    case notVersion1

    public var description: String {
        switch self {
        case .sequence(let sequence):
            "sequence \(sequence) is past \(TickRowIdentity.sequenceMax), the last that a row can hold: "
                + "begin a new epoch"
        case .length(let count): "a row's key has 16 bytes, not \(count)"
        case .notVersion1: "the row's key is not a version 1 UUID"
        }
    }
}
