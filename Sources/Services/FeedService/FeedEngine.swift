import BookEngine
import EventLog
import MarketModel
import TickCodec
import VenueFormats

/// Normalized messages in, encoded ticks and book records out: one feed's books, epochs and sequences. Used by the
/// feed's thread alone.
///
/// Quotes come from the venue's ticker where it sends one, else from the book; trades from trades.
final class FeedEngine {
    /// How a feed numbers its ticks.
    enum Numbering {
        /// A live line: epochs begin at the given one and whenever continuity ends.
        case live(firstEpoch: UInt64)
        /// A recording: one epoch for ever, so that the same content gives the same ticks.
        case recording(epoch: UInt64)
    }

    private struct Line {
        let instrument: Instrument
        var machine: BookMachine
        let encoder: TickEncoder
        let builder: Int
        let key: Int
        var epoch: UInt64
        var sequence: UInt64 = 0
        /// Ticks up to here are in the log already.
        let publishedThrough: UInt64
        var bid: PriceLevel?
        var ask: PriceLevel?
        var lastTrade: Int64?
        var tradeOrder = TradeOrder()
        var isStale = false
        var hasTicker = false
    }

    let feed: String
    private let numbering: Numbering
    private let log: any EventLog
    private var lines: [Line] = []
    private var indexOf: [Instrument: Int] = [:]
    private(set) var builders: [BlockBuilder]
    let books: BookPublisher
    private let rules: (String) -> BookRules
    var counters = FeedCounters()
    /// Told of what could not be used, for people: a fixed name of its kind, and what happened.
    var report: (_ kind: String, _ what: () -> String) -> Void = { _, _ in }
    private let instrumentsMax: Int

    /// `rules` tells how a venue's books are checked.
    init(
        feed: String, numbering: Numbering, log: any EventLog, books: BookPublishing = BookPublishing(),
        instrumentsMax: Int = FeedService.instrumentsMax, rules: @escaping (String) -> BookRules
    ) {
        self.feed = feed
        self.instrumentsMax = instrumentsMax
        self.numbering = numbering
        self.log = log
        self.rules = rules
        self.books = BookPublisher(feed: feed, log: log, books)
        builders = (0..<log.partitionCount(.ticksRaw)).map { BlockBuilder(TopicPartition(.ticksRaw, UInt16($0))) }
    }

    /// Of ticks; books have their own.
    var pendingBytes: Int { builders.reduce(0) { $0 + $1.byteCount } }

    var staleCount: Int { lines.count { $0.isStale } }

    /// Takes one message. `publishNs` is called when a tick is about to be encoded.
    func receive(_ message: VenueMessage, receivedNs: Int64, publishNs: () -> Int64) {
        counters.messages += 1
        guard let index = line(message) else { return }
        if message.levelsRefused > 0 {
            refuse(.level, by: UInt64(message.levelsRefused)) {
                "\(message.exchange)|\(message.symbol): levels out of range are left out"
            }
        }
        switch message.kind {
        case .trade: receiveTrade(message, index, receivedNs, publishNs)
        case .ticker: receiveTicker(message, index, receivedNs, publishNs)
        case .snapshot, .delta: receiveBook(message, index, receivedNs, publishNs)
        }
    }

    /// Takes notice of a line that could not be read. A book that only complete updates keep right is dropped.
    func receiveUnreadable(
        _ error: FormatError, at place: () -> String, receivedNs: Int64, publishNs: () -> Int64
    ) {
        refuse(BadInput(error)) { "\(place()): \(error)" }
        for index in lines.indices {
            guard case .violated(let violation) = lines[index].machine.receiveUnreadable() else { continue }
            let instrument = lines[index].instrument
            let message = VenueMessage(.delta, exchange: instrument.exchange, symbol: instrument.symbol)
            violate(index, violation, message, receivedNs, publishNs)
        }
    }

    private func refuse(_ kind: BadInput, by count: UInt64 = 1, _ what: () -> String) {
        counters.bad[kind, default: 0] += count
        report("feed.\(kind.rawValue)", what)
    }

    private func refuseOutdated(_ message: VenueMessage) {
        let kind = BadInput(outdated: message.kind)
        refuse(kind) {
            "\(message.exchange)|\(message.symbol): \(message.kind) \(message.lastSequence) is older than what is known"
        }
    }

    private func receiveTrade(_ message: VenueMessage, _ index: Int, _ receivedNs: Int64, _ publishNs: () -> Int64) {
        guard let trade = message.trade, trade.size > 0 else {
            refuse(.trade) { "\(message.exchange)|\(message.symbol): a trade without size" }
            return
        }
        if let id = trade.id, !lines[index].tradeOrder.isNew(id) { return refuseOutdated(message) }
        lines[index].lastTrade = trade.price
        publish(index, .trade, message, receivedNs, publishNs) { tick in
            tick.lastSize = trade.size
            tick.tradeID = trade.id
            tick.aggressorSide = trade.aggressorSide
        }
    }

    private func receiveTicker(_ message: VenueMessage, _ index: Int, _ receivedNs: Int64, _ publishNs: () -> Int64) {
        guard let bid = message.bids.first, let ask = message.asks.first, bid.price < ask.price, bid.size > 0,
            ask.size > 0
        else {
            refuse(.ticker) { "\(message.exchange)|\(message.symbol): a ticker that crosses or has no size" }
            return
        }
        lines[index].hasTicker = true
        if lines[index].machine.receive(message) == .outdated { return refuseOutdated(message) }
        guard !lines[index].isStale else { return }
        quote(index, bid, ask, message, receivedNs, publishNs)
    }

