/// Settings, limits and times of one side. Times are milliseconds; 0 turns one off.
public struct HTTP2Settings: Sendable {
    /// Streams that the peer may have open at a time; more are refused (REFUSED_STREAM).
    public var streamsMax: UInt32 = 1000
    /// Size of a header list, by RFC 9113 section 6.5.2; a larger one is not kept, and the stream's owner is told so.
    public var headerListBytesMax: UInt32 = 64 << 10
    /// Receive windows.
    public var streamWindowBytes: Int32 = 1 << 20
    public var connectionWindowBytes: Int32 = 8 << 20
    /// Bytes that may wait for the transport before streams are asked for more.
    public var outputBytesMax = 256 << 10

    /// Silence of the peer after which it is pinged, and how long it may take to give a sign of life then.
    public var keepaliveMilliseconds = 0
    public var keepaliveTimeoutMilliseconds = 20_000
    /// Whether a connection without streams is pinged too.
    public var keepaliveWithoutStreams = true
    /// Time without streams after which the connection is drained.
    public var idleMilliseconds = 0
    /// Age at which the connection is drained.
    public var ageMilliseconds = 0
    /// How long open streams may go on when idle time or age ended the connection.
    public var graceMilliseconds = 10_000
    /// The peer's pings may come no closer than this, or so often at most: then the connection ends with
    /// ENHANCE_YOUR_CALM and `too_many_pings`.
    public var pingGapMillisecondsMin = 0
    public var pingStrikesMax = 3

    /// Answers (to PING and SETTINGS) that may wait for the transport.
    public var acksWaitingMax = 1000
    /// Streams that the peer may reset at once, and per second after that.
    public var resetsMax: UInt64 = 1000
    public var resetsPerSecond: UInt64 = 100
    /// CONTINUATION frames of a header block.
    public var continuationsMax = 8
    /// Frames that ask for nothing; each stream opened and DATA frame sent allows ten more.
    public var emptyFramesMax = 10_000

    public init() {}
}
