// Venues' own messages to normalized ones. Pure: bytes in, values out. Fed by recordings and, later, by live lines;
// feeds the feed.

import MarketModel

/// A venue's format.
public enum VenueFormat: String, Sendable, CaseIterable {
    case binance, kraken, coinbase

    /// Guessed from a message, as the first of a recording; nil when it is none of these.
    public static func detect(_ message: JSONValue) -> VenueFormat? {
        if message.isArray { return .kraken }
        if message["event"] != nil { return .kraken }
        if message["stream"] != nil || message["lastUpdateId"] != nil || message["e"] != nil { return .binance }
        if message["product_id"] != nil || message["type"] != nil { return .coinbase }
        return nil
    }

    /// The channel, as the venue calls it, of a message or a subscription's answer that ``read(_:symbol:into:)`` has no
    /// use for; nil of all others.
    public func unreadChannel(_ message: JSONValue) -> String? {
        switch self {
        case .binance: Binance.unreadChannel(message)
        case .kraken: Kraken.unreadChannel(message)
        case .coinbase: Coinbase.unreadChannel(message)
        }
    }

    /// Channels that are read, for people.
    public var channels: String {
        switch self {
        case .binance: "depth, bookTicker and trade"
        case .kraken: "book"
        case .coinbase: "level2"
        }
    }

    /// Adds the messages that a document stands for: none for heartbeats and answers. Where it throws, nothing is
    /// added: half a message is none.
    public func read(_ message: JSONValue, symbol: String, into out: inout [VenueMessage]) throws(FormatError) {
        let countBefore = out.count
        do {
            switch self {
            case .binance: try Binance.read(message, symbol: symbol, into: &out)
            case .kraken: try Kraken.read(message, into: &out)
            case .coinbase: try Coinbase.read(message, into: &out)
            }
        } catch {
            out.removeSubrange(countBefore...)
            throw error
        }
    }
}

/// What the formats share: decimal text to integers, and levels.
enum Levels {
    static func price(_ value: JSONValue?, _ name: String) throws(FormatError) -> Int64 {
        let price = try decimal(value, Scale.price, name)
        guard price > 0 else { throw .number("\(name) is not above 0") }
        return price
    }

    static func size(_ value: JSONValue?, _ name: String) throws(FormatError) -> Int64 {
        let size = try decimal(value, Scale.quantity, name)
        guard size >= 0 else { throw .number("\(name) is below 0") }
        return size
    }

    private static func decimal(_ value: JSONValue?, _ scale: Int, _ name: String) throws(FormatError) -> Int64 {
        guard let text = value?.text else { throw .field(name) }
        do {
            return try DecimalText.mantissa(text, scale: scale)
        } catch .outOfRange {
            throw .outOfRange(name)
        } catch {
            throw .number("\(name): \(error)")
        }
    }

    /// `[[price, size, …], …]`
    static func read(
        _ value: JSONValue?, _ name: String, into message: inout VenueMessage,
        _ side: WritableKeyPath<VenueMessage, [PriceLevel]>
    ) throws(FormatError) {
        guard let value, value.isArray else { throw .field(name) }
        var levels: [PriceLevel] = []
        for entry in value.children {
            guard entry.isArray else { throw .field(name) }
            var fields = entry.children
            if let level = try level(fields.next(), fields.next(), name, &message) { levels.append(level) }
        }
        message[keyPath: side] += levels
    }

    /// One level; nil for one that the scales cannot hold, such as an ask at ten billion: it is counted, and the book
    /// is right without it as long as nobody trades there. A value finer than the scale makes the message bad.
    static func level(
        _ priceText: JSONValue?, _ sizeText: JSONValue?, _ name: String, _ message: inout VenueMessage
    ) throws(FormatError) -> PriceLevel? {
        do {
            return PriceLevel(price: try price(priceText, name), size: try size(sizeText, name))
        } catch .outOfRange {
            message.levelsRefused += 1
            return nil
        }
    }

    /// Digits behind the point of a text.
    static func decimals(_ value: JSONValue?) -> UInt8 {
        guard let text = value?.text, let point = text.firstIndex(of: UInt8(ascii: ".")) else { return 0 }
        return UInt8(truncatingIfNeeded: text.count - point - 1)
    }
}
