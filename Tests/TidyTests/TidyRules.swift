/// A place that breaks a rule.
struct Finding: CustomStringConvertible, Hashable {
    let path: String
    /// From 1; 0 for the file as a whole.
    let line: Int
    let rule: String
    let message: String

    var description: String { "\(path):\(line): \(message) [\(rule)]" }
}

/// The rules of the house, each a function of one source.
enum TidyRules {
    static let lineLengthMax = 120
    static let functionLengthMax = 70
    static let fileLengthMax = 500

    /// Files and rules that are excepted, each with its reason. `path` is a file, or a folder with a slash at the end.
    static let exceptions: [(path: String, rule: String, reason: String)] = [
        ("Sources/Operations/Bench/", "clock-or-randomness", "a bench measures the machine's own time"),
        ("Sources/Operations/Drills/", "clock-or-randomness", "a drill breaks a real process in real time"),
        ("Sources/Operations/Admin/WatchView.swift", "clock-or-randomness", "a terminal shows how old a tick is now"),
        ("Sources/Wire/Protobuf/ProtoReader.swift", "documentation", "one method per field kind, named for it"),
        ("Sources/Wire/Protobuf/ProtoWriter.swift", "documentation", "one method per field kind, named for it"),
        ("Sources/Wire/Protobuf/JSONWriter.swift", "documentation", "one method per field kind, named for it"),
        ("Tests/Simulation/", "sleeps", "the real TimeSource beside the virtual one sleeps"),
    ]

    static func isExcepted(_ finding: Finding) -> Bool {
        exceptions.contains {
            $0.rule == finding.rule
                && ($0.path.hasSuffix("/") ? finding.path.hasPrefix($0.path) : finding.path == $0.path)
        }
    }

    /// All rules that need nothing but the source itself.
    static func findings(_ source: SwiftText, requirements: Set<String> = []) -> [Finding] {
        lengths(source) + clocksAndRandomness(source) + sockets(source) + traps(source) + exits(source) + words(source)
            + sleeps(source)
            + documentation(source, requirements: requirements)
    }

    static func imports(_ source: SwiftText) -> [(line: Int, module: String)] {
        source.codeLines.enumerated().compactMap { index, line in
            guard line.contains("import") else { return nil }
            let pattern =
                #/
                ^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?
                import\s+(?:(?:struct|class|enum|protocol|func|var|let|typealias)\s+)?(\w+)
                /#
            return line.firstMatch(of: pattern).map { (index + 1, String($0.1)) }
        }
    }

    static func importTable(_ source: SwiftText, _ table: LayerTable) -> [Finding] {
        guard let room = source.layerAndRoom?.room else { return [] }
        return imports(source).compactMap { line, module in
            table.objection(room, imports: module).map {
                Finding(path: source.path, line: line, rule: "imports", message: $0)
            }
        }
    }

    static func lengths(_ source: SwiftText) -> [Finding] {
        guard !source.isGenerated else { return [] }
        var findings: [Finding] = []
        for (index, line) in source.lines.enumerated()
        where line.utf8.count > lineLengthMax && line.count > lineLengthMax {
            findings.append(
                Finding(path: source.path, line: index + 1, rule: "line-length", message: "\(line.count) columns"))
        }
        if source.lines.count > fileLengthMax {
            findings.append(
                Finding(path: source.path, line: 0, rule: "file-length", message: "\(source.lines.count) lines"))
        }
        for (start, length) in functionLengths(source) where length > functionLengthMax {
            findings.append(
                Finding(
                    path: source.path, line: start, rule: "function-length", message: "a function of \(length) lines"))
        }
        return findings
    }

    /// First line and number of lines of each function and initializer that has a body.
    static func functionLengths(_ source: SwiftText) -> [(line: Int, length: Int)] {
        let code = Array(source.codeLines.joined(separator: "\n").utf8)
        var lengths: [(Int, Int)] = []
        var line = 1
        for position in code.indices {
            if code[position] == 0x0a { line += 1 }
            guard let after = keyword(code, at: position), let body = FunctionBody(code, from: after) else { continue }
            let lines = code[position..<body.end].count { $0 == 0x0a } + 1
            lengths.append((line, lines))
        }
        return lengths
    }

