/// A word of the order messages: a string field that takes one of a few values, matched byte for byte.
public protocol OrderWord: RawRepresentable, CaseIterable, Sendable where RawValue == String {
    /// Name of the wire's field.
    static var field: String { get }
}

extension OrderWord {
    /// The value that `word` names; throws ``OrderFieldError`` with what is allowed for any other text, in other case
    /// too.
    public init(word: some StringProtocol) throws(OrderFieldError) {
        // Bytes, not characters: String equality takes canonically equivalent text, such as KELVIN SIGN for K.
        for value in Self.allCases where value.rawValue.utf8.elementsEqual(word.utf8) {
            self = value
            return
        }
        throw .word(
            field: Self.field, given: String(word.prefix(OrderFieldError.wordLengthMax)),
            allowed: Self.allCases.map(\.rawValue))
    }
}

/// `OrderRequest.side`.
public enum OrderSide: String, OrderWord {
    case buy = "BUY"
    case sell = "SELL"
    public static let field = "side"
}

/// `OrderRequest.order_type`.
public enum OrderType: String, OrderWord {
    case limit = "LIMIT"
    case market = "MARKET"
    case stop = "STOP"
    public static let field = "order_type"
}

/// `OrderStatusUpdate.status`.
public enum OrderStatus: String, OrderWord {
    case new = "NEW"
    case partial = "PARTIAL"
    case filled = "FILLED"
    case cancelled = "CANCELLED"
    case rejected = "REJECTED"
    public static let field = "status"
}

/// `OrderRequest.time_in_force`.
public enum TimeInForce: String, OrderWord {
    case day = "DAY"
    case goodTillCancel = "GTC"
    case immediateOrCancel = "IOC"
    case fillOrKill = "FOK"
    public static let field = "time_in_force"
}

/// The checked form of an `OrderRequest`'s words and numbers.
public struct OrderTerms: Hashable, Sendable {
    public let side: OrderSide
    public let type: OrderType
    public let timeInForce: TimeInForce
    /// Above 0.
    public let quantityMicros: Int64
    /// Above 0 for LIMIT; 0 or more for MARKET and STOP.
    public let limitPriceMicros: Int64
    /// Above 0 for STOP, else 0.
    public let stopPriceMicros: Int64

    /// Checks the fields as they stand in the message, in the order of their numbers; an empty `timeInForce` is DAY.
    /// Throws ``OrderFieldError`` for the first that is not allowed.
    public init(
        side: String, quantityMicros: Int64, limitPriceMicros: Int64, orderType: String, timeInForce: String,
        stopPriceMicros: Int64
    ) throws(OrderFieldError) {
        self.side = try OrderSide(word: side)
        type = try OrderType(word: orderType)
        self.timeInForce = timeInForce.isEmpty ? .day : try TimeInForce(word: timeInForce)
        guard quantityMicros > 0 else {
            throw .number(field: "quantity_micros", given: quantityMicros, rule: "must be above 0")
        }
        guard limitPriceMicros >= 0 else {
            throw .number(field: "limit_price_micros", given: limitPriceMicros, rule: "must not be below 0")
        }
        if limitPriceMicros == 0, type == .limit {
            throw .number(field: "limit_price_micros", given: 0, rule: "may be 0 for MARKET and STOP only")
        }
        guard type == .stop ? stopPriceMicros > 0 : stopPriceMicros == 0 else {
            throw .number(
                field: "stop_price_micros", given: stopPriceMicros,
                rule: "must be above 0 for STOP and 0 for all others")
        }
        self.quantityMicros = quantityMicros
        self.limitPriceMicros = limitPriceMicros
        self.stopPriceMicros = stopPriceMicros
    }
}

/// Why a field of an order was refused.
public enum OrderFieldError: Error, Hashable, Sendable, CustomStringConvertible {
    case word(field: String, given: String, allowed: [String])
    case number(field: String, given: Int64, rule: String)

    /// How much of a wrong word an error repeats, in characters.
    public static let wordLengthMax = 32

    public var description: String {
        switch self {
        case .word(let field, let given, let allowed):
            "\(field) is \"\(given)\"; allowed are \(allowed.joined(separator: ", "))"
        case .number(let field, let given, let rule):
            "\(field) is \(given); it \(rule)"
        }
    }
}
