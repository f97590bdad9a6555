import GRPC
import MarketModel
import MarketProto
import Protobuf
import SimulatedExecution

/// Reasons that the edge itself rejects orders for, beside ``OrderReason``.
enum EdgeOrderReason: String {
    case permissionDenied = "PERMISSION_DENIED"
    case invalidMessage = "INVALID_MESSAGE"
}

extension NewOrder {
    init(_ request: Proto.OrderRequest, deadlineNs: Int64?) {
        self.init()
        account = request.account
        orderID = request.orderId
        idempotencyKey = request.idempotencyKey
        exchange = request.exchange
        symbol = request.symbol
        side = request.side
        type = request.orderType
        timeInForce = request.timeInForce
        quantityMicros = request.quantityMicros
        limitPriceMicros = request.limitPriceMicros
        stopPriceMicros = request.stopPriceMicros
        self.deadlineNs = deadlineNs
    }
}

extension OrderCancel {
    init(_ request: Proto.OrderCancelRequest) {
        self.init()
        account = request.account
        orderID = request.orderId
        idempotencyKey = request.idempotencyKey
        reason = request.reason
    }
}

extension WellKnown.Timestamp {
    init(ns: Int64) {
        self.init()
        (seconds, nanos) = TimestampParts.split(ns)
    }
}

extension Proto.OrderStatusUpdate {
    init(_ update: OrderUpdate) {
        self.init()
        orderId = update.orderID
        status = update.status.rawValue
        remainingQuantityMicros = update.remainingMicros
        account = update.account
        symbol = update.symbol
        exchange = update.exchange
        reasonCode = update.code?.rawValue ?? ""
        reason = update.reason
        statusTime = WellKnown.Timestamp(ns: update.timeNs)
    }

    /// A rejection by the edge itself.
    init(rejecting request: Proto.OrderRequest, _ code: EdgeOrderReason, _ reason: String, timeNs: Int64) {
        self.init()
        orderId = String(decoding: request.orderId.utf8.prefix(64), as: UTF8.self)
        status = OrderStatus.rejected.rawValue
        remainingQuantityMicros = max(0, request.quantityMicros)
        account = String(decoding: request.account.utf8.prefix(64), as: UTF8.self)
        reasonCode = code.rawValue
        self.reason = reason
        statusTime = WellKnown.Timestamp(ns: timeNs)
    }
}

extension Proto.ExecutionReport {
    /// `run` makes its id unique over starts of the server.
    init(_ execution: OrderExecution, run: String) {
        self.init()
        executionId = "\(run)-\(execution.number)"
        orderId = execution.orderID
        fillPriceMicros = PriceMicros.split(execution.price).micros
        fillQuantityMicros = execution.quantityMicros
        executionTime = WellKnown.Timestamp(ns: execution.timeNs)
        account = execution.account
        symbol = execution.symbol
        exchange = execution.exchange
        side = execution.side.rawValue
        venue = execution.exchange
        leavesQuantityMicros = execution.leavesMicros
    }
}

extension Proto.OrderResult {
    init(_ status: Proto.OrderStatusUpdate) {
        self.init()
        orderId = status.orderId
        accepted = status.status != OrderStatus.rejected.rawValue
        if !accepted {
            rejectionCode = status.reasonCode
            rejectionReason = status.reason
        }
        self.status = status
    }
}

extension Proto.TradingMessage {
    init(_ status: Proto.OrderStatusUpdate) {
        self.init()
        payload = .status(status)
    }

    init(_ event: OrderEvent, run: String) {
        self.init()
        switch event {
        case .status(let update): payload = .status(Proto.OrderStatusUpdate(update))
        case .execution(let execution): payload = .execution(Proto.ExecutionReport(execution, run: run))
        }
    }
}
