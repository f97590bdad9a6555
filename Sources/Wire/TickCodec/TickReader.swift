import MarketModel

/// Reads the fields of one encoded `financial.marketdata.v1.PriceUpdate` without copying or allocating.
///
/// One pass finds all fields; the values are put together when asked for. The bytes are borrowed: a reader, and what it
/// returns as bytes, is valid while they live and do not change. Not Sendable.
///
/// Fields may stand in any order, unknown ones are skipped, the last of a repeated scalar counts and timestamps
/// merge, as the protobuf specification says. A value that a ``Tick`` cannot hold reads as absent (or 0): ``check()``
/// finds it.
public struct TickReader {
    /// The longest message read, in bytes: 1 GiB, so that places fit 32 bits. The rooms that take bytes in bound them
    /// far below.
    public static let lengthMax = 1 << 30
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
    @inlinable @inline(__always)
    public init(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        // An empty message is a valid one; its pointer is never read.
        base = bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1)!
        count = bytes.count
        try scan()
    }

    /// In place: a throwing initializer that is not inlined would build the value twice.
    @usableFromInline @inline(never)
    mutating func scan() throws(TickCodecError) {
        guard count <= Self.lengthMax else { throw TickCodecError(.outOfRange, field: 0, offset: 0) }
        let place = count < 8 ? 0 : readOrdered()
        if place != count { try readAny(from: place) }
    }

    /// Where some bytes lie in the message.
    @usableFromInline
    struct ByteRange {
        @usableFromInline var offset: UInt32 = 0
        @usableFromInline var count: UInt32 = 0
        @inlinable @inline(__always) init() {}
        init(_ offset: Int, _ count: Int) {
            self.offset = UInt32(truncatingIfNeeded: offset)
            self.count = UInt32(truncatingIfNeeded: count)
        }
    }

    @usableFromInline
    struct TimeFields {
        @usableFromInline var seconds: Int64 = 0
        @usableFromInline var nanos: Int32 = 0
        @inlinable @inline(__always) init() {}
    }
}
