/// Percent-encoding of `grpc-message` (gRPC over HTTP/2, "Responses").
enum PercentCoding {
    static func encode(_ text: String) -> String {
        let space = UInt8(ascii: " ")
        // HTTP allows no space at the ends of a field's value (RFC 9113 section 8.2.1).
        let isTrimmed = text.utf8.first != space && text.utf8.last != space
        if isTrimmed, text.utf8.allSatisfy({ $0 >= space && $0 < 0x7f && $0 != UInt8(ascii: "%") }) { return text }
        var out = ""
        let last = text.utf8.count - 1
        for (index, byte) in text.utf8.enumerated() {
            let isAtEnd = index == 0 || index == last
            if byte > space || (byte == space && !isAtEnd), byte < 0x7f, byte != UInt8(ascii: "%") {
                out.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let hex = String(byte, radix: 16, uppercase: true)
                out += "%" + (hex.count == 1 ? "0" + hex : hex)
            }
        }
        return out
    }

    /// What is not a valid escape stays as it is.
    static func decode(_ text: String) -> String {
        guard text.utf8.contains(UInt8(ascii: "%")) else { return text }
        let bytes = Array(text.utf8)
        var out: [UInt8] = []
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "%"), index + 2 < bytes.count, let high = digit(bytes[index + 1]),
                let low = digit(bytes[index + 2])
            {
                out.append(high << 4 | low)
                index += 3
            } else {
                out.append(bytes[index])
                index += 1
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

/// Base64 of `-bin` metadata: written without padding, read with or without (RFC 4648 section 4).
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encode(_ bytes: some Sequence<UInt8>, isPadded: Bool = false) -> String {
        var out: [UInt8] = []
        var accumulator: UInt32 = 0
        var bits = 0
        for byte in bytes {
            accumulator = accumulator << 8 | UInt32(byte)
            bits += 8
            while bits >= 6 {
                bits -= 6
                out.append(alphabet[Int(accumulator >> UInt32(bits) & 63)])
            }
        }
        if bits > 0 { out.append(alphabet[Int(accumulator << UInt32(6 - bits) & 63)]) }
        while isPadded, out.count % 4 != 0 { out.append(UInt8(ascii: "=")) }
        return String(decoding: out, as: UTF8.self)
    }

    /// 64 for what is no digit.
    private static let digits: [UInt8] = {
        var digits = [UInt8](repeating: 64, count: 256)
        for (value, byte) in alphabet.enumerated() { digits[Int(byte)] = UInt8(value) }
        return digits
    }()

    /// nil for what is no base64. Spaces around it do not count.
    static func decode(_ text: some Collection<UInt8>) -> [UInt8]? {
        var out: [UInt8] = []
        var accumulator: UInt32 = 0
        var bits = 0
        var padding = 0
        for byte in text {
            if byte == UInt8(ascii: " ") { continue }
            if byte == UInt8(ascii: "=") {
                padding += 1
                continue
            }
            let value = digits[Int(byte)]
            guard value < 64, padding == 0 else { return nil }
            accumulator = accumulator << 6 | UInt32(value)
            bits += 6
            if bits >= 8 {
                bits -= 8
                out.append(UInt8(truncatingIfNeeded: accumulator >> UInt32(bits)))
            }
        }
        return bits < 6 && padding <= 2 ? out : nil
    }
}

/// Base64 that comes in pieces, each of which may end with its own padding (gRPC-Web's text).
struct Base64Decoder {
    /// Less than four digits that wait for the rest.
    private var digits: [UInt8] = []

    /// The bytes that are whole; nil for what is no base64.
    mutating func decode(_ bytes: UnsafeRawBufferPointer) -> [UInt8]? {
        var out: [UInt8] = []
        for byte in bytes {
            digits.append(byte)
            guard digits.count == 4 else { continue }
            guard let decoded = Base64.decode(digits) else { return nil }
            out += decoded
            digits.removeAll(keepingCapacity: true)
        }
        return out
    }
}
