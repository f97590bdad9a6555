import MarketModel
import SimulatedExecution
import TestSupport
import Testing

/// An engine with two exchanges, and what it said.
struct ExecutionWorld {
    var engine: SimulatedExecution
    var events: [OrderEvent] = []
    var nowNs: Int64 = 1_700_000_000_000_000_000
    private var count = 0

    static let aapl = try! Instrument(exchange: "SIMX", symbol: "AAPL")
    static let btcY = try! Instrument(exchange: "SIMY", symbol: "BTCUSDT")
    static let btcZ = try! Instrument(exchange: "SIMZ", symbol: "BTCUSDT")

    init(_ change: (inout SimulatedExecution.Limits) -> Void = { _ in }) {
        var limits = SimulatedExecution.Limits()
        change(&limits)
        engine = SimulatedExecution(limits: limits)
        for instrument in [Self.aapl, Self.btcY, Self.btcZ] { engine.list(instrument) }
    }

    /// Prices and sizes in whole units; nil for no quote of that side.
    mutating func quote(_ bid: (Int64, Int64)?, _ ask: (Int64, Int64)?, _ instrument: Instrument = aapl) {
        func level(_ pair: (Int64, Int64)?) -> PriceLevel? {
            pair.map { PriceLevel(price: $0.0 * 1_000_000_000, size: $0.1 * 100_000_000) }
        }
        engine.setQuote(engine.list(instrument), bid: level(bid), ask: level(ask), nowNs: nowNs, events: &events)
    }

    static func order(
        _ id: String, _ side: String = "BUY", _ type: String = "LIMIT", quantity: Int64 = 10, limit: Int64 = 0,
        stop: Int64 = 0, _ change: (inout NewOrder) -> Void = { _ in }
    ) -> NewOrder {
        var order = NewOrder()
        order.account = "A"
        order.orderID = id
        order.symbol = "AAPL"
        order.side = side
        order.type = type
        order.quantityMicros = quantity * 1_000_000
        order.limitPriceMicros = limit * 1_000_000
        order.stopPriceMicros = stop * 1_000_000
        change(&order)
        return order
    }

    @discardableResult
    mutating func submit(_ order: NewOrder) -> OrderAnswer {
        engine.submit(
            order, at: engine.listing(exchange: order.exchange, symbol: order.symbol), nowNs: nowNs, events: &events)
    }

    @discardableResult
    mutating func cancel(_ id: String, account: String = "A", key: String = "") -> OrderAnswer {
        var cancel = OrderCancel()
        cancel.account = account
        cancel.orderID = id
        cancel.idempotencyKey = key
        cancel.reason = "no more"
        return engine.cancel(cancel, nowNs: nowNs, events: &events)
    }

    /// What happened since the last call: `id STATUS remaining`, or `id quantity@price`.
    mutating func said() -> [String] {
        defer { events = [] }
        return events.map { event in
            switch event {
            case .status(let update):
                "\(update.orderID) \(update.status.rawValue) \(update.remainingMicros / 1_000_000)"
                    + (update.code.map { " \($0.rawValue)" } ?? "")
            case .execution(let execution):
                "\(execution.orderID) \(execution.quantityMicros / 1_000_000)@\(execution.price / 1_000_000_000)"
            }
        }
    }
}

