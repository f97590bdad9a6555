/// A Swift source as the rules see it.
struct SwiftText {
    /// Relative to the checkout.
    let path: String
    let lines: [String]
    /// The same lines with comments and the contents of strings and raw identifiers blanked out.
    let codeLines: [String]

    init(path: String, _ text: String) {
        self.path = path
        lines = SwiftText.split(text)
        codeLines = SwiftText.split(SwiftText.code(text))
    }

    /// "Sources/Wire/TickCodec/X.swift" has layer "Wire" and room "TickCodec"; nil elsewhere.
    var layerAndRoom: (layer: String, room: String)? {
        let parts = path.split(separator: "/").map(String.init)
        return parts.count >= 4 && parts[0] == "Sources" ? (parts[1], parts[2]) : nil
    }

    var isSource: Bool { path.hasPrefix("Sources/") }
    var isGenerated: Bool { path.contains("/Generated/") }

    private static func split(_ text: String) -> [String] {
        var lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    static func code(_ text: String) -> String {
        var blanker = Blanker(bytes: Array(text.utf8))
        return blanker.run()
    }
}

/// Replaces everything that is not code by spaces, newlines excepted.
private struct Blanker {
    let bytes: [UInt8]
    var out: [UInt8] = []
    var position = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    mutating func run() -> String {
        out.reserveCapacity(bytes.count)
        code(untilClosingParenthesis: false)
        return String(decoding: out, as: UTF8.self)
    }

    private func byte(_ ahead: Int = 0) -> UInt8 { position + ahead < bytes.count ? bytes[position + ahead] : 0 }

    private func starts(_ text: StaticString, at ahead: Int = 0) -> Bool {
        text.withUTF8Buffer { text in
            position + ahead + text.count <= bytes.count && bytes[(position + ahead)...].starts(with: text)
        }
    }

    private mutating func keep() {
        out.append(byte())
        position += 1
    }

    private mutating func blank(_ count: Int = 1) {
        for _ in 0..<count where position < bytes.count {
            out.append(byte() == 0x0a ? 0x0a : 0x20)
            position += 1
        }
    }

    private mutating func code(untilClosingParenthesis: Bool) {
        var depth = 0
        while position < bytes.count {
            switch byte() {
            case UInt8(ascii: "/") where starts("//"): while position < bytes.count, byte() != 0x0a { blank() }
            case UInt8(ascii: "/") where starts("/*"): comment()
            case UInt8(ascii: "\""): string(hashes: 0)
            case UInt8(ascii: "#"):
                var hashes = 0
                while byte(hashes) == UInt8(ascii: "#") { hashes += 1 }
                if byte(hashes) == UInt8(ascii: "\"") { string(hashes: hashes) } else { keep() }
            case UInt8(ascii: "`"): rawIdentifier()
            case UInt8(ascii: "("):
                depth += 1
                keep()
            case UInt8(ascii: ")"):
                if untilClosingParenthesis, depth == 0 { return }
                depth -= 1
                keep()
            default: keep()
            }
        }
    }

    private mutating func comment() {
        var depth = 0
        repeat {
            if starts("/*") {
                depth += 1
                blank(2)
            } else if starts("*/") {
                depth -= 1
                blank(2)
            } else {
                blank()
            }
        } while depth > 0 && position < bytes.count
    }

    private mutating func rawIdentifier() {
        keep()
        while position < bytes.count, byte() != UInt8(ascii: "`"), byte() != 0x0a { blank() }
        if byte() == UInt8(ascii: "`") { keep() }
    }

    private mutating func string(hashes: Int) {
        blank(hashes)
        let quotes = starts("\"\"\"") ? 3 : 1
        blank(quotes)
        while position < bytes.count {
            if byte() == UInt8(ascii: "\\"), isRun(UInt8(ascii: "#"), hashes, at: 1) {
                if byte(1 + hashes) == UInt8(ascii: "(") {
                    blank(2 + hashes)
                    code(untilClosingParenthesis: true)
                    blank()
                } else {
                    blank(2 + hashes)
                }
            } else if isRun(UInt8(ascii: "\""), quotes, at: 0), isRun(UInt8(ascii: "#"), hashes, at: quotes) {
                blank(quotes + hashes)
                return
            } else if quotes == 1, byte() == 0x0a {
                return
            } else {
                blank()
            }
        }
    }

    private func isRun(_ value: UInt8, _ count: Int, at ahead: Int) -> Bool {
        (0..<count).allSatisfy { byte(ahead + $0) == value }
    }
}
