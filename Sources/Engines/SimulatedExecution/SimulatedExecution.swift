// Orders against the simulated venue: each is checked by name, executed against the best quote as far as its size is
// displayed, and rests until quotes cross it. Fed by the edge with orders, cancels and quotes; says what happened.

import MarketModel

/// Takes orders and quotes, makes executions and statuses. Pure: the same commands make the same events.
///
/// - An order that can be executed at once is, at the quote's price, up to the displayed size; what is taken of a
///   side's size comes back when that side of the quote changes.
/// - The rest of a LIMIT order rests; when quotes cross it, it is executed at its own price. Better prices first, then
///   older orders. The rest of a MARKET order takes the next quotes as they come, within its limit price if it has one.
/// - IOC cancels what is not executed at once; FOK cancels all unless all is.
/// - A BUY stop waits until the ask, a SELL stop until the bid, is at its stop price or beyond; then it is a MARKET
///   order, with its limit price if it has one.
/// - DAY orders end with their day (UTC).
///
/// Orders of clients meet the venue's quotes alone, never each other.
public struct SimulatedExecution: Sendable {
    /// What is kept at most.
    public struct Limits: Sendable {
        /// Open orders, of all accounts and of one; one more is rejected.
        public var openOrdersMax = 100_000
        public var openOrdersPerAccountMax = 10_000
        /// Finished orders and answers by key; the oldest are forgotten, and with them that they were there.
        public var finishedMax = 200_000
        /// Bytes of an account, order id or key.
        public var nameBytesMax = 64
        /// Bytes kept of the reason that a client gives.
        public var reasonBytesMax = 256

        public init() {}
    }

    static let dayNs: Int64 = 86_400_000_000_000

    struct Side: Sendable {
        var shown: PriceLevel?
        /// What orders have left of the displayed size.
        var availableMicros: Int64 = 0

        mutating func show(_ level: PriceLevel?) {
            guard level != shown else { return }
            shown = level
            availableMicros = level.map { QuantityMicros.split(max(0, $0.size)).micros } ?? 0
        }
    }

    struct Line: Sendable {
        let instrument: Instrument
        var bid = Side()
        var ask = Side()
        var buys = PriceQueue(highestFirst: true)
        var sells = PriceQueue(highestFirst: false)
        var buyStops = PriceQueue(highestFirst: false)
        var sellStops = PriceQueue(highestFirst: true)

        var isIdle: Bool { buys.isEmpty && sells.isEmpty && buyStops.isEmpty && sellStops.isEmpty }
    }

    public let limits: Limits
    var lines: [Line] = []
    var linesOfSymbol: [String: [Int]] = [:]
    var table: OrderTable
    private var orderCount: UInt64 = 0
    var executionCount: UInt64 = 0
    /// The day that DAY orders are of: days since the epoch.
    private var day: Int64?

    public init(limits: Limits = Limits()) {
        precondition(limits.finishedMax > 0)
        self.limits = limits
        table = OrderTable(finishedMax: limits.finishedMax)
    }

    public var openCount: Int { table.openCount }

    // MARK: Instruments and quotes

    /// Makes an instrument one that orders may name. One that was named before is as it was. Returns its listing: a
    /// number from 0 in the order of first naming, which stands for its names everywhere else.
    @discardableResult
    public mutating func list(_ instrument: Instrument) -> Int {
        let listed = linesOfSymbol[instrument.symbol] ?? []
        if let known = listed.first(where: { lines[$0].instrument == instrument }) { return known }
        lines.append(Line(instrument: instrument))
        linesOfSymbol[instrument.symbol, default: []].append(lines.count - 1)
        return lines.count - 1
    }

    /// The listing that an order means; nil where it names none or several.
    public func listing(exchange: String, symbol: String) -> Int? {
        guard let listed = linesOfSymbol[symbol] else { return nil }
        if exchange.isEmpty { return listed.count == 1 ? listed[0] : nil }
        return listed.first { lines[$0].instrument.exchange == exchange }
    }

    /// Whether quotes of a listing matter: orders wait for them.
    public func hasOpenOrders(_ listing: Int) -> Bool { !lines[listing].isIdle }

    /// The venue's best bid and ask of a listing are these now, nil where there is none; executes what they cross.
    public mutating func setQuote(
        _ line: Int, bid: PriceLevel?, ask: PriceLevel?, nowNs: Int64, events: inout [OrderEvent]
    ) {
        beginDay(nowNs, &events)
        lines[line].bid.show(bid)
        lines[line].ask.show(ask)
        guard !lines[line].isIdle else { return }
        executeResting(line, nowNs, &events)
        triggerStops(line, nowNs, &events)
    }

