import DayFigures
import EventLog
import MarketModel
import TickStore

/// Turns rows into one write batch: a fresh block per instrument and hour, last ticks, day figures and the offset.
///
/// Owned by whoever holds the store's apply lock. Arrays are kept from batch to batch, so that a row costs no
/// allocation.
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
        var baseSequence: UInt64 = 0
        var isResolved = false
    }

    /// A row of the instrument at hand.
    private struct Item {
        let key: RowKey
        let filingTimeNs: Int64
        let frame: UnsafeRawPointer
        let frameLength: Int
        let row: Int32
        let slot: Int32
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
    private var views: [BlockView] = []
    private var nextRow: [Int32] = []
    private var groups: [Group] = []
    private var groupOfInstrument: [Int32] = []
    private var items: [Item] = []
    private let value = Scratch()
    /// When the newest row of each hour was appended, rounded up, as the database has it.
    private var ages: [HourID: Int64] = [:]
    private(set) var freshBlocks: [FreshBlock] = []
    /// Instruments whose record changed by the last apply.
    private(set) var changed: [UInt32] = []
    private(set) var index: FiledIndex

    /// Granularity of ages: an hour is written at most this often.
    static let ageStepNs: Int64 = 600_000_000_000

    init(_ database: RocksDatabase, calendar: SessionCalendar) throws(StoreError) {
        self.database = database
        self.calendar = calendar
        catalog = try Catalog(database)
        index = try FiledIndex(database)
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
            index.add(rows, from: from, place, to: batch)
            try database.write(batch)
            index.didWrite()
        } catch {
            catalog.rollBack()
            index.rollBack()
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

    /// Forgets where records are filed, some rows of which retention is about to drop with these hours.
    func forgetFiled(_ hours: Set<Int32>) throws(StoreError) { try index.forget(hours) }

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
        return TrackSlot(
            instrument: instrument, feed: feed, epoch: source.epoch(track: track),
            baseSequence: source.baseSequence(track: track), isResolved: true)
    }

    /// Links the rows of each instrument, in the order given.
    private func group(_ rows: TickRows, from: UInt64) throws(StoreError) {
        views.removeAll(keepingCapacity: true)
        var slotCount = 0
        for block in rows.blocks {
            views.append(BlockView(block, slotBase: slotCount))
            slotCount += block.trackCount
        }
        slots.removeAll(keepingCapacity: true)
        slots.append(contentsOf: repeatElement(TrackSlot(), count: slotCount))
        nextRow.removeAll(keepingCapacity: true)
        nextRow.append(contentsOf: repeatElement(-1, count: rows.rows.count))
        for index in rows.rows.indices {
            let row = rows.rows[index]
            let view = views[Int(row.block)]
            guard view.firstOffset &+ UInt64(row.record) >= from else { continue }
            let slot = view.entry(row.record).slot
            if !slots[slot].isResolved {
                slots[slot] = try resolve(rows, block: Int(row.block), track: slot - view.slotBase)
            }
            let instrument = Int(slots[slot].instrument)
            while groupOfInstrument.count <= instrument { groupOfInstrument.append(-1) }
            let group = Int(groupOfInstrument[instrument])
            if group < 0 {
                groupOfInstrument[instrument] = Int32(groups.count)
                groups.append(
                    Group(instrument: UInt32(instrument), first: Int32(index), last: Int32(index), record: nil))
            } else {
                nextRow[Int(groups[group].last)] = Int32(index)
                groups[group].last = Int32(index)
            }
        }
    }

    /// Puts the fresh blocks of one instrument, and its record.
    private func encode(
        _ group: Int, _ rows: TickRows, _ origin: BlockKey.Origin, _ place: TopicPartition,
        _ newAges: inout [(HourID, Int64)]
    ) {
        let instrument = groups[group].instrument
        var items = self.items
        self.items = []
        items.removeAll(keepingCapacity: true)
        let isSorted = collect(groups[group].first, rows, &items)
        let known = catalog.entries[Int(instrument)].record
        // What is written past the log never leads an instrument.
        let leader =
            known == nil ? items.lazy.map { self.slots[Int($0.slot)].feed }.first { $0 != Catalog.directFeed } : nil
        let leads = known != nil || leader != nil
        var record = known ?? InstrumentRecord(primaryFeed: leader ?? Catalog.directFeed, place: place)
        let newest = leads ? count(items, rows, &record) : nil
        if let newest {
            record.update = Array(
                UnsafeRawBufferPointer(start: newest.frame, count: newest.frameLength)[Block.framePrefixLength...])
            record.place = place
        }
        let isPlain = isSorted && isOneRun(items)
        // Equal keys keep the order they came in: the first stays.
        if !isSorted { items.sort { $0.key < $1.key || ($0.key == $1.key && $0.row < $1.row) } }
        if isPlain {
            putRun(instrument, items, rows, origin, &newAges)
        } else {
            putBlocks(instrument, items, rows, origin, &newAges)
        }
        if leads {
            batch.put(.meta, MetaKey.state(instrument), record.bytes)
            groups[group].record = record
        }
        self.items = items
    }

    /// Gathers an instrument's rows; true when their keys ascend.
    private func collect(_ first: Int32, _ rows: TickRows, _ items: inout [Item]) -> Bool {
        var isSorted = true
        var index = first
        while index >= 0 {
            let row = rows.rows[Int(index)]
            let view = views[Int(row.block)]
            let entry = view.entry(row.record)
            let slot = slots[entry.slot]
            let key = RowKey(
                filingTimeNs: row.filingTimeNs, epoch: slot.epoch, sequence: slot.baseSequence &+ entry.delta,
                feed: slot.feed)
            if let last = items.last, !(last.key < key) { isSorted = false }
            items.append(
                Item(
                    key: key, filingTimeNs: row.filingTimeNs, frame: view.records + entry.start,
                    frameLength: entry.end - entry.start, row: index, slot: Int32(entry.slot)))
            index = nextRow[Int(index)]
        }
        return isSorted
    }

    /// Brings the day up to date, in the order in which the rows came; returns the newest tick of the primary feed.
    private func count(_ items: [Item], _ rows: TickRows, _ record: inout InstrumentRecord) -> Item? {
        var figures = record.figures
        var newest: Int?
        for index in items.indices where slots[Int(items[index].slot)].feed == record.primaryFeed {
            let row = rows.rows[Int(items[index].row)]
            let isNew = figures.apply(
                filingTimeNs: row.filingTimeNs, epoch: items[index].key.epoch, sequence: items[index].key.sequence,
                trade: row.tradePrice.map { DayTrade(price: $0, size: row.tradeSize) }, calendar: calendar)
            if isNew { newest = index }
        }
        record.figures = figures
        return newest.map { items[$0] }
    }

    /// Whether sorted rows are of one feed, epoch and hour, and fit one block: nearly always.
    private func isOneRun(_ items: [Item]) -> Bool {
        let first = items[0]
        guard items.count <= RowBlock.rowsMax,
            Hour.of(first.filingTimeNs) == Hour.of(items[items.count - 1].filingTimeNs)
        else { return false }
        let feed = slots[Int(first.slot)].feed
        var length = 0
        var least = first.key.sequence
        var greatest = least
        for item in items {
            guard item.key.epoch == first.key.epoch, slots[Int(item.slot)].feed == feed else { return false }
            least = min(least, item.key.sequence)
            greatest = max(greatest, item.key.sequence)
            length &+= item.frameLength
        }
        return greatest &- least <= UInt64(UInt32.max) && length <= RowBlock.framesLengthMax
    }

    /// Puts one block straight from the log's bytes.
    private func putRun(
        _ instrument: UInt32, _ items: [Item], _ rows: TickRows, _ origin: BlockKey.Origin,
        _ newAges: inout [(HourID, Int64)]
    ) {
        let hour = Hour.of(items[0].filingTimeNs)
        let slot = slots[Int(items[0].slot)]
        var framesLength = 0
        var baseSequence = UInt64.max
        for item in items {
            framesLength &+= item.frameLength
            baseSequence = min(baseSequence, item.key.sequence)
        }
        let keysStart = RowBlock.headerLength + RowBlock.trackLength
        let bodyLength = items.count * RowBlock.keyLength + framesLength
        let out = UnsafeMutableRawBufferPointer(
            rebasing: value.reserve(keysStart + bodyLength)[..<(keysStart + bodyLength)])
        let base = out.baseAddress!
        var key = base + keysStart
        var frame = key + items.count * RowBlock.keyLength
        for item in items {
            RowBlock.storeLE(RowBlock.packKey(offset: Hour.offset(item.filingTimeNs, in: hour), track: 0), key, 0)
            RowBlock.storeLE(UInt32(truncatingIfNeeded: item.key.sequence &- baseSequence), key, 8)
            key += RowBlock.keyLength
            frame.copyMemory(from: item.frame, byteCount: item.frameLength)
            frame += item.frameLength
        }
        RowBlock.writeTrack(
            RowBlock.Track(feed: slot.feed, epoch: slot.epoch, baseSequence: baseSequence), base, 0)
        let appendTimeNs = appendTimeNs(items, rows)
        let last = items[items.count - 1]
        RowBlock.writeHeader(
            out, codec: .plain, trackCount: 1, rowCount: items.count, framesLength: framesLength,
            bodyLength: bodyLength,
            first: items[0].key.place, last: last.key.place, appendTimeNs: appendTimeNs)
        let id = HourID(instrument: instrument, hour: hour)
        freshBlocks.append(FreshBlock(id: id, rows: items.count, newestNs: last.filingTimeNs))
        noteAge(id, appendTimeNs, &newAges)
        let blockKey = BlockKey(instrument: instrument, hour: hour, first: items[0].key.place, origin: origin)
        blockKey.bytes.withUnsafeBytes { batch.put(.fresh, $0, UnsafeRawBufferPointer(out)) }
    }

    private func appendTimeNs(_ items: [Item], _ rows: TickRows) -> Int64 {
        var newest = Int64.min
        for item in items { newest = max(newest, views[Int(rows.rows[Int(item.row)].block)].appendTimeNs) }
        return newest
    }

    /// Puts blocks of sorted rows of any feeds, epochs and hours, with repeats.
    private func putBlocks(
        _ instrument: UInt32, _ items: [Item], _ rows: TickRows, _ origin: BlockKey.Origin,
        _ newAges: inout [(HourID, Int64)]
    ) {
        var origin = origin
        var hour = Hour.of(items[0].filingTimeNs)
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
        builder.begin(hour: hour)
        for item in items {
            let itemHour = Hour.of(item.filingTimeNs)
            if itemHour != hour || !builder.hasRoom(item.frameLength) {
                finish()
                hour = itemHour
                builder.begin(hour: hour)
            }
            builder.note(appendTimeNs: views[Int(rows.rows[Int(item.row)].block)].appendTimeNs)
            newestNs = item.filingTimeNs
            _ = builder.append(
                item.key, filingTimeNs: item.filingTimeNs,
                frame: UnsafeRawBufferPointer(start: item.frame, count: item.frameLength))
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
