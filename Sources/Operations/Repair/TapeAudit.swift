import EventLog
import MarketModel
import TickCodec
import TickStore

/// Holds the ticks of a log against the rows of a store, a bucket of an instrument at a time, and puts rows right.
///
/// The log is read once to learn which buckets there are, from as far before the range as a tick may be filed ahead of
/// its append; then again in slices of as many ticks as memory is granted, each only as far as its buckets reach. Both
/// may be in use: what the store was not given yet is pending. Used by one thread, which it blocks.
public final class TapeAudit {
    /// What is done, and how far: records or rows of all there are.
    public typealias Progress = (_ what: String, _ done: UInt64, _ total: UInt64) -> Void

    /// Rows under wrong keys that one repair takes on.
    public static let wrongRowsMax = 1_000_000
    /// The group of the writers, where the store itself knows no offset.
    static let writerGroup = "cassandra-writer"

    let log: any EventLog
    let store: any RepairableStore
    let selection: RepairSelection
    private let ticksAtOnceMax: Int
    private let wallNs: Int64
    private let progress: Progress
    private(set) var records: AuditRecords
    private var places: [UInt16: Place] = [:]
    private var outline: [BucketID: Outline] = [:]
    private var oldest: [Origin: UInt64] = [:]
    private var damage: [String] = []
    private var damaged: Set<UInt16> = []
    private var corrupt: [Int: Int] = [:]
    /// Of records that came after the log's ends were asked for; and, by partition, what of them is not read yet.
    private var newer: Set<TickOfInstrument> = []
    private var newerFrom: [UInt16: UInt64] = [:]

    private struct TickOfInstrument: Hashable {
        let instrument: Int
        let key: TickRowIdentity
    }

    /// A bucket by the number of its instrument.
    struct BucketID: Hashable {
        let instrument: Int
        let bucket: TickBucket
    }

    private struct Place {
        /// What is read.
        let offsets: Range<UInt64>
        /// Whether older records are gone, not only left out.
        let hasExpired: Bool
        /// When the first record was appended.
        var oldestAppendNs: Int64?
        /// The first offset that the store was not given.
        let applied: UInt64
    }

    private struct Outline {
        var ticks = 0
        /// Where its records lie, by partition: one, but where somebody else's partitioner was at work.
        var spans: [(partition: UInt16, offsets: Range<UInt64>)] = []

        mutating func add(_ partition: UInt16, _ offset: UInt64) {
            ticks += 1
            if let index = spans.firstIndex(where: { $0.partition == partition }) {
                let known = spans[index].offsets
                spans[index].offsets = min(known.lowerBound, offset)..<max(known.upperBound, offset + 1)
            } else {
                spans.append((partition, offset..<(offset + 1)))
            }
        }
    }

    private struct Origin: Hashable {
        let instrument: Int
        let feed: Int
        let epoch: UInt64
    }

    /// `wallNs` is now. `ticksAtOnceMax` bounds memory: some 50 bytes are held per tick. `progress` is told often.
    public init(
        log: any EventLog, store: any RepairableStore, selection: RepairSelection, wallNs: Int64,
        ticksAtOnceMax: Int = 1_000_000, progress: @escaping Progress = { _, _, _ in }
    ) throws {
        self.log = log
        self.store = store
        self.selection = selection
        self.wallNs = wallNs
        self.ticksAtOnceMax = max(1, ticksAtOnceMax)
        self.progress = progress
        records = AuditRecords(selection, feeds: try store.feedNumbers(), widths: try store.bucketWidths())
    }

    // MARK: Comparing

    /// Compares everything selected, as log and store are now.
    public func compare(_ listener: Listener = Listener()) throws -> AuditResult {
        try learn()
        var result = AuditResult()
        result.damage = damage
        try forEachBucket(outline.keys.map { $0 }, "comparing") { bucket, ticks in
            let found = try compare(bucket, ticks, listener.difference)
            let name = records.name(bucket)
            listener.bucket(name, found.counts)
            result.bucketCount += 1
            result.total.add(found.counts)
            result.counts[name.instrument, default: AuditCounts()].add(found.counts)
            if !found.counts.isEqual { result.differing.append(name) }
            if let lead = found.leadMicroseconds {
                result.leadMicroseconds = max(result.leadMicroseconds ?? .min, lead)
            }
            if let times = found.timesNs {
                let known = result.timesNs ?? times
                result.timesNs = min(known.lowerBound, times.lowerBound)...max(known.upperBound, times.upperBound)
            }
        }
        for (number, count) in corrupt {
            result.total.corrupt += count
            result.counts[records.instruments[number], default: AuditCounts()].corrupt += count
        }
        return result
    }

