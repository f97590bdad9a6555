/// A tradable thing on one exchange. The pair is its identity everywhere and for ever.
public struct Instrument: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The longest exchange or symbol accepted, in UTF-8 bytes.
    public static let nameBytesMax = 64

    public let exchange: String
    public let symbol: String

    /// Throws when either name is empty, longer than ``nameBytesMax`` bytes, or contains `|` or a control character.
    public init(exchange: String, symbol: String) throws(InstrumentError) {
        try Self.check(exchange, .exchange)
        try Self.check(symbol, .symbol)
        self.exchange = exchange
        self.symbol = symbol
    }

    /// The log's partition key, `exchange|symbol`.
    public var key: String { "\(exchange)|\(symbol)" }

    public var description: String { key }

    public static func < (a: Instrument, b: Instrument) -> Bool {
        (a.exchange, a.symbol) < (b.exchange, b.symbol)
    }

    private static func check(_ name: String, _ part: InstrumentError.Part) throws(InstrumentError) {
        if name.isEmpty { throw InstrumentError(part: part, problem: .empty) }
        if name.utf8.count > nameBytesMax { throw InstrumentError(part: part, problem: .tooLong(name.utf8.count)) }
        for byte in name.utf8 where byte < 0x20 || byte == 0x7f || byte == UInt8(ascii: "|") {
            throw InstrumentError(part: part, problem: .forbiddenByte(byte))
        }
    }
}

/// Why an exchange or symbol was refused.
public struct InstrumentError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Which of the two names.
    public enum Part: String, Sendable { case exchange, symbol }
    /// What is wrong with it.
    public enum Problem: Hashable, Sendable {
        case empty
        case tooLong(Int)
        case forbiddenByte(UInt8)
    }

    public let part: Part
    public let problem: Problem

    public var description: String {
        switch problem {
        case .empty: "the \(part.rawValue) is empty"
        case .tooLong(let count):
            "the \(part.rawValue) has \(count) bytes; at most \(Instrument.nameBytesMax) are allowed"
        case .forbiddenByte(let byte):
            "the \(part.rawValue) contains byte 0x\(String(byte, radix: 16)); '|' and control characters are refused"
        }
    }
}
