/// A value of CQL. Integer cases take each other's place where the number fits, so a literal is a value of any of them.
public enum CQLValue: Hashable, Sendable {
    case null
    /// Of a bound value only: what the row has stays.
    case unset
    /// No bytes where the type would have some: Cassandra keeps such values of old tables.
    case empty
    /// `ascii` and `text`.
    case text(String)
    /// `blob`, and types that are not known.
    case blob([UInt8])
    case boolean(Bool)
    case tinyint(Int8)
    case smallint(Int16)
    case int(Int32)
    /// `bigint` and `counter`.
    case bigint(Int64)
    case float(Float)
    case double(Double)
    case decimal(CQLDecimal)
    case varint(CQLVarint)
    /// Milliseconds since 1970.
    case timestamp(Int64)
    /// Days since 1970.
    case date(Int64)
    /// Nanoseconds since midnight.
    case time(Int64)
    /// `uuid` and `timeuuid`.
    case uuid(CQLUUID)
    /// 4 or 16 bytes.
    case inet([UInt8])
    case duration(CQLDuration)
    case list([CQLValue])
    case set([CQLValue])
    case map([CQLMapEntry])
    /// Fields in order; those behind the last are null.
    case tuple([CQLValue])
    case userDefined([CQLValue])
    case vector([CQLValue])
}

/// A pair of a map.
public struct CQLMapEntry: Hashable, Sendable {
    public var key: CQLValue
    public var value: CQLValue

    public init(_ key: CQLValue, _ value: CQLValue) {
        self.key = key
        self.value = value
    }
}

extension CQLValue: ExpressibleByIntegerLiteral, ExpressibleByStringLiteral, ExpressibleByBooleanLiteral {
    public init(integerLiteral value: Int64) { self = .bigint(value) }
    public init(stringLiteral value: String) { self = .text(value) }
    public init(booleanLiteral value: Bool) { self = .boolean(value) }

    /// The number of an integer case.
    public var integer: Int64? {
        switch self {
        case .tinyint(let value): Int64(value)
        case .smallint(let value): Int64(value)
        case .int(let value): Int64(value)
        case .bigint(let value): value
        default: nil
        }
    }

    /// The text of a text case.
    public var string: String? {
        if case .text(let text) = self { return text }
        return nil
    }
}

/// 128 bits.
public struct CQLUUID: Hashable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// 8-4-4-4-12 lower-case hexadecimal digits.
    public var description: String {
        var text = ""
        for (word, first) in [(high, 0), (low, 8)] {
            for index in 0..<8 {
                if [4, 6, 8, 10].contains(first + index) { text += "-" }
                let byte = UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * index))
                text += (byte < 16 ? "0" : "") + String(byte, radix: 16)
            }
        }
        return text
    }
}

/// Months, days and nanoseconds, all of one sign.
public struct CQLDuration: Hashable, Sendable {
    public var months: Int32
    public var days: Int32
    public var nanoseconds: Int64

    public init(months: Int32, days: Int32, nanoseconds: Int64) {
        self.months = months
        self.days = days
        self.nanoseconds = nanoseconds
    }
}

/// An integer of any size: two's complement, big endian, as it was written.
public struct CQLVarint: Hashable, Sendable, CustomStringConvertible {
    public var bytes: [UInt8]

    /// The bytes as they are on the wire: at least one.
    public init(bytes: [UInt8]) { self.bytes = bytes.isEmpty ? [0] : bytes }

    /// The shortest bytes of a number.
    public init(_ value: Int64) {
        var bytes = (0..<8).map { UInt8(truncatingIfNeeded: value >> Int64(56 - 8 * $0)) }
        while bytes.count > 1, bytes[0] == (value < 0 ? 0xff : 0), bytes[1] >> 7 == (value < 0 ? 1 : 0) {
            bytes.removeFirst()
        }
        self.bytes = bytes
    }

    /// nil where the number does not fit.
    public var int64: Int64? {
        guard bytes.count <= 8 else { return nil }
        var value: Int64 = bytes[0] >> 7 == 1 ? -1 : 0
        for byte in bytes { value = value << 8 | Int64(byte) }
        return value
    }

    /// Decimal digits; of numbers past 1,024 bytes only how long they are.
    public var description: String {
        guard bytes.count <= 1024 else { return "<\(bytes.count) bytes>" }
        let isNegative = bytes[0] >> 7 == 1
        var magnitude = bytes
        if isNegative {
            var carry: UInt16 = 1
            for index in magnitude.indices.reversed() {
                let sum = UInt16(~magnitude[index]) + carry
                magnitude[index] = UInt8(truncatingIfNeeded: sum)
                carry = sum >> 8
            }
        }
        var digits: [UInt8] = []
        var first = 0
        while first < magnitude.count {
            var rest = 0
            for index in first..<magnitude.count {
                let part = rest << 8 | Int(magnitude[index])
                magnitude[index] = UInt8(part / 10)
                rest = part % 10
            }
            digits.append(UInt8(ascii: "0") + UInt8(rest))
            while first < magnitude.count, magnitude[first] == 0 { first += 1 }
        }
        if digits.isEmpty { digits = [UInt8(ascii: "0")] }
        return (isNegative ? "-" : "") + String(decoding: digits.reversed(), as: UTF8.self)
    }
}

/// `unscaled` × 10^-`scale`.
public struct CQLDecimal: Hashable, Sendable {
    public var scale: Int32
    public var unscaled: CQLVarint

    public init(scale: Int32, unscaled: CQLVarint) {
        self.scale = scale
        self.unscaled = unscaled
    }
}

/// Why a value cannot be one of a type.
public struct CQLValueError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
