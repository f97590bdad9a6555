import CQLFrames
import MarketModel
import TickCodec

/// A batch that rows of one partition are added to.
struct OpenBatch {
    let partition: TickPartition
    private let fromNs: Int64
    let buffer: CQLBuffer
    private var writer: CQLBatchWriter
    private var filingTimesNs: [Int64] = []

    /// Bytes of a row, roughly.
    private static let rowBytes = 260

    /// `rows` is how many are likely to come.
    init(_ partition: TickPartition, _ hour: Int64, _ version: CQLVersion, rows: Int) {
        self.partition = partition
        // Hours at the ends of Int64 begin outside of it: their rows have batches of their own.
        let (start, overflow) = hour.multipliedReportingOverflow(by: 3_600_000_000_000)
        fromNs = overflow ? .max : start
        buffer = CQLBuffer(capacity: 64 + rows * OpenBatch.rowBytes)
        filingTimesNs.reserveCapacity(rows)
        writer = CQLBatchWriter(.unlogged, version, into: buffer)
    }

    /// Whether a filing time lies in the partition's hour.
    @inline(__always)
    func holds(_ filingTimeNs: Int64) -> Bool { filingTimeNs >= fromNs && filingTimeNs &- fromNs < 3_600_000_000_000 }

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
