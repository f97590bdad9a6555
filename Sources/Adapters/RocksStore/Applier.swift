import DayFigures
import EventLog
import MarketModel
import TickStore

/// Turns rows into one write batch: a fresh block per instrument and hour, last ticks, day figures and the offset.
///
/// Owned by whoever holds the store's apply lock. Arrays are kept from batch to batch, so that a row costs no allocation.
final class Applier {
    /// An instrument and hour that got a fresh block.
    struct FreshBlock {
        let id: HourID
        let rows: Int
        let newestNs: Int64
    }

    private struct TrackSlot {
        var instrument: UInt32 = 0
        var feed: UInt16 = 0
        var epoch: UInt64 = 0
        var isResolved = false
    }

    private struct Group {
        let instrument: UInt32
        var first: Int32
        var last: Int32
        var record: InstrumentRecord?
    }

    private let database: RocksDatabase
    private let calendar: SessionCalendar
    private(set) var catalog: Catalog
    private let batch: WriteBatch
    private let builder = RowBlockBuilder()
    private var slots: [TrackSlot] = []
    private var slotBase: [Int] = []
    private var nextRow: [Int32] = []
    private var groups: [Group] = []
    private var groupOfInstrument: [Int32] = []
    private var order: [(key: RowKey, row: Int32)] = []
    /// When the newest row of each hour was appended, rounded up, as the database has it.
    private var ages: [HourID: Int64] = [:]
    private(set) var freshBlocks: [FreshBlock] = []
    /// Instruments whose record changed by the last apply.
    private(set) var changed: [UInt32] = []

    /// Granularity of ages: an hour is written at most this often.
    static let ageStepNs: Int64 = 600_000_000_000

    init(_ database: RocksDatabase, calendar: SessionCalendar) throws(StoreError) {
        self.database = database
        self.calendar = calendar
        catalog = try Catalog(database)
        batch = WriteBatch(database)
    }

    /// Writes rows at or past offset `from`. On an error nothing of it is written or remembered.
    func apply(_ rows: TickRows, from: UInt64, through next: UInt64, of place: TopicPartition) throws(StoreError) {
        batch.clear()
        freshBlocks.removeAll(keepingCapacity: true)
        changed.removeAll(keepingCapacity: true)
        var newAges: [(HourID, Int64)] = []
        do {
            try group(rows, from: from)
            let origin = BlockKey.Origin(topic: place.topic.number, partition: place.partition, next: next, part: 0)
            for index in groups.indices { encode(index, rows, origin, place, &newAges) }
            catalog.putNames(batch)
            var value: [UInt8] = []
            value.appendLittleEndian(next)
            batch.put(.meta, MetaKey.offset(place), value)
            try database.write(batch)
        } catch {
            catalog.rollBack()
            resetGroups()
            throw error
        }
        catalog.didWrite()
        for (hour, age) in newAges { ages[hour] = age }
        for group in groups {
            guard let record = group.record else { continue }
            catalog.set(record, of: group.instrument)
            changed.append(group.instrument)
        }
        resetGroups()
    }

    /// Forgets what is known of an hour that retention dropped.
    func forgetAge(_ id: HourID) { ages[id] = nil }

    private func resetGroups() {
        for group in groups where Int(group.instrument) < groupOfInstrument.count {
            groupOfInstrument[Int(group.instrument)] = -1
        }
        groups.removeAll(keepingCapacity: true)
    }

    private func resolve(_ rows: TickRows, block: Int, track: Int) throws(StoreError) -> TrackSlot {
        let source = rows.blocks[block]
        guard let instrument = catalog.instrument(source, track: track) else {
            throw StoreError(
                .io,
                "\(source.topicPartition) at offset \(source.firstOffset): '\(source.exchange(track: track))' and "
                    + "'\(source.symbol(track: track))' do not name an instrument; the writer must refuse such records")
        }
        guard let feed = catalog.feed(source.feedBytes(track: track)) else {
            throw StoreError(.io, "\(database.directory): more than \(Catalog.feedsMax) feeds; use a store of its own")
        }
        return TrackSlot(instrument: instrument, feed: feed, epoch: source.epoch(track: track), isResolved: true)
    }

    /// Links the rows of each instrument, in the order given.
    private func group(_ rows: TickRows, from: UInt64) throws(StoreError) {
        slotBase.removeAll(keepingCapacity: true)
        var slotCount = 0
        for block in rows.blocks {
            slotBase.append(slotCount)
            slotCount += block.trackCount
        }
        slots.removeAll(keepingCapacity: true)
        slots.append(contentsOf: repeatElement(TrackSlot(), count: slotCount))
        nextRow.removeAll(keepingCapacity: true)
        nextRow.append(contentsOf: repeatElement(-1, count: rows.rows.count))
        for index in rows.rows.indices {
            let row = rows.rows[index]
            let block = rows.blocks[Int(row.block)]
            guard block.firstOffset &+ UInt64(row.record) >= from else { continue }
            let track = block.track(of: Int(row.record))
            let slot = slotBase[Int(row.block)] &+ track
            if !slots[slot].isResolved { slots[slot] = try resolve(rows, block: Int(row.block), track: track) }
            let instrument = Int(slots[slot].instrument)
            while groupOfInstrument.count <= instrument { groupOfInstrument.append(-1) }
            let group = Int(groupOfInstrument[instrument])
            if group < 0 {
                groupOfInstrument[instrument] = Int32(groups.count)
                groups.append(Group(instrument: UInt32(instrument), first: Int32(index), last: Int32(index), record: nil))
            } else {
                nextRow[Int(groups[group].last)] = Int32(index)
                groups[group].last = Int32(index)
            }
        }
    }

