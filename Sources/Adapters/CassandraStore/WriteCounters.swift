import TimeSource

/// A partition whose rows cannot be written now.
public struct FailingPartition: Hashable, Sendable {
    /// Exchange, symbol, date and bucket.
    public let name: String
    /// What the last attempt came to.
    public var reason: String
    /// When the first attempt failed, nanoseconds since the epoch.
    public let sinceNs: Int64
    public var attempts: Int
}

/// What was written, and how long it took.
public struct CassandraWriteCounters: Sendable, Hashable {
    public static let rowBounds: [Int] = [1, 2, 5, 10, 25, 50, 100, 250, 500]

    /// Attempts that failed; each was made again.
    public var errors: UInt64 = 0
    /// From sending batches to the answer, by request.
    public var latency = LatencyHistogram()
    /// Batches by their rows.
    public var rowCounts = [UInt64](repeating: 0, count: rowBounds.count + 1)
    public var rowsSum: UInt64 = 0
    /// What may be on its way at once now, and the rows of a batch.
    public var inFlightMax = 0
    public var batchRowsMax = 0
    /// Bytes that are not acknowledged: now, and the most.
    public var openBytes = 0
    public var openBytesMost = 0

    mutating func count(latencyNs: Int64, rows: Int) {
        latency.add(latencyNs)
        let size = CassandraWriteCounters.rowBounds.firstIndex { rows <= $0 }
        rowCounts[size ?? rowCounts.count - 1] += 1
        rowsSum &+= UInt64(clamping: rows)
    }
}