    private func compare(
        _ bucket: BucketID, _ logged: [Logged], _ tell: (AuditDifference) -> Void
    ) throws -> BucketFound {
        // The first record of a key is the one that stands; others with its bytes repeat it.
        let ticks = logged.sorted {
            $0.key != $1.key ? $0.key < $1.key : ($0.partition, $0.offset) < ($1.partition, $1.offset)
        }
        let name = records.name(bucket)
        var found = BucketFound()
        var seen = [Bool](repeating: false, count: ticks.count)
        try store.forEachRow(name) { row in
            guard selection.has(row.key) else { return }
            found.counts.storeRows += 1
            let index = TapeAudit.first(row.key, ticks)
            if let index { seen[index] = true }
            judge(row, bucket, index.map { TapeAudit.equals(ticks, $0) } ?? [], &found) { kind in
                tell(AuditDifference(kind: kind, bucket: name, key: row.key))
            }
        }
        try judgeUnknown(&found, bucket) { kind, key in tell(AuditDifference(kind: kind, bucket: name, key: key)) }
        var index = 0
        while index < ticks.count {
            let tick = ticks[index]
            let equals = TapeAudit.equals(ticks, index)
            found.saw(tick.key.filingTimeNs)
            found.counts.logTicks += 1
            for other in equals.dropFirst() {
                if other.hash == tick.hash { found.counts.logRepeats += 1 } else { found.counts.conflicting += 1 }
            }
            if !seen[index] {
                if equals.contains(where: \.isRequired) {
                    found.counts.missing += 1
                    found.counts.logDigest &+= tick.hash
                    found.rewritten.append(tick)
                    tell(AuditDifference(kind: .missing, bucket: name, key: tick.key))
                } else {
                    found.counts.pending += 1
                }
            }
            index += equals.count
        }
        return found
    }

    /// `ticks`: the records of its key.
    private func judge(
        _ row: AuditedRow, _ bucket: BucketID, _ ticks: ArraySlice<Logged>, _ found: inout BucketFound,
        _ tell: (AuditDifference.Kind) -> Void
    ) {
        let hash = row.update.map { TickHash.of($0) }
        if let tick = ticks.first {
            let same = ticks.first { $0.hash == hash }
            found.counts.logDigest &+= (same ?? tick).hash
            found.counts.storeDigest &+= hash ?? 0
            if same != nil {
                found.counts.matching += 1
            } else {
                found.counts.different += 1
                found.rewritten.append(tick)
                tell(.different)
            }
        } else if row.key.feedNumber == 1 {
            found.counts.direct += 1
            return
        } else if isExpired(row, bucket) {
            found.counts.expired += 1
            return found.saw(row.key.filingTimeNs)
        } else if !records.seenFeeds.contains(row.key.feedNumber) {
            found.counts.foreign += 1
            return
        } else {
            found.unknown.append((row.key, hash, row.writtenMicroseconds))
            return
        }
        found.saw(row.key, writtenMicroseconds: row.writtenMicroseconds)
    }

