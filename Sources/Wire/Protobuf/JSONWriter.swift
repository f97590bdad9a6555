/// Writes the proto3 JSON mapping (protobuf.dev/programming-guides/json).
public struct JSONWriter {
    public private(set) var text = ""
    private var needsComma = false

    public init() {}

    public mutating func beginObject() {
        text += "{"
        needsComma = false
    }

    public mutating func endObject() {
        text += "}"
        needsComma = true
    }

    public mutating func beginArray() {
        text += "["
        needsComma = false
    }

    public mutating func endArray() {
        text += "]"
        needsComma = true
    }

    /// Before each element of an array.
    public mutating func element() {
        if needsComma { text += "," }
        needsComma = true
    }

    /// Before each member's value.
    public mutating func name(_ name: String) {
        if needsComma { text += "," }
        quote(name)
        text += ":"
        needsComma = true
    }

    public mutating func string(_ value: String) { quote(value) }
    public mutating func bool(_ value: Bool) { text += value ? "true" : "false" }
    public mutating func int32(_ value: Int32) { text += String(value) }
    public mutating func uint32(_ value: UInt32) { text += String(value) }
    public mutating func int64(_ value: Int64) { text += "\"\(value)\"" }
    public mutating func uint64(_ value: UInt64) { text += "\"\(value)\"" }
    public mutating func sint32(_ value: Int32) { int32(value) }
    public mutating func sint64(_ value: Int64) { int64(value) }
    public mutating func fixed32(_ value: UInt32) { uint32(value) }
    public mutating func fixed64(_ value: UInt64) { uint64(value) }
    public mutating func sfixed32(_ value: Int32) { int32(value) }
    public mutating func sfixed64(_ value: Int64) { int64(value) }
    public mutating func float(_ value: Float) { floating(value) }
    public mutating func double(_ value: Double) { floating(value) }
    public mutating func bytes(_ value: [UInt8]) { text += "\"\(ProtoBase64.encode(value))\"" }
    public mutating func null() { text += "null" }

    public mutating func enumeration(_ value: some ProtoEnum) {
        if let name = value.protoName { quote(name) } else { int32(value.rawValue) }
    }

    public mutating func message(_ value: some ProtoMessage) { value.writeJSON(to: &self) }

    private mutating func floating<F: BinaryFloatingPoint & CustomStringConvertible>(_ value: F) {
        if value.isNaN {
            text += "\"NaN\""
        } else if value.isInfinite {
            text += value < 0 ? "\"-Infinity\"" : "\"Infinity\""
        } else {
            let shortest = value.description
            // Readers take -0 for the integer 0.
            text += shortest.hasSuffix(".0") && shortest != "-0.0" ? String(shortest.dropLast(2)) : shortest
        }
    }

    private mutating func quote(_ value: String) {
        text += "\""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let hex = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}

/// Base64 with padding (RFC 4648 section 4).
public enum ProtoBase64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    public static func encode(_ bytes: [UInt8]) -> String {
        var out: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let group = bytes[start..<min(start + 3, bytes.count)]
            let word = group.reduce(UInt32(0)) { $0 << 8 | UInt32($1) } << UInt32(8 * (3 - group.count))
            for index in 0..<4 {
                out.append(
                    index <= group.count ? alphabet[Int(word >> UInt32(18 - 6 * index) & 63)] : UInt8(ascii: "="))
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// For text that ``encode(_:)`` made: what is not in the alphabet is passed over.
    public static func decode(_ text: StaticString) -> [UInt8] {
        var values = [UInt32](repeating: .max, count: 256)
        for (value, byte) in alphabet.enumerated() { values[Int(byte)] = UInt32(value) }
        var out: [UInt8] = []
        var word: UInt32 = 0
        var bits: UInt32 = 0
        text.withUTF8Buffer { bytes in
            for byte in bytes where values[Int(byte)] != .max {
                word = word << 6 | values[Int(byte)]
                bits += 6
                if bits >= 8 {
                    bits -= 8
                    out.append(UInt8(truncatingIfNeeded: word >> bits))
                }
            }
        }
        return out
    }
}
