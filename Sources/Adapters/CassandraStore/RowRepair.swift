import CQLFrames
import CassandraCQL
import EventLog
import MarketModel
import Synchronization
import TickCodec
import TickStore
import TimeSource

/// Statements of `verify` and `repair`, prepared when first needed.
struct RepairStatements {
    let select: CQLPrepared
    let insert: CQLPrepared
    let delete: CQLPrepared
    let list: CQLPrepared

    init(_ session: BlockingSession, _ keyspace: String) throws(StoreError) {
        select = try session.prepare(
            "SELECT \(TickRowDecoder.columns.joined(separator: ", ")), tick_time, "
                + TickRowDecoder.columns.map { "writetime(\($0))" }.joined(separator: ", ")
                + " FROM \(keyspace).tick_data "
                + "WHERE exchange = ? AND symbol = ? AND trade_date = ? AND bucket = ? ORDER BY tick_time ASC")
        insert = try session.prepare(TickRowEncoder.insert(keyspace))
        delete = try session.prepare(
            "DELETE FROM \(keyspace).tick_data USING TIMESTAMP ? WHERE exchange = ? AND symbol = ? AND trade_date = ? "
                + "AND bucket = ? AND tick_time = ?")
        list = try session.prepare(
            "INSERT INTO \(keyspace).tick_partitions (exchange, symbol, trade_date, bucket) VALUES (?, ?, ?, ?)")
    }

    static let keyColumn = TickRowDecoder.columns.count
}

extension CassandraStore {
    fileprivate func repairStatements() throws(StoreError) -> RepairStatements {
        if let known = repairing.withLock({ $0 }) { return known }
        let made = try RepairStatements(session, configuration.keyspace)
        repairing.withLock { $0 = made }
        return made
    }
}

extension CassandraStore: RepairableStore {
    /// Rows or deletions in one batch, and batches on their way at the same time.
    private static let repairBatchMax = 100
    private static let repairBatchesMax = 16

    public func feedNumbers() throws(StoreError) -> [[UInt8]: UInt16] {
        var numbers: [[UInt8]: UInt16] = [Array(directFeed.utf8): 1]
        for (name, number) in try FeedNumbers.all(session, configuration.keyspace) { numbers[name] = number }
        return numbers
    }

    public var rowLifetimeNs: Int64? {
        let (ns, overflow) = configuration.timeToLiveSeconds.multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? nil : ns
    }

    public func storedInstruments() throws(StoreError) -> [Instrument] {
        try session.query(
            "SELECT DISTINCT exchange, symbol FROM \(configuration.keyspace).tick_partitions", [],
            configuration.readConsistency
        ).compactMap { row in
            guard let exchange = row[0].string, let symbol = row[1].string else { return nil }
            return try? Instrument(exchange: exchange, symbol: symbol)
        }
    }

    public func bucketWidths() throws(StoreError) -> [Instrument: BucketWidths] {
        try BucketWidthTable.all(session, configuration.keyspace, configuration.readConsistency)
    }

    public func storedBuckets(
        _ instrument: Instrument, from fromNs: Int64, through throughNs: Int64
    ) throws(StoreError) -> [TickBucket] {
        guard fromNs <= throughNs else { return [] }
        func date(_ ns: Int64) -> (CQLValue, CQLType) {
            (.text(CivilTime.date(day: floorDivide(ns, by: 86_400_000_000_000))), .text)
        }
        // Dates of these years compare as text.
        return try session.query(
            "SELECT trade_date, bucket FROM \(configuration.keyspace).tick_partitions "
                + "WHERE exchange = ? AND symbol = ? AND trade_date >= ? AND trade_date <= ?",
            [
                (.text(instrument.exchange), .text), (.text(instrument.symbol), .text), date(fromNs), date(throughNs),
            ], configuration.readConsistency
        ).compactMap { row -> TickBucket? in
            guard let date = row[0].string, let number = row[1].integer,
                let bucket = TickBucket(tradeDate: date, number: number), bucket.overlaps(fromNs, throughNs)
            else { return nil }
            return bucket
        }.sorted()
    }

    // MARK: Reading

