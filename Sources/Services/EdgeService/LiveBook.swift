import BookView
import EventLog
import EventLoop
import MarketModel
import TickCodec

/// One book that clients look at. Confined to its loop.
final class LiveBook {
    /// Blocks looked at for a snapshot, and records that are kept on the way.
    private static let blocksMax = 10_000
    private static let recordsMax = 100_000
    /// Blocks looked at in one go; then the loop's other work gets a turn, which the end of a turn is not.
    private static let blocksPerStepMax = 64

    let instrument: Instrument
    let feed: String
    let keyHash: UInt64
    private(set) var replica = BookReplica()
    var subscribers: [BookSubscriber] = []
    /// The latest snapshot is looked for.
    private(set) var isBeginning = false

    private let log: any EventLog
    private let loop: any Loop
    private var place: TopicPartition?
    private var blocksLeft = LiveBook.blocksMax
    /// Found on the way back, the newest first.
    private var found: [BookRecord] = []
    /// Came meanwhile.
    private var waiting: [BookRecord] = []
    private var isChanged = false

    init(_ instrument: Instrument, feed: String, log: any EventLog, loop: any Loop) {
        self.instrument = instrument
        self.feed = feed
        self.log = log
        self.loop = loop
        keyHash = RecordKey.hash(exchange: instrument.exchange.utf8, symbol: instrument.symbol.utf8)
    }

    func matches(_ block: Block, _ track: Int) -> Bool {
        block.keyHash(track: track) == keyHash
            && block.symbolBytes(track: track).elementsEqual(instrument.symbol.utf8)
            && block.exchangeBytes(track: track).elementsEqual(instrument.exchange.utf8)
            && block.feedBytes(track: track).elementsEqual(feed.utf8)
    }

    /// Looks for the latest snapshot.
    func begin() {
        guard
            let newest = log.lastPlace(
                .booksDeltas, feed: feed, exchange: instrument.exchange, symbol: instrument.symbol)
        else { return }
        isBeginning = true
        place = newest.place
        lookBack(newest.offset)
    }

    /// The next record in the log's order.
    func receive(_ record: BookRecord) {
        if isBeginning {
            waiting.append(record)
            // So much came that its own snapshot will.
            if waiting.count > LiveBook.recordsMax { waiting.removeFirst(waiting.count / 2) }
        } else if replica.apply(record) != .ignored {
            isChanged = true
        }
    }

    func turnEnded() {
        guard isChanged else { return }
        isChanged = false
        for subscriber in subscribers { subscriber.bookChanged() }
    }

    private func lookBack(_ offset: UInt64) {
        guard let place else { return finishBeginning() }
        switch log.read(place, at: offset, .written) {
        case .block(let block, _): look(block)
        case .onDisk:
            let box = LoopConfined(self)
            let loop = loop
            log.load(place, at: offset, .written) { result in
                loop.execute {
                    if case .success(.block(let block, _)) = result {
                        box.value.look(block)
                    } else {
                        box.value.finishBeginning()
                    }
                }
            }
        case .atEnd, .expired, .damaged: finishBeginning()
        }
    }

    private func look(_ block: Block) {
        let tracks = (0..<block.trackCount).map { matches(block, $0) }
        var previous = Block.noOffset
        for index in (0..<block.recordCount).reversed() where tracks[block.track(of: index)] {
            previous = block.previousOffset(track: block.track(of: index))
            var record = BookRecord()
            guard (try? record.decode(block.payload(index))) != nil else { continue }
            found.append(record)
            // A snapshot begins a book, and what nobody vouches for ends one: nothing before it counts.
            if record.head.isSnapshot || record.head.state == .stale { return finishBeginning() }
        }
        blocksLeft -= 1
        guard previous < block.firstOffset, blocksLeft > 0, found.count < LiveBook.recordsMax else {
            return finishBeginning()
        }
        guard blocksLeft % LiveBook.blocksPerStepMax == 0 else {
            return loop.afterTurn { [self] in lookBack(previous) }
        }
        let box = LoopConfined(self)
        loop.execute { [previous] in box.value.lookBack(previous) }
    }

    private func finishBeginning() {
        isBeginning = false
        for record in found.reversed() { _ = replica.apply(record) }
        for record in waiting { _ = replica.apply(record) }
        found = []
        waiting = []
        for subscriber in subscribers { subscriber.bookChanged() }
    }
}
