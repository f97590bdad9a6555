import EventLog
import MarketModel
import TickCodec
import TickStore

/// Reads the rows of some instruments that are filed in some ranges of time, a bounded piece at a time, each
/// instrument's in the order of its sequences. On the store's thread.
///
/// Rows lie by filing time, which follows the sequence only loosely: those of the last minute read wait for what may
/// belong before them.
struct StoreWalk: Sendable {
    /// Bytes of rows in one piece, about.
    private static let pieceBytes = 256 << 10
    /// How much later than its successors a row may be filed and still come in its place.
    static let latenessNs: Int64 = 60_000_000_000
    /// Bytes of rows that wait, at most.
    private static let heldBytesMax = 4 << 20

    private struct Row: Sendable {
        let feed: [UInt8]
        let epoch: UInt64
        let sequence: UInt64
        let filingTimeNs: Int64
        let frame: [UInt8]

        func isBefore(_ other: Row) -> Bool {
            if feed != other.feed { return feed.lexicographicallyPrecedes(other.feed) }
            return (epoch, sequence) < (other.epoch, other.sequence)
        }
    }

    /// The next one last.
    private var instruments: [Instrument]
    private let times: [ClosedRange<Int64>]
    private var range = 0
    /// The filing time to go on at.
    private var position = Int64.min
    private var rows: [Row] = []

    init(instruments: [Instrument], times: FilingTimes) {
        self.instruments = instruments.reversed()
        self.times = times.ranges
    }

    var isDone: Bool { instruments.isEmpty || times.isEmpty }

    /// The next piece, as gRPC frames; it may be empty.
    mutating func next(_ store: any TickStore) throws(StoreError) -> [UInt8] {
        var frames: [UInt8] = []
        while frames.count < StoreWalk.pieceBytes, !isDone, let instrument = instruments.last {
            if try read(instrument, store) {
                emit(before: nil, into: &frames)
                instruments.removeLast()
                range = 0
                position = .min
            } else {
                emit(before: position.subtractingReportingOverflow(StoreWalk.latenessNs), into: &frames)
            }
        }
        return frames
    }

    /// Reads on; true at the end of the last range.
    private mutating func read(_ instrument: Instrument, _ store: any TickStore) throws(StoreError) -> Bool {
        var left = StoreWalk.pieceBytes
        while range < times.count {
            let from = max(position, times[range].lowerBound)
            let end = times[range].upperBound.addingReportingOverflow(1)
            var last = Int64.min
            var found: [Row] = []
            var stoppedAt: Int64?
            try store.scan(instrument, from: from, to: end.overflow ? .max : end.partialValue) { batch in
                StoreRequest.forEachFrame(batch) { frame in
                    guard let reader = try? TickReader(UnsafeRawBufferPointer(rebasing: frame[5...])) else {
                        return true
                    }
                    // Between two times only, so that the next piece begins with all of one.
                    if left <= 0, reader.filingTimeNs > last {
                        stoppedAt = reader.filingTimeNs
                        return false
                    }
                    last = reader.filingTimeNs
                    left -= frame.count
                    found.append(
                        Row(
                            feed: Array(reader.feed), epoch: reader.epoch, sequence: reader.sequence,
                            filingTimeNs: last, frame: Array(frame)))
                    return true
                }
            }
            rows += found
            if let stoppedAt {
                position = stoppedAt
                return false
            }
            range += 1
            position = .min
        }
        return true
    }

    /// Moves the rows that nothing can belong before any more; without a time all of them.
    private mutating func emit(before time: (partialValue: Int64, overflow: Bool)?, into frames: inout [UInt8]) {
        rows.sort { $0.isBefore($1) }
        let held = rows.reduce(0) { $0 + $1.frame.count }
        guard let time, !time.overflow, held <= StoreWalk.heldBytesMax else {
            for row in rows { frames += row.frame }
            rows.removeAll(keepingCapacity: true)
            return
        }
        var kept: [Row] = []
        var index = 0
        while index < rows.count {
            let first = rows[index]
            let end = rows[index...].firstIndex { $0.feed != first.feed } ?? rows.count
            // One that is ready takes those before it with it.
            let ready = rows[index..<end].lastIndex { $0.filingTimeNs < time.partialValue }.map { $0 + 1 } ?? index
            for row in rows[index..<ready] { frames += row.frame }
            kept += rows[ready..<end]
            index = end
        }
        rows = kept
    }
}