    public func forEachRow(_ bucket: StoredBucket, _ body: (AuditedRow) -> Void) throws(StoreError) {
        let statement = try repairStatements().select
        var state: [UInt8]?
        var builder = RowBytes(bucket.instrument)
        repeat {
            let request = try session.request(
                statement, key(bucket), configuration.readConsistency, pageSize: TickScan.pageSize, from: state)
            switch session.ask([request], keyspace: configuration.keyspace)[0] {
            case .failure(let error): throw session.failure(error, "read \(bucket)")
            case .success(let answer):
                guard case .result(.rows(let rows)) = answer.response,
                    rows.metadata.columnCount == 2 * TickRowDecoder.columns.count + 1
                else { throw StoreError(.damaged, "tick_data has other columns than were asked for") }
                try rows.forEach { (row) throws(StoreError) in
                    guard let bytes = row.bytes(RepairStatements.keyColumn),
                        let key = try? TickRowIdentity(bytes)
                    else {
                        throw StoreError(
                            .damaged, "\(bucket) has a row whose tick_time is no key of a tick; delete it with cqlsh")
                    }
                    var written: Int64?
                    for column in 0..<TickRowDecoder.columns.count {
                        guard let time = row.int64(RepairStatements.keyColumn + 1 + column) else { continue }
                        written = max(written ?? .min, time)
                    }
                    builder.with(row) { update in
                        body(AuditedRow(key: key, update: update, writtenMicroseconds: written))
                    }
                }
                state = rows.metadata.pagingState
            }
        } while state != nil
    }

    private func key(_ place: StoredBucket) -> [CQLValue] {
        [
            .text(place.instrument.exchange), .text(place.instrument.symbol),
            .text(CivilTime.date(day: place.bucket.day)), .int(place.bucket.number),
        ]
    }

    // MARK: Writing

    public func rewrite(_ rows: [RepairedRow], in bucket: StoredBucket, _ stamp: RepairStamp) throws(StoreError) {
        guard !rows.isEmpty else { return }
        let statements = try repairStatements()
        var numbers = try feedNumbers()
        for row in rows where numbers[row.feed] == nil {
            numbers[row.feed] = try FeedNumbers.number(of: row.feed, session, configuration.keyspace)
        }
        let partition = partition(bucket)
        var bytes = RowBytes(bucket.instrument)
        let wallNs = time.wallNs()
        try listPartition(bucket, statements.list)
        try sendBatches(rows.count, partition) { (index, batch, buffer) throws(StoreError) in
            let row = rows[index]
            guard let number = numbers[row.feed],
                let identity = try? TickRowIdentity(
                    filingTimeNs: row.filingTimeNs, epoch: row.epoch, sequence: row.sequence, feedNumber: number)
            else { throw StoreError(.io, "\(bucket): sequence \(row.sequence) is past what a key holds") }
            batch.statement(statements.insert.id, values: TickRowEncoder.valueCount)
            buffer.append(partition.key)
            let isTick = row.update.withUnsafeBytes { update -> Bool in
                guard let reader = try? TickReader(update) else { return false }
                let isMadeAgain = bytes.givesBack(reader, feed: row.feed)
                row.feed.withUnsafeBytes { feed in
                    let place = TickRowEncoder.Place(
                        identity: identity, feed: feed,
                        timestampMicroseconds: stamp.timestamp(filingTimeNs: row.filingTimeNs),
                        timeToLive: timeToLive(row.appendTimeNs, wallNs))
                    // What the tick has not must go too, whatever stood there.
                    TickRowEncoder.append(
                        reader, place, update: isMadeAgain ? nil : update, absent: .null, to: buffer)
                }
                return true
            }
            if !isTick { throw StoreError(.io, "\(bucket): a record to be stored is no tick") }
        }
    }

    public func remove(_ keys: [TickRowIdentity], from bucket: StoredBucket, _ stamp: RepairStamp) throws(StoreError) {
        guard !keys.isEmpty else { return }
        let statement = try repairStatements().delete
        let partition = partition(bucket)
        try sendBatches(keys.count, partition) { (index, batch, buffer) throws(StoreError) in
            batch.statement(statement.id, values: 6)
            buffer.append(value: stamp.timestamp(filingTimeNs: keys[index].filingTimeNs ?? 0))
            buffer.append(partition.key)
            let words = keys[index].words
            buffer.append(valueHigh: words.high, low: words.low)
        }
    }

    private func partition(_ place: StoredBucket) -> TickPartition {
        TickPartition(
            number: 0, exchange: place.instrument.exchange, symbol: place.instrument.symbol, bucket: place.bucket)
    }

