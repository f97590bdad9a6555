import MarketModel

/// Kraken's book channel, version 1. (docs.kraken.com, "Book" of the WebSocket API v1)
enum Kraken {
    static let exchange = "KRAKEN"

    static func read(_ message: JSONValue, into out: inout [VenueMessage]) throws(FormatError) {
        // Objects are answers and heartbeats.
        guard message.isArray else {
            guard message["event"] != nil else { throw .unknownMessage("an object without event") }
            return
        }
        let parts = Array(message.children)
        guard parts.count >= 4, parts[0].unsigned != nil, let pair = parts[parts.count - 1].string,
            let channel = parts[parts.count - 2].string
        else { throw .field("channel") }
        switch channel.prefix(while: { $0 != "-" }) {
        case "book": break
        // Channels that change no book.
        case let name where unread.contains(String(name)): return
        default: throw .unknownMessage(channel)
        }
        var book: VenueMessage?
        for part in parts[1..<(parts.count - 2)] {
            guard part.isObject else { throw .field("book") }
            if part["as"] != nil || part["bs"] != nil {
                out.append(try snapshot(part, pair))
            } else {
                var delta = book ?? VenueMessage(.delta, exchange: exchange, symbol: pair)
                try add(part, to: &delta)
                book = delta
            }
        }
        if let book { out.append(book) }
    }

    private static let unread: Set<String> = ["ticker", "trade", "spread", "ohlc"]

    static func unreadChannel(_ message: JSONValue) -> String? {
        let parts = message.isArray ? Array(message.children) : []
        let channel = parts.count >= 4 ? parts[parts.count - 2].string : message["channelName"]?.string
        guard let name = channel?.prefix(while: { $0 != "-" }), unread.contains(String(name)) else { return nil }
        return String(name)
    }

    private static func snapshot(_ part: JSONValue, _ pair: String) throws(FormatError) -> VenueMessage {
        var message = VenueMessage(.snapshot, exchange: exchange, symbol: pair)
        message.bids = try side(part["bs"], &message)
        message.asks = try side(part["as"], &message)
        return message
    }

    private static func add(_ part: JSONValue, to message: inout VenueMessage) throws(FormatError) {
        if let bids = part["b"] { message.bids += try side(bids, &message) }
        if let asks = part["a"] { message.asks += try side(asks, &message) }
        if let checksum = part["c"] {
            // Digits only: UInt32 would take a sign.
            guard let text = checksum.string, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
                let value = UInt32(text)
            else { throw .field("c") }
            message.checksum = value
        }
    }

    /// `[[price, size, seconds, "r"?], …]`; the newest time is the message's.
    private static func side(_ value: JSONValue?, _ message: inout VenueMessage) throws(FormatError) -> [PriceLevel] {
        guard let value, value.isArray else { throw .field("book side") }
        var levels: [PriceLevel] = []
        for entry in value.children {
            let fields = Array(entry.children)
            guard entry.isArray, fields.count >= 3 else { throw .field("level") }
            if let level = try Levels.level(fields[0], fields[1], "level", &message) { levels.append(level) }
            message.priceDecimals = max(message.priceDecimals, Levels.decimals(fields[0]))
            message.sizeDecimals = max(message.sizeDecimals, Levels.decimals(fields[1]))
            guard let time = fields[2].text, let ns = try? DecimalText.mantissa(time, scale: 9), ns >= 0 else {
                throw .field("timestamp")
            }
            message.eventTimeNs = max(message.eventTimeNs ?? ns, ns)
        }
        return levels
    }
}
