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
    init(_ request: Proto.OrderRequest) {
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
    }
}

extension NewOrder {
    /// Decodes an OrderRequest without making one: a client may send a thousand in one call. Takes and refuses what
    /// `Proto.OrderRequest` does.
    init(decoding bytes: UnsafeRawBufferPointer) throws(DecodingError) {
        self.init()
        try ProtoReader.fields(of: bytes) { (reader: inout ProtoReader, tag: UInt32) throws(DecodingError) -> Void in
            switch tag {
            case 10: orderID = try reader.string()
            case 18: symbol = try reader.string()
            case 26: side = try reader.string()
            case 32: quantityMicros = try reader.int64()
            case 40: limitPriceMicros = try reader.int64()
            case 50: type = try reader.string()
            case 58:
                // The client's own time is nothing that an order is judged by.
                var time = WellKnown.Timestamp()
                try reader.message(into: &time)
            case 82: account = try reader.string()
            case 90: idempotencyKey = try reader.string()
            case 98: exchange = try reader.string()
            case 106: timeInForce = try reader.string()
            case 112: stopPriceMicros = try reader.int64()
            default:
                var fields = UnknownFields()
                try reader.unknown(tag, into: &fields)
            }
        }
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
    init(rejecting order: NewOrder, _ code: EdgeOrderReason, _ reason: String, timeNs: Int64) {
        self.init()
        orderId = String(decoding: order.orderID.utf8.prefix(64), as: UTF8.self)
        status = OrderStatus.rejected.rawValue
        remainingQuantityMicros = max(0, order.quantityMicros)
        account = String(decoding: order.account.utf8.prefix(64), as: UTF8.self)
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
