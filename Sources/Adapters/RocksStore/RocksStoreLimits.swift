/// How much memory, how many files and how much time a store may use.
public struct RocksStoreLimits: Sendable, Hashable {
    /// Of one write buffer of RocksDB; at most four of fresh rows exist at once.
    public var writeBufferBytes = 64 << 20
    public var blockCacheBytes = 64 << 20
    public var openFilesMax = 512
    /// Of write-ahead log that a start may have to read.
    public var logBytesMax = 64 << 20
    /// Applied rows are durable after at most this.
    public var syncIntervalMs = 1000
    /// An hour is closed, and merged for good, when a tick this much later than its end has come.
    public var latenessNs: Int64 = 60_000_000_000
    /// An open hour is merged early when it has this many fresh blocks or rows.
    public var freshBlocksMax = 512
    public var freshRowsMax = 1 << 16
    /// Rows and bytes of frames of a merged block.
    public var mergedRows = 4096
    public var mergedBytes = 256 << 10
    /// Level of zstd for merged blocks.
    public var compressionLevel: Int32 = 3
    /// Rows are dropped, an hour of an instrument at a time, this long after the newest of them was appended to the
    /// log; nil keeps them.
    public var retentionNs: Int64? = 90 * 86_400_000_000_000
    /// Bytes on disk above which the hours that were appended longest ago are dropped; nil for no bound.
    public var diskBytesMax: UInt64?
    /// Whether threads of the store sync and merge; without, only ``RocksStore/sync(_:)`` and
    /// ``RocksStore/merge(all:)`` do.
    public var hasBackgroundWork = true

    public init() {}
}