struct SimulatedExecutionTests {
    @Test func `Every rejection has its name, and nothing happens`() {
        var world = ExecutionWorld { $0.openOrdersPerAccountMax = 1 }
        world.quote((99, 100), nil)
        world.submit(ExecutionWorld.order("taken", limit: 5))
        _ = world.said()
        typealias Change = (inout NewOrder) -> Void
        let cases: [(OrderReason, Change)] = [
            (.invalidSide, { $0.side = "buy" }), (.invalidSide, { $0.side = "" }),
            (.invalidOrderType, { $0.type = "Limit" }), (.invalidTimeInForce, { $0.timeInForce = "GTD" }),
            (.invalidQuantity, { $0.quantityMicros = 0 }), (.invalidQuantity, { $0.quantityMicros = -1 }),
            (.invalidLimitPrice, { $0.limitPriceMicros = 0 }), (.invalidLimitPrice, { $0.limitPriceMicros = -1 }),
            (.invalidLimitPrice, { $0.limitPriceMicros = .max }),
            (.invalidStopPrice, { $0.stopPriceMicros = 1 }),
            (.invalidStopPrice, { $0.type = "STOP" }),
            (
                .invalidStopPrice,
                {
                    $0.type = "STOP"
                    $0.stopPriceMicros = .max
                }
            ),
            (.unknownSymbol, { $0.symbol = "MSFT" }), (.unknownSymbol, { $0.exchange = "SIMY" }),
            (.unknownSymbol, { $0.symbol = "" }), (.ambiguousSymbol, { $0.symbol = "BTCUSDT" }),
            (.duplicateOrderID, { $0.orderID = "taken" }), (.invalidOrderID, { $0.orderID = "" }),
            (.invalidOrderID, { $0.orderID = String(repeating: "x", count: 65) }),
            (.invalidAccount, { $0.account = String(repeating: "x", count: 65) }),
            (.invalidIdempotencyKey, { $0.idempotencyKey = String(repeating: "x", count: 65) }),
            (.deadlinePassed, { $0.deadlineNs = 1_699_999_999_999_999_999 }),
            (
                .noQuote,
                {
                    $0.type = "MARKET"
                    $0.limitPriceMicros = 0
                }
            ),
            (.tooManyOpenOrders, { _ in }),
        ]
        for (code, change) in cases {
            let answer = world.submit(ExecutionWorld.order("new", limit: 5, change))
            #expect(!answer.isAccepted && answer.update.code == code, "\(answer)")
            #expect(!answer.update.reason.isEmpty && answer.update.reason.utf8.count <= 256)
            #expect(answer.update.orderID.utf8.count <= 64 && answer.update.account.utf8.count <= 64)
        }
        #expect(world.said().isEmpty && world.engine.openCount == 1)
    }

