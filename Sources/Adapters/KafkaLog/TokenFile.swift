import Glibc

/// Why there is no token.
public struct KafkaTokenError: Error, CustomStringConvertible {
    public let description: String
}

extension KafkaToken {
    private static let bytesMax = 64 << 10
    /// How long a token is believed that does not say when it ends.
    private static let unsaidMs: Int64 = 300_000

    /// The token that a file has, without the white space around it. Of a JSON web token, when it ends and whose it is
    /// are read from its claims (`exp`, `sub`), unverified: that is the brokers' part. `nowMs`: the time, milliseconds
    /// since the epoch. Throws ``KafkaTokenError``.
    public init(file: String, nowMs: Int64) throws {
        self.init(token: try KafkaToken.text(file: file, of: "the token file", what: "token"), nowMs: nowMs)
    }

    /// The one word of printable ASCII that a file has.
    static func text(file: String, of name: String, what: String) throws(KafkaTokenError) -> String {
        let descriptor = open(file, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw KafkaTokenError(description: "\(name) \(file): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: KafkaToken.bytesMax)
        let count = Glibc.read(descriptor, &bytes, bytes.count)
        let spaces: [UInt8] = [9, 10, 13, 32]
        var text = bytes[..<max(count, 0)].drop { spaces.contains($0) }
        while let last = text.last, spaces.contains(last) { text.removeLast() }
        guard !text.isEmpty, count < bytes.count, text.allSatisfy({ $0 > 32 && $0 < 127 }) else {
            throw KafkaTokenError(description: "\(name) \(file) has no \(what), but \(max(count, 0)) bytes")
        }
        return String(decoding: text, as: UTF8.self)
    }

    init(token: String, nowMs: Int64) {
        let parts = token.split(separator: ".", omittingEmptySubsequences: false)
        let claims = parts.count == 3 ? KafkaToken.decode(parts[1].utf8) : ""
        let ends = KafkaToken.claim("exp", claims).flatMap { Int64($0) }.map {
            $0.multipliedReportingOverflow(by: 1000)
        }
        let expiryMs = ends.flatMap { $0.overflow ? nil : $0.partialValue }
        self.init(
            value: token, expiryMs: expiryMs ?? nowMs + KafkaToken.unsaidMs,
            principal: KafkaToken.claim("sub", claims) ?? "")
    }

    /// A number's digits, or a text without escapes.
    private static func claim(_ name: String, _ claims: String) -> String? {
        guard let place = claims.firstRange(of: "\"\(name)\"") else { return nil }
        var rest = claims[place.upperBound...].drop { $0 == " " }
        guard rest.first == ":" else { return nil }
        rest = rest.dropFirst().drop { $0 == " " }
        guard rest.first == "\"" else {
            let digits = rest.prefix { $0.isASCII && $0.isNumber }
            return digits.isEmpty ? nil : String(digits)
        }
        return String(rest.dropFirst().prefix { $0 != "\"" && $0 != "\\" })
    }

    /// Base64 for URLs, without padding; empty for what is none.
    private static func decode(_ text: Substring.UTF8View) -> String {
        var bytes: [UInt8] = []
        var bits: UInt32 = 0
        var count = 0
        for character in text {
            let value: UInt8
            switch character {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = character - 65
            case UInt8(ascii: "a")...UInt8(ascii: "z"): value = character - 71
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = character + 4
            case UInt8(ascii: "-"), UInt8(ascii: "+"): value = 62
            case UInt8(ascii: "_"), UInt8(ascii: "/"): value = 63
            default: return ""
            }
            bits = bits << 6 | UInt32(value)
            count += 6
            guard count >= 8 else { continue }
            count -= 8
            bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