    /// A row without a record is one under a wrong key, but where its record came after the log's end was asked for: a
    /// platform at work goes on meanwhile. A record is in the log before its row is in the store, so the log's end of
    /// now is behind all that was seen.
    private func judgeUnknown(
        _ found: inout BucketFound, _ bucket: BucketID, _ tell: (AuditDifference.Kind, TickRowIdentity) -> Void
    ) throws {
        guard !found.unknown.isEmpty else { return }
        let instrument = records.instruments[bucket.instrument]
        let own = log.partition(of: .ticksRaw, exchange: instrument.exchange, symbol: instrument.symbol)
        for partition in Set((outline[bucket]?.spans ?? []).map(\.partition) + [own]) { try readNewer(partition) }
        for row in found.unknown {
            guard !newer.contains(TickOfInstrument(instrument: bucket.instrument, key: row.key)) else {
                found.counts.storeRows -= 1
                continue
            }
            found.counts.wrongKey += 1
            found.counts.storeDigest &+= row.hash ?? 0
            found.wrong.append(row.key)
            found.saw(row.key, writtenMicroseconds: row.writtenMicroseconds)
            tell(.wrongKey, row.key)
        }
        found.unknown = []
    }

    private func readNewer(_ partition: UInt16) throws {
        guard let from = newerFrom[partition] ?? places[partition]?.offsets.upperBound else { return }
        let end = max(from, try log.offset(of: .latest, in: TopicPartition(.ticksRaw, partition)))
        var done: UInt64 = 0
        try forEachRecord(partition, from..<end, &done, end - from, "reading what came meanwhile") { block, index, _ in
            guard let source = records.source(block, index), let tick = records.tick(block, index, source) else {
                return
            }
            newer.insert(TickOfInstrument(instrument: source.instrument, key: tick.key))
        }
        newerFrom[partition] = end
    }

    /// Whether the record of a row that the log does not have may have been there once.
    private func isExpired(_ row: AuditedRow, _ bucket: BucketID) -> Bool {
        let instrument = records.instruments[bucket.instrument]
        let partition = log.partition(
            of: .ticksRaw, exchange: instrument.exchange, symbol: instrument.symbol)
        // What damage took has rows too.
        if damaged.contains(partition) { return true }
        guard let place = places[partition], place.hasExpired else { return false }
        guard let update = row.update, let reader = try? TickReader(update) else {
            return row.key.filingTimeNs.map { mayBeOlder($0, place) } ?? true
        }
        // No record is appended more than the lateness bound before its filing time.
        guard mayBeOlder(reader.filingTimeNs, place) else { return false }
        let feed = records.feed(reader.feed)
        let known = oldest[Origin(instrument: bucket.instrument, feed: feed, epoch: reader.epoch)] ?? .max
        return reader.sequence < known
    }

    private func mayBeOlder(_ filingTimeNs: Int64, _ place: Place) -> Bool {
        guard let oldestNs = place.oldestAppendNs else { return true }
        let (latest, overflow) = oldestNs.addingReportingOverflow(TapeReplay.latenessNs)
        return overflow || filingTimeNs < latest
    }

    // MARK: Putting right

    /// What a repair did.
    public struct Repaired: Sendable, Hashable {
        public var written = 0
        public var removed = 0
    }

    /// Puts buckets right that ``compare(_:)`` found to differ: rows that are missing or different are written from the
    /// log, then those of `wrong` that still are under a wrong key are deleted, one by one.
    public func repair(
        _ buckets: [StoredBucket], deleting wrong: [StoredBucket: Set<TickRowIdentity>], _ stamp: RepairStamp
    ) throws -> Repaired {
        try learn()
        var repaired = Repaired()
        var rewritten: [UInt16: [UInt64]] = [:]
        var doomed: [(StoredBucket, [TickRowIdentity])] = []
        let ids = buckets.compactMap { records.id($0) }
        try forEachBucket(ids, "repairing") { bucket, ticks in
            let found = try compare(bucket, ticks) { _ in }
            for tick in found.rewritten { rewritten[tick.partition, default: []].append(tick.offset) }
            let name = records.name(bucket)
            let listed = wrong[name] ?? []
            let keys = found.wrong.filter { listed.contains($0) }
            if !keys.isEmpty { doomed.append((name, keys)) }
        } ended: {
            for (partition, offsets) in rewritten.sorted(by: { $0.key < $1.key }) {
                repaired.written += try rewrite(partition, offsets.sorted(), stamp)
            }
            rewritten = [:]
        }
        for (bucket, keys) in doomed {
            try store.remove(keys, from: bucket, stamp)
            repaired.removed += keys.count
        }
        return repaired
    }

    /// Bytes of rows that are held before they are written.
    private static let heldBytesMax = 4 << 20

