import CQLFrames
import CassandraCQL
import DayFigures
import EventLog
import MarketModel
import Synchronization
import TickCodec
import TickStore

/// Turns rows into batches of one partition each, and keeps last ticks and day figures for ``Checkpoints``.
///
/// Owned by the holder of the store's apply lock, but for ``record(_:)``, ``putBack(_:)`` and `counters`. Arrays are
/// kept from apply to apply, so that a row costs no allocation.
final class TickApplier: @unchecked Sendable {
    private let session: BlockingSession
    private let window: WriteWindow
    private let configuration: CassandraStoreConfiguration
    private let insert: CQLPrepared
    private let partitionInsert: CQLPrepared
    private let latestSelect: CQLPrepared
    /// Guards the catalog's records for those who only look; the applier itself is one thread.
    private let catalog: Mutex<Catalog>
    private var settled: SettledWidths
    let counters = Mutex(CassandraStore.Counters())

    private var partitionCount = 0
    private var partitions: [PartitionID: TickPartition] = [:]
    /// Rows of a batch, as the window has them now.
    private var batchRowsMax = 0
    // Touched for each row, by one thread, and by no closure that is entered again.
    @exclusivity(unchecked) private var slots: [Int] = []
    @exclusivity(unchecked) private var slotBases: [Int] = []
    @exclusivity(unchecked) private var nextRow: [Int32] = []
    /// Of each row, its slot in `slots`.
    @exclusivity(unchecked) private var rowSlots: [Int32] = []
    @exclusivity(unchecked) private var groups: [Group] = []
    @exclusivity(unchecked) private var groupOfInstrument: [Int32] = []
    @exclusivity(unchecked) private var encoded = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)

    private struct PartitionID: Hashable {
        let instrument: Int
        let bucket: TickBucket
    }

    private struct Group {
        let instrument: Int
        var first: Int32
        var last: Int32
        var count = 1
    }

    /// `nodeNs` is what time it is for the nodes.
    init(
        _ session: BlockingSession, _ window: WriteWindow, _ configuration: CassandraStoreConfiguration, nodeNs: Int64
    ) throws(StoreError) {
        self.session = session
        self.window = window
        self.configuration = configuration
        let keyspace = configuration.keyspace
        insert = try session.prepare(TickRowEncoder.insert(keyspace))
        partitionInsert = try session.prepare(
            "INSERT INTO \(keyspace).tick_partitions (exchange, symbol, trade_date, bucket) VALUES (?, ?, ?, ?)")
        latestSelect = try session.prepare(InstrumentRecord.select(keyspace))
        var catalog = Catalog()
        catalog.addFeed(FeedNumbers.direct, number: FeedNumbers.directNumber)
        for (name, number) in try FeedNumbers.all(session, keyspace) { catalog.addFeed(name, number: number) }
        settled = SettledWidths(
            try BucketWidthTable.all(session, keyspace, configuration.readConsistency), readNs: nodeNs)
        catalog.set(settled.widths)
        self.catalog = Mutex(catalog)
    }

    deinit { encoded.deallocate() }

    /// An instrument's record in this process, and the place it goes with; nil where it has none.
    func record(_ instrument: Instrument) -> (InstrumentRecord, TopicPartition)? {
        catalog.withLock { catalog in
            guard let number = catalog.number(of: instrument), let record = catalog.entries[number].record else {
                return nil
            }
            return (record, record.place)
        }
    }

    func forget(_ place: TopicPartition) { catalog.withLock { $0.forget(place) } }

    // MARK: Rows

    /// Hands rows at or past offset `from` to the window. On an error nothing of it is. Throws `.bucketWidthUnknown`
    /// where rows are of a day whose widths may have been set since they were read, and cannot be read now.
    func apply(_ rows: TickRows, from: UInt64, of place: TopicPartition, wallNs: Int64) throws(StoreError) {
        try resolve(rows)
        defer { resetGroups() }
        let newestNs = try group(rows, from: from)
        if try settled.settle(
            newestNs, nowNs: wallNs,
            { () throws(StoreError) in
                try BucketWidthTable.all(session, configuration.keyspace, configuration.readConsistency)
            })
        {
            catalog.withLock { $0.set(settled.widths) }
        }
        try load()
        let source = window.source(place)
        batchRowsMax = window.batchRowsMax
        var writes: [PartitionWrite] = []
        var count = CassandraStore.Counters()
        catalog.withLock { catalog in
            for group in groups { write(group, rows, place, wallNs, &catalog, source, &writes, &count) }
        }
        window.submit(writes)
        let counted = count
        counters.withLock { counters in
            counters.rows += counted.rows
            counters.batches += UInt64(writes.count)
            counters.wholeRows += counted.wholeRows
            counters.refusedRows += counted.refusedRows
        }
    }

    /// Finds the source of each track that has a row; feeds that are new get their numbers. Other tracks may be of
    /// records that were refused, and name no instrument: they stay without.
    private func resolve(_ rows: TickRows) throws(StoreError) {
        slots.removeAll(keepingCapacity: true)
        slotBases.removeAll(keepingCapacity: true)
        for block in rows.blocks {
            slotBases.append(slots.count)
            slots.append(contentsOf: repeatElement(UnnamedTrack.source, count: block.trackCount))
        }
        rowSlots.removeAll(keepingCapacity: true)
        rowSlots.reserveCapacity(rows.rows.count)
        var index = 0
        while index < rows.rows.count {
            let number = rows.rows[index].block
            let block = rows.blocks[Int(number)]
            let base = slotBases[Int(number)]
            // Rows of a block stand together.
            while index < rows.rows.count, rows.rows[index].block == number {
                let track = block.track(of: Int(rows.rows[index].record))
                if slots[base + track] < 0 { slots[base + track] = try source(block, track) }
                rowSlots.append(Int32(truncatingIfNeeded: base + track))
                index += 1
            }
        }
    }

    private func source(_ block: Block, _ track: Int) throws(StoreError) -> Int {
        if block.exchangeBytes(track: track).isEmpty || block.symbolBytes(track: track).isEmpty {
            return UnnamedTrack.source
        }
        if let known = catalog.withLock({ $0.source(block, track: track) }) { return known }
        let name = Array(block.feedBytes(track: track))
        let feed: Int
        if let known = catalog.withLock({ $0.feed(name) }) {
            feed = known
        } else {
            let number = try FeedNumbers.number(of: name, session, configuration.keyspace)
            feed = catalog.withLock { catalog in
                catalog.addFeed(name, number: number)
                return catalog.feed(name) ?? 0
            }
        }
        return catalog.withLock { $0.addSource(block, track: track, feed: feed) } ?? UnnamedTrack.source
    }

    /// Links the rows of each instrument, in the order given. The newest filing time among them.
    private func group(_ rows: TickRows, from: UInt64) throws(StoreError) -> Int64 {
        var newestNs = Int64.min
        nextRow.removeAll(keepingCapacity: true)
        nextRow.append(contentsOf: repeatElement(-1, count: rows.rows.count))
        let firstOffsets = rows.blocks.map(\.firstOffset)
        try catalog.withLock { catalog throws(StoreError) in
            while groupOfInstrument.count < catalog.entries.count { groupOfInstrument.append(-1) }
            for index in rows.rows.indices {
                let row = rows.rows[index]
                guard firstOffsets[Int(row.block)] &+ UInt64(row.record) >= from else { continue }
                newestNs = max(newestNs, row.filingTimeNs)
                let source = slots[Int(rowSlots[index])]
                guard source != UnnamedTrack.source else {
                    throw UnnamedTrack.refusal(rows.blocks[Int(row.block)], Int(row.record))
                }
                let instrument = catalog.sources[source].instrument
                let group = Int(groupOfInstrument[instrument])
                if group < 0 {
                    groupOfInstrument[instrument] = Int32(groups.count)
                    groups.append(Group(instrument: instrument, first: Int32(index), last: Int32(index)))
                } else {
                    nextRow[Int(groups[group].last)] = Int32(index)
                    groups[group].last = Int32(index)
                    groups[group].count += 1
                }
            }
        }
        return newestNs
    }

    private func resetGroups() {
        for group in groups { groupOfInstrument[group.instrument] = -1 }
        groups.removeAll(keepingCapacity: true)
    }

    /// Asks for the records of instruments that are seen for the first time, all at once.
    private func load() throws(StoreError) {
        let missing = catalog.withLock { catalog in
            groups.map(\.instrument).filter { !catalog.entries[$0].isLoaded }.map {
                ($0, catalog.entries[$0].instrument)
            }
        }
        guard !missing.isEmpty else { return }
        var start = 0
        while start < missing.count {
            let part = missing[start..<min(start + 2000, missing.count)]
            start += part.count
            var requests: [BlockingSession.Request] = []
            for (_, instrument) in part {
                let values: [CQLValue] = [.text(instrument.exchange), .text(instrument.symbol)]
                requests.append(try session.request(latestSelect, values, configuration.readConsistency))
            }
            let outcomes = session.ask(requests, keyspace: configuration.keyspace)
            for ((number, instrument), outcome) in zip(part, outcomes) {
                switch outcome {
                case .failure(let error): throw session.failure(error, "read the last tick of \(instrument)")
                case .success(let answer):
                    guard case .result(.rows(let rows)) = answer.response else { continue }
                    let row = try? rows.values().first
                    catalog.withLock { catalog in
                        catalog.entries[number].record = row.flatMap { InstrumentRecord($0) }
                        catalog.entries[number].isLoaded = true
                    }
                }
            }
        }
    }

    private func partition(
        _ instrument: Int, _ bucket: TickBucket, _ catalog: inout Catalog, _ source: WriteSource,
        _ writes: inout [PartitionWrite]
    ) -> TickPartition {
        if catalog.entries[instrument].bucket == bucket, let known = catalog.entries[instrument].partition {
            return known
        }
        let id = PartitionID(instrument: instrument, bucket: bucket)
        let found: TickPartition
        if let known = partitions[id] {
            found = known
        } else {
            // A few buckets of each instrument; what is forgotten is written down once more.
            if partitions.count > 8 * catalog.entries.count + 1024 { partitions.removeAll() }
            partitionCount += 1
            let instrumentName = catalog.entries[instrument].instrument
            found = TickPartition(
                number: partitionCount, exchange: instrumentName.exchange, symbol: instrumentName.symbol,
                bucket: bucket)
            partitions[id] = found
            let buffer = CQLBuffer(capacity: 256)
            var batch = CQLBatchWriter(.unlogged, session.session.version, into: buffer)
            batch.statement(partitionInsert.id, values: 4)
            buffer.append(found.key)
            batch.finish(configuration.writeConsistency)
            writes.append(PartitionWrite(found, buffer, rows: 1, source))
        }
        catalog.entries[instrument].bucket = bucket
        catalog.entries[instrument].partition = found
        return found
    }

    /// Batches of one instrument's rows, and what they make of its record.
    private func write(
        _ group: Group, _ rows: TickRows, _ place: TopicPartition, _ wallNs: Int64, _ catalog: inout Catalog,
        _ source: WriteSource, _ writes: inout [PartitionWrite], _ count: inout CassandraStore.Counters
    ) {
        let (first, leads) = record(group, rows, place, catalog)
        var record = first
        var open: OpenBatch?
        var newest: Int?
        var reader = TickReader()
        var run = TrackRun()
        var index = Int(group.first)
        var rowsLeft = group.count
        var block = rows.blocks[Int(rows.rows[index].block)]
        while index >= 0 {
            let (row, number) = (rows.rows[index], index)
            let slot = Int(rowSlots[index])
            index = Int(nextRow[index])
            rowsLeft -= 1
            if slot != run.slot {
                block = rows.blocks[Int(row.block)]
                run = trackRun(slot, block, slot - slotBases[Int(row.block)], catalog, record.primaryFeed)
                run.timeToLive = timeToLive(block.appendTimeNs, wallNs)
            }
            let payload = block.payload(Int(row.record))
            let sequence = block.sequence(of: Int(row.record))
            // The writer has read these bytes before; what it refused is not among the rows.
            guard (try? reader.read(payload)) != nil,
                let identity = try? TickRowIdentity(
                    filingTimeNs: row.filingTimeNs, epoch: run.epoch, sequence: sequence, feedNumber: run.feedNumber)
            else {
                count.refusedRows += 1
                continue
            }
            if let batch = open,
                !batch.holds(row.filingTimeNs)
                    || batch.isFull(rows: batchRowsMax, bytes: configuration.limits.batchBytesMax)
            {
                writes.append(batch.finish(configuration.writeConsistency, source))
                open = nil
            }
            if open == nil {
                let bucket = catalog.entries[group.instrument].widths.bucket(of: row.filingTimeNs)
                let partition = partition(group.instrument, bucket, &catalog, source, &writes)
                let expected = min(rowsLeft + 1, batchRowsMax)
                open = OpenBatch(partition, bucket, session.session.version, rows: expected)
            }
            let isWhole = run.encoder.map { isMadeAgain(reader, $0) } ?? false
            run.feed.withUnsafeBytes { name in
                let place = TickRowEncoder.Place(
                    identity: identity, feed: name, timestampMicroseconds: floorDivide(row.filingTimeNs, by: 1000),
                    timeToLive: run.timeToLive)
                open?.add(reader, place, insert.id, isWhole ? nil : payload, filingTimeNs: row.filingTimeNs)
            }
            count.rows += 1
            if !isWhole { count.wholeRows += 1 }
            guard run.isPrimary, leads else { continue }
            let isNew = record.figures.apply(
                filingTimeNs: row.filingTimeNs, epoch: run.epoch, sequence: sequence,
                trade: row.tradePrice.map { DayTrade(price: $0, size: row.tradeSize) })
            if isNew { newest = number }
        }
        if let open { writes.append(open.finish(configuration.writeConsistency, source)) }
        if let newest {
            let row = rows.rows[newest]
            record.update = Array(rows.blocks[Int(row.block)].payload(Int(row.record)))
            record.place = place
            catalog.entries[group.instrument].isDirty = true
        }
        if leads { catalog.entries[group.instrument].record = record }
    }

    /// An instrument's record, and whether its rows may lead it: what is written past the log does not, because another
    /// process may write its feed.
    private func record(
        _ group: Group, _ rows: TickRows, _ place: TopicPartition, _ catalog: Catalog
    ) -> (InstrumentRecord, leads: Bool) {
        if let known = catalog.entries[group.instrument].record { return (known, true) }
        let leader = leader(group, rows, catalog)
        return (InstrumentRecord(primaryFeed: leader ?? FeedNumbers.direct, place: place), leader != nil)
    }

    /// The feed of an instrument's first row that is not written past the log.
    private func leader(_ group: Group, _ rows: TickRows, _ catalog: Catalog) -> [UInt8]? {
        var index = Int(group.first)
        while index >= 0 {
            let feed = catalog.feeds[catalog.sources[slots[Int(rowSlots[index])]].feed]
            if feed.number != FeedNumbers.directNumber { return feed.name }
            index = Int(nextRow[index])
        }
        return nil
    }

    /// What is the same of all rows of a block's track.
    private struct TrackRun {
        var slot = -1
        var epoch: UInt64 = 0
        var feed: [UInt8] = []
        var feedNumber: UInt16 = 0
        var encoder: TickEncoder?
        var isPrimary = false
        var timeToLive: Int32 = 0
    }

    private func trackRun(
        _ slot: Int, _ block: Block, _ track: Int, _ catalog: Catalog, _ primaryFeed: [UInt8]
    ) -> TrackRun {
        let source = catalog.sources[slots[slot]]
        let feed = catalog.feeds[source.feed]
        return TrackRun(
            slot: slot, epoch: block.epoch(track: track), feed: feed.name, feedNumber: feed.number,
            encoder: source.encoder, isPrimary: feed.name == primaryFeed)
    }

    /// Whether the columns give back the very bytes that were read.
    private func isMadeAgain(_ reader: TickReader, _ encoder: TickEncoder) -> Bool {
        if encoded.count < encoder.lengthMax {
            encoded.deallocate()
            encoded = .allocate(byteCount: encoder.lengthMax * 2, alignment: 16)
        }
        return encoder.givesBack(reader, scratch: encoded)
    }

    /// Of what is left of a row's time, at least a second; of a clock that is behind the log's no more than all.
    private func timeToLive(_ appendTimeNs: Int64, _ wallNs: Int64) -> Int32 {
        let (age, overflow) = wallNs.subtractingReportingOverflow(appendTimeNs)
        let seconds = overflow ? 0 : max(0, age) / 1_000_000_000
        return Int32(clamping: max(1, configuration.timeToLiveSeconds - seconds))
    }

    // MARK: Last ticks and figures

    /// The records of these places that changed since they were taken last, as they are now, and through where.
    func takeRecords(_ offsets: [TopicPartition: UInt64]) -> [ChangedRecord] {
        catalog.withLock { catalog in
            var changed: [ChangedRecord] = []
            for index in catalog.entries.indices where catalog.entries[index].isDirty {
                guard var record = catalog.entries[index].record, let next = offsets[record.place] else { continue }
                record.nextOffset = next
                catalog.entries[index].record?.nextOffset = next
                catalog.entries[index].isDirty = false
                let instrument = catalog.entries[index].instrument
                changed.append(ChangedRecord(number: index, instrument: instrument, record: record))
            }
            return changed
        }
    }

    /// These were taken and not written. From any thread.
    func putBack(_ records: [ChangedRecord]) {
        guard !records.isEmpty else { return }
        catalog.withLock { catalog in
            for changed in records where catalog.entries[changed.number].record != nil {
                catalog.entries[changed.number].isDirty = true
            }
        }
    }
}
