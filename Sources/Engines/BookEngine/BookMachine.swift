import MarketModel

/// How a venue lets its book be checked.
public enum BookRules: Sendable, Hashable {
    /// Each delta begins one after the last one ended; the first after a snapshot contains the snapshot's number + 1.
    /// Earlier ones are dropped. Where the venue sends tickers with the same numbers, the book must agree with them.
    /// (Binance spot: "How to manage a local order book correctly".)
    case contiguous
    /// Messages carry a CRC-32 over the ten best levels (Kraken: "book checksum").
    case checksum
    /// Nothing to check but crossing and the order of times (Coinbase level2).
    case unchecked

    /// Levels kept per side. Kraken's book is what the subscription's depth leaves of it.
    public var depthMax: Int { self == .checksum ? 1000 : 5000 }
}

/// Why a book was dropped.
public enum BookViolation: String, Sendable, Hashable, CaseIterable {
    case gap, checksumMismatch, crossed, tickerMismatch, tooManyBuffered
    /// A price of 0 or less, or a size below 0.
    case badLevel
    /// An update older than the one before it, where no number tells what it had of it.
    case reversed
    /// A message that could not be read, where no number tells whether it was one of this book's.
    case unreadable
}

/// What a message did.
public enum BookOutcome: Sendable, Hashable {
    /// Nothing: before a snapshot, or before the first update that joins it.
    case ignored
    /// Nothing: a duplicate, or older than what the book has.
    case outdated
    /// The book was changed; the best prices may have. Of a ticker: it is the newest.
    case applied
    /// The book is gone and the instrument stale until the next snapshot.
    case violated(BookViolation)
}

/// One instrument's book under its venue's rules.
public struct BookMachine: Sendable {
    /// Whether the book can be used.
    public enum State: Sendable, Hashable { case waiting, live, stale }

    /// Deltas kept while a snapshot is awaited.
    public static let bufferedMax = 10_000

    public let rules: BookRules
    public private(set) var book: Book
    public private(set) var state = State.waiting
    /// The venue's sequence number that the book stands at.
    public private(set) var sequence: UInt64 = 0
    /// Deltas applied since the start, and the numbers of the first one behind the latest snapshot.
    public private(set) var deltasApplied = 0
    public private(set) var joined: ClosedRange<UInt64>?
    private var buffered: [VenueMessage] = []
    /// Whether the first delta after a snapshot was seen.
    private var isJoined = false
    private var priceDecimals: UInt8 = 0
    private var sizeDecimals: UInt8 = 0
    /// Tickers not yet passed by a delta: number and best levels, ascending.
    private var tickers: [Ticker] = []
    /// The highest number of a ticker, and how many in a row came below it in order.
    private var tickerSequence: UInt64 = 0
    private var strays: (count: Int, last: UInt64) = (0, 0)
    /// So many tickers in a row that look outdated are right, and the one above them was wrong.
    static let straysMax = 10
    /// Of the latest delta, where no number orders them.
    private var deltaTimeNs: Int64?

    private struct Ticker: Sendable {
        let sequence: UInt64
        let bid: PriceLevel?
        let ask: PriceLevel?
    }

    public init(_ rules: BookRules) {
        self.rules = rules
        book = Book(depthMax: rules.depthMax)
    }

    /// Takes a snapshot, a delta or a ticker.
    public mutating func receive(_ message: VenueMessage) -> BookOutcome {
        var changes = BookChanges(depth: 0)
        return receive(message, &changes)
    }

    /// The same, and says which levels a snapshot or delta changed; that counts where the outcome is `.applied`.
    public mutating func receive(_ message: VenueMessage, _ changes: inout BookChanges) -> BookOutcome {
        let outcome: BookOutcome
        switch message.kind {
        case .snapshot:
            changes.begin(isWhole: true)
            outcome = receiveSnapshot(message, &changes)
        case .delta:
            changes.begin(isWhole: false)
            outcome = receiveDelta(message, &changes)
        case .ticker: return rules == .contiguous ? keep(message) : .ignored
        case .trade: return .ignored
        }
        if outcome == .applied { changes.settle(book) }
        return outcome
    }

    /// Tells that a message was lost that may have been this book's. Numbers and checksums notice that themselves.
    public mutating func receiveUnreadable() -> BookOutcome {
        rules == .unchecked && state == .live ? violate(.unreadable) : .ignored
    }

    private mutating func receiveSnapshot(_ message: VenueMessage, _ changes: inout BookChanges) -> BookOutcome {
        if rules == .contiguous, state == .live, isJoined, message.lastSequence < sequence { return .outdated }
        guard BookMachine.areLevels(message) else { return violate(.badLevel) }
        book.removeAll()
        sequence = message.lastSequence
        isJoined = false
        state = .live
        deltaTimeNs = nil
        priceDecimals = message.priceDecimals
        sizeDecimals = message.sizeDecimals
        apply(message, &changes)
        if let violation = check(message) { return violate(violation) }
        let waiting = buffered
        buffered = []
        for (index, delta) in waiting.enumerated() {
            guard case .violated(let violation) = receiveDelta(delta, &changes) else { continue }
            // The snapshot was older than all of them; a later one may join.
            if violation == .gap { buffered = Array(waiting[index...]) }
            return .violated(violation)
        }
        return .applied
    }

    private static func areLevels(_ message: VenueMessage) -> Bool {
        for level in message.bids where level.price <= 0 || level.size < 0 { return false }
        for level in message.asks where level.price <= 0 || level.size < 0 { return false }
        return true
    }

