/// Writes the proto3 JSON mapping (protobuf.dev/programming-guides/json).
public struct JSONWriter {
    private var utf8: [UInt8] = []
    private var needsComma = false

    public init() { utf8.reserveCapacity(512) }

    /// A JSON string, with its quotes.
    public static func quoted(_ text: String) -> String {
        var writer = JSONWriter()
        writer.quote(text)
        return writer.text
    }

    /// What was written.
    public var text: String { String(decoding: utf8, as: UTF8.self) }

    public mutating func beginObject() {
        utf8.append(UInt8(ascii: "{"))
        needsComma = false
    }

    public mutating func endObject() {
        utf8.append(UInt8(ascii: "}"))
        needsComma = true
    }

    public mutating func beginArray() {
        utf8.append(UInt8(ascii: "["))
        needsComma = false
    }

    public mutating func endArray() {
        utf8.append(UInt8(ascii: "]"))
        needsComma = true
    }

    /// Before each element of an array.
    public mutating func element() {
        if needsComma { utf8.append(UInt8(ascii: ",")) }
        needsComma = true
    }

    /// Before each member's value.
    public mutating func name(_ name: String) {
        element()
        quote(name)
        utf8.append(UInt8(ascii: ":"))
    }

    public mutating func string(_ value: String) { quote(value) }
    public mutating func bool(_ value: Bool) { put(value ? "true" : "false") }
    public mutating func int32(_ value: Int32) { number(Int64(value)) }
    public mutating func uint32(_ value: UInt32) { number(Int64(value)) }
    public mutating func int64(_ value: Int64) {
        utf8.append(UInt8(ascii: "\""))
        number(value)
        utf8.append(UInt8(ascii: "\""))
    }
    public mutating func uint64(_ value: UInt64) {
        utf8.append(UInt8(ascii: "\""))
        digits(value, 1)
        utf8.append(UInt8(ascii: "\""))
    }
    public mutating func sint32(_ value: Int32) { int32(value) }
    public mutating func sint64(_ value: Int64) { int64(value) }
    public mutating func fixed32(_ value: UInt32) { uint32(value) }
    public mutating func fixed64(_ value: UInt64) { uint64(value) }
    public mutating func sfixed32(_ value: Int32) { int32(value) }
    public mutating func sfixed64(_ value: Int64) { int64(value) }
    public mutating func float(_ value: Float) { floating(value) }
    public mutating func double(_ value: Double) { floating(value) }
    public mutating func bytes(_ value: [UInt8]) { quote(ProtoBase64.encode(value)) }
    public mutating func null() { put("null") }

    public mutating func enumeration(_ value: some ProtoEnum) {
        if let name = value.protoName { quote(name) } else { int32(value.rawValue) }
    }

    public mutating func message(_ value: some ProtoMessage) { value.writeJSON(to: &self) }

    private mutating func floating<F: BinaryFloatingPoint & CustomStringConvertible>(_ value: F) {
        if value.isNaN {
            put("\"NaN\"")
        } else if value.isInfinite {
            put(value < 0 ? "\"-Infinity\"" : "\"Infinity\"")
        } else {
            let shortest = value.description
            // Readers take -0 for the integer 0.
            put(shortest.hasSuffix(".0") && shortest != "-0.0" ? String(shortest.dropLast(2)) : shortest)
        }
    }

    // MARK: Text, for mappings of their own

    /// Text as it is.
    mutating func put(_ text: String) { utf8.append(contentsOf: text.utf8) }

    /// A decimal of at least `count` digits.
    mutating func digits(_ value: UInt64, _ count: Int) {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 20) { buffer in
            var place = 20
            var rest = value
            repeat {
                place -= 1
                buffer[place] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
                rest /= 10
            } while rest != 0 || 20 - place < count
            utf8.append(contentsOf: buffer[place...])
        }
    }

    private mutating func number(_ value: Int64) {
        if value < 0 { utf8.append(UInt8(ascii: "-")) }
        digits(value.magnitude, 1)
    }

    private mutating func quote(_ value: String) {
        utf8.append(UInt8(ascii: "\""))
        var value = value
        value.withUTF8 { bytes in
            var start = 0
            for (index, byte) in bytes.enumerated() where JSONWriter.mustEscape(byte) {
                utf8.append(contentsOf: bytes[start..<index])
                escape(byte)
                start = index + 1
            }
            utf8.append(contentsOf: bytes[start...])
        }
        utf8.append(UInt8(ascii: "\""))
    }

    private static func mustEscape(_ byte: UInt8) -> Bool {
        byte < 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") || byte == 0x7f
    }

    private mutating func escape(_ byte: UInt8) {
        switch byte {
        case UInt8(ascii: "\""): put("\\\"")
        case UInt8(ascii: "\\"): put("\\\\")
        case UInt8(ascii: "\n"): put("\\n")
        case UInt8(ascii: "\r"): put("\\r")
        case UInt8(ascii: "\t"): put("\\t")
        default: put("\\u00" + (byte < 0x10 ? "0" : "") + String(byte, radix: 16))
        }
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
