// DNS messages (RFC 1035, RFC 3596): the question for a name's addresses, and what a name server answers. Pure: bytes
// in, values out, and back.

/// A name of the DNS. Upper and lower case are the same.
public struct DNSName: Hashable, Sendable, CustomStringConvertible {
    /// Most bytes of a label, and of a whole name with its lengths (RFC 1035, 2.3.4).
    static let labelLengthMax = 63
    static let lengthMax = 255

    /// Labels behind their lengths, in lower case, with the closing zero.
    let wire: [UInt8]

    /// nil where the text is no name: labels of 1 to 63 letters, digits, hyphens and underscores, 253 characters in
    /// all. A dot at the end is allowed. Other scripts are written as `xn--…`.
    public init?(_ text: some StringProtocol) {
        var wire: [UInt8] = []
        let body = text.hasSuffix(".") ? text.dropLast() : text[...]
        for label in body.split(separator: ".", omittingEmptySubsequences: false) {
            guard (1...DNSName.labelLengthMax).contains(label.utf8.count), label.utf8.allSatisfy(DNSName.isAllowed)
            else {
                return nil
            }
            wire.append(UInt8(label.utf8.count))
            wire += label.utf8.map(DNSName.lowercase)
        }
        wire.append(0)
        guard wire.count <= DNSName.lengthMax else { return nil }
        self.wire = wire
    }

    init(wire: [UInt8]) { self.wire = wire }

    /// With dots between the labels; bytes that are not printed in a name as `\DDD` (RFC 1035, 5.1).
    public var description: String {
        var text = ""
        var position = 0
        while position < wire.count, wire[position] > 0 {
            let end = position + 1 + Int(wire[position])
            if !text.isEmpty { text += "." }
            for byte in wire[(position + 1)..<end] {
                if DNSName.isAllowed(byte) {
                    text.unicodeScalars.append(Unicode.Scalar(byte))
                } else {
                    let digits = String(byte)
                    text += "\\" + String(repeating: "0", count: 3 - digits.count) + digits
                }
            }
            position = end
        }
        return text.isEmpty ? "." : text
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, UInt8(ascii: "-"), UInt8(ascii: "_"): true
        default: false
        }
    }

    static func lowercase(_ byte: UInt8) -> UInt8 { (0x41...0x5a).contains(byte) ? byte | 0x20 : byte }
}