    private mutating func receiveDelta(_ message: VenueMessage, _ changes: inout BookChanges) -> BookOutcome {
        guard state == .live else {
            return rules == .contiguous ? buffer(message) : .ignored
        }
        guard BookMachine.areLevels(message) else { return violate(.badLevel) }
        if rules == .unchecked, let timeNs = message.eventTimeNs {
            guard timeNs >= deltaTimeNs ?? timeNs else { return violate(.reversed) }
            deltaTimeNs = timeNs
        }
        if rules == .contiguous {
            guard message.lastSequence > sequence else { return isJoined ? .outdated : .ignored }
            let isNext =
                isJoined ? message.firstSequence == sequence &+ 1 : message.firstSequence <= sequence &+ 1
            guard isNext, message.firstSequence <= message.lastSequence else {
                let outcome = violate(.gap)
                _ = buffer(message)
                return outcome
            }
            if !isJoined { joined = message.firstSequence...message.lastSequence }
            isJoined = true
            sequence = message.lastSequence
        }
        apply(message, &changes)
        deltasApplied += 1
        if let violation = check(message) { return violate(violation) }
        return .applied
    }

    /// Keeps a delta for the next snapshot. What is kept is contiguous, so that one wrong number cannot spoil every
    /// snapshot to come: a delta that does not follow begins anew.
    private mutating func buffer(_ message: VenueMessage) -> BookOutcome {
        guard message.firstSequence <= message.lastSequence, BookMachine.areLevels(message) else { return .ignored }
        if let first = buffered.first, let last = buffered.last, message.firstSequence != last.lastSequence &+ 1 {
            if message.firstSequence >= first.firstSequence, message.lastSequence <= last.lastSequence {
                return .outdated
            }
            buffered.removeAll(keepingCapacity: true)
        }
        guard buffered.count < BookMachine.bufferedMax else { return violate(.tooManyBuffered) }
        buffered.append(message)
        return .ignored
    }

    private mutating func apply(_ message: VenueMessage, _ changes: inout BookChanges) {
        for level in message.bids { book.setBid(level, &changes) }
        for level in message.asks { book.setAsk(level, &changes) }
    }

    private func check(_ message: VenueMessage) -> BookViolation? {
        if book.isCrossed { return .crossed }
        if let expected = message.checksum,
            expected != KrakenChecksum.of(book, priceDecimals: priceDecimals, sizeDecimals: sizeDecimals)
        {
            return .checksumMismatch
        }
        if let ticker = tickers.last(where: { $0.sequence <= sequence }), isJoined,
            book.bestBid != ticker.bid || book.bestAsk != ticker.ask
        {
            return .tickerMismatch
        }
        return nil
    }

    private mutating func keep(_ ticker: VenueMessage) -> BookOutcome {
        guard ticker.lastSequence > tickerSequence || isStrayNoMore(ticker.lastSequence) else { return .outdated }
        tickerSequence = ticker.lastSequence
        strays = (0, 0)
        // Of those that the book has passed only the last one matters.
        if let passed = tickers.lastIndex(where: { $0.sequence <= sequence }), passed > 0 {
            tickers.removeFirst(passed)
        }
        if tickers.count == BookMachine.bufferedMax { tickers.removeFirst() }
        tickers.append(
            Ticker(sequence: ticker.lastSequence, bid: ticker.bids.first, ask: ticker.asks.first))
        return .applied
    }

    /// Whether the numbers below the highest one have come so often, in order and above the book's, that it was the
    /// highest that was wrong. Otherwise one wrong digit would silence the ticker for ever.
    private mutating func isStrayNoMore(_ number: UInt64) -> Bool {
        guard number > sequence else { return false }
        strays = (number > strays.last ? strays.count + 1 : 1, number)
        guard strays.count == BookMachine.straysMax else { return false }
        tickers.removeAll { $0.sequence >= number }
        return true
    }

    private mutating func violate(_ violation: BookViolation) -> BookOutcome {
        book.removeAll()
        buffered = []
        tickers = []
        state = .stale
        return .violated(violation)
    }
}

/// CRC-32 over the ten best asks and bids as text: price and size without dot and leading zeros.
/// (docs.kraken.com, "How to verify the book's checksum".)
enum KrakenChecksum {
    static func of(_ book: Book, priceDecimals: UInt8, sizeDecimals: UInt8) -> UInt32 {
        var crc = CRC32()
        for level in book.asks(10) + book.bids(10) {
            add(level.price, scale: Scale.price, decimals: priceDecimals, &crc)
            add(level.size, scale: Scale.quantity, decimals: sizeDecimals, &crc)
        }
        return crc.value
    }

    private static func add(_ mantissa: Int64, scale: Int, decimals: UInt8, _ crc: inout CRC32) {
        var value = mantissa
        var dropped = scale - Int(decimals)
        while dropped > 0 {
            value /= 10
            dropped -= 1
        }
        for byte in String(value).utf8 { crc.add(byte) }
    }
}

/// CRC-32 as zlib has it (polynomial 0xedb88320).
struct CRC32 {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { crc, _ in crc & 1 != 0 ? (crc >> 1) ^ 0xedb8_8320 : crc >> 1 }
    }
    private var state: UInt32 = .max

    mutating func add(_ byte: UInt8) {
        state = CRC32.table[Int(UInt8(truncatingIfNeeded: state) ^ byte)] ^ (state >> 8)
    }
    var value: UInt32 { ~state }
}
