import EventLog
import KafkaFrames

/// What was fetched of a partition, as far as it is not decoded yet. Borrowed.
struct FetchedBatches {
    fileprivate var rest: UnsafeRawBufferPointer
    fileprivate var filter: KafkaTransactionFilter
    fileprivate let damagedOffset: Int64?

    init(_ bytes: UnsafeRawBufferPointer, _ aborted: [KafkaAbortedTransaction], damagedOffset: Int64?) {
        rest = bytes
        filter = KafkaTransactionFilter(aborted)
        self.damagedOffset = damagedOffset
    }

    /// All is decoded: what is left is no whole batch.
    fileprivate(set) var isDone = false
}

/// Turns what was read of a partition into records.
struct FetchDecoder {
    private let place: TopicPartition
    private let scratch = KafkaBuffer()

    init(_ place: TopicPartition) { self.place = place }

    /// Hands on the records of the next batch that readers may see, from offset `first` on; none once all is done.
    /// Checksums were compared by who fetched. Throws `.io` for bytes that are not what was written, and
    /// `.unknownFormat` for a record of a major version that this program does not know.
    func readNext(
        _ batches: inout FetchedBatches, from first: UInt64,
        _ take: (_ record: KafkaRecord, _ timestampNs: Int64) -> Void
    ) throws(LogError) {
        var unknown: LogError?
        do throws(KafkaFormatError) {
            guard let batch = try RecordBatch.next(of: &batches.rest) else { return batches.isDone = true }
            if batch.baseOffset == batches.damagedOffset { try batch.check() }
            guard batches.filter.takes(batch) else { return }
            try KafkaRecord.read(batch, scratch: scratch) { record in
                guard record.offset >= Int64(clamping: first) else { return true }
                if let major = FetchDecoder.unknownMajor(of: record) {
                    unknown = unknownSchema(UInt64(record.offset), major)
                    return false
                }
                let (timestampNs, overflow) = record.timestampMs.multipliedReportingOverflow(by: 1_000_000)
                take(record, overflow ? 0 : max(timestampNs, 0))
                return true
            }
        } catch {
            throw LogError(.io, "\(place) is not readable: \(error)")
        }
        if let unknown { throw unknown }
    }

    /// As ``readNext(_:from:_:)``, of all batches.
    func read(
        _ batches: FetchedBatches, from first: UInt64, _ take: (_ record: KafkaRecord, _ timestampNs: Int64) -> Void
    ) throws(LogError) {
        var batches = batches
        while !batches.isDone { try readNext(&batches, from: first, take) }
    }

    /// A record without the header is of major 1.
    private static func unknownMajor(of record: KafkaRecord) -> String? {
        guard let value = try? record.header("schema") else { return nil }
        let text = String(decoding: value.prefix(32), as: UTF8.self)
        return text == "1" ? nil : text
    }

    private func unknownSchema(_ offset: UInt64, _ major: String) -> LogError {
        LogError(
            .unknownFormat,
            "\(place) stops at offset \(offset): its record is of schema `\(major)`, and this program knows 1; run one "
                + "that knows it")
    }
}