    /// Writes the rows of records, given by ascending offset.
    private func rewrite(_ partition: UInt16, _ offsets: [UInt64], _ stamp: RepairStamp) throws -> Int {
        var held: [StoredBucket: [RepairedRow]] = [:]
        var bytes = 0
        var written = 0
        func flush() throws {
            for (bucket, rows) in held.sorted(by: { $0.key < $1.key }) {
                try store.rewrite(rows, in: bucket, stamp)
                written += rows.count
            }
            held = [:]
            bytes = 0
        }
        var next = 0
        let place = TopicPartition(.ticksRaw, partition)
        while next < offsets.count {
            guard case .block(let block, _) = try log.readBlocking(place, at: offsets[next], .durable) else {
                throw RepairError("\(place): the record at offset \(offsets[next]) is gone; compare again")
            }
            while next < offsets.count, offsets[next] < block.endOffset {
                guard offsets[next] >= block.firstOffset,
                    let (bucket, row) = records.row(block, Int(offsets[next] - block.firstOffset))
                else { throw RepairError("\(place): the record at offset \(offsets[next]) is another now") }
                held[bucket, default: []].append(row)
                bytes += row.update.count
                next += 1
            }
            progress("writing", UInt64(next), UInt64(offsets.count))
            if bytes >= TapeAudit.heldBytesMax { try flush() }
        }
        try flush()
        return written
    }

    // MARK: The log

    /// Which buckets there are, in the log and the store.
    private func learn() throws {
        outline = [:]
        oldest = [:]
        places = [:]
        damage = []
        damaged = []
        corrupt = [:]
        newer = []
        newerFrom = [:]
        records.renew(feeds: try store.feedNumbers(), widths: try store.bucketWidths())
        for number in 0..<log.partitionCount(.ticksRaw) {
            guard let partition = UInt16(exactly: number) else { break }
            places[partition] = try place(partition)
        }
        let total = places.values.reduce(0) { $0 + UInt64($1.offsets.count) }
        var done: UInt64 = 0
        for partition in places.keys.sorted() {
            guard let place = places[partition] else { continue }
            try forEachRecord(partition, place.offsets, &done, total, "reading the log") { block, index, offset in
                if places[partition]?.oldestAppendNs == nil { places[partition]?.oldestAppendNs = block.appendTimeNs }
                learn(block, index, partition, offset)
            }
        }
        let stored = try store.storedInstruments().filter { selection.has($0) }
        for (index, instrument) in stored.enumerated() {
            progress("asking the store for buckets", UInt64(index), UInt64(stored.count))
            let number = records.number(of: instrument)
            for bucket in try store.storedBuckets(
                instrument, from: selection.fromNs, through: selection.throughNs)
            {
                outline[BucketID(instrument: number, bucket: bucket), default: Outline()].ticks += 0
            }
        }
    }

    private func place(_ partition: UInt16) throws -> Place {
        let place = TopicPartition(.ticksRaw, partition)
        let start = try log.offset(of: .earliest, in: place)
        let offsets = try TapeReplay.offsets(of: selection, log, place)
        let applied =
            try store.nextOffset(place) ?? log.committedOffset(group: TapeAudit.writerGroup, place) ?? 0
        // What was left out of the beginning is too old to have rows of the range.
        return Place(offsets: offsets, hasExpired: offsets.lowerBound == start && start > 0, applied: applied)
    }

    private func learn(_ block: Block, _ index: Int, _ partition: UInt16, _ offset: UInt64) {
        guard let source = records.source(block, index) else { return }
        guard let tick = records.tick(block, index, source) else {
            corrupt[source.instrument, default: 0] += 1
            return
        }
        let origin = Origin(
            instrument: source.instrument, feed: source.feed, epoch: block.epoch(track: block.track(of: index)))
        if tick.sequence < oldest[origin] ?? .max { oldest[origin] = tick.sequence }
        guard selection.has(tick.key) else { return }
        let bucket = id(source, tick)
        outline[bucket, default: Outline()].add(partition, offset)
    }

