import MarketModel

/// Orders against quotes.
extension SimulatedExecution {
    /// Executes an order that just became active, as far as the quote goes; the rest rests or is cancelled.
    mutating func execute(_ number: UInt64, _ nowNs: Int64, _ events: inout [OrderEvent]) {
        guard let order = table[number], let terms = order.terms, let line = order.line else { return }
        let isBuy = terms.side == .buy
        let limit = SimulatedExecution.limit(terms)
        let side = isBuy ? lines[line].ask : lines[line].bid
        var fillable: Int64 = 0
        if let price = side.shown?.price, isBuy ? price <= limit : price >= limit {
            fillable = min(order.remainingMicros, side.availableMicros)
        }
        if terms.timeInForce == .fillOrKill, fillable < order.remainingMicros {
            return finish(number, .fillOrKillUnfilled, "all of it could not be executed at once", nowNs, &events)
        }
        if fillable > 0, let price = side.shown?.price { fill(number, fillable, at: price, nowNs, &events) }
        guard let rest = table[number], rest.isOpen else { return }
        if terms.timeInForce == .immediateOrCancel {
            return finish(
                number, .immediateOrCancelUnfilled, "the rest could not be executed at once", nowNs, &events)
        }
        table.change(number) { $0.restingPrice = limit }
        let entry = PriceQueue.Entry(price: limit, number: number)
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
        guard let order = table[entry.number], let terms = order.terms else { return }
        // Whoever rests at a limit has its price; a MARKET order takes what there is.
        let price = terms.type != .market && terms.limitPriceMicros > 0 ? entry.price : quote
        fill(entry.number, min(order.remainingMicros, availableMicros), at: price, nowNs, &events)
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
        leaveQueues(entry.number)
        table.change(entry.number) { $0.isWaitingForStop = false }
        execute(entry.number, nowNs, &events)
    }

    /// One execution of an order, not more than it has left and not more than is displayed.
    private mutating func fill(
        _ number: UInt64, _ quantityMicros: Int64, at price: Int64, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) {
        guard let order = table[number], let terms = order.terms, let line = order.line else { return }
        let leaves = order.remainingMicros - quantityMicros
        if terms.side == .buy {
            lines[line].ask.availableMicros -= quantityMicros
        } else {
            lines[line].bid.availableMicros -= quantityMicros
        }
        if leaves == 0 { leaveQueues(number) }
        table.change(number) {
            $0.remainingMicros = leaves
            $0.status = leaves == 0 ? .filled : .partial
        }
        executionCount += 1
        let instrument = lines[line].instrument
        events.append(
            .execution(
                OrderExecution(
                    number: executionCount, account: order.request.account, orderID: order.request.orderID,
                    exchange: instrument.exchange, symbol: instrument.symbol, side: terms.side, price: price,
                    quantityMicros: quantityMicros, leavesMicros: leaves, timeNs: nowNs)))
        events.append(.status(update(number, nowNs, nil, "")))
    }

    /// Cancels an open order, or what is left of it.
    mutating func finish(
        _ number: UInt64, _ code: OrderReason, _ reason: String, _ nowNs: Int64, _ events: inout [OrderEvent]
    ) {
        leaveQueues(number)
        table.change(number) { $0.status = .cancelled }
        events.append(.status(update(number, nowNs, code, reason)))
    }

    private mutating func leaveQueues(_ number: UInt64) {
        guard let order = table[number], let terms = order.terms, let line = order.line else { return }
        if order.isWaitingForStop {
            let entry = PriceQueue.Entry(price: terms.stopPriceMicros * 1000, number: number)
            if terms.side == .buy { lines[line].buyStops.remove(entry) } else { lines[line].sellStops.remove(entry) }
        } else if let price = order.restingPrice {
            let entry = PriceQueue.Entry(price: price, number: number)
            if terms.side == .buy { lines[line].buys.remove(entry) } else { lines[line].sells.remove(entry) }
        }
    }

    /// Where an order stands.
    func update(_ number: UInt64, _ nowNs: Int64, _ code: OrderReason?, _ reason: String) -> OrderUpdate {
        let order = table[number]
        let instrument = order?.line.map { lines[$0].instrument }
        return OrderUpdate(
            account: order?.request.account ?? "", orderID: order?.request.orderID ?? "",
            exchange: instrument?.exchange ?? "", symbol: instrument?.symbol ?? "",
            status: order?.status ?? .rejected, remainingMicros: order?.remainingMicros ?? 0, code: code,
            reason: reason, timeNs: nowNs)
    }
}