    /// Ends the orders of a day that is over.
    private mutating func beginDay(_ nowNs: Int64, _ events: inout [OrderEvent]) {
        let today = nowNs / SimulatedExecution.dayNs
        let before = day ?? today
        day = max(before, today)
        guard today > before else { return }
        let open = lines.flatMap { $0.buys.entries + $0.sells.entries + $0.buyStops.entries + $0.sellStops.entries }
        for entry in open.sorted(by: { $0.number < $1.number }) where table[entry.place].terms?.timeInForce == .day {
            finish(entry.place, .dayEnded, "the day of the order is over", nowNs, &events)
        }
    }

    // MARK: Orders

    /// Takes an order for the listing that it means (``listing(exchange:symbol:)``). What happens to it at once, and to
    /// no other, is in `events` when this returns.
    public mutating func submit(
        _ order: NewOrder, at listing: Int?, nowNs: Int64, events: inout [OrderEvent]
    ) -> OrderAnswer {
        beginDay(nowNs, &events)
        if let used = useOfKey(account: order.account, key: order.idempotencyKey) {
            guard case .order(let place) = used, order.isRepeat(of: table[place].request),
                let answer = table[place].answer
            else {
                return answer(
                    rejection(
                        order, .idempotencyKeyReused,
                        "the account has used idempotency_key \(order.idempotencyKey) for something else", nowNs))
            }
            return self.answer(answer)
        }
        let accepted: (line: Int, terms: OrderTerms)
        do throws(Rejection) {
            accepted = try check(order, listing, nowNs)
        } catch {
            let update = rejection(order, error.code, error.reason, nowNs)
            if !order.idempotencyKey.isEmpty, isBounded(order) { rememberRejected(order, update) }
            return answer(update)
        }
        let place = take(order, accepted.line, accepted.terms, nowNs, &events)
        // The last thing that happened to it, with its reason.
        guard case .status(let update)? = events.last else { return answer(self.update(place, nowNs, nil, "")) }
        table.change(place) { $0.answer = update }
        return OrderAnswer(update: update, isInEvents: true)
    }

    private func answer(_ update: OrderUpdate) -> OrderAnswer { OrderAnswer(update: update, isInEvents: false) }

    private mutating func rememberRejected(_ order: NewOrder, _ update: OrderUpdate) {
        orderCount += 1
        table.remember(
            rejected: Order(
                number: orderCount, request: order, line: nil, terms: nil, remainingMicros: 0, status: .rejected,
                answer: update))
    }

    private func useOfKey(account: String, key: String) -> OrderTable.KeyUse? {
        key.isEmpty ? nil : table.use(of: OrderTable.Name(account: account, text: key))
    }

    private mutating func take(
        _ request: NewOrder, _ line: Int, _ terms: OrderTerms, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) -> Int {
        orderCount += 1
        let place = table.add(
            Order(
                number: orderCount, request: request, line: line, terms: terms, remainingMicros: terms.quantityMicros,
                status: .new))
        events.append(.status(update(place, nowNs, nil, "")))
        if terms.type == .stop {
            table.change(place) { $0.isWaitingForStop = true }
            let entry = PriceQueue.Entry(price: terms.stopPriceMicros * 1000, number: orderCount, place: place)
            if terms.side == .buy { lines[line].buyStops.insert(entry) } else { lines[line].sellStops.insert(entry) }
            triggerStops(line, nowNs, &events)
        } else {
            execute(place, nowNs, &events)
        }
        return place
    }

    /// Takes a wish to cancel.
    public mutating func cancel(_ cancel: OrderCancel, nowNs: Int64, events: inout [OrderEvent]) -> OrderAnswer {
        beginDay(nowNs, &events)
        if let used = useOfKey(account: cancel.account, key: cancel.idempotencyKey) {
            guard case .cancel(cancel.orderID, let original) = used else {
                return answer(
                    unknown(
                        cancel, .idempotencyKeyReused,
                        "the account has used idempotency_key \(cancel.idempotencyKey) for something else", nowNs))
            }
            return answer(original)
        }
        let result = cancelOnce(cancel, nowNs, &events)
        if !cancel.idempotencyKey.isEmpty, isName(cancel.idempotencyKey), isName(cancel.account), isName(cancel.orderID)
        {
            table.remember(cancel, result.update)
        }
        return result
    }

    private mutating func cancelOnce(
        _ cancel: OrderCancel, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) -> OrderAnswer {
        guard isName(cancel.idempotencyKey) else {
            return answer(
                unknown(cancel, .invalidIdempotencyKey, "idempotency_key is longer than \(limits.nameBytesMax)", nowNs))
        }
        let name = OrderTable.Name(account: cancel.account, text: cancel.orderID)
        guard let place = table.find(name) else {
            return answer(unknown(cancel, .unknownOrder, "the account has no such order", nowNs))
        }
        guard table[place].isOpen else {
            return answer(
                update(place, nowNs, .cancelTooLate, "the order is \(table[place].status.rawValue) already"))
        }
        let reason = clip(cancel.reason, limits.reasonBytesMax)
        finish(place, .cancelledByClient, reason, nowNs, &events)
        return OrderAnswer(update: update(place, nowNs, .cancelledByClient, reason), isInEvents: true)
    }
}