    @Test func `A limit order takes the displayed size at the quote's price and rests at its own`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 4))
        let answer = world.submit(ExecutionWorld.order("a", limit: 101))
        #expect(world.said() == ["a NEW 10", "a 4@100", "a PARTIAL 6"])
        #expect(answer.update.status == .partial && answer.update.remainingMicros == 6_000_000 && answer.isInEvents)
        // The same quote again shows nothing new.
        world.quote((98, 50), (100, 4))
        #expect(world.said().isEmpty)
        world.quote((98, 50), (100, 3))
        #expect(world.said() == ["a 3@101", "a PARTIAL 3"])
        world.quote((98, 50), (102, 9))
        #expect(world.said().isEmpty)
        world.quote((98, 50), (101, 9))
        #expect(world.said() == ["a 3@101", "a FILLED 0"])
        #expect(world.engine.openCount == 0 && !world.engine.hasOpenOrders(world.engine.list(ExecutionWorld.aapl)))
    }

    @Test func `Better prices come first, then older orders`() {
        var world = ExecutionWorld()
        world.quote((90, 1), (110, 1))
        for (id, limit) in [("a", 100), ("b", 101), ("c", 101), ("d", 99)] as [(String, Int64)] {
            world.submit(ExecutionWorld.order(id, limit: limit))
        }
        for (id, limit) in [("e", 105), ("f", 104)] as [(String, Int64)] {
            world.submit(ExecutionWorld.order(id, "SELL", limit: limit))
        }
        _ = world.said()
        world.quote((90, 1), (99, 35))
        #expect(
            world.said() == [
                "b 10@101", "b FILLED 0", "c 10@101", "c FILLED 0", "a 10@100", "a FILLED 0", "d 5@99", "d PARTIAL 5",
            ])
        world.quote((106, 15), nil)
        #expect(world.said() == ["f 10@104", "f FILLED 0", "e 5@105", "e PARTIAL 5"])
    }

    @Test func `MARKET takes quote after quote, within its limit if it has one`() {
        var world = ExecutionWorld()
        world.quote((99, 4), (100, 4))
        world.submit(ExecutionWorld.order("m", "SELL", "MARKET"))
        world.submit(ExecutionWorld.order("p", "BUY", "MARKET", limit: 101))
        #expect(world.said() == ["m NEW 10", "m 4@99", "m PARTIAL 6", "p NEW 10", "p 4@100", "p PARTIAL 6"])
        world.quote((97, 5), (102, 50))
        #expect(world.said() == ["m 5@97", "m PARTIAL 1"])
        world.quote((96, 5), (101, 50))
        #expect(world.said() == ["p 6@101", "p FILLED 0", "m 1@96", "m FILLED 0"])
    }

    @Test func `IOC cancels the rest, FOK all or nothing`() {
        var world = ExecutionWorld()
        world.quote((99, 4), (100, 4))
        world.submit(ExecutionWorld.order("i", limit: 100) { $0.timeInForce = "IOC" })
        #expect(world.said() == ["i NEW 10", "i 4@100", "i PARTIAL 6", "i CANCELLED 6 IOC_UNFILLED"])
        world.quote((99, 4), (100, 9))
        let answer = world.submit(ExecutionWorld.order("f", limit: 100) { $0.timeInForce = "FOK" })
        #expect(world.said() == ["f NEW 10", "f CANCELLED 10 FOK_UNFILLED"])
        #expect(answer.isAccepted && answer.update.status == .cancelled && answer.update.code == .fillOrKillUnfilled)
        world.submit(ExecutionWorld.order("g", quantity: 9, limit: 100) { $0.timeInForce = "FOK" })
        #expect(world.said() == ["g NEW 9", "g 9@100", "g FILLED 0"])
        world.submit(ExecutionWorld.order("h", limit: 98) { $0.timeInForce = "IOC" })
        #expect(world.said() == ["h NEW 10", "h CANCELLED 10 IOC_UNFILLED"])
    }

    @Test func `Stops wait for their price, then are MARKET or LIMIT orders`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 50))
        world.submit(ExecutionWorld.order("b", "BUY", "STOP", stop: 103))
        world.submit(ExecutionWorld.order("c", "BUY", "STOP", limit: 103, stop: 102))
        world.submit(ExecutionWorld.order("s", "SELL", "STOP", stop: 98))
        world.submit(ExecutionWorld.order("t", "BUY", "STOP", stop: 100))
        #expect(
            world.said() == ["b NEW 10", "c NEW 10", "s NEW 10", "t NEW 10", "t 10@100", "t FILLED 0"])
        world.quote((100, 50), (101, 50))
        #expect(world.said().isEmpty)
        world.quote((102, 50), (104, 50))
        // c waits at its limit.
        #expect(world.said() == ["b 10@104", "b FILLED 0"])
        world.quote((97, 50), (102, 50))
        #expect(world.said() == ["c 10@103", "c FILLED 0", "s 10@97", "s FILLED 0"])
    }

    @Test func `DAY orders end with their day, others go on`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 50))
        world.submit(ExecutionWorld.order("d", limit: 50))
        world.submit(ExecutionWorld.order("g", limit: 50) { $0.timeInForce = "GTC" })
        world.submit(ExecutionWorld.order("s", "SELL", "STOP", stop: 10))
        _ = world.said()
        world.nowNs += 86_400_000_000_000
        world.quote((99, 51), (100, 50))
        #expect(world.said() == ["d CANCELLED 10 DAY_ENDED", "s CANCELLED 10 DAY_ENDED"])
        #expect(world.engine.openCount == 1)
    }

    @Test func `A key that comes with another order is one used for something else, whichever field differs`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 4))
        let order = ExecutionWorld.order("a", limit: 100) { $0.idempotencyKey = "k" }
        let first = world.submit(order)
        let changes: [(inout NewOrder) -> Void] = [
            { $0.orderID = "b" }, { $0.exchange = "SIMX" }, { $0.symbol = "BTCUSDT" }, { $0.side = "SELL" },
            { $0.type = "MARKET" }, { $0.timeInForce = "DAY" }, { $0.quantityMicros += 1 },
            { $0.limitPriceMicros += 1 }, { $0.stopPriceMicros += 1 },
        ]
        for (number, change) in changes.enumerated() {
            var other = order
            change(&other)
            #expect(world.submit(other).update.code == .idempotencyKeyReused, "\(number)")
        }
        var later = order
        later.deadlineNs = 5
        #expect(world.submit(later).update == first.update)
        // Another account has keys of its own.
        var others = order
        others.account = "B"
        #expect(world.submit(others).update.code == nil)
    }

    @Test func `A repeated key gets the original answer, whatever happened between`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 4))
        let order = ExecutionWorld.order("a", limit: 100) { $0.idempotencyKey = "k" }
        let first = world.submit(order)
        world.quote((99, 50), (100, 7))
        _ = world.said()
        var again = order
        again.deadlineNs = 5
        let second = world.submit(again)
        #expect(second.update == first.update && !second.isInEvents && second.update.status == .partial)
        #expect(world.said().isEmpty)
        // Of another account it is another key; of another order it is none.
        #expect(
            world.submit(ExecutionWorld.order("a", limit: 90) { ($0.account, $0.idempotencyKey) = ("B", "k") })
                .isAccepted)
        var other = order
        other.quantityMicros += 1
        #expect(world.submit(other).update.code == .idempotencyKeyReused)
        // A rejection is an answer too, also when the cause is gone.
        let rejected = ExecutionWorld.order("b", limit: 5) { ($0.symbol, $0.idempotencyKey) = ("NEW", "r") }
        let refusal = world.submit(rejected)
        world.engine.list(try! Instrument(exchange: "SIMX", symbol: "NEW"))
        world.nowNs += 1
        #expect(world.submit(rejected).update == refusal.update)
        // The name of a rejected order stays free.
        #expect(world.submit(ExecutionWorld.order("b", limit: 5)).isAccepted)
        // Cancels have keys as well.
        let gone = world.cancel("b", key: "c")
        #expect(gone.update.status == .cancelled)
        world.nowNs += 1
        #expect(world.cancel("b", key: "c").update == gone.update)
        #expect(world.cancel("a", key: "c").update.code == .idempotencyKeyReused)
        #expect(world.cancel("b", key: "k").update.code == .idempotencyKeyReused)
    }

    @Test func `A cancel takes what is left, and says what it cannot take`() {
        var world = ExecutionWorld()
        world.quote((99, 50), (100, 4))
        world.submit(ExecutionWorld.order("a", limit: 100))
        world.submit(ExecutionWorld.order("s", "SELL", "STOP", stop: 50))
        _ = world.said()
        #expect(world.cancel("a", account: "B").update.code == .unknownOrder)
        #expect(world.cancel("x").update.status == .rejected)
        #expect(world.said().isEmpty)
        let answer = world.cancel("a")
        #expect(answer.update.status == .cancelled && answer.update.reason == "no more")
        #expect(world.said() == ["a CANCELLED 6 CANCELLED_BY_CLIENT"])
        let late = world.cancel("a")
        #expect(late.update.code == .cancelTooLate && late.update.status == .cancelled && !late.isInEvents)
        world.cancel("s")
        #expect(world.said() == ["s CANCELLED 10 CANCELLED_BY_CLIENT"])
        world.quote((40, 50), (100, 9))
        #expect(world.said().isEmpty && world.engine.openCount == 0)
    }

    @Test func `What is remembered is bounded, oldest first`() {
        var world = ExecutionWorld { $0.finishedMax = 3 }
        world.quote((99, 50), (100, 50))
        for number in 0..<50 {
            let order = ExecutionWorld.order("o\(number)", quantity: 1, limit: 100) {
                ($0.timeInForce, $0.idempotencyKey) = ("IOC", "k\(number)")
            }
            let first = world.submit(order)
            #expect(world.submit(order).update == first.update)
            world.quote((99, 50), (100, 50 + Int64(number)))
        }
        #expect(world.submit(ExecutionWorld.order("o49", limit: 1)).update.code == .duplicateOrderID)
        #expect(world.submit(ExecutionWorld.order("o0", limit: 1)).isAccepted)
        let long = String(repeating: "x", count: 100_000)
        for number in 0..<10 {
            let answer = world.submit(
                ExecutionWorld.order("z", limit: 1) { ($0.symbol, $0.idempotencyKey) = (long, "z\(number)") })
            #expect(answer.update.symbol.utf8.count == 64)
        }
        // Too long to keep: they pushed nothing out.
        #expect(world.submit(ExecutionWorld.order("o49", limit: 1)).update.code == .duplicateOrderID)
    }
}