    private func receiveBook(_ message: VenueMessage, _ index: Int, _ receivedNs: Int64, _ publishNs: () -> Int64) {
        switch lines[index].machine.receive(message, &books.changes) {
        case .ignored: break
        case .outdated: refuseOutdated(message)
        case .applied:
            let wasStale = lines[index].isStale
            lines[index].isStale = false
            if wasStale || !lines[index].hasTicker {
                let book = lines[index].machine.book
                quote(index, book.bestBid, book.bestAsk, message, receivedNs, publishNs)
            }
            books.publish(
                index, lines[index].machine.book, epoch: lines[index].epoch, message, receivedNs: receivedNs,
                publishNs: publishNs)
        case .violated(let violation): violate(index, violation, message, receivedNs, publishNs)
        }
    }

    private func violate(
        _ index: Int, _ violation: BookViolation, _ message: VenueMessage, _ receivedNs: Int64,
        _ publishNs: () -> Int64
    ) {
        counters.violations[violation, default: 0] += 1
        let instrument = lines[index].instrument
        report("feed.\(violation.rawValue)") {
            "\(instrument): \(violation.rawValue), the book is dropped until the next snapshot"
        }
        goStale(index, message, receivedNs, publishNs)
    }

    /// A quote only when the best prices or sizes changed.
    private func quote(
        _ index: Int, _ bid: PriceLevel?, _ ask: PriceLevel?, _ message: VenueMessage, _ receivedNs: Int64,
        _ publishNs: () -> Int64
    ) {
        guard bid != lines[index].bid || ask != lines[index].ask else { return }
        lines[index].bid = bid
        lines[index].ask = ask
        publish(index, .quote, message, receivedNs, publishNs) { _ in }
    }

    /// No prices until the next snapshot; a live line's continuity ends here.
    private func goStale(_ index: Int, _ message: VenueMessage, _ receivedNs: Int64, _ publishNs: () -> Int64) {
        guard !lines[index].isStale else { return }
        lines[index].isStale = true
        lines[index].bid = nil
        lines[index].ask = nil
        publish(index, .quote, message, receivedNs, publishNs) { $0.state = .stale }
        books.publishStale(index, epoch: lines[index].epoch, message, receivedNs: receivedNs, publishNs: publishNs)
        if case .live = numbering {
            lines[index].epoch = max(lines[index].epoch + 1, UInt64(max(0, publishNs() / 1_000_000)))
            lines[index].sequence = 0
        }
    }

    private func publish(
        _ index: Int, _ kind: TickKind, _ message: VenueMessage, _ receivedNs: Int64, _ publishNs: () -> Int64,
        _ fill: (inout Tick) -> Void
    ) {
        lines[index].sequence += 1
        let sequence = lines[index].sequence
        guard sequence > lines[index].publishedThrough else {
            counters.ticksKnown += 1
            return
        }
        let epoch = lines[index].epoch
        var tick = Tick(
            kind: kind, receivedTimeNs: receivedNs, publishTimeNs: publishNs(), epoch: epoch, sequence: sequence)
        tick.eventTimeNs = message.eventTimeNs
        tick.venueSequence = message.lastSequence
        tick.bid = lines[index].bid?.price
        tick.bidSize = lines[index].bid?.size
        tick.ask = lines[index].ask?.price
        tick.askSize = lines[index].ask?.size
        tick.last = lines[index].lastTrade
        fill(&tick)
        let encoder = lines[index].encoder
        builders[lines[index].builder].append(
            key: lines[index].key, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax,
            figures: RecordFigures(tick)
        ) { buffer in withUnsafePointer(to: &tick) { encoder.encode($0, into: buffer) } }
        counters.ticks += 1
    }

    private func line(_ message: VenueMessage) -> Int? {
        guard let instrument = try? Instrument(exchange: message.exchange, symbol: message.symbol) else {
            refuse(.instrument) { "no instrument is called \(message.exchange)|\(message.symbol)" }
            return nil
        }
        if let known = indexOf[instrument] { return known }
        guard lines.count < instrumentsMax else {
            refuse(.instrumentLimit) { "\(instrument) is one more than the \(instrumentsMax) instruments of a feed" }
            return nil
        }
        let known = log.lastPlace(.ticksRaw, feed: feed, exchange: instrument.exchange, symbol: instrument.symbol)
        let epoch: UInt64
        var publishedThrough: UInt64 = 0
        switch numbering {
        case .live(let first):
            epoch = max(first, (known?.epoch ?? 0) + 1, (books.lastEpoch(of: instrument) ?? 0) + 1)
        case .recording(let fixed):
            epoch = fixed
            if let known, known.epoch == fixed { publishedThrough = known.sequence }
        }
        let builder = Int(log.partition(of: .ticksRaw, exchange: instrument.exchange, symbol: instrument.symbol))
        let key = builders[builder].register(
            BlockBuilder.Key(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed))
        lines.append(
            Line(
                instrument: instrument, machine: BookMachine(rules(instrument.exchange)),
                encoder: TickEncoder(exchange: instrument.exchange, symbol: instrument.symbol, feed: feed),
                builder: builder, key: key, epoch: epoch, publishedThrough: publishedThrough))
        books.add(instrument, epoch: epoch)
        indexOf[instrument] = lines.count - 1
        return lines.count - 1
    }
}
