// Holds log and store against each other. `tapedeck verify` prints what it finds.

import EventLog
import MarketModel
import TickCodec
import TickStore

/// Compares the ticks of the log, from its oldest record, with the rows of the store.
///
/// Both may be in use: what the log got after the store was asked is read too, and what the store was not given yet is
/// pending, not missing. Blocks the calling thread.
public struct Verifier {
    /// What is compared: one instrument or all, by filing time in nanoseconds, `from..<to`.
    public struct Range: Sendable, Hashable {
        public var instrument: Instrument?
        public var fromNs: Int64
        public var toNs: Int64

        public init(instrument: Instrument? = nil, fromNs: Int64 = .min, toNs: Int64 = .max) {
            self.instrument = instrument
            self.fromNs = fromNs
            self.toNs = toNs
        }
    }

    /// Differences of an instrument that are kept in full.
    public static let samplesMax = 20
    private static let hourNs: Int64 = 3_600_000_000_000

    private let log: any EventLog
    private let store: any TickStore
    private let range: Range
    private let ticksAtOnceMax: Int
    private var result = VerifyResult()
    private var lines: [Instrument: VerifyLine] = [:]

    /// `ticksAtOnceMax` bounds memory: about 100 bytes are held per tick; more are compared in slices of filing time,
    /// each a pass over the log. `progress` is told the offsets read so far and the offsets there are, of all passes of
    /// a partition.
    public static func compare(
        log: any EventLog, store: any TickStore, range: Range = Range(), ticksAtOnceMax: Int = 4_000_000,
        progress: (_ place: TopicPartition, _ done: UInt64, _ total: UInt64) -> Void = { _, _, _ in }
    ) throws -> VerifyResult {
        var verifier = Verifier(log: log, store: store, range: range, ticksAtOnceMax: max(1, ticksAtOnceMax))
        let stored = try store.instruments()
        for number in 0..<log.partitionCount(.ticksRaw) {
            guard let partition = UInt16(exactly: number) else { break }
            try verifier.comparePartition(TopicPartition(.ticksRaw, partition), progress)
        }
        try verifier.compareUnlogged(stored)
        verifier.result.lines = verifier.lines.values.sorted { $0.instrument < $1.instrument }
        return verifier.result
    }

    private init(log: any EventLog, store: any TickStore, range: Range, ticksAtOnceMax: Int) {
        self.log = log
        self.store = store
        self.range = range
        self.ticksAtOnceMax = ticksAtOnceMax
    }

    // MARK: One partition

    /// What one pass over a partition learns without keeping ticks.
    private struct Outline {
        var countByHour: [Int64: Int] = [:]
        var instruments: Set<Instrument> = []
        /// The lowest sequence that the log still has of each feed and epoch of an instrument.
        var oldest: [Instrument: [TickKey.Origin: UInt64]] = [:]
        var hasExpired = false
    }

    private mutating func comparePartition(
        _ place: TopicPartition, _ progress: (TopicPartition, UInt64, UInt64) -> Void
    ) throws {
        let end = log.endOffset(place, .durable)
        let start = log.startOffset(place)
        var passes: UInt64 = 2
        var passesDone: UInt64 = 0
        func tell(_ offset: UInt64) {
            let length = end - min(start, end)
            progress(place, passesDone * length + min(offset - min(start, offset), length), passes * length)
        }
        let outline = try outline(place, tell)
        let slices = slices(outline)
        passes = UInt64(slices.count) + 1
        for slice in slices {
            passesDone += 1
            try compare(place, slice, outline, tell)
        }
    }

