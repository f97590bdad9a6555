import EventLog
import MarketModel
import TickCodec
import TickStore

/// Makes records of the log into ticks with the keys that their rows have to have. Instruments and feeds have numbers
/// here. Used by one thread.
struct AuditRecords {
    /// What is the same of all records of a track.
    struct Source {
        let instrument: Int
        let feed: Int
    }

    struct TickPlace {
        let key: TickRowIdentity
        let filingTimeNs: Int64
        let sequence: UInt64
    }

    private let selection: RepairSelection
    private(set) var instruments: [Instrument] = []
    /// How the days of each instrument are divided into buckets.
    private var widths: [BucketWidths] = []
    private var knownWidths: [Instrument: BucketWidths]
    private var numbers: [Instrument: Int] = [:]
    private var feeds: [[UInt8]] = []
    private var feedIndex: [[UInt8]: Int] = [:]
    /// The number of each feed in keys.
    private var feedNumbers: [UInt16] = []
    private var known: [[UInt8]: UInt16]
    /// Numbers of feeds that the log has records of.
    private(set) var seenFeeds: Set<UInt16> = []
    private var seen: Set<Int> = []
    private var table = KeyTable()
    /// By the table's numbers; nil for what is not selected.
    private var sources: [Source?] = []
    private var reader = TickReader()

    init(_ selection: RepairSelection, feeds: [[UInt8]: UInt16], widths: [Instrument: BucketWidths]) {
        self.selection = selection
        known = feeds
        knownWidths = widths
    }

    /// Numbers of feeds, and widths of buckets, as they are now.
    mutating func renew(feeds numbers: [[UInt8]: UInt16], widths: [Instrument: BucketWidths]) {
        known = numbers
        knownWidths = widths
        for index in instruments.indices { self.widths[index] = widths[instruments[index]] ?? BucketWidths() }
        for index in feeds.indices { feedNumbers[index] = number(feeds[index], index) }
        seenFeeds = Set(seen.map { feedNumbers[$0] })
    }

    /// The bucket that a tick of an instrument is filed in.
    func bucket(_ filingTimeNs: Int64, of instrument: Int) -> TickBucket { widths[instrument].bucket(of: filingTimeNs) }

    func name(_ bucket: TapeAudit.BucketID) -> StoredBucket {
        StoredBucket(instruments[bucket.instrument], bucket.bucket)
    }

    func id(_ bucket: StoredBucket) -> TapeAudit.BucketID? {
        numbers[bucket.instrument].map { TapeAudit.BucketID(instrument: $0, bucket: bucket.bucket) }
    }

    mutating func number(of instrument: Instrument) -> Int {
        if let known = numbers[instrument] { return known }
        numbers[instrument] = instruments.count
        instruments.append(instrument)
        widths.append(knownWidths[instrument] ?? BucketWidths())
        return instruments.count - 1
    }

    mutating func feed(_ name: UnsafeRawBufferPointer) -> Int {
        let name = Array(name)
        if let known = feedIndex[name] { return known }
        let index = feeds.count
        feedIndex[name] = index
        feeds.append(name)
        feedNumbers.append(number(name, index))
        return index
    }

    /// A feed that the store has no number for has no rows: any number that no other has will do.
    private func number(_ name: [UInt8], _ index: Int) -> UInt16 {
        known[name] ?? UInt16.max - UInt16(truncatingIfNeeded: index)
    }

    /// nil where the record's instrument is not selected, or it names none.
    mutating func source(_ block: Block, _ index: Int) -> Source? {
        let track = block.track(of: index)
        if let number = table.find(block, track: track) { return sources[number] }
        let (exchange, symbol) = (Array(block.exchangeBytes(track: track)), Array(block.symbolBytes(track: track)))
        let feed = Array(block.feedBytes(track: track))
        _ = table.add(exchange: exchange, symbol: symbol, feed: feed)
        // By their bytes: what is no UTF-8 would be text of other bytes, and those of an instrument.
        let isNamed = RowNames.isInstrument(block.exchangeBytes(track: track), block.symbolBytes(track: track))
        let instrument =
            isNamed
            ? try? Instrument(
                exchange: String(decoding: exchange, as: UTF8.self), symbol: String(decoding: symbol, as: UTF8.self))
            : nil
        let feedIndex = feed.withUnsafeBytes { self.feed($0) }
        if seen.insert(feedIndex).inserted { seenFeeds.insert(feedNumbers[feedIndex]) }
        guard let instrument, selection.has(instrument) else {
            sources.append(nil)
            return nil
        }
        let source = Source(instrument: number(of: instrument), feed: feedIndex)
        sources.append(source)
        return source
    }

    /// nil for a record that the writer puts aside.
    mutating func tick(_ block: Block, _ index: Int, _ source: Source) -> TickPlace? {
        let sequence = block.sequence(of: index)
        let epoch = block.epoch(track: block.track(of: index))
        guard (try? reader.read(block.payload(index))) != nil, (try? reader.check()) != nil,
            reader.sequence == sequence, reader.epoch == epoch, RowNames.isFeed(reader.feed)
        else { return nil }
        let filingTimeNs = reader.filingTimeNs
        guard
            let key = try? TickRowIdentity(
                filingTimeNs: filingTimeNs, epoch: epoch, sequence: sequence, feedNumber: feedNumbers[source.feed])
        else { return nil }
        return TickPlace(key: key, filingTimeNs: filingTimeNs, sequence: sequence)
    }

    /// The row that a record has to have; nil where it is no tick.
    mutating func row(_ block: Block, _ index: Int) -> (StoredBucket, RepairedRow)? {
        guard let source = source(block, index), let tick = tick(block, index, source) else { return nil }
        let bucket = StoredBucket(
            instruments[source.instrument], self.bucket(tick.filingTimeNs, of: source.instrument))
        return (
            bucket,
            RepairedRow(
                feed: feeds[source.feed], epoch: block.epoch(track: block.track(of: index)), sequence: tick.sequence,
                filingTimeNs: tick.filingTimeNs, appendTimeNs: block.appendTimeNs, update: Array(block.payload(index)))
        )
    }
}
