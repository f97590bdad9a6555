import MarketModel

/// Reads the fields of encoded `financial.marketdata.v1.PriceUpdate`s without copying or allocating.
///
/// One pass finds all fields; the values are put together when asked for. The bytes are borrowed: what a reader returns
/// is valid while they live and do not change. Where many messages are read, one reader is used for all of them:
/// ``read(_:)`` costs less than making one. Used by one thread, not Sendable.
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

    @usableFromInline var base: UnsafeRawPointer
    @usableFromInline var count: Int
    /// Bit n: field n stands in the bytes. What is stored of others is of messages before.
    @usableFromInline var present: UInt32 = 0
    /// All fields stand once, in the order of their numbers, and are known ones up to 26.
    @usableFromInline var isOrdered = false
    @usableFromInline var exchangeRange = ByteRange()
    @usableFromInline var symbolRange = ByteRange()
    @usableFromInline var feedRange = ByteRange()
    @usableFromInline var tradeIDRange = ByteRange()
    @usableFromInline var conflatedRange = ByteRange()
    @usableFromInline var exactRange = ByteRange()
    @usableFromInline var resumeTokenRange = ByteRange()
    @usableFromInline var bidValue: Int64 = 0
    @usableFromInline var askValue: Int64 = 0
    @usableFromInline var lastValue: Int64 = 0
    @usableFromInline var volumeValue: Int64 = 0
    @usableFromInline var bidSizeValue: Int64 = 0
    @usableFromInline var askSizeValue: Int64 = 0
    @usableFromInline var event = TimeFields()
    @usableFromInline var received = TimeFields()
    @usableFromInline var publish = TimeFields()
    @usableFromInline var sequenceValue: UInt64 = 0
    @usableFromInline var epochValue: UInt64 = 0
    @usableFromInline var venueSequenceValue: UInt64 = 0
    @usableFromInline var bidRest: Int32 = 0
    @usableFromInline var askRest: Int32 = 0
    @usableFromInline var lastRest: Int32 = 0
    @usableFromInline var bidSizeRest: Int32 = 0
    @usableFromInline var askSizeRest: Int32 = 0
    @usableFromInline var volumeRest: Int32 = 0
    @usableFromInline var kindValue: Int32 = 0
    @usableFromInline var stateValue: Int32 = 0
    @usableFromInline var aggressorSideValue: Int32 = 0
    @usableFromInline var eventTimeSourceValue: Int32 = 0

    /// A reader of the empty message.
    @inlinable @inline(__always)
    public init() {
        base = UnsafeRawPointer(bitPattern: 1)!
        count = 0
    }

    /// A reader of `bytes`; throws ``TickCodecError`` with the place where they are not a `PriceUpdate`.
    @inlinable @inline(__always)
    public init(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        self.init()
        try read(bytes)
    }

    /// Finds the fields of `bytes`, in place of those before. Throws ``TickCodecError`` with the place where they are
    /// not a `PriceUpdate`; nothing stands in the reader then.
    @inlinable @inline(__always)
    public mutating func read(_ bytes: UnsafeRawBufferPointer) throws(TickCodecError) {
        // An empty message is a valid one; its pointer is never read.
        base = bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 1)!
        count = bytes.count
        try scan()
    }

    @usableFromInline @inline(never)
    mutating func scan() throws(TickCodecError) {
        present = 0
        guard count <= Self.lengthMax else { throw TickCodecError(.outOfRange, field: 0, offset: 0) }
        let place = readOrdered()
        isOrdered = place == count
        if isOrdered { return }
        do {
            try readAny(from: place)
        } catch {
            present = 0
            throw error
        }
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

    /// A timestamp: as the bytes say it, or already put together.
    @usableFromInline
    struct TimeFields {
        /// Seconds, or nanoseconds since the Unix epoch where `nanos` is ``joined``.
        @usableFromInline var value: Int64
        @usableFromInline var nanos: Int64
        /// No nanos of a message: those have 32 bits.
        @inlinable static var joined: Int64 { .min }

        @inlinable @inline(__always)
        init() {
            value = 0
            nanos = 0
        }

        @inline(__always)
        init(ns: Int64) {
            value = ns
            nanos = Self.joined
        }

        /// Nanoseconds since the Unix epoch; nil where out of range.
        @inlinable @inline(__always)
        var ns: Int64? {
            nanos == Self.joined
                ? value : TimestampParts.join(seconds: value, nanos: Int32(truncatingIfNeeded: nanos))
        }

        /// As the bytes say it.
        @usableFromInline
        var parts: (seconds: Int64, nanos: Int32) {
            nanos == Self.joined ? TimestampParts.split(value) : (value, Int32(truncatingIfNeeded: nanos))
        }
    }
}
