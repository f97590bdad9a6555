import BookEngine
import EventLog
import MarketModel
import TickCodec

/// How a feed publishes its books.
public struct BookPublishing: Sendable {
    /// Levels of each side, 1...5,000. What lies deeper is in the venue's book, not in the log.
    public var depth = 1000
    /// A record is a snapshot instead of a delta when so many deltas came since the last one, …
    public var deltasPerSnapshotMax = 1000
    /// … or so much receive time went by, nanoseconds: from there a reader joins. Fewer make the log smaller.
    public var snapshotIntervalNs: Int64 = 10_000_000_000
    /// How long records may wait for others of their block, nanoseconds, so that books cost the ticks' way one larger
    /// append now and then and no append of their own.
    public var batchIntervalNs: Int64 = 1_000_000

    public init() {}
}

/// One feed's books as records of `books.deltas`. Used by the feed's thread alone.
///
/// An epoch begins with a snapshot, or with the word that the book is stale; a delta changes what the record before it
/// left. What is published of a recording depends on nothing but its content.
final class BookPublisher {
    private struct Line {
        let encoder: BookEncoder
        let builder: Int
        let key: Int
        var epoch: UInt64
        var sequence: UInt64 = 0
        /// Records up to here are in the log already.
        let publishedThrough: UInt64
        var deltas = 0
        var snapshotNs: Int64 = 0
    }

    private let feed: String
    private let publishing: BookPublishing
    private let log: any EventLog
    private var lines: [Line] = []
    private(set) var builders: [BlockBuilder]
    /// What the latest message changed; filled by the book's machine.
    var changes: BookChanges
    private(set) var records: UInt64 = 0
    private var pendingSinceNs: Int64?

    init(feed: String, log: any EventLog, _ publishing: BookPublishing) {
        precondition(publishing.depth > 0)
        self.feed = feed
        self.publishing = publishing
        self.log = log
        changes = BookChanges(depth: publishing.depth)
        builders = (0..<log.partitionCount(.booksDeltas)).map {
            BlockBuilder(TopicPartition(.booksDeltas, UInt16($0)))
        }
    }

    var pendingBytes: Int { builders.reduce(0) { $0 + $1.byteCount } }

    /// The epoch of the latest record of an instrument; nil where there is none.
    func lastEpoch(of instrument: Instrument) -> UInt64? { lastPlace(of: instrument)?.epoch }

    private func lastPlace(of instrument: Instrument) -> LastPlace? {
        log.lastPlace(.booksDeltas, feed: feed, exchange: instrument.exchange, symbol: instrument.symbol)
    }

    /// Makes an instrument known under the next number, from 0. Records that the log has of its epoch are not published
    /// again.
    func add(_ instrument: Instrument, epoch: UInt64) {
        let known = lastPlace(of: instrument)
        let builder = Int(log.partition(of: .booksDeltas, exchange: instrument.exchange, symbol: instrument.symbol))
        let key = builders[builder].register(
            BlockBuilder.Key(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed))
        lines.append(
            Line(
                encoder: BookEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed),
                builder: builder, key: key, epoch: epoch,
                publishedThrough: known.map { $0.epoch == epoch ? $0.sequence : 0 } ?? 0))
    }

    /// Publishes what ``changes`` says of the book after a message, if anything.
    func publish(
        _ index: Int, _ book: Book, epoch: UInt64, _ message: VenueMessage, receivedNs: Int64,
        publishNs: () -> Int64
    ) {
        guard changes.isWhole || !changes.isEmpty else { return }
        begin(index, epoch)
        let isDue =
            lines[index].deltas >= publishing.deltasPerSnapshotMax
            || receivedNs &- lines[index].snapshotNs >= publishing.snapshotIntervalNs
        if isDue, !changes.isWhole { changes.takeAll(of: book) }
        if changes.isWhole {
            lines[index].deltas = 0
            lines[index].snapshotNs = receivedNs
        } else {
            lines[index].deltas += 1
        }
        append(index, message, receivedNs, publishNs) { $0.isSnapshot = changes.isWhole }
    }

    /// Publishes that there is no book until the next snapshot.
    func publishStale(
        _ index: Int, epoch: UInt64, _ message: VenueMessage, receivedNs: Int64, publishNs: () -> Int64
    ) {
        begin(index, epoch)
        changes.removeAll()
        append(index, message, receivedNs, publishNs) { $0.state = .stale }
    }

    private func begin(_ index: Int, _ epoch: UInt64) {
        guard lines[index].epoch != epoch else { return }
        lines[index].epoch = epoch
        lines[index].sequence = 0
    }

    private func append(
        _ index: Int, _ message: VenueMessage, _ receivedNs: Int64, _ publishNs: () -> Int64,
        _ fill: (inout BookRecord.Head) -> Void
    ) {
        lines[index].sequence += 1
        let sequence = lines[index].sequence
        guard sequence > lines[index].publishedThrough else { return }
        var head = BookRecord.Head(epoch: lines[index].epoch, sequence: sequence)
        head.venueSequence = message.lastSequence
        head.eventTimeNs = message.eventTimeNs
        head.receivedTimeNs = receivedNs
        head.publishTimeNs = publishNs()
        fill(&head)
        let encoder = lines[index].encoder
        builders[lines[index].builder].append(
            key: lines[index].key, epoch: head.epoch, sequence: sequence,
            lengthMax: encoder.lengthMax(levels: changes.bids.count + changes.asks.count)
        ) { encoder.encode(head, bids: changes.bids, asks: changes.asks, into: $0) }
        records += 1
    }

    /// Whether what waits has to go into the log with the next append. `nowNs` is monotonic.
    func isDue(nowNs: Int64) -> Bool {
        let bytes = pendingBytes
        guard bytes > 0 else { return false }
        let sinceNs = pendingSinceNs ?? nowNs
        pendingSinceNs = sinceNs
        return bytes >= FeedService.appendBytesMax || nowNs - sinceNs >= publishing.batchIntervalNs
    }

    /// What waits, as blocks; nothing waits then.
    func takeBlocks() -> [Block] {
        pendingSinceNs = nil
        return builders.filter { !$0.isEmpty }.map { $0.build() }
    }
}
