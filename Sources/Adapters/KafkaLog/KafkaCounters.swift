import EventLog
import TimeSource

/// What a log did since it was opened.
public struct KafkaCounters: Sendable, Hashable {
    /// Of one topic's records that this process sent.
    public struct Produced: Sendable, Hashable {
        public var acknowledged: UInt64 = 0
        /// Given up after the deadline, or refused by the broker.
        public var failed: UInt64 = 0
        /// Waiting for their acknowledgement now, and the most that there were.
        public var queued = 0
        public var queuedMost = 0
        /// Appends that found no room in time.
        public var full: UInt64 = 0
        /// From append to acknowledgement, by block, and the longest.
        public var latency = LatencyHistogram()
        public var latencyNsMost: Int64 = 0

        public init() {}
    }

    public var produced: [Topic: Produced] = [:]
    /// Records read and put into blocks, and those among them that are none of their topic's messages.
    public var recordsRead: UInt64 = 0
    public var recordsMalformed: UInt64 = 0
    /// From the timestamp of the newest record of a block, by this machine's clock, to the block's being read.
    public var readLatency = LatencyHistogram()
    /// Records that went to the spill because the brokers did not take them, those of them that the brokers have by
    /// now, and those that it had no room for.
    public var spilled: UInt64 = 0
    public var drained: UInt64 = 0
    public var spillLost: UInt64 = 0
    public var isSpilling = false

    public init() {}
}