    @inline(__always)
    private func slot(_ row: TickRows.Row, _ block: Block) -> Int {
        slotBase[Int(row.block)] &+ block.track(of: Int(row.record))
    }

    @inline(__always)
    private func key(_ row: TickRows.Row, _ block: Block) -> RowKey {
        let slot = slots[slot(row, block)]
        return RowKey(
            filingTimeNs: row.filingTimeNs, epoch: slot.epoch, sequence: block.sequence(of: Int(row.record)),
            feed: slot.feed)
    }

    /// Puts the fresh blocks of one instrument, and its record.
    private func encode(
        _ group: Int, _ rows: TickRows, _ origin: BlockKey.Origin, _ place: TopicPartition,
        _ newAges: inout [(HourID, Int64)]
    ) {
        let instrument = groups[group].instrument
        var record = catalog.entries[Int(instrument)].record
        order.removeAll(keepingCapacity: true)
        var isSorted = true
        var newest: Int32 = -1
        var index = groups[group].first
        while index >= 0 {
            let row = rows.rows[Int(index)]
            let block = rows.blocks[Int(row.block)]
            let key = key(row, block)
            if let last = order.last, !(last.key < key) { isSorted = false }
            order.append((key, index))
            if record == nil { record = InstrumentRecord(primaryFeed: UInt16(truncatingIfNeeded: key.low), place: place) }
            if record!.primaryFeed == UInt16(truncatingIfNeeded: key.low) {
                let trade = row.tradePrice.map { DayTrade(price: $0, size: row.tradeSize) }
                if record!.figures.apply(
                    filingTimeNs: row.filingTimeNs, epoch: key.epoch, sequence: key.sequence, trade: trade,
                    calendar: calendar)
                {
                    newest = index
                }
            }
            index = nextRow[Int(index)]
        }
        // Equal keys keep the order they came in: the first stays.
        if !isSorted { order.sort { $0.key < $1.key || ($0.key == $1.key && $0.row < $1.row) } }
        putBlocks(instrument, rows, origin, &newAges)
        if newest >= 0 {
            let row = rows.rows[Int(newest)]
            record!.update = Array(rows.blocks[Int(row.block)].payload(Int(row.record)))
            record!.place = place
        }
        groups[group].record = record
        batch.put(.meta, MetaKey.state(instrument), record!.bytes)
    }

    private func putBlocks(
        _ instrument: UInt32, _ rows: TickRows, _ origin: BlockKey.Origin, _ newAges: inout [(HourID, Int64)]
    ) {
        var origin = origin
        var hour: Int32 = 0
        var hourEnd = Int64.min
        var newestNs = Int64.min
        func finish() {
            guard !builder.isEmpty else { return }
            let key = BlockKey(instrument: instrument, hour: hour, first: builder.first, origin: origin)
            let id = HourID(instrument: instrument, hour: hour)
            freshBlocks.append(FreshBlock(id: id, rows: builder.rowCount, newestNs: newestNs))
            noteAge(id, builder.appendTimeNs, &newAges)
            let value = builder.build(.plain)
            key.bytes.withUnsafeBytes { batch.put(.fresh, $0, value) }
            origin.part &+= 1
        }
        var isFirst = true
        for (key, index) in order {
            let row = rows.rows[Int(index)]
            let block = rows.blocks[Int(row.block)]
            let range = block.frameRange(Int(row.record))
            let frame = UnsafeRawBufferPointer(rebasing: block.records[range])
            if isFirst || row.filingTimeNs > hourEnd || !builder.hasRoom(frame.count) {
                finish()
                isFirst = false
                hour = Hour.of(row.filingTimeNs)
                let (end, overflow) = Int64(hour).multipliedReportingOverflow(by: Hour.lengthNs)
                hourEnd = overflow ? Int64.min : end.addingReportingOverflow(Hour.lengthNs - 1).0
                if hourEnd < row.filingTimeNs { hourEnd = row.filingTimeNs }
                builder.begin(hour: hour)
            }
            builder.note(appendTimeNs: block.appendTimeNs)
            newestNs = row.filingTimeNs
            _ = builder.append(key, filingTimeNs: row.filingTimeNs, frame: frame)
        }
        finish()
        builder.begin(hour: 0)
    }

    private func noteAge(_ id: HourID, _ appendTimeNs: Int64, _ newAges: inout [(HourID, Int64)]) {
        if let known = ages[id], known >= appendTimeNs { return }
        let age = appendTimeNs.addingReportingOverflow(Applier.ageStepNs)
        let rounded = age.overflow ? Int64.max : age.partialValue
        newAges.append((id, rounded))
        var value: [UInt8] = []
        value.appendLittleEndian(rounded)
        batch.put(.meta, MetaKey.age(id), value)
    }
}
