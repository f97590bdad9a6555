import KafkaClient

/// `application/x-www-form-urlencoded`, as RFC 6749 has it of ids, secrets and scopes.
enum FormText {
    /// A space becomes `%20`, which everybody reads; `+` is one only to some.
    static func encode(_ text: String) -> String {
        var encoded: [UInt8] = []
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                encoded.append(byte)
            default:
                let digits = Array("0123456789ABCDEF".utf8)
                encoded += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
        }
        return String(decoding: encoded, as: UTF8.self)
    }

    /// The value of the header `authorization`, without its scheme.
    static func basic(_ credentials: [UInt8]) -> String { Base64.encode(credentials) }
}
