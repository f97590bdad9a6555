import BookView
import MarketModel
import MarketProto
import Protobuf

/// One subscription to a book: what its client sees, and what it was last told.
///
/// Changes are not queued: what is taken is the difference between what the client has and the book now, so a slow
/// reader is told less often and costs a view. Confined to its loop.
final class BookSubscriber {
    private let books: BookTape
    private let instrument: Instrument
    private let feed: String
    private let wake: () -> Void
    private var shape: SubscribeState.BookShape
    private var view: BookView
    private var book: LiveBook?
    private var isDirty = true
    /// Sequence of what was last told; nil before the first.
    private var told: UInt64?

    init(
        books: BookTape, instrument: Instrument, feed: String, shape: SubscribeState.BookShape,
        wake: @escaping () -> Void
    ) {
        self.books = books
        self.instrument = instrument
        self.feed = feed
        self.shape = shape
        self.wake = wake
        view = BookView(depth: shape.depth, grouping: shape.grouping)
    }

    func start() {
        book = books.attach(self, instrument, feed: feed)
        wake()
    }

    func stop() {
        if let book { books.detach(self, book) }
        book = nil
    }

    /// The next update is a snapshot.
    func change(_ shape: SubscribeState.BookShape) {
        self.shape = shape
        view = BookView(depth: shape.depth, grouping: shape.grouping)
        told = nil
        bookChanged()
    }

    func bookChanged() {
        isDirty = true
        wake()
    }

    /// What the client is to be told now; nil when there is nothing.
    func take() -> Proto.BookUpdate? {
        guard isDirty, let book, !book.isBeginning else { return nil }
        isDirty = false
        let replica = book.replica
        let change = view.update(from: replica)
        var update = Proto.BookUpdate()
        switch change {
        case .none where told == nil:
            // There is no book yet: say so once.
            update.snapshot = true
        case .none: return nil
        case .snapshot:
            update.snapshot = true
            update.consistent = true
            update.bids = view.bids.map(Proto.BookLevel.init)
            update.asks = view.asks.map(Proto.BookLevel.init)
        case .delta:
            update.consistent = true
            update.bids = view.changedBids.map(Proto.BookLevel.init)
            update.asks = view.changedAsks.map(Proto.BookLevel.init)
        case .stale: update.snapshot = true
        }
        update.exchange = instrument.exchange
        update.symbol = instrument.symbol
        update.feedHandlerId = feed
        update.epoch = replica.epoch
        update.sequence = replica.sequence
        update.previousSequence = update.snapshot ? 0 : told ?? 0
        update.venueSequence = replica.venueSequence
        if let event = replica.eventTimeNs {
            let parts = TimestampParts.split(event)
            update.eventTime = WellKnown.Timestamp()
            update.eventTime?.seconds = parts.seconds
            update.eventTime?.nanos = parts.nanos
        }
        told = replica.sequence
        return update
    }

    /// As a client asks for it.
    var description: Proto.AddBook {
        var add = Proto.AddBook()
        add.exchange = instrument.exchange
        add.symbol = instrument.symbol
        add.depth = UInt32(clamping: shape.depth)
        let grouping = PriceMicros.split(shape.grouping)
        add.groupingMicros = grouping.micros
        add.groupingNanoRemainder = grouping.remainder
        return add
    }
}

extension Proto.BookLevel {
    init(_ level: PriceLevel) {
        self.init()
        let price = PriceMicros.split(level.price)
        let size = QuantityMicros.split(level.size)
        priceMicros = price.micros
        priceNanoRemainder = price.remainder
        sizeMicros = size.micros
        sizeNanoRemainder = size.remainder
    }
}
