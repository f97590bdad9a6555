// The tick store of the cluster, on Cassandra: rows under the published keys, written in unlogged batches of one
// partition each, with many in flight; last ticks and day figures at most a second behind, and the offset that they go
// through after them. WriterService feeds it, EdgeService and Repair ask it.

import CQLFrames
import CassandraCQL
import TLS

/// Which cluster, and how it is used.
public struct CassandraStoreConfiguration: Sendable {
    public var contactPoints: [CQLAddress]
    public var keyspace = CassandraSchema.keyspace
    /// The data centre whose nodes are used; nil: that of the first node that answers.
    public var localDataCenter: String?
    public var credentials: CQLCredentials?
    /// nil: without TLS.
    public var tls: TLSClientContext?
    /// In place of sockets with `tls`, where connections go another way.
    var transport: (any CQLTransport)?
    public var version = CQLVersion.v5
    public var compression = CQLCompression.none
    public var connectionsPerNode = 1
    /// Published: ticks are written at LOCAL_ONE and read at LOCAL_QUORUM.
    public var writeConsistency = CQLConsistency.localOne
    public var readConsistency = CQLConsistency.localQuorum
    /// Names the log whose offsets are kept: those of another one are others.
    public var log = "log"
    /// How long rows are kept, counted from when their records were appended, in seconds.
    public var timeToLiveSeconds: Int64 = 7_776_000
    public var limits = CassandraStoreLimits()

    public init(contactPoints: [CQLAddress]) { self.contactPoints = contactPoints }
}

/// Limits of the store.
public struct CassandraStoreLimits: Sendable {
    /// Rows and bytes of a batch, which lies in one partition.
    public var batchRowsMax = 500
    public var batchBytesMax = 96 << 10
    /// Where every node keeps every row, small batches go together in one request: of so many partitions at most, and
    /// bytes. By default what Cassandra takes without a warning (`unlogged_batch_across_partitions_warn_threshold`,
    /// `batch_size_warn_threshold`); 1 partition: each batch goes alone.
    public var mixedPartitionsMax = 10
    public var mixedBytesMax = 5000
    /// What Cassandra counts of a value beyond what it takes in a request: timestamp, time to live and time of
    /// deletion, 20 bytes, less the 4 of its length.
    static let cellBytes = 16
    /// So many requests on their way are enough to wait for while what waits would be a small one.
    public var mixedInFlight = 4
    /// Batches of one partition that are written at the same time.
    public var partitionBatchesMax = 2
    /// Bytes of batches that were not acknowledged; the writer waits for room.
    public var openBytesMax = 12 << 20
    /// Of these, bytes of one partition of the log while rows of it cannot be written.
    public var failingBytesMax = 2 << 20
    /// An answer that takes longer means that the node has too much to do: fewer batches go out at once.
    public var latencyTargetMilliseconds = 500
    /// How long it waits before it is told that the store is away.
    public var stallMilliseconds = 2000
    /// A request with all the driver's own retries.
    public var requestMilliseconds = 10_000
    /// Pause before a failed batch is written again: doubles from the first to the second.
    public var retryMilliseconds = 100
    public var retryMillisecondsMax = 5000
    /// Last ticks, day figures and offsets are written at least this often while there are new ones.
    public var flushIntervalNs: Int64 = 1_000_000_000
    /// How long closing waits for what is open.
    public var closeMilliseconds = 20_000
    public var openMilliseconds = 15_000

    public init() {}
}
