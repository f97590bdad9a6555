import MarketModel

/// Why an order is rejected.
struct Rejection: Error {
    let code: OrderReason
    let reason: String
}

/// What makes an order one that is taken, and the words for one that is not.
extension SimulatedExecution {
    /// `listing` is the place of the instrument that the order means, if there is one.
    func check(_ order: NewOrder, _ listing: Int?, _ nowNs: Int64) throws(Rejection) -> (line: Int, terms: OrderTerms) {
        guard isName(order.account) else { throw tooLong("account", .invalidAccount) }
        guard isName(order.idempotencyKey) else { throw tooLong("idempotency_key", .invalidIdempotencyKey) }
        guard isName(order.orderID) else { throw tooLong("order_id", .invalidOrderID) }
        guard !order.orderID.isEmpty else { throw Rejection(code: .invalidOrderID, reason: "order_id is empty") }
        guard table.find(OrderTable.Name(account: order.account, text: order.orderID)) == nil else {
            throw Rejection(code: .duplicateOrderID, reason: "the account has an order \(order.orderID) already")
        }
        if let deadlineNs = order.deadlineNs, nowNs > deadlineNs {
            throw Rejection(code: .deadlinePassed, reason: "the order was read after its deadline")
        }
        let terms = try terms(order)
        guard let line = listing else { throw notListed(exchange: order.exchange, symbol: order.symbol) }
        if terms.type == .market, (terms.side == .buy ? lines[line].ask : lines[line].bid).shown == nil {
            throw Rejection(
                code: .noQuote, reason: "\(lines[line].instrument) has no \(terms.side == .buy ? "ask" : "bid") now")
        }
        guard table.openCount < limits.openOrdersMax else {
            throw Rejection(code: .tooManyOpenOrders, reason: "\(limits.openOrdersMax) orders are open")
        }
        guard table.openCount(of: order.account) < limits.openOrdersPerAccountMax else {
            throw Rejection(
                code: .tooManyOpenOrders,
                reason: "the account has \(limits.openOrdersPerAccountMax) open orders, and may have no more")
        }
        return (line, terms)
    }

    private func terms(_ order: NewOrder) throws(Rejection) -> OrderTerms {
        let terms: OrderTerms
        do throws(OrderFieldError) {
            terms = try OrderTerms(
                side: order.side, quantityMicros: order.quantityMicros, limitPriceMicros: order.limitPriceMicros,
                orderType: order.type, timeInForce: order.timeInForce, stopPriceMicros: order.stopPriceMicros)
        } catch {
            throw Rejection(code: OrderReason(error), reason: error.description)
        }
        guard PriceMicros.join(micros: terms.limitPriceMicros, remainder: 0) != nil else {
            throw Rejection(code: .invalidLimitPrice, reason: "limit_price_micros is beyond every price")
        }
        guard PriceMicros.join(micros: terms.stopPriceMicros, remainder: 0) != nil else {
            throw Rejection(code: .invalidStopPrice, reason: "stop_price_micros is beyond every price")
        }
        return terms
    }

    func isName(_ text: String) -> Bool { text.utf8.count <= limits.nameBytesMax }

    private func tooLong(_ field: String, _ code: OrderReason) -> Rejection {
        Rejection(code: code, reason: "\(field) has more than \(limits.nameBytesMax) bytes")
    }

    /// Why no listing is meant by these names.
    private func notListed(exchange: String, symbol: String) -> Rejection {
        if exchange.isEmpty, let listed = linesOfSymbol[symbol], listed.count > 1 {
            let names = listed.map { lines[$0].instrument.exchange }.sorted().joined(separator: ", ")
            return Rejection(
                code: .ambiguousSymbol, reason: "\(symbol) is listed on \(names): set exchange to one of them")
        }
        let name = symbol.prefix(OrderFieldError.wordLengthMax)
        let place = exchange.isEmpty ? "any exchange" : String(exchange.prefix(OrderFieldError.wordLengthMax))
        return Rejection(code: .unknownSymbol, reason: "\"\(name)\" is not traded on \(place) here")
    }

    func rejection(_ order: NewOrder, _ code: OrderReason, _ reason: String, _ nowNs: Int64) -> OrderUpdate {
        let bytesMax = limits.nameBytesMax
        return OrderUpdate(
            account: clip(order.account, bytesMax), orderID: clip(order.orderID, bytesMax),
            exchange: clip(order.exchange, bytesMax), symbol: clip(order.symbol, bytesMax), status: .rejected,
            remainingMicros: max(0, order.quantityMicros), code: code, reason: clip(reason, limits.reasonBytesMax),
            timeNs: nowNs)
    }

    /// The answer to a cancel that names no order that it could cancel.
    func unknown(_ cancel: OrderCancel, _ code: OrderReason, _ reason: String, _ nowNs: Int64) -> OrderUpdate {
        OrderUpdate(
            account: clip(cancel.account, limits.nameBytesMax), orderID: clip(cancel.orderID, limits.nameBytesMax),
            exchange: "", symbol: "", status: .rejected, remainingMicros: 0, code: code, reason: reason, timeNs: nowNs)
    }

    /// What is repeated of what a client said is bounded.
    func clip(_ text: String, _ bytesMax: Int) -> String {
        text.utf8.count <= bytesMax ? text : String(decoding: text.utf8.prefix(bytesMax), as: UTF8.self)
    }

    /// Whether it may be kept: none of its words is longer than any that is accepted.
    func isBounded(_ order: NewOrder) -> Bool {
        [
            order.account, order.orderID, order.idempotencyKey, order.exchange, order.symbol, order.side, order.type,
            order.timeInForce,
        ].allSatisfy(isName)
    }
}