    private mutating func outline(_ place: TopicPartition, _ tell: (UInt64) -> Void) throws -> Outline {
        var outline = Outline()
        outline.hasExpired = log.startOffset(place) > 0
        var corrupt: [Instrument: Int] = [:]
        let damage = try forEachRecord(place, tell) { record in
            outline.instruments.insert(record.instrument)
            guard let key = record.key else {
                corrupt[record.instrument, default: 0] += 1
                return
            }
            let known = outline.oldest[record.instrument]?[key.origin] ?? .max
            if key.sequence < known { outline.oldest[record.instrument, default: [:]][key.origin] = key.sequence }
            guard contains(key.filingTimeNs) else { return }
            outline.countByHour[Self.hour(key.filingTimeNs), default: 0] += 1
        }
        result.damage += damage
        for instrument in outline.instruments.sorted() { line(instrument) { $0.corrupt += corrupt[instrument] ?? 0 } }
        return outline
    }

    /// Ranges of filing time that hold few enough ticks each, an hour at least, together the whole range.
    private func slices(_ outline: Outline) -> [(fromNs: Int64, toNs: Int64)] {
        var cuts: [Int64] = []
        var count = 0
        for hour in outline.countByHour.keys.sorted() {
            let ticks = outline.countByHour[hour] ?? 0
            if count > 0, count + ticks > ticksAtOnceMax {
                let (cut, overflow) = hour.multipliedReportingOverflow(by: Self.hourNs)
                cuts.append(overflow ? .min : cut)
                count = 0
            }
            count += ticks
        }
        let bounds = [range.fromNs] + cuts.filter { $0 > range.fromNs && $0 < range.toNs } + [range.toNs]
        return zip(bounds, bounds.dropFirst()).map { ($0, $1) }
    }

    private mutating func compare(
        _ place: TopicPartition, _ slice: (fromNs: Int64, toNs: Int64), _ outline: Outline, _ tell: (UInt64) -> Void
    ) throws {
        // The store first: whatever it has then, the log has already.
        let applied = try store.nextOffset(place) ?? 0
        var rows: [Instrument: [StoredTick]] = [:]
        for instrument in outline.instruments.sorted() { rows[instrument] = try stored(instrument, slice) }
        var ticks: [Instrument: [LoggedTick]] = [:]
        _ = try forEachRecord(place, tell) { record in
            guard let key = record.key, key.filingTimeNs >= slice.fromNs, key.filingTimeNs < slice.toNs else { return }
            ticks[record.instrument, default: []].append(
                LoggedTick(key: key, hash: TickHash.of(record.payload), offset: record.offset))
        }
        for instrument in outline.instruments.sorted() {
            compare(
                instrument, ticks[instrument] ?? [], rows[instrument] ?? [], applied,
                outline.hasExpired ? outline.oldest[instrument] ?? [:] : nil)
        }
    }

    /// Instruments that only the store has.
    private mutating func compareUnlogged(_ stored: [Instrument]) throws {
        for instrument in stored where lines[instrument] == nil && isAsked(instrument) {
            let rows = try self.stored(instrument, (range.fromNs, range.toNs))
            let hasExpired = (0..<log.partitionCount(.ticksRaw)).contains { number in
                log.startOffset(TopicPartition(.ticksRaw, UInt16(truncatingIfNeeded: number))) > 0
            }
            compare(instrument, [], rows, 0, hasExpired ? [:] : nil)
        }
    }

    // MARK: One instrument

