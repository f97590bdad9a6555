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
    /// One per order, in the order received; nil until it is answered.
    private var results: [Proto.OrderResult?] = []
    private var inFlight = 0
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
        let index = results.count
        guard let order = try? Proto.OrderRequest(decoding: message) else {
            let status = Proto.OrderStatusUpdate(
                rejecting: Proto.OrderRequest(), .invalidMessage, "message \(index + 1) is no OrderRequest",
                timeNs: handlers.nowNs)
            return results.append(Proto.OrderResult(status))
        }
        if let status = handlers.denial(order, call) { return results.append(Proto.OrderResult(status)) }
        results.append(nil)
        inFlight += 1
        handlers.send(OrderCommand(session: session, index: index, body: .order(handlers.order(order, call))))
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
        guard case .answer(let index, let answer) = reply else { return }
        results[index] = Proto.OrderResult(Proto.OrderStatusUpdate(answer.update))
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
        var summary = Proto.OrderBatchSummary()
        summary.results = results.compactMap { $0 }
        summary.accepted = Int32(clamping: summary.results.count { $0.accepted })
        summary.rejected = Int32(clamping: summary.results.count) - summary.accepted
        summary.rejectionReasons = summary.results.filter { !$0.accepted }.map {
            "\($0.rejectionCode): \($0.rejectionReason)"
        }
        call.respond(summary.encodedBytes())
    }
}