    /// The position after `func` or `init` where one stands at `position`.
    private static func keyword(_ code: [UInt8], at position: Int) -> Int? {
        let isWordBefore = position > 0 && (isWord(code[position - 1]) || code[position - 1] == UInt8(ascii: "."))
        guard !isWordBefore, code[position] == UInt8(ascii: "f") || code[position] == UInt8(ascii: "i") else {
            return nil
        }
        let rest = code[position...]
        if rest.starts(with: "func ".utf8) { return position + 5 }
        if rest.starts(with: "init(".utf8) || rest.starts(with: "init?(".utf8) || rest.starts(with: "init<".utf8) {
            return position + 4
        }
        return nil
    }

    private static func isWord(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte) || (0x61...0x7a).contains(byte) || byte == 0x5f
    }

    /// Time comes from a TimeSource, threads and waiting from EventLoop, randomness from a seed.
    static func clocksAndRandomness(_ source: SwiftText) -> [Finding] {
        guard let (layer, room) = source.layerAndRoom, layer != "App", room != "EventLoop" else { return [] }
        let pattern =
            #/
            \bTask\s*\.\s*(?:sleep|detached)\b | \bTask<[^>]*>\.(?:sleep|detached)\b
            | \b(?:clock_gettime|gettimeofday|clock_nanosleep|nanosleep|usleep|uv_hrtime|uv_now)\s*\(
            | \b(?:getrandom|getentropy|arc4random\w*)\s*\(
            | \b(?:ContinuousClock|SuspendingClock|SystemRandomNumberGenerator)\b
            | \.random\s*\(\s*(?:in:(?:(?!using:)[^)])*)?\) | \.randomElement\s*\(\s*\)
            | \.(?:shuffled|shuffle)\s*\(\s*\)
            | (?:^|[^.\w])(?:time\s*\(\s*nil|rand\s*\(\s*\)|random\s*\(\s*\)|sleep\s*\() | \bDate\s*\(\s*\)
            /#
        // A port may declare what others must not call.
        let isDeclaration = #/\bfunc\s+(?:sleep|time|random|rand|shuffled?)\b/#
        return matches(source, pattern, except: isDeclaration, rule: "clock-or-randomness") {
            "`\($0)`: time, waiting and randomness come in as arguments"
        }
    }

    static func sockets(_ source: SwiftText) -> [Finding] {
        guard let (_, room) = source.layerAndRoom, room != "EventLoop" else { return [] }
        let pattern =
            #/
            (?:^|[^.\w])(?:socket|socketpair|accept4|getaddrinfo|setsockopt|getsockname)\s*\(
            | (?:^|[^.\w])(?:recvmsg|sendmsg|recvfrom|sendto)\s*\(
            | \bGlibc\s*\.\s*(?:socket|connect|bind|listen|accept|accept4|recv|send|shutdown)\s*\(
            | \buv_(?:tcp|udp|pipe|listen|accept|read|write|try_write|getaddrinfo)\w*\s*\(
            /#
        return matches(source, pattern, rule: "sockets") { "`\($0)`: sockets are EventLoop's" }
    }

    /// A trap ends the process: no input may reach one.
    static func traps(_ source: SwiftText) -> [Finding] {
        guard source.isSource else { return [] }
        return matches(source, #/\bfatalError\s*\(|\btry!|\bas!/#, rule: "traps") {
            "`\($0)`: throw an error, or state the invariant"
        }
    }

    /// What `exit` has C libraries free, threads may still use.
    static func exits(_ source: SwiftText) -> [Finding] {
        guard source.layerAndRoom?.layer == "App" else { return [] }
        return matches(source, #/(?:^|[^.\w]|\bGlibc\.)exit\s*\(/#, rule: "exits") { "`\($0)`: flush, and `_exit`" }
    }

    static func sleeps(_ source: SwiftText) -> [Finding] {
        guard source.path.hasPrefix("Tests/") else { return [] }
        let pattern = #/\b(?:Task|Thread)\s*\.\s*sleep\b|\b(?:usleep|nanosleep)\s*\(/#
        return matches(source, pattern, rule: "sleeps") { "`\($0)`: wait for the condition, with a limit" }
    }

    /// Unfinished work and the machine it was done on, in comments and strings too.
    static func words(_ source: SwiftText) -> [Finding] {
        words(path: source.path, source.lines)
    }

    static func words(path: String, _ lines: [String]) -> [Finding] {
        // Spelt so that this file does not find itself.
        let pattern = #/\b(?:TO[D]O|FIX[M]E|X[X]X)\b|(?:^|[^\w.\/-])\/(?:hom[e]|roo[t]|User[s]|wor[k])\/\w/#
        return lines.enumerated().compactMap { index, line in
            line.firstMatch(of: pattern).map {
                Finding(path: path, line: index + 1, rule: "words", message: "`\($0.0)` does not belong here")
            }
        }
    }

    /// Names of the functions that protocols ask for: their comment stands there, not at each implementation.
    static func requirements(_ source: SwiftText) -> Set<String> {
        var names: Set<String> = []
        var isInside = false
        for line in source.codeLines {
            if line.contains(#/\bprotocol\s+\w/#) { isInside = true }
            if line.hasPrefix("}") { isInside = false }
            if isInside, let match = line.firstMatch(of: #/^\s+(?:[\w@()]+\s+)*func\s+(\w+)/#) {
                names.insert(String(match.1))
            }
        }
        return names
    }

    /// Requirements of the standard library's protocols.
    private static let standardRequirements: Set<String> = [
        "hash", "encode", "next", "makeIterator", "enqueue", "asUnownedSerialExecutor", "asUnownedTaskExecutor",
        "checkIsolated", "isIsolatingCurrentContext",
    ]

    /// Public types and functions say what they are for. Excepted: operators, and implementations of `requirements`.
    static func documentation(_ source: SwiftText, requirements: Set<String> = []) -> [Finding] {
        guard source.isSource, !source.isGenerated, !source.path.hasPrefix("Sources/App/") else { return [] }
        let pattern =
            #/
            ^\s*(?:@\w+(?:\([^)]*\))?\s+)*public\s+
            (?:(?:static|final|mutating|nonmutating|override|convenience|indirect|consuming|borrowing|class)\s+
            | nonisolated(?:\(\w+\))?\s+)*
            (struct|class|enum|actor|protocol|typealias|func)\s+(\S+)
            /#
        return source.codeLines.enumerated().compactMap { index, line in
            guard line.contains("public"), let match = line.firstMatch(of: pattern) else { return nil }
            let name = match.2.prefix { $0.isLetter || $0.isNumber || $0 == "_" }
            let isImplementation = standardRequirements.contains(String(name)) || requirements.contains(String(name))
            if name.isEmpty || match.1 == "func" && isImplementation { return nil }
            var above = index - 1
            while above >= 0, source.lines[above].trimmingPrefix(while: \.isWhitespace).hasPrefix("@") { above -= 1 }
            if above >= 0, source.lines[above].trimmingPrefix(while: \.isWhitespace).hasPrefix("///") { return nil }
            return Finding(
                path: source.path, line: index + 1, rule: "documentation",
                message: "public \(match.1) \(name) has no ///")
        }
    }

    private static func matches(
        _ source: SwiftText, _ pattern: some RegexComponent<Substring>,
        except: (some RegexComponent<Substring>)? = Regex<Substring>?.none,
        rule: String, _ message: (String) -> String
    ) -> [Finding] {
        source.codeLines.enumerated().compactMap { index, line in
            if let except, line.contains(except) { return nil }
            return line.firstMatch(of: pattern).map {
                let found = $0.output.filter { !$0.isWhitespace }
                return Finding(path: source.path, line: index + 1, rule: rule, message: message(String(found)))
            }
        }
    }
}

/// Where a function's body ends, found from a position after `func` or `init` in blanked code.
private struct FunctionBody {
    /// One past the closing brace.
    let end: Int

    /// nil for a requirement without a body.
    init?(_ code: [UInt8], from start: Int) {
        var position = start
        var depth = 0
        // To the end of the parameters.
        while position < code.count {
            if code[position] == UInt8(ascii: "(") { depth += 1 }
            if code[position] == UInt8(ascii: ")") {
                depth -= 1
                if depth == 0 { break }
            }
            position += 1
        }
        position += 1
        // To the body, unless another declaration or the end of the surrounding one comes first.
        while position < code.count, code[position] != UInt8(ascii: "{") {
            if code[position] == UInt8(ascii: "}") || code[position] == UInt8(ascii: "@") { return nil }
            for word in ["func ", "var ", "init(", "static ", "mutating ", "associatedtype ", "public ", "let "]
            where code[position...].starts(with: word.utf8) { return nil }
            position += 1
        }
        guard position < code.count else { return nil }
        depth = 0
        while position < code.count {
            if code[position] == UInt8(ascii: "{") { depth += 1 }
            if code[position] == UInt8(ascii: "}") {
                depth -= 1
                if depth == 0 {
                    end = position + 1
                    return
                }
            }
            position += 1
        }
        return nil
    }
}