    private mutating func compare(
        _ instrument: Instrument, _ logged: [LoggedTick], _ stored: [StoredTick], _ applied: UInt64,
        _ oldest: [TickKey.Origin: UInt64]?
    ) {
        // The first record of an identity is the one that the store keeps.
        let ticks = logged.sorted { $0.key < $1.key || ($0.key == $1.key && $0.offset < $1.offset) }
        let rows = stored.sorted { $0.key < $1.key }
        var line = lines[instrument] ?? VerifyLine(instrument: instrument)
        line.storeRows += rows.count
        line.keyCollisions += collisions(stored)
        func note(_ kind: VerifyDifference.Kind, _ key: TickKey) {
            guard line.samples.count < Self.samplesMax else { return }
            line.samples.append(
                VerifyDifference(
                    kind: kind, filingTimeNs: key.filingTimeNs, feed: key.origin.feed, epoch: key.origin.epoch,
                    sequence: key.sequence))
        }
        func countAlone(_ row: StoredTick) {
            // Written past the log by TickWriterService.
            if row.key.origin.feed == "direct" {
                line.direct += 1
                return
            }
            if let oldest, row.key.sequence < oldest[row.key.origin] ?? .max {
                line.expired += 1
                return
            }
            line.extra += 1
            line.storeDigest.add(row.hash)
            note(.extra, row.key)
        }
        var next = 0
        var last: LoggedTick?
        for tick in ticks {
            if let last, last.key == tick.key {
                if last.hash == tick.hash { line.logRepeats += 1 } else { line.conflicting += 1 }
                continue
            }
            last = tick
            line.logTicks += 1
            while next < rows.count, rows[next].key < tick.key {
                countAlone(rows[next])
                next += 1
            }
            if next < rows.count, rows[next].key == tick.key {
                line.logDigest.add(tick.hash)
                line.storeDigest.add(rows[next].hash)
                if rows[next].hash == tick.hash {
                    line.matching += 1
                } else {
                    line.different += 1
                    note(.different, tick.key)
                }
                next += 1
            } else if tick.offset >= applied {
                line.pending += 1
            } else {
                line.logDigest.add(tick.hash)
                line.missing += 1
                note(.missing, tick.key)
            }
        }
        for row in rows[next...] { countAlone(row) }
        lines[instrument] = line
    }

    private func collisions(_ rows: [StoredTick]) -> Int {
        zip(rows, rows.dropFirst()).lazy.filter { a, b in
            a.key.origin.feed == b.key.origin.feed && a.key.sequence == b.key.sequence
                && a.key.origin.epoch != b.key.origin.epoch && a.key.origin.epoch & 0x3f == b.key.origin.epoch & 0x3f
                && Self.floor(a.key.filingTimeNs, 100) == Self.floor(b.key.filingTimeNs, 100)
        }.count
    }

