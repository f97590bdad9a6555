import MarketModel
import SimulatedExecution
import TestSupport
import Testing

/// What must hold whatever is sent.
struct ExecutionPropertyTests {
    /// An order as its events say it.
    private struct Told {
        var status: OrderStatus
        var quantity: Int64
        var remaining: Int64
        var executed: Int64 = 0
    }

    /// The displayed size of each side that orders may still take.
    private struct Shown {
        var price: Int64 = 0
        var size: Int64 = 0
        var taken: Int64 = 0

        mutating func show(_ price: Int64, _ size: Int64) {
            guard (price, size) != (self.price, self.size) else { return }
            self = Shown(price: price, size: size)
        }
    }

    private struct Run {
        var world = ExecutionWorld { $0.openOrdersPerAccountMax = 30 }
        var told: [String: Told] = [:]
        var orders: [String: NewOrder] = [:]
        var all: [OrderEvent] = []
        var bid = Shown()
        var ask = Shown()

        mutating func step(_ random: inout SeededNumbers, _ number: Int) {
            switch random.below(10) {
            case 0..<4:
                let middle = Int64(100 + random.below(8))
                let (bids, asks) = (Int64(1 + random.below(30)), Int64(1 + random.below(30)))
                bid.show(middle - 1, bids)
                ask.show(middle, asks)
                world.quote((middle - 1, bids), (middle, asks))
            case 4..<9:
                let order = order(&random, number)
                orders["\(order.account) \(order.orderID)"] = orders["\(order.account) \(order.orderID)"] ?? order
                let answer = world.submit(order)
                // A rejected one may come again under its name.
                if !answer.isAccepted, answer.update.code != .duplicateOrderID {
                    let name = "\(order.account) \(order.orderID)"
                    if told[name] == nil, !world.events.contains(where: { self.name($0) == name }) {
                        orders[name] = nil
                    }
                }
            default: world.cancel("o\(random.below(max(1, number)))", account: random.below(2) == 0 ? "A" : "B")
            }
            world.nowNs += Int64(random.below(2_000_000_000_000))
            for event in world.events { check(event) }
            all += world.events
            world.events = []
        }

        private func order(_ random: inout SeededNumbers, _ number: Int) -> NewOrder {
            let type = ["LIMIT", "MARKET", "STOP"][random.below(3)]
            let side = ["BUY", "SELL"][random.below(2)]
            return ExecutionWorld.order(
                "o\(random.below(8) == 0 ? random.below(max(1, number)) : number)", side, type,
                quantity: Int64(random.below(40)),
                limit: type == "LIMIT" || random.below(3) == 0 ? Int64(98 + random.below(12)) : 0,
                stop: type == "STOP" ? Int64(98 + random.below(12)) : 0
            ) {
                $0.account = random.below(2) == 0 ? "A" : "B"
                $0.timeInForce = ["", "DAY", "GTC", "IOC", "FOK"][random.below(5)]
                if random.below(4) == 0 { $0.idempotencyKey = "k\(random.below(max(1, number)))" }
            }
        }

        private func name(_ event: OrderEvent) -> String {
            switch event {
            case .status(let update): "\(update.account) \(update.orderID)"
            case .execution(let execution): "\(execution.account) \(execution.orderID)"
            }
        }

        private mutating func check(_ event: OrderEvent) {
            let name = name(event)
            switch event {
            case .status(let update):
                guard let before = told[name] else {
                    #expect(update.status == .new, "\(name) begins with \(update.status)")
                    told[name] = Told(
                        status: .new, quantity: update.remainingMicros, remaining: update.remainingMicros)
                    return
                }
                let allowed: [OrderStatus] =
                    switch before.status {
                    case .new, .partial: [.partial, .filled, .cancelled]
                    case .filled, .cancelled, .rejected: []
                    }
                #expect(allowed.contains(update.status), "\(name): \(before.status) to \(update.status)")
                #expect(update.remainingMicros <= before.remaining)
                #expect(before.executed + update.remainingMicros == before.quantity, "\(name): nothing gets lost")
                #expect((update.remainingMicros == 0) == (update.status == .filled))
                told[name]?.status = update.status
                told[name]?.remaining = update.remainingMicros
            case .execution(let execution):
                #expect(execution.quantityMicros > 0)
                told[name]?.executed += execution.quantityMicros
                #expect(told[name].map { $0.quantity - $0.executed } == execution.leavesMicros)
                if execution.side == .buy {
                    ask.taken += execution.quantityMicros
                    #expect(ask.taken <= ask.size * 1_000_000 && execution.price >= ask.price * 1_000_000_000)
                } else {
                    bid.taken += execution.quantityMicros
                    #expect(bid.taken <= bid.size * 1_000_000 && execution.price <= bid.price * 1_000_000_000)
                }
            }
        }
    }

    @Test(arguments: 1...(Checkout.isSoak ? 400 : 30) as ClosedRange<UInt64>)
    func `Quantities are conserved, statuses follow each other, sizes are not exceeded, limits are kept`(_ seed: UInt64)
    {
        var random = SeededNumbers(seed: seed)
        var run = Run()
        for number in 0..<600 { run.step(&random, number) }
        #expect(run.all.count > 400)
        for event in run.all {
            guard case .execution(let execution) = event,
                let order = run.orders["\(execution.account) \(execution.orderID)"], order.limitPriceMicros > 0
            else { continue }
            let limit = order.limitPriceMicros * 1000
            #expect(execution.side == .buy ? execution.price <= limit : execution.price >= limit, "seed \(seed)")
        }
        let open = run.told.values.count { $0.status == .new || $0.status == .partial }
        #expect(open == run.world.engine.openCount)
        // The same commands, the same events.
        var again = SeededNumbers(seed: seed)
        var second = Run()
        for number in 0..<600 { second.step(&again, number) }
        #expect(second.all == run.all)
    }
}
