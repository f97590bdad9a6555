import EventLog

extension SegmentLog {
    /// How a log is kept. Every limit has a default that suits one machine.
    public struct Configuration: Sendable {
        /// Who does the log's own work: syncing ticks, retention, reading for `load`.
        public enum Work: Sendable {
            /// Threads of the log.
            case threads
            /// Whoever calls ``SegmentLog/pump()``, and `load` answers before it returns: for runs that a seed decides.
            case manual
        }

        /// How long records are kept. What a stream's file holds longest keeps the file; older records of other topics
        /// are answered with `.expired`, as soon as a whole file of them is too old.
        public struct Retention: Sendable, Hashable {
            /// Since the append, nanoseconds; nil keeps them for ever.
            public var timeNs: Int64?
            /// Bytes of the topic's blocks; nil is no limit.
            public var bytes: UInt64?

            public init(timeNs: Int64?, bytes: UInt64? = nil) {
                self.timeNs = timeNs
                self.bytes = bytes
            }
        }

        public var work = Work.threads
        /// Ticks are on disk this long after they were written, nanoseconds, as far as the disk keeps up.
        public var syncIntervalNs: Int64 = 5_000_000
        /// A file is closed and the next one begun when an append would make it longer than this, bytes.
        public var segmentBytes: UInt64 = 64 << 20
        /// Newest blocks kept in memory, bytes for each of the two streams.
        public var tipBytes = 64 << 20
        /// Older blocks kept in memory after they were read and verified, bytes.
        public var cacheBytes = 32 << 20
        /// Threads that read for `load`.
        public var readerThreads = 2
        /// Reads waiting for those threads; one more is answered with a retryable error.
        public var queuedReadsMax = 65_536
        /// The largest append, bytes.
        public var appendBytesMax = 128 << 20
        /// Partitions of a topic, 1...65,535; topics not named here have ``partitionCountDefault``.
        public var partitionCounts: [Topic: Int] = [:]
        public var partitionCountDefault = 1
        /// Topics not named here have that of ``retention(of:)``.
        public var retentions: [Topic: Retention] = [:]
        /// The tick stream's share of the file system, percent; its oldest files go when it has more. 100 is no limit.
        public var diskSharePercent = 10
        /// Space that the tick stream leaves free, bytes; its oldest files go when there is less.
        public var freeBytesMin: UInt64 = 1 << 30
        /// How often retention is looked at, nanoseconds, besides when a segment is begun.
        public var retentionIntervalNs: Int64 = 30_000_000_000

        public init() {}

        /// The published retention: ticks and positions 7 days, books 2, the rest (dead letters too) 30.
        public func retention(of topic: Topic) -> Retention {
            if let own = retentions[topic] { return own }
            let days: Int64
            switch topic {
            case .ticksRaw, .positionsUpdates: days = 7
            case .booksDeltas: days = 2
            default: days = 30
            }
            return Retention(timeNs: days * 86_400_000_000_000)
        }

        func partitionCount(_ topic: Topic) -> Int {
            min(max(partitionCounts[topic] ?? partitionCountDefault, 1), Int(UInt16.max))
        }
    }
}
