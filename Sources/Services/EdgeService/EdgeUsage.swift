import Synchronization

/// What the streams of an edge hold for their readers.
public struct EdgeUsage: Sendable, Hashable {
    /// Streams that are open.
    public var streams = 0
    /// Bytes of memory that hold what readers have not taken: queues, first values, answers, and blocks of the log that
    /// are being copied. What waits at connections is theirs, and bounded by their settings.
    public var heldBytes = 0
    /// The most of that at one stream.
    public var heldBytesMax = 0
    /// Bytes of updates that wait, without the room that is kept for more; the most at one stream.
    public var queuedBytesMax = 0
    /// Instruments of which a later update has replaced earlier ones, over all subscriptions.
    public var conflatedInstruments = 0
    /// How far the furthest subscriber of everything is behind, in bytes of the log.
    public var lagBytesMax: UInt64 = 0

    public init() {}

    mutating func add(_ stream: StreamUsage) {
        streams += 1
        heldBytes += stream.heldBytes
        heldBytesMax = max(heldBytesMax, stream.heldBytes)
        queuedBytesMax = max(queuedBytesMax, stream.queuedBytes)
        conflatedInstruments += stream.conflatedInstruments
        lagBytesMax = max(lagBytesMax, stream.lagBytes)
    }

    mutating func add(_ other: EdgeUsage) {
        streams += other.streams
        heldBytes += other.heldBytes
        heldBytesMax = max(heldBytesMax, other.heldBytesMax)
        queuedBytesMax = max(queuedBytesMax, other.queuedBytesMax)
        conflatedInstruments += other.conflatedInstruments
        lagBytesMax = max(lagBytesMax, other.lagBytesMax)
    }
}

/// The usage of one loop as of a moment ago, for those who watch. The loop writes it, anybody reads it.
final class UsageGauge: Sendable {
    private let usage = Mutex(EdgeUsage())

    var value: EdgeUsage {
        get { usage.withLock { $0 } }
        set { usage.withLock { $0 = newValue } }
    }
}

/// What one stream holds for its reader.
struct StreamUsage {
    var heldBytes = 0
    var queuedBytes = 0
    var conflatedInstruments = 0
    var lagBytes: UInt64 = 0
}
