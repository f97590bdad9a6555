import MarketModel

/// Orders against quotes.
extension SimulatedExecution {
    /// Executes an order that just became active, as far as the quote goes; the rest rests or is cancelled.
    mutating func execute(_ place: Int, _ nowNs: Int64, _ events: inout [OrderEvent]) {
        guard let terms = table[place].terms, let line = table[place].line else { return }
        let remainingMicros = table[place].remainingMicros
        let isBuy = terms.side == .buy
        let limit = SimulatedExecution.limit(terms)
        let side = isBuy ? lines[line].ask : lines[line].bid
        var fillable: Int64 = 0
        if let price = side.shown?.price, isBuy ? price <= limit : price >= limit {
            fillable = min(remainingMicros, side.availableMicros)
        }
        if terms.timeInForce == .fillOrKill, fillable < remainingMicros {
            return finish(place, .fillOrKillUnfilled, "all of it could not be executed at once", nowNs, &events)
        }
        if fillable > 0, let price = side.shown?.price { fill(place, fillable, at: price, nowNs, &events) }
        guard table[place].isOpen else { return }
        if terms.timeInForce == .immediateOrCancel {
            return finish(
                place, .immediateOrCancelUnfilled, "the rest could not be executed at once", nowNs, &events)
        }
        table.change(place) { $0.restingPrice = limit }
        let entry = PriceQueue.Entry(price: limit, number: table[place].number, place: place)
        if isBuy { lines[line].buys.insert(entry) } else { lines[line].sells.insert(entry) }
    }

    /// The worst price that an order takes: of a MARKET order without one, any.
    private static func limit(_ terms: OrderTerms) -> Int64 {
        if terms.limitPriceMicros > 0 { return terms.limitPriceMicros * 1000 }
        return terms.side == .buy ? .max : 0
    }

    /// Executes resting orders that the quote crosses, best first, as far as its sizes go.
    mutating func executeResting(_ line: Int, _ nowNs: Int64, _ events: inout [OrderEvent]) {
        while let first = lines[line].buys.first, let ask = lines[line].ask.shown, first.price >= ask.price,
            lines[line].ask.availableMicros > 0
        {
            fillResting(first, lines[line].ask.availableMicros, quote: ask.price, nowNs, &events)
        }
        while let first = lines[line].sells.first, let bid = lines[line].bid.shown, first.price <= bid.price,
            lines[line].bid.availableMicros > 0
        {
            fillResting(first, lines[line].bid.availableMicros, quote: bid.price, nowNs, &events)
        }
    }

    private mutating func fillResting(
        _ entry: PriceQueue.Entry, _ availableMicros: Int64, quote: Int64, _ nowNs: Int64,
        _ events: inout [OrderEvent]
    ) {
        guard let terms = table[entry.place].terms else { return }
        // Whoever rests at a limit has its price; a MARKET order takes what there is.
        let price = terms.type != .market && terms.limitPriceMicros > 0 ? entry.price : quote
        fill(entry.place, min(table[entry.place].remainingMicros, availableMicros), at: price, nowNs, &events)
    }

    /// Stops whose price the quote has reached become active, nearest first.
    mutating func triggerStops(_ line: Int, _ nowNs: Int64, _ events: inout [OrderEvent]) {
        while let first = lines[line].buyStops.first, let ask = lines[line].ask.shown, first.price <= ask.price {
            trigger(first, nowNs, &events)
        }
        while let first = lines[line].sellStops.first, let bid = lines[line].bid.shown, first.price >= bid.price {
            trigger(first, nowNs, &events)
        }
    }

    private mutating func trigger(_ entry: PriceQueue.Entry, _ nowNs: Int64, _ events: inout [OrderEvent]) {
        leaveQueues(entry.place)
        table.change(entry.place) { $0.isWaitingForStop = false }
        execute(entry.place, nowNs, &events)
    }

    /// One execution of an order, not more than it has left and not more than is displayed.
    private mutating func fill(
        _ place: Int, _ quantityMicros: Int64, at price: Int64, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) {
        guard let side = table[place].terms?.side, let line = table[place].line else { return }
        let leaves = table[place].remainingMicros - quantityMicros
        if side == .buy {
            lines[line].ask.availableMicros -= quantityMicros
        } else {
            lines[line].bid.availableMicros -= quantityMicros
        }
        if leaves == 0 { leaveQueues(place) }
        table.change(place) {
            $0.remainingMicros = leaves
            $0.status = leaves == 0 ? .filled : .partial
        }
        executionCount += 1
        let instrument = lines[line].instrument
        events.append(
            .execution(
                OrderExecution(
                    number: executionCount, account: table[place].request.account,
                    orderID: table[place].request.orderID, exchange: instrument.exchange,
                    symbol: instrument.symbol, side: side, price: price,
                    quantityMicros: quantityMicros, leavesMicros: leaves, timeNs: nowNs)))
        events.append(.status(update(place, nowNs, nil, "")))
    }

    /// Cancels an open order, or what is left of it.
    mutating func finish(
        _ place: Int, _ code: OrderReason, _ reason: String, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) {
        leaveQueues(place)
        table.change(place) { $0.status = .cancelled }
        events.append(.status(update(place, nowNs, code, reason)))
    }

    private mutating func leaveQueues(_ place: Int) {
        guard let terms = table[place].terms, let line = table[place].line else { return }
        let number = table[place].number
        if table[place].isWaitingForStop {
            let entry = PriceQueue.Entry(price: terms.stopPriceMicros * 1000, number: number, place: place)
            if terms.side == .buy { lines[line].buyStops.remove(entry) } else { lines[line].sellStops.remove(entry) }
        } else if let price = table[place].restingPrice {
            let entry = PriceQueue.Entry(price: price, number: number, place: place)
            if terms.side == .buy { lines[line].buys.remove(entry) } else { lines[line].sells.remove(entry) }
        }
    }

    /// Where an order stands.
    func update(_ place: Int, _ nowNs: Int64, _ code: OrderReason?, _ reason: String) -> OrderUpdate {
        let line = table[place].line
        return OrderUpdate(
            account: table[place].request.account, orderID: table[place].request.orderID,
            exchange: line.map { lines[$0].instrument.exchange } ?? "",
            symbol: line.map { lines[$0].instrument.symbol } ?? "", status: table[place].status,
            remainingMicros: table[place].remainingMicros, code: code, reason: reason, timeNs: nowNs)
    }
}