    private func id(_ source: AuditRecords.Source, _ tick: AuditRecords.TickPlace) -> BucketID {
        BucketID(
            instrument: source.instrument, bucket: records.bucket(tick.filingTimeNs, of: source.instrument))
    }

    /// Goes through buckets in ascending order, with the ticks that the log has of each. `ended` is called after each
    /// slice.
    private func forEachBucket(
        _ buckets: [BucketID], _ what: String, _ body: (BucketID, [Logged]) throws -> Void,
        ended: () throws -> Void = {}
    ) throws {
        let sorted = buckets.sorted { records.name($0) < records.name($1) }
        var slices: [[BucketID]] = []
        var ticks = 0
        for bucket in sorted {
            let count = outline[bucket]?.ticks ?? 0
            if slices.isEmpty || (ticks > 0 && ticks + count > ticksAtOnceMax) {
                slices.append([])
                ticks = 0
            }
            slices[slices.count - 1].append(bucket)
            ticks += count
        }
        let reaches = slices.map { self.spans($0) }
        var total: UInt64 = 0
        for span in reaches.joined() { total += UInt64(span.offsets.count) }
        var done: UInt64 = 0
        for (slice, reach) in zip(slices, reaches) {
            var logged: [BucketID: [Logged]] = [:]
            for bucket in slice { logged[bucket] = [] }
            for (partition, offsets) in reach {
                let place = places[partition]
                try forEachRecord(partition, offsets, &done, total, what) { block, index, offset in
                    guard let source = records.source(block, index), let tick = records.tick(block, index, source),
                        selection.has(tick.key)
                    else { return }
                    let bucket = id(source, tick)
                    let isRequired = offset < place?.applied ?? 0 && !isOver(block.appendTimeNs)
                    logged[bucket]?.append(
                        Logged(
                            key: tick.key, hash: TickHash.of(block.payload(index)), partition: partition,
                            offset: offset, isRequired: isRequired))
                }
            }
            for (index, bucket) in slice.enumerated() {
                progress("\(what): buckets", UInt64(index), UInt64(slice.count))
                try body(bucket, logged.removeValue(forKey: bucket) ?? [])
            }
            try ended()
        }
    }

    private func spans(_ buckets: [BucketID]) -> [(partition: UInt16, offsets: Range<UInt64>)] {
        var spans: [UInt16: Range<UInt64>] = [:]
        for bucket in buckets {
            for span in outline[bucket]?.spans ?? [] {
                let known = spans[span.partition] ?? span.offsets
                spans[span.partition] =
                    min(known.lowerBound, span.offsets.lowerBound)..<max(known.upperBound, span.offsets.upperBound)
            }
        }
        return spans.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// Whether a row's time in the store is over, or nearly.
    private func isOver(_ appendTimeNs: Int64) -> Bool {
        guard let lifetimeNs = store.rowLifetimeNs else { return false }
        let (age, overflow) = wallNs.subtractingReportingOverflow(appendTimeNs)
        return overflow || age > lifetimeNs - 60_000_000_000
    }

    private func forEachRecord(
        _ partition: UInt16, _ offsets: Range<UInt64>, _ done: inout UInt64, _ total: UInt64, _ what: String,
        _ body: (Block, Int, UInt64) -> Void
    ) throws {
        let place = TopicPartition(.ticksRaw, partition)
        var offset = offsets.lowerBound
        while offset < offsets.upperBound {
            progress(what, done + (offset - offsets.lowerBound), total)
            switch try log.readBlocking(place, at: offset, .durable) {
            case .block(let block, let first):
                for index in first..<block.recordCount where block.firstOffset + UInt64(index) < offsets.upperBound {
                    body(block, index, block.firstOffset + UInt64(index))
                }
                offset = max(block.endOffset, offset + 1)
            case .atEnd, .onDisk: offset = offsets.upperBound
            case .expired(let oldest): offset = max(oldest, offset + 1)
            case .damaged(let next, let reason):
                let line = "\(place) offsets \(offset)..<\(next): \(reason)"
                if !damage.contains(line) { damage.append(line) }
                damaged.insert(partition)
                offset = max(next, offset + 1)
            }
        }
        done += UInt64(offsets.count)
    }
}
