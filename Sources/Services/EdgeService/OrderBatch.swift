import GRPC
import MarketProto
import Protobuf
import SimulatedExecution

/// A call of SubmitOrders: orders in, one summary out when the client has sent all and each is answered. Confined to
/// its loop.
final class OrderBatch: RequestSink, OrderCaller {
    var session = OrderSession(loop: 0, number: 0)
    private unowned let call: ServerCall
    private unowned let handlers: OrderHandlers
    private let limits: OrderLimits
    /// One per order, in the order received.
    @exclusivity(unchecked) private var results = OrderResults()
    @exclusivity(unchecked) private var inFlight = 0
    /// The call's, once the first order is there.
    private var deadlineNs: Int64?
    private var isPaused = false
    private var isComplete = false

    init(call: ServerCall, handlers: OrderHandlers, limits: OrderLimits) {
        self.call = call
        self.handlers = handlers
        self.limits = limits
    }

    func received(message: UnsafeRawBufferPointer, _ call: ServerCall) {
        guard results.count < limits.ordersPerCallMax else {
            return call.fail(
                GRPCStatus(
                    .resourceExhausted,
                    "more than \(limits.ordersPerCallMax) orders in one call; the first \(limits.ordersPerCallMax) "
                        + "were taken, ask for their answers by their idempotency keys"))
        }
        if results.count == 0 { deadlineNs = handlers.deadlineNs(call) }
        guard var order = try? NewOrder(decoding: message) else {
            return results.append(
                Proto.OrderStatusUpdate(
                    rejecting: NewOrder(), .invalidMessage, "message \(results.count + 1) is no OrderRequest",
                    timeNs: handlers.nowNs))
        }
        if let status = handlers.denial(order, call) { return results.append(status) }
        order.deadlineNs = deadlineNs
        results.reserve()
        inFlight += 1
        handlers.send(OrderCommand(session: session, body: .order(order)))
        if inFlight >= limits.inFlightMax, !isPaused {
            isPaused = true
            call.pauseRequests()
        }
    }

    func receivedEnd(_ call: ServerCall) {
        isComplete = true
        finishIfAnswered()
    }

    func received(_ reply: OrderReply.Body) {
        // The desk answers the orders of a call in their order.
        guard case .answer(let answer) = reply else { return }
        results.answer(answer.update)
        inFlight -= 1
        if isPaused, inFlight <= limits.inFlightMax / 2 {
            isPaused = false
            call.resumeRequests()
        }
        finishIfAnswered()
    }

    /// The client's orders are still taken: the connection closes when the summary is out.
    func end() {}

    private func finishIfAnswered() {
        guard isComplete, inFlight == 0 else { return }
        call.respond(results.summary())
    }
}
