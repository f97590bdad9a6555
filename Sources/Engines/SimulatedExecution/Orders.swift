import MarketModel

/// An order as it came, its words unchecked.
public struct NewOrder: Hashable, Sendable {
    public var account = ""
    /// The client's name of the order, unique within the account.
    public var orderID = ""
    /// A repeated one gets the original answer; empty: none.
    public var idempotencyKey = ""
    /// Empty: the one exchange that lists the symbol.
    public var exchange = ""
    public var symbol = ""
    public var side = ""
    public var type = ""
    /// Empty: DAY.
    public var timeInForce = ""
    public var quantityMicros: Int64 = 0
    public var limitPriceMicros: Int64 = 0
    public var stopPriceMicros: Int64 = 0
    /// It may not be begun later, nanoseconds since the Unix epoch; nil: any time.
    public var deadlineNs: Int64?

    public init() {}

    /// Whether it is the same order, whenever it was sent.
    func isRepeat(of other: NewOrder) -> Bool {
        quantityMicros == other.quantityMicros && limitPriceMicros == other.limitPriceMicros
            && stopPriceMicros == other.stopPriceMicros && orderID == other.orderID && symbol == other.symbol
            && exchange == other.exchange && side == other.side && type == other.type
            && timeInForce == other.timeInForce && account == other.account && idempotencyKey == other.idempotencyKey
    }
}

/// A wish to cancel an order.
public struct OrderCancel: Hashable, Sendable {
    public var account = ""
    public var orderID = ""
    /// As of ``NewOrder``; orders and cancels of an account share their keys.
    public var idempotencyKey = ""
    /// The client's own words, repeated in the status.
    public var reason = ""

    public init() {}
}

/// Why an order was rejected or cancelled, or a cancel did nothing. Raw values are `reason_code` on the wire and never
/// change.
public enum OrderReason: String, Sendable, CaseIterable {
    // Rejections for what the order says.
    case invalidAccount = "INVALID_ACCOUNT"
    case invalidOrderID = "INVALID_ORDER_ID"
    case invalidIdempotencyKey = "INVALID_IDEMPOTENCY_KEY"
    case invalidSide = "INVALID_SIDE"
    case invalidOrderType = "INVALID_ORDER_TYPE"
    case invalidTimeInForce = "INVALID_TIME_IN_FORCE"
    case invalidQuantity = "INVALID_QUANTITY"
    case invalidLimitPrice = "INVALID_LIMIT_PRICE"
    case invalidStopPrice = "INVALID_STOP_PRICE"
    case unknownSymbol = "UNKNOWN_SYMBOL"
    case ambiguousSymbol = "AMBIGUOUS_SYMBOL"
    case duplicateOrderID = "DUPLICATE_ORDER_ID"
    case idempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED"
    // Rejections for when it came.
    case deadlinePassed = "DEADLINE_PASSED"
    case noQuote = "NO_QUOTE"
    case tooManyOpenOrders = "TOO_MANY_OPEN_ORDERS"
    // Cancellations.
    case cancelledByClient = "CANCELLED_BY_CLIENT"
    case immediateOrCancelUnfilled = "IOC_UNFILLED"
    case fillOrKillUnfilled = "FOK_UNFILLED"
    case dayEnded = "DAY_ENDED"
    // Cancels that did nothing.
    case unknownOrder = "UNKNOWN_ORDER"
    case cancelTooLate = "CANCEL_TOO_LATE"

    init(_ error: OrderFieldError) {
        let field =
            switch error {
            case .word(let field, _, _), .number(let field, _, _): field
            }
        switch field {
        case OrderSide.field: self = .invalidSide
        case OrderType.field: self = .invalidOrderType
        case TimeInForce.field: self = .invalidTimeInForce
        case "quantity_micros": self = .invalidQuantity
        case "stop_price_micros": self = .invalidStopPrice
        default: self = .invalidLimitPrice
        }
    }
}

/// What became of an order.
public struct OrderUpdate: Hashable, Sendable {
    public let account: String
    public let orderID: String
    /// Empty where the order named none that exists.
    public var exchange: String
    public let symbol: String
    public var status: OrderStatus
    /// What is not executed: of the order's quantity, less all its executions.
    public var remainingMicros: Int64
    public var code: OrderReason?
    /// For people; empty without a code.
    public var reason = ""
    /// Nanoseconds since the Unix epoch.
    public var timeNs: Int64
}

/// One fill.
public struct OrderExecution: Hashable, Sendable {
    /// From 1, over all orders of the engine.
    public let number: UInt64
    public let account: String
    public let orderID: String
    public let exchange: String
    public let symbol: String
    public let side: OrderSide
    /// At 1e-9.
    public let price: Int64
    public let quantityMicros: Int64
    public let leavesMicros: Int64
    public let timeNs: Int64
}

/// What the engine did, in order.
public enum OrderEvent: Hashable, Sendable {
    case status(OrderUpdate)
    /// Followed by the status that it led to.
    case execution(OrderExecution)

    public var account: String {
        switch self {
        case .status(let update): update.account
        case .execution(let execution): execution.account
        }
    }
}

/// What is answered to whoever sent an order or cancel.
public struct OrderAnswer: Hashable, Sendable {
    /// Of an accepted order, where it stood when all was done that could be done at once.
    public let update: OrderUpdate
    /// It was accepted and this is not a repeat: its events say the same.
    public let isInEvents: Bool

    public var isAccepted: Bool { update.status != .rejected }
}
