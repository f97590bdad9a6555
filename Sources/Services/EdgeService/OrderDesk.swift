import EventLog
import MarketModel
import SimulatedExecution
import TickCodec
import TimeSource

/// A call that sends orders: which loop it is on, and its number there. Unique for ever.
struct OrderSession: Hashable, Sendable {
    let loop: Int
    let number: UInt64
}

/// What a call asks of the desk.
struct OrderCommand: Sendable {
    enum Body: Sendable {
        case order(NewOrder)
        case cancel(OrderCancel)
        /// The session hears of every order of an account from now on.
        case listen(account: String)
        /// The session is over.
        case leave
    }

    let session: OrderSession
    let body: Body
}

/// What a call is told, in order.
struct OrderReply: Sendable {
    enum Body: Sendable {
        /// Each order and each cancel gets one, in the order in which the session sent them.
        case answer(OrderAnswer)
        case event(OrderEvent)
    }

    let session: OrderSession
    let body: Body
}

/// The one owner of orders: the execution engine, on the loop of one tape. Loops send it batches of commands and get
/// batches of replies; nothing is shared. Confined to its loop.
///
/// Quotes are those of the tape's last values: looked at before each order of their instrument, and, as long as orders
/// are open, whenever the tape moves.
final class OrderDesk: TapeFollower {
    /// A listing of the engine as the tape has it.
    private struct Market {
        /// Of the tape.
        let line: Int
        var epoch: UInt64 = 0
        var sequence: UInt64 = 0
        var isWatched = false
    }

    private let venue: OrderVenue
    private let tape: Tape
    private let deliver: (_ loop: Int, _ replies: [OrderReply]) -> Void
    // The desk belongs to its loop, and nothing that it calls calls it: checks of every access cost more than they
    // could find.
    @exclusivity(unchecked) private var engine: SimulatedExecution
    /// Lines of the tape that were looked at for instruments of the venue.
    private var linesListed = 0
    /// By listing.
    @exclusivity(unchecked) private var markets: [Market] = []
    /// Listings with open orders, in the order in which they got them.
    private var watched: [Int] = []
    private var listeners: [String: [OrderSession]] = [:]
    private var accountsOfSession: [OrderSession: [String]] = [:]
    @exclusivity(unchecked) private var events: [OrderEvent] = []
    /// Per loop, what its calls are told at the end of the batch.
    @exclusivity(unchecked) private var replies: [[OrderReply]]

    /// `deliver` hands replies to a loop.
    init(venue: OrderVenue, tape: Tape, loopCount: Int, deliver: @escaping (Int, [OrderReply]) -> Void) {
        self.venue = venue
        self.tape = tape
        self.deliver = deliver
        engine = SimulatedExecution(limits: venue.limits.execution)
        replies = (0..<loopCount).map { _ in [] }
    }

    var openCount: Int { engine.openCount }

    /// Takes commands in their order.
    func handle(_ commands: [OrderCommand]) {
        tape.catchUp()
        listInstruments()
        let nowNs = venue.time.wallNs()
        for command in commands { handle(command, nowNs, &engine) }
        finishTurn(&engine)
    }

    /// The engine is handed on: a question to one that is a property here would copy it.
    private func handle(_ command: OrderCommand, _ nowNs: Int64, _ engine: inout SimulatedExecution) {
        switch command.body {
        case .order(let order):
            let listing = engine.listing(exchange: order.exchange, symbol: order.symbol)
            if let listing { look(at: listing, nowNs, &engine) }
            answer(command, engine.submit(order, at: listing, nowNs: nowNs, events: &events))
            if let listing, engine.hasOpenOrders(listing) { watch(listing) }
        case .cancel(let cancel): answer(command, engine.cancel(cancel, nowNs: nowNs, events: &events))
        case .listen(let account):
            listeners[account, default: []].append(command.session)
            accountsOfSession[command.session, default: []].append(account)
        case .leave:
            for account in accountsOfSession.removeValue(forKey: command.session) ?? [] {
                listeners[account]?.removeAll { $0 == command.session }
                if listeners[account]?.isEmpty == true { listeners[account] = nil }
            }
        }
    }

    private func answer(_ command: OrderCommand, _ answer: OrderAnswer) {
        tellListeners()
        reply(command.session, .answer(answer))
    }

    private func tellListeners() {
        if events.isEmpty { return }
        for event in events {
            for session in listeners[event.account] ?? [] { reply(session, .event(event)) }
        }
        events.removeAll(keepingCapacity: true)
    }

    private func reply(_ session: OrderSession, _ body: OrderReply.Body) {
        replies[session.loop].append(OrderReply(session: session, body: body))
    }

    private func finishTurn(_ engine: inout SimulatedExecution) {
        let gone = watched.filter { !engine.hasOpenOrders($0) }
        if !gone.isEmpty {
            for listing in gone { markets[listing].isWatched = false }
            watched.removeAll { !engine.hasOpenOrders($0) }
            if watched.isEmpty { tape.unfollow(self) }
        }
        for loop in replies.indices where !replies[loop].isEmpty {
            deliver(loop, replies[loop])
            replies[loop] = []
        }
    }

    // MARK: Quotes

    /// Orders are open somewhere and there may be new quotes.
    func tapeMoved() {
        let nowNs = venue.time.wallNs()
        for listing in watched { look(at: listing, nowNs, &engine) }
        tellListeners()
        finishTurn(&engine)
    }

    private func listInstruments() {
        while linesListed < tape.lines.count {
            let line = tape.lines[linesListed]
            if line.feed == venue.feed, engine.list(line.instrument) == markets.count {
                markets.append(Market(line: linesListed))
            }
            linesListed += 1
        }
    }

    /// The listing has open orders.
    private func watch(_ listing: Int) {
        if markets[listing].isWatched { return }
        markets[listing].isWatched = true
        watched.append(listing)
        if watched.count == 1 { tape.follow(self) }
    }

    /// Gives the engine the listing's quote if there is a new one.
    private func look(at listing: Int, _ nowNs: Int64, _ engine: inout SimulatedExecution) {
        let market = markets[listing]
        let (epoch, sequence) = (tape.lines[market.line].epoch, tape.lines[market.line].sequence)
        guard (epoch, sequence) != (market.epoch, market.sequence) else { return }
        markets[listing].epoch = epoch
        markets[listing].sequence = sequence
        let quote = tape.lines[market.line].frame.withBytes { OrderDesk.quote($0) }
        engine.setQuote(listing, bid: quote.bid, ask: quote.ask, nowNs: nowNs, events: &events)
    }

    /// Best bid and ask of a tick's frame; nothing where nobody vouches for them.
    private static func quote(_ frame: UnsafeRawBufferPointer) -> (bid: PriceLevel?, ask: PriceLevel?) {
        guard frame.count > Block.framePrefixLength,
            let reader = try? TickReader(UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...])),
            reader.state == .live
        else { return (nil, nil) }
        return (
            reader.bid.map { PriceLevel(price: $0, size: reader.bidSize ?? 0) },
            reader.ask.map { PriceLevel(price: $0, size: reader.askSize ?? 0) }
        )
    }
}
