import EventLog
import MarketModel
import TickStore

/// Reads a range of the log's ticks again, by filing time, into a store or another log.
///
/// Ticks keep their identity, so a replay converges: rows that are there stay the same rows, and readers of a log drop
/// what they had. Used by one thread, which it blocks.
public final class TapeReplay {
    /// What was read and where it went.
    public struct Count: Sendable, Hashable {
        /// Ticks of the range.
        public var ticks = 0
        /// Rows written, or ticks appended.
        public var replayed = 0
        /// Records of the instruments asked for that are no ticks.
        public var corrupt = 0
        /// Blocks of the log that could not be read.
        public var damage: [String] = []
    }

    private static let heldBytesMax = 4 << 20

    private let log: any EventLog
    private let selection: RepairSelection
    private let progress: TapeAudit.Progress

    public init(
        _ log: any EventLog, _ selection: RepairSelection, progress: @escaping TapeAudit.Progress = { _, _, _ in }
    ) {
        self.log = log
        self.selection = selection
        self.progress = progress
    }

    /// Writes the rows of the range, as a writer would have.
    public func run(into store: any RepairableStore) throws -> Count {
        var records = AuditRecords(selection, feeds: try store.feedNumbers(), widths: try store.bucketWidths())
        var held: [StoredBucket: [RepairedRow]] = [:]
        var bytes = 0
        var replayed = 0
        func flush() throws {
            for (bucket, rows) in held.sorted(by: { $0.key < $1.key }) {
                try store.rewrite(rows, in: bucket, RepairStamp(generation: 0))
                replayed += rows.count
            }
            held = [:]
            bytes = 0
        }
        var count = try forEachTick(&records) { bucket, row in
            held[bucket, default: []].append(row)
            bytes += row.update.count
            if bytes >= TapeReplay.heldBytesMax { try flush() }
        }
        try flush()
        count.replayed = replayed
        return count
    }

    /// Appends the ticks of the range to another log, in the order of each partition of this one.
    public func run(into target: any EventLog) throws -> Count {
        var records = AuditRecords(selection, feeds: [:], widths: [:])
        var builders: [UInt16: Builder] = [:]
        var bytes = 0
        var replayed = 0
        func flush() throws {
            let full = builders.sorted { $0.key < $1.key }.filter { !$0.value.builder.isEmpty }
            let ticks = full.reduce(0) { $0 + $1.value.builder.recordCount }
            if !full.isEmpty { try target.append(full.map { $0.value.builder.build() }, consumed: []) }
            replayed += ticks
            bytes = 0
        }
        var count = try forEachTick(&records) { bucket, row in
            let instrument = bucket.instrument
            let partition = target.partition(
                of: .ticksRaw, exchange: instrument.exchange, symbol: instrument.symbol)
            let builder = builders[partition] ?? Builder(TopicPartition(.ticksRaw, partition))
            builders[partition] = builder
            builder.add(row, of: instrument)
            bytes += row.update.count
            if bytes >= TapeReplay.blockBytesMax { try flush() }
        }
        try flush()
        try target.sync()
        count.replayed = replayed
        return count
    }

    private static let blockBytesMax = 128 << 10

    /// A builder and the keys that it knows.
    private final class Builder {
        let builder: BlockBuilder
        private var keys: [[String]: Int] = [:]

        init(_ place: TopicPartition) { builder = BlockBuilder(place) }

        func add(_ row: RepairedRow, of instrument: Instrument) {
            let feed = String(decoding: row.feed, as: UTF8.self)
            let name = [instrument.exchange, instrument.symbol, feed]
            let key =
                keys[name]
                ?? builder.register(
                    BlockBuilder.Key(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed))
            keys[name] = key
            row.update.withUnsafeBytes {
                builder.append(key: key, epoch: row.epoch, sequence: row.sequence, payload: $0)
            }
        }
    }

    /// Ticks that were read, none of them replayed yet.
    private func forEachTick(
        _ records: inout AuditRecords, _ body: (StoredBucket, RepairedRow) throws -> Void
    ) throws -> Count {
        var count = Count()
        // Where the log ends now; what a replay appends is not read again.
        var ranges: [(place: TopicPartition, offsets: Range<UInt64>)] = []
        for number in 0..<log.partitionCount(.ticksRaw) {
            let place = TopicPartition(.ticksRaw, UInt16(clamping: number))
            ranges.append((place, try TapeReplay.offsets(of: selection, log, place)))
        }
        let total = ranges.reduce(UInt64(0)) { $0 + UInt64($1.offsets.count) }
        var done: UInt64 = 0
        for (place, offsets) in ranges {
            var offset = offsets.lowerBound
            while offset < offsets.upperBound {
                progress("replaying", done + (offset - offsets.lowerBound), total)
                switch try log.readBlocking(place, at: offset, .durable) {
                case .block(let block, let first):
                    for index in first..<block.recordCount where block.firstOffset + UInt64(index) < offsets.upperBound
                    {
                        guard let source = records.source(block, index) else { continue }
                        guard let tick = records.tick(block, index, source) else {
                            count.corrupt += 1
                            continue
                        }
                        guard selection.has(tick.key), let (bucket, row) = records.row(block, index) else { continue }
                        count.ticks += 1
                        try body(bucket, row)
                    }
                    offset = max(block.endOffset, offset + 1)
                case .atEnd, .onDisk: offset = offsets.upperBound
                case .expired(let oldest): offset = max(oldest, offset + 1)
                case .damaged(let next, let reason):
                    count.damage.append("\(place) offsets \(offset)..<\(next): \(reason)")
                    offset = max(next, offset + 1)
                }
            }
            done += UInt64(offsets.count)
        }
        return count
    }

    /// How much later than its append a tick may be filed: a day, and an hour for clocks that are set meanwhile.
    static let latenessNs = FilingTime.eventTimeOffsetNsMax + 3_600_000_000_000

    /// What has to be read to have every tick that is filed in the range: none is appended more than the lateness bound
    /// before its filing time.
    static func offsets(
        of selection: RepairSelection, _ log: any EventLog, _ place: TopicPartition
    ) throws -> Range<UInt64> {
        var first = try log.offset(of: .earliest, in: place)
        let (fromNs, overflow) = selection.fromNs.subtractingReportingOverflow(latenessNs)
        if !overflow, fromNs > 0 { first = max(first, try log.offset(of: .time(fromNs), in: place)) }
        return first..<max(first, try log.offset(of: .latest, in: place))
    }
}
