import EventLoop
import GRPC
import MarketProto
import Protobuf
import Synchronization
import TimeSource

/// Orders from every loop to the one desk, and back.
enum OrderRouting {
    /// Makes the desk on the first loop, and the handlers of each loop in its order. Never on a loop.
    static func make(
        loops: [EventLoop], tapes: [LoopConfined<Tape>], venue: OrderVenue?
    ) -> [LoopConfined<OrderHandlers>] {
        guard let venue, let first = loops.first else {
            return zip(loops, tapes).map { loop, tape in
                loop.runAndWait { loop in LoopConfined(OrderHandlers(tape: tape.value, loop: loop, way: nil)) }
            }
        }
        let back = OrderReplyWay(loops: loops)
        let desk = first.runAndWait { [tape = tapes[0]] _ in
            LoopConfined(
                OrderDesk(venue: venue, tape: tape.value, loopCount: loops.count) { loop, replies in
                    back.deliver(replies, to: loop)
                })
        }
        let run = "SIM" + String(venue.time.wallNs() / 1_000_000, radix: 16)
        let handlers = loops.indices.map { index in
            loops[index].runAndWait { [tape = tapes[index]] loop in
                let way = OrderHandlers.Way(venue: venue, run: run, loop: index) { commands in
                    first.execute { desk.value.handle(commands) }
                }
                return LoopConfined(OrderHandlers(tape: tape.value, loop: loop, way: way))
            }
        }
        back.set(handlers)
        return handlers
    }
}

/// How the desk reaches the handlers of a loop: a batch for each at the end of what it does.
private final class OrderReplyWay: Sendable {
    private let loops: [EventLoop]
    private let handlers = Mutex<[LoopConfined<OrderHandlers>]>([])

    init(loops: [EventLoop]) { self.loops = loops }

    func set(_ handlers: [LoopConfined<OrderHandlers>]) { self.handlers.withLock { $0 = handlers } }

    func deliver(_ replies: [OrderReply], to loop: Int) {
        guard let handlers = handlers.withLock({ loop < $0.count ? $0[loop] : nil }) else { return }
        loops[loop].execute { handlers.value.deliver(replies) }
    }
}

extension OrderHandlers {
    /// Registers the order calls.
    func register(on table: inout GRPCServiceTable) {
        table.register(path: Proto.OrderService.submitOrder.path, unary: submitOrder)
        table.register(
            path: Proto.MarketDataService.submitOrders.path, serverStreaming: false, streaming: submitOrders)
        table.register(path: Proto.MarketDataService.liveTrading.path, streaming: liveTrading)
    }
}
