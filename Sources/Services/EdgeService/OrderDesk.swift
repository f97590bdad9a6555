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
    /// Repeated in the answer: which of the session's orders and cancels it is.
    var index = 0
    let body: Body
}

/// What a call is told, in order.
struct OrderReply: Sendable {
    enum Body: Sendable {
        /// Each order and each cancel gets one.
        case answer(index: Int, OrderAnswer)
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
    private struct Market {
        let line: Int
        var epoch: UInt64 = 0
        var sequence: UInt64 = 0
        var isWatched = false
    }

    private let venue: OrderVenue
    private let tape: Tape
    private let deliver: (_ loop: Int, _ replies: [OrderReply]) -> Void
    private var engine: SimulatedExecution
    /// Lines of the tape that were looked at for instruments of the venue.
    private var linesListed = 0
    private var markets: [Instrument: Market] = [:]
    /// Instruments with open orders, in the order in which they got them.
    private var watched: [Instrument] = []
    private var listeners: [String: [OrderSession]] = [:]
    private var accountsOfSession: [OrderSession: [String]] = [:]
    private var events: [OrderEvent] = []
    /// Per loop, what its calls are told at the end of the batch.
    private var replies: [[OrderReply]]

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
        for command in commands { handle(command, nowNs) }
        finishTurn()
    }

    private func handle(_ command: OrderCommand, _ nowNs: Int64) {
        switch command.body {
        case .order(let order):
            let instrument = engine.instrument(exchange: order.exchange, symbol: order.symbol)
            if let instrument { look(at: instrument, nowNs) }
            answer(command, engine.submit(order, nowNs: nowNs, events: &events))
            if let instrument { watch(instrument) }
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
        reply(command.session, .answer(index: command.index, answer))
    }

    private func tellListeners() {
        for event in events {
            for session in listeners[event.account] ?? [] { reply(session, .event(event)) }
        }
        events.removeAll(keepingCapacity: true)
    }

    private func reply(_ session: OrderSession, _ body: OrderReply.Body) {
        replies[session.loop].append(OrderReply(session: session, body: body))
    }

    private func finishTurn() {
        let gone = watched.filter { !engine.hasOpenOrders($0) }
        if !gone.isEmpty {
            for instrument in gone { markets[instrument]?.isWatched = false }
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
        for instrument in watched { look(at: instrument, nowNs) }
        tellListeners()
        finishTurn()
    }

    private func listInstruments() {
        while linesListed < tape.lines.count {
            let line = tape.lines[linesListed]
            if line.feed == venue.feed, markets[line.instrument] == nil {
                markets[line.instrument] = Market(line: linesListed)
                engine.list(line.instrument)
            }
            linesListed += 1
        }
    }

    private func watch(_ instrument: Instrument) {
        guard markets[instrument]?.isWatched == false, engine.hasOpenOrders(instrument) else { return }
        markets[instrument]?.isWatched = true
        watched.append(instrument)
        if watched.count == 1 { tape.follow(self) }
    }

    /// Gives the engine the instrument's quote if there is a new one.
    private func look(at instrument: Instrument, _ nowNs: Int64) {
        guard let market = markets[instrument] else { return }
        let (epoch, sequence) = (tape.lines[market.line].epoch, tape.lines[market.line].sequence)
        guard (epoch, sequence) != (market.epoch, market.sequence) else { return }
        markets[instrument]?.epoch = epoch
        markets[instrument]?.sequence = sequence
        let quote = tape.lines[market.line].frame.withBytes { OrderDesk.quote($0) }
        engine.setQuote(instrument, bid: quote.bid, ask: quote.ask, nowNs: nowNs, events: &events)
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
