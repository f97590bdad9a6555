import MarketModel

/// Binance spot: REST depth snapshot, depthUpdate, bookTicker, trade; plain or in the combined stream's envelope.
/// (github.com/binance/binance-spot-api-docs, web-socket-streams.md)
enum Binance {
    static let exchange = "BINANCE"

    /// `symbol` is that of a REST snapshot, which does not name its own.
    static func read(_ message: JSONValue, symbol: String, into out: inout [VenueMessage]) throws(FormatError) {
        let data = message["data"] ?? message
        if data["lastUpdateId"] != nil { return out.append(try snapshot(data, symbol)) }
        switch data["e"]?.string {
        case "depthUpdate": out.append(try depth(data))
        case "trade": out.append(try trade(data))
        case nil where data["u"] != nil && data["B"] != nil: out.append(try ticker(data))
        case nil where data["result"] != nil: break
        // Streams that say nothing the others do not.
        case let kind? where unread.contains(kind): break
        case let kind: throw .unknownMessage(kind ?? "no event type")
        }
    }

    private static let unread: Set<String> = ["aggTrade", "kline", "24hrTicker", "24hrMiniTicker"]

    static func unreadChannel(_ message: JSONValue) -> String? {
        let data = message["data"] ?? message
        guard data["lastUpdateId"] == nil, let kind = data["e"]?.string, unread.contains(kind) else { return nil }
        return kind
    }

    private static func symbol(_ data: JSONValue) throws(FormatError) -> String {
        guard let symbol = data["s"]?.string else { throw .field("s") }
        return symbol
    }

    private static func number(_ data: JSONValue, _ name: StaticString) throws(FormatError) -> UInt64 {
        guard let number = data[name]?.unsigned else { throw .field("\(name)") }
        return number
    }

    /// Milliseconds to nanoseconds; refused where that is past 2262.
    private static func time(_ data: JSONValue, _ name: StaticString) throws(FormatError) -> Int64 {
        let milliseconds = try number(data, name)
        guard milliseconds <= UInt64(Int64.max) / 1_000_000 else { throw .number("\(name) is out of range") }
        return Int64(milliseconds) * 1_000_000
    }

    private static func snapshot(_ data: JSONValue, _ symbol: String) throws(FormatError) -> VenueMessage {
        guard !symbol.isEmpty else { throw .field("symbol") }
        var message = VenueMessage(.snapshot, exchange: exchange, symbol: symbol)
        message.lastSequence = try number(data, "lastUpdateId")
        message.firstSequence = message.lastSequence
        try Levels.read(data["bids"], "bids", into: &message, \.bids)
        try Levels.read(data["asks"], "asks", into: &message, \.asks)
        return message
    }

    private static func depth(_ data: JSONValue) throws(FormatError) -> VenueMessage {
        var message = VenueMessage(.delta, exchange: exchange, symbol: try symbol(data))
        message.eventTimeNs = try time(data, "E")
        message.firstSequence = try number(data, "U")
        message.lastSequence = try number(data, "u")
        try Levels.read(data["b"], "b", into: &message, \.bids)
        try Levels.read(data["a"], "a", into: &message, \.asks)
        return message
    }

    private static func ticker(_ data: JSONValue) throws(FormatError) -> VenueMessage {
        var message = VenueMessage(.ticker, exchange: exchange, symbol: try symbol(data))
        message.lastSequence = try number(data, "u")
        message.firstSequence = message.lastSequence
        message.bids = [
            PriceLevel(price: try Levels.price(data["b"], "b"), size: try Levels.size(data["B"], "B"))
        ]
        message.asks = [
            PriceLevel(price: try Levels.price(data["a"], "a"), size: try Levels.size(data["A"], "A"))
        ]
        return message
    }

    private static func trade(_ data: JSONValue) throws(FormatError) -> VenueMessage {
        var message = VenueMessage(.trade, exchange: exchange, symbol: try symbol(data))
        message.eventTimeNs = try time(data, "T")
        let id = try number(data, "t")
        message.firstSequence = id
        message.lastSequence = id
        guard let buyerIsMaker = data["m"]?.bool else { throw .field("m") }
        message.trade = VenueMessage.Trade(
            price: try Levels.price(data["p"], "p"), size: try Levels.size(data["q"], "q"), id: id,
            aggressorSide: buyerIsMaker ? .sell : .buy)
        return message
    }
}
