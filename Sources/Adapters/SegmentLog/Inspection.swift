import Disk
import EventLog

/// One file of the log, for people.
public struct SegmentDescription: Sendable, Hashable {
    /// What the file holds of one partition.
    public struct Place: Sendable, Hashable {
        public let place: TopicPartition
        public let offsets: Range<UInt64>
        /// Of the blocks, as stored.
        public let byteCount: UInt64
    }

    public let file: String
    public let stream: DurabilityClass
    public let byteCount: UInt64
    /// Append times of the first and the last record, nanoseconds since the epoch; nil when there is none.
    public let appendTimesNs: ClosedRange<Int64>?
    /// In the order of topic and partition.
    public let places: [Place]
    /// File, byte and reason of each damage known.
    public let damage: [String]
}

extension SegmentLog {
    /// What the log's files hold, oldest first, ticks before orders. With `verifying` every byte is read and every
    /// checksum compared, else append headers at most. `onProgress` gets bytes done and to do. *Blocking.*
    public func describeSegments(
        verifying: Bool = false, onProgress: (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void = { _, _ in }
    ) throws(LogError) -> [SegmentDescription] {
        var descriptions: [SegmentDescription] = []
        let all = [ticks, orders].flatMap { stream in
            stream.state.locked { stream.segments.map { (stream: stream, segment: $0, length: $0.length) } }
        }
        let total = all.reduce(0) { $0 + $1.length }
        var done: UInt64 = 0
        for (stream, segment, length) in all {
            do throws(DiskError) {
                if verifying {
                    try stream.verify(segment, length: length) { onProgress(done + $0, total) }
                }
                if stream.state.locked({ segment.index == nil }) { try stream.loadIndex(segment) }
            } catch {
                // Retention removed it meanwhile.
                if error.kind == .notFound { continue }
                throw LogError.from(error)
            }
            done += length
            descriptions.append(stream.describe(segment, length: length))
        }
        return descriptions
    }
}

extension AppendStream {
    func describe(_ segment: Segment, length: UInt64) -> SegmentDescription {
        state.locked {
            let index = segment.index ?? SegmentIndex()
            let places = index.places.map { entry in
                SegmentDescription.Place(
                    place: entry.place, offsets: min(entry.points[0].offset, entry.endOffset)..<entry.endOffset,
                    byteCount: entry.byteCount)
            }
            let isEmpty = places.isEmpty || index.lastTimeNs < index.firstTimeNs
            return SegmentDescription(
                file: segment.name, stream: durability, byteCount: length,
                appendTimesNs: isEmpty ? nil : index.firstTimeNs...index.lastTimeNs,
                places: places.sorted {
                    ($0.place.topic.number, $0.place.partition) < ($1.place.topic.number, $1.place.partition)
                }, damage: segment.damaged)
        }
    }

    /// Reads all of a segment and notes what is damaged.
    func verify(_ segment: Segment, length: UInt64, progress: (UInt64) -> Void) throws(DiskError) {
        let file = try segment.file(on: disk)
        var scanner = AppendScanner(file, end: length, readLength: 4 << 20)
        var position = segment.headerLength
        var number = segment.firstAppendNumber
        while true {
            progress(position)
            switch try scanner.step(at: position, withBlocks: true) {
            case .append(let header):
                if header.number != number { note(segment, "byte \(position): append \(header.number), not \(number)") }
                number = header.number + 1
                position += UInt64(header.totalLength)
            case .bad(let reason):
                note(segment, "byte \(position): \(reason)")
                guard let found = try scanner.next(after: position + 8, numberMin: 0) else { return }
                position = found.position
            case .end:
                let next = state.locked { segments.first { $0.ordinal > segment.ordinal }?.firstAppendNumber }
                if let next, next != number { note(segment, "byte \(position): appends before \(next) are missing") }
                return
            }
        }
    }
}
