/// Bounds of the edge; reaching one is answered with a clear end of the stream, a status or a named error.
public struct EdgeLimits: Sendable {
    /// How far a subscriber of everything may fall behind the tape, in bytes of records.
    public var cursorLagBytesMax: UInt64 = 1 << 30
    /// Bytes that wait for one stream's reader under policy ALL; of a `Subscribe`, for all its subscriptions together.
    public var queueBytesMax = 8 << 20
    /// Bytes that wait for one subscription under LATEST or INTERVAL before it is conflated.
    public var pressureBytes = 64 << 10
    /// Bytes that wait for one subscription under MAX_STALENESS before it is conflated, whatever their age.
    public var stalenessBytesMax = 1 << 20
    /// Symbols in one subscription.
    public var symbolsMax = 10_000
    /// Longest conflation window, in milliseconds.
    public var throttleMillisecondsMax = 60_000
    /// Largest bound on staleness, in milliseconds.
    public var stalenessMillisecondsMax = 60_000
    /// Subscriptions of one `Subscribe` stream, books among them.
    public var subscriptionsMax = 256
    /// Symbols of all subscriptions of one `Subscribe` stream together.
    public var streamSymbolsMax = 50_000
    /// Books of one `Subscribe` stream.
    public var booksMax = 64
    /// Levels a side of a book as a client sees it.
    public var bookDepthMax = 1000
    /// Fills in flight of one `Subscribe` stream.
    public var fillsMax = 4
    /// Ranges in one fill, and sequences in all of them.
    public var fillRangesMax = 64
    public var fillSequencesMax: UInt64 = 100_000
    /// Blocks that a fill looks at to find where its range begins; what lies further back comes from the store.
    public var fillBlocksMax = 10_000
    /// Bytes of answers to requests that wait for a reader before its stream ends.
    public var answerBytesMax = 1 << 20
    /// How often a `Subscribe` stream says that it is well, in milliseconds, and what a client may choose.
    public var heartbeatMilliseconds = 5000
    public var heartbeatMillisecondsRange = 100...60_000

    public init() {}
}
