import CQLFrames
import MarketModel
import TickCodec
import TickStore

/// A batch that rows of one partition are added to.
struct OpenBatch {
    let partition: TickPartition
    private let fromNs: Int64
    private let lengthNs: Int64
    let buffer: CQLBuffer
    private var writer: CQLBatchWriter
    private var filingTimesNs: [Int64] = []

    /// Bytes of a row, roughly.
    private static let rowBytes = 500

    /// `rows` is how many are likely to come.
    init(_ partition: TickPartition, _ bucket: TickBucket, _ version: CQLVersion, rows: Int) {
        self.partition = partition
        // The bucket at the beginning of Int64 begins outside of it: its rows have batches of their own.
        fromNs = bucket.startNs ?? .max
        lengthNs = Int64(bucket.width.minutes) * 60_000_000_000
        buffer = CQLBuffer(capacity: 64 + rows * OpenBatch.rowBytes)
        filingTimesNs.reserveCapacity(rows)
        writer = CQLBatchWriter(.unlogged, version, into: buffer)
    }

    /// Whether a filing time lies in the partition's bucket.
    @inline(__always)
    func holds(_ filingTimeNs: Int64) -> Bool { filingTimeNs >= fromNs && filingTimeNs &- fromNs < lengthNs }

    @inline(__always)
    func isFull(rows: Int, bytes: Int) -> Bool { writer.count >= rows || writer.byteCount >= bytes }

    /// One more row. `update` is the whole tick where columns cannot give it back.
    @inline(__always)
    mutating func add(
        _ reader: TickReader, _ place: TickRowEncoder.Place, _ insert: [UInt8], _ update: UnsafeRawBufferPointer?,
        filingTimeNs: Int64
    ) {
        filingTimesNs.append(filingTimeNs)
        writer.statement(insert, values: TickRowEncoder.valueCount)
        partition.key.withUnsafeBytes { buffer.append($0) }
        TickRowEncoder.append(reader, place, update: update, to: buffer)
    }

    func finish(_ consistency: CQLConsistency, _ source: WriteSource) -> PartitionWrite {
        let statements = writer.statements
        writer.finish(consistency)
        return PartitionWrite(
            partition, buffer, rows: writer.count, source, statements: statements, filingTimesNs: filingTimesNs)
    }
}