    private func listPartition(_ bucket: StoredBucket, _ statement: CQLPrepared) throws(StoreError) {
        let request = try session.request(statement, key(bucket), configuration.readConsistency)
        let outcome = session.ask([request], keyspace: configuration.keyspace)[0]
        if case .failure(let error) = outcome { throw session.failure(error, "list the partition \(bucket)") }
    }

    /// Unlogged batches of one partition, a few at a time. Written as they are read, at a quorum, so that the next look
    /// sees them.
    private func sendBatches(
        _ count: Int, _ partition: TickPartition,
        _ body: (_ index: Int, _ batch: inout CQLBatchWriter, _ buffer: CQLBuffer) throws(StoreError) -> Void
    ) throws(StoreError) {
        var index = 0
        while index < count {
            var frames: [CQLBuffer] = []
            while index < count, frames.count < CassandraStore.repairBatchesMax {
                let buffer = CQLBuffer(capacity: 64 << 10)
                var batch = CQLBatchWriter(.unlogged, session.session.version, into: buffer)
                while index < count, batch.count < CassandraStore.repairBatchMax,
                    batch.byteCount < configuration.limits.batchBytesMax
                {
                    try body(index, &batch, buffer)
                    index += 1
                }
                batch.finish(configuration.readConsistency)
                frames.append(buffer)
            }
            for outcome in session.send(
                frames.map { ($0, partition.token) }, keyspace: configuration.keyspace)
            {
                if case .failure(let error) = outcome {
                    throw session.failure(error, "repair rows of \(partition.name)")
                }
            }
        }
    }

    /// Of what is left of a row's time, at least a second.
    private func timeToLive(_ appendTimeNs: Int64, _ wallNs: Int64) -> Int32 {
        let (age, overflow) = wallNs.subtractingReportingOverflow(appendTimeNs)
        let seconds = overflow ? 0 : max(0, age) / 1_000_000_000
        return Int32(clamping: max(1, configuration.timeToLiveSeconds - seconds))
    }
}

/// The bytes of ticks of an instrument, made of columns or checked against them.
private struct RowBytes {
    private let exchange: String
    private let symbol: String
    private var encoders: [[UInt8]: TickEncoder] = [:]
    private let made = CQLBuffer(capacity: 4096)

    init(_ instrument: Instrument) {
        exchange = instrument.exchange
        symbol = instrument.symbol
    }

    /// The tick that a row holds; nil where it holds none, or its columns say another than its bytes.
    mutating func with(_ row: CQLRow, _ body: (UnsafeRawBufferPointer?) -> Void) {
        guard let (tick, feed) = TickRowDecoder.tick(row) else { return body(nil) }
        guard let bytes = row.bytes(TickRowDecoder.bytesColumn) else { return body(encode(tick, feed: feed)) }
        guard let reader = try? TickReader(bytes) else { return body(nil) }
        // Columns hold what micros cut off of an exact price only as far as they can.
        body(reader.hasExact || tick == reader.tick() ? bytes : nil)
    }

    /// Whether the columns give these very bytes back.
    mutating func givesBack(_ reader: TickReader, feed: [UInt8]) -> Bool {
        let encoder = encoder(feed)
        return encoder.givesBack(reader, scratch: room(for: encoder))
    }

    private mutating func room(for encoder: TickEncoder) -> UnsafeMutableRawBufferPointer {
        made.removeAll(keeping: 1 << 20)
        return UnsafeMutableRawBufferPointer(
            start: made.append(uninitialized: encoder.lengthMax), count: encoder.lengthMax)
    }

    private mutating func encode(_ tick: Tick, feed: [UInt8]) -> UnsafeRawBufferPointer {
        let encoder = encoder(feed)
        let length = encoder.encode(tick, into: room(for: encoder))
        made.truncate(to: length)
        return made.bytes
    }

    private mutating func encoder(_ feed: [UInt8]) -> TickEncoder {
        if let known = encoders[feed] { return known }
        // Damaged rows can name any number of feeds.
        if encoders.count >= 1000 { encoders.removeAll() }
        let encoder = TickEncoder(exchange: exchange, symbol: symbol, feed: String(decoding: feed, as: UTF8.self))
        encoders[feed] = encoder
        return encoder
    }
}
