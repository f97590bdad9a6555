import MarketModel

/// Coinbase's level2 channel. (docs.cdp.coinbase.com, Exchange WebSocket channels)
enum Coinbase {
    static let exchange = "COINBASE"

    static func read(_ message: JSONValue, into out: inout [VenueMessage]) throws(FormatError) {
        guard let kind = message["type"]?.string else { throw .field("type") }
        switch kind {
        case "snapshot":
            var snapshot = VenueMessage(.snapshot, exchange: exchange, symbol: try product(message))
            try Levels.read(message["bids"], "bids", into: &snapshot, \.bids)
            try Levels.read(message["asks"], "asks", into: &snapshot, \.asks)
            out.append(snapshot)
        case "l2update": out.append(try update(message))
        // Answers, and channels that change no level.
        case "subscriptions", "heartbeat", "error": break
        case let kind where unread.contains(kind): break
        default: throw .unknownMessage(kind)
        }
    }

    private static let unread: Set<String> = [
        "last_match", "match", "ticker", "status", "received", "open", "done", "change", "activate", "auction",
        "rfq_matches",
    ]

    static func unreadChannel(_ message: JSONValue) -> String? {
        guard let kind = message["type"]?.string, unread.contains(kind) else { return nil }
        return kind
    }

    private static func product(_ message: JSONValue) throws(FormatError) -> String {
        guard let product = message["product_id"]?.string else { throw .field("product_id") }
        return product
    }

    private static func update(_ message: JSONValue) throws(FormatError) -> VenueMessage {
        var delta = VenueMessage(.delta, exchange: exchange, symbol: try product(message))
        if let time = message["time"] {
            guard let text = time.string, let ns = RFC3339.nanoseconds(text) else { throw .field("time") }
            delta.eventTimeNs = ns
        }
        guard let changes = message["changes"], changes.isArray else { throw .field("changes") }
        for change in changes.children {
            let fields = Array(change.children)
            guard change.isArray, fields.count >= 3, let side = fields[0].string else { throw .field("changes") }
            guard let level = try Levels.level(fields[1], fields[2], "change", &delta) else { continue }
            switch side {
            case "buy": delta.bids.append(level)
            case "sell": delta.asks.append(level)
            default: throw .field("side")
            }
        }
        return delta
    }
}

/// UTC times as `2021-03-04T05:06:07.123456Z` (RFC 3339; only `Z`).
enum RFC3339 {
    static func nanoseconds(_ text: String) -> Int64? {
        let bytes = Array(text.utf8)
        guard bytes.count >= 20, bytes.count <= 30, bytes.last == UInt8(ascii: "Z"), bytes[4] == UInt8(ascii: "-"),
            bytes[7] == UInt8(ascii: "-"), bytes[10] == UInt8(ascii: "T"), bytes[13] == UInt8(ascii: ":"),
            bytes[16] == UInt8(ascii: ":")
        else { return nil }
        func number(_ range: Range<Int>) -> Int64? {
            var value: Int64 = 0
            for byte in bytes[range] {
                guard byte >= 0x30, byte <= 0x39 else { return nil }
                value = value * 10 + Int64(byte - 0x30)
            }
            return value
        }
        guard let year = number(0..<4), let month = number(5..<7), let day = number(8..<10), let hour = number(11..<13),
            let minute = number(14..<16), let second = number(17..<19), (1678...2261).contains(year),
            (1...12).contains(month), (1...lastDay(year, month)).contains(day), hour < 24, minute < 60, second < 61
        else { return nil }
        var fraction: Int64 = 0
        if bytes.count > 20 {
            guard bytes.count > 21, bytes[19] == UInt8(ascii: "."), let digits = number(20..<(bytes.count - 1)) else {
                return nil
            }
            fraction = digits
            for _ in 0..<(9 - (bytes.count - 21)) { fraction *= 10 }
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
        return seconds * 1_000_000_000 + fraction
    }

    private static func lastDay(_ year: Int64, _ month: Int64) -> Int64 {
        switch month {
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    /// Days since 1970-01-01 (proleptic Gregorian).
    private static func days(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = shiftedYear / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }
}
