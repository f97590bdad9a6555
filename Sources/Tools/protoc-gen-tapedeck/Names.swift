/// Swift names for protobuf ones.
enum Names {
    private static let reserved: Set<String> = [
        "as", "associatedtype", "break", "case", "catch", "class", "continue", "default", "defer", "deinit", "do",
        "else",
        "enum", "extension", "fallthrough", "false", "fileprivate", "for", "func", "guard", "if", "import", "in",
        "init",
        "inout", "internal", "is", "let", "nil", "operator", "private", "protocol", "public", "repeat", "rethrows",
        "return", "self", "static", "struct", "subscript", "super", "switch", "throw", "throws", "true", "try",
        "typealias", "var", "where", "while",
    ]

    /// `bid_micros` to `bidMicros`.
    static func lowerCamel(_ name: String) -> String {
        var out = ""
        var raisesNext = false
        for character in name {
            if character == "_" {
                raisesNext = !out.isEmpty
            } else {
                out += raisesNext ? character.uppercased() : String(character)
                raisesNext = false
            }
        }
        // A name that begins upper-case, as message fields never should.
        guard let first = out.first else { return "_" }
        return first.lowercased() + out.dropFirst()
    }

    static func member(_ name: String) -> String { escape(lowerCamel(name)) }

    static func upperCamel(_ name: String) -> String {
        let lower = lowerCamel(name)
        return lower.prefix(1).uppercased() + lower.dropFirst()
    }

    /// Backticks make most words names; `self` and `init` stay what they are.
    static func escape(_ name: String) -> String {
        if name == "self" || name == "init" { return name + "_" }
        return reserved.contains(name) ? "`\(name)`" : name
    }

    /// `TICK_KIND_QUOTE` of `TickKind` to `quote`.
    static func enumCase(_ value: String, of enumName: String) -> String {
        var prefix = ""
        for character in enumName {
            if character.isUppercase, !prefix.isEmpty { prefix += "_" }
            prefix += character.uppercased()
        }
        prefix += "_"
        var rest = value
        if value.hasPrefix(prefix), value.count > prefix.count { rest = String(value.dropFirst(prefix.count)) }
        let name = lowerCamel(rest.lowercased())
        return name.first?.isNumber == true ? "_" + name : escape(name)
    }
}

/// Swift text with indentation.
struct SourceWriter {
    private(set) var text = ""
    private var depth = 0

    mutating func line(_ line: String = "") {
        if !line.isEmpty { text += String(repeating: "    ", count: depth) + line }
        text += "\n"
    }

    /// `line {`, the body, `}`
    mutating func block(_ line: String, _ body: (inout SourceWriter) -> Void) {
        self.line(line + " {")
        depth += 1
        body(&self)
        depth -= 1
        self.line("}")
    }

    mutating func indented(_ body: (inout SourceWriter) -> Void) {
        depth += 1
        body(&self)
        depth -= 1
    }

    /// A schema's comment as documentation.
    mutating func documentation(_ comment: String?) {
        guard let comment else { return }
        var lines = comment.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            line.first == " " ? line.dropFirst() : line
        }
        if lines.last?.isEmpty == true { lines.removeLast() }
        for line in lines { self.line(line.isEmpty ? "///" : "/// \(line)") }
    }
}