    private func stored(_ instrument: Instrument, _ slice: (fromNs: Int64, toNs: Int64)) throws -> [StoredTick] {
        var rows: [StoredTick] = []
        var names = FeedNames()
        var unreadable: TickCodecError?
        try store.scan(instrument, from: slice.fromNs, to: slice.toNs) { batch in
            var position = 0
            for _ in 0..<batch.count {
                guard batch.frames.count - position >= Block.framePrefixLength else { return false }
                let length = Int(
                    UInt32(bigEndian: batch.frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
                let start = position + Block.framePrefixLength
                guard length <= batch.frames.count - start else { return false }
                position = start + length
                let payload = UnsafeRawBufferPointer(rebasing: batch.frames[start..<position])
                do throws(TickCodecError) {
                    let reader = try TickReader(payload)
                    let origin = TickKey.Origin(feed: names.name(reader.feed), epoch: reader.epoch)
                    let key = TickKey(filingTimeNs: reader.filingTimeNs, origin: origin, sequence: reader.sequence)
                    rows.append(StoredTick(key: key, hash: TickHash.of(payload)))
                } catch {
                    unreadable = error
                    return false
                }
            }
            return true
        }
        if let unreadable {
            throw StoreError(
                .damaged,
                "a row of \(instrument) is no tick (\(unreadable)); restore the backup, or refill from the log")
        }
        return rows
    }

    // MARK: The log

    private struct Record {
        let instrument: Instrument
        /// nil for a record that is no valid tick.
        let key: TickKey?
        let payload: UnsafeRawBufferPointer
        let offset: UInt64
    }

    /// Calls `body` with every record of the range's instruments that is durable now; returns what was damaged.
    private func forEachRecord(
        _ place: TopicPartition, _ tell: (UInt64) -> Void, _ body: (Record) -> Void
    ) throws -> [String] {
        var damage: [String] = []
        let end = log.endOffset(place, .durable)
        var offset = log.startOffset(place)
        var names = FeedNames()
        while offset < end {
            tell(offset)
            switch try log.readBlocking(place, at: offset, .durable) {
            case .block(let block, let index):
                forEachRecord(block, index, end, &names, body)
                offset = block.endOffset
            case .atEnd, .onDisk: return damage
            case .expired(let oldest): offset = max(oldest, offset + 1)
            case .damaged(let next, let reason):
                damage.append("\(place) offsets \(offset)..<\(next): \(reason)")
                offset = max(next, offset + 1)
            }
        }
        return damage
    }

    private func forEachRecord(
        _ block: Block, _ first: Int, _ end: UInt64, _ names: inout FeedNames, _ body: (Record) -> Void
    ) {
        var instruments: [Int: Instrument] = [:]
        for index in first..<block.recordCount where block.firstOffset + UInt64(index) < end {
            let track = block.track(of: index)
            if instruments[track] == nil {
                guard RowNames.isInstrument(block.exchangeBytes(track: track), block.symbolBytes(track: track)),
                    let named = try? Instrument(
                        exchange: block.exchange(track: track), symbol: block.symbol(track: track))
                else { continue }
                instruments[track] = named
            }
            guard let instrument = instruments[track], isAsked(instrument) else { continue }
            let payload = block.payload(index)
            let offset = block.firstOffset + UInt64(index)
            body(
                Record(instrument: instrument, key: key(block, track, index, &names), payload: payload, offset: offset))
        }
    }

    /// nil for a record that the writer refuses.
    private func key(_ block: Block, _ track: Int, _ index: Int, _ names: inout FeedNames) -> TickKey? {
        guard let reader = try? TickReader(block.payload(index)), (try? reader.check()) != nil,
            block.sequence(of: index) <= TickRowIdentity.sequenceMax, RowNames.isFeed(reader.feed)
        else { return nil }
        let origin = TickKey.Origin(feed: names.name(block.feedBytes(track: track)), epoch: block.epoch(track: track))
        return TickKey(filingTimeNs: reader.filingTimeNs, origin: origin, sequence: block.sequence(of: index))
    }

    // MARK: Small things

    private func contains(_ filingTimeNs: Int64) -> Bool { filingTimeNs >= range.fromNs && filingTimeNs < range.toNs }
    private func isAsked(_ instrument: Instrument) -> Bool { range.instrument.map { $0 == instrument } ?? true }
    private static func hour(_ ns: Int64) -> Int64 { floor(ns, hourNs) }
    private static func floor(_ value: Int64, _ unit: Int64) -> Int64 { value / unit - (value % unit < 0 ? 1 : 0) }

    private mutating func line(_ instrument: Instrument, _ change: (inout VerifyLine) -> Void) {
        change(&lines[instrument, default: VerifyLine(instrument: instrument)])
    }
}

/// What tells one tick of an instrument from another.
struct TickKey: Hashable, Comparable {
    struct Origin: Hashable {
        let feed: String
        let epoch: UInt64
    }

    let filingTimeNs: Int64
    let origin: Origin
    let sequence: UInt64

    static func < (a: TickKey, b: TickKey) -> Bool {
        if a.filingTimeNs != b.filingTimeNs { return a.filingTimeNs < b.filingTimeNs }
        if a.sequence != b.sequence { return a.sequence < b.sequence }
        if a.origin.epoch != b.origin.epoch { return a.origin.epoch < b.origin.epoch }
        return a.origin.feed < b.origin.feed
    }
}

struct LoggedTick {
    let key: TickKey
    let hash: UInt64
    let offset: UInt64
}

struct StoredTick {
    let key: TickKey
    let hash: UInt64
}

/// Names of feeds as strings, made once each.
struct FeedNames {
    private var names: [(bytes: [UInt8], name: String)] = []

    mutating func name(_ bytes: UnsafeRawBufferPointer) -> String {
        for known in names where known.bytes.elementsEqual(bytes) { return known.name }
        let name = String(decoding: bytes, as: UTF8.self)
        names.append((Array(bytes), name))
        return name
    }
}
