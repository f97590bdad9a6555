/// Why the access file is refused: the line and what is wrong with it.
public struct AccessFileError: Error, Hashable, Sendable, CustomStringConvertible {
    /// From 1.
    public let line: Int
    public let message: String

    public var description: String { "line \(line): \(message)" }
}

/// Who may call and what: one caller per line, `#` begins a comment.
///
///     NAME PROOF [methods=LIST] [symbols=LIST] [accounts=LIST] [calls=N] [streams=N] [messages=N]
///
/// PROOF is a token's (`hmac-sha256:…`, from `tapedeck token`), or `certificate`: a verified client certificate with
/// this name (SPIFFE id, DNS name or common name), NAME `*` for every other one; or `anonymous`, whose name is
/// `anonymous` too: callers that prove nothing. Lists are separated by commas; what is not listed is not allowed.
public struct AccessFile: Sendable {
    /// A line.
    struct Entry: Hashable, Sendable {
        let name: String
        let proof: Proof
        let permissions: Permissions
        let limits: CallerLimits
    }

    enum Proof: Hashable, Sendable {
        case token(TokenProof)
        case certificate
        case anonymous
    }

    /// Lines that are taken; a file with more is refused.
    static let entriesMax = 100_000

    let entries: [Entry]

    /// Reads all of it or nothing. `limits` are those of callers whose lines name none.
    public init(parsing bytes: [UInt8], limits: CallerLimits = CallerLimits()) throws(AccessFileError) {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw AccessFileError(line: 1, message: "the file is not UTF-8")
        }
        var entries: [Entry] = []
        var seen: Set<String> = []
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let words = line.prefix { $0 != "#" }.split(whereSeparator: { $0 == " " || $0 == "\t" }).map(String.init)
            if words.isEmpty { continue }
            do throws(Wrong) {
                let entry = try AccessFile.entry(words, limits)
                let key = (entry.proof == .certificate ? "c " : "n ") + entry.name
                guard seen.insert(key).inserted else { throw Wrong("\(entry.name) is there twice") }
                guard entries.count < AccessFile.entriesMax else { throw Wrong("more callers than can be taken") }
                entries.append(entry)
            } catch {
                throw AccessFileError(line: index + 1, message: error.what)
            }
        }
        self.entries = entries
    }

    private struct Wrong: Error {
        let what: String
        init(_ what: String) { self.what = what }
    }

    private static func entry(_ words: [String], _ limits: CallerLimits) throws(Wrong) -> Entry {
        guard words.count >= 2 else { throw Wrong("a line is NAME PROOF and what is allowed") }
        let name = words[0]
        let proof: Proof
        switch words[1] {
        case "certificate": proof = .certificate
        case "anonymous":
            guard name == "anonymous" else { throw Wrong("callers that prove nothing are named anonymous") }
            proof = .anonymous
        default:
            guard let token = TokenProof(text: words[1]) else {
                throw Wrong(
                    "the proof is hmac-sha256:SALT:DIGEST, certificate or anonymous; `tapedeck token` makes one")
            }
            guard AccessToken.isName(name), name != "anonymous" else {
                throw Wrong("the name of a token is 1 to 64 letters, digits, - and _, and not anonymous")
            }
            proof = .token(token)
        }
        var lists: [String: [String]] = [:]
        var numbers: [String: Int] = [:]
        for word in words.dropFirst(2) {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2, lists[parts[0]] == nil, numbers[parts[0]] == nil else {
                throw Wrong("`\(word.prefix(60))` is no NAME=VALUE, or its name is there twice")
            }
            switch parts[0] {
            case "methods", "symbols", "accounts":
                lists[parts[0]] = parts[1].split(separator: ",").map(String.init)
            case "calls", "streams", "messages":
                guard let number = Int(parts[1]), (0...1_000_000_000).contains(number) else {
                    throw Wrong("\(parts[0]) is a number from 0 to 1000000000")
                }
                numbers[parts[0]] = number
            default:
                throw Wrong(
                    "`\(parts[0].prefix(60))` is none of methods, symbols, accounts, calls, streams, messages")
            }
        }
        let permissions = try permissions(lists)
        return Entry(
            name: name, proof: proof, permissions: permissions,
            limits: CallerLimits(
                callsPerSecond: numbers["calls"] ?? limits.callsPerSecond,
                streams: numbers["streams"] ?? limits.streams,
                messagesPerSecond: numbers["messages"] ?? limits.messagesPerSecond))
    }

    private static func permissions(_ lists: [String: [String]]) throws(Wrong) -> Permissions {
        let methods = lists["methods"] ?? []
        let accounts = lists["accounts"] ?? []
        for pattern in methods + accounts where pattern.dropLast().contains("*") {
            throw Wrong("`\(pattern.prefix(60))`: a * stands at the end only")
        }
        for method in methods where method != "*" && !method.hasPrefix("/") {
            throw Wrong("`\(method.prefix(60))` is no method; write /package.Service/Method or /package.Service/*")
        }
        var symbols: [(exchange: String, symbol: String)] = []
        for pattern in lists["symbols"] ?? [] {
            let parts = pattern.split(separator: "|", omittingEmptySubsequences: false).map(String.init)
            if pattern == "*" {
                symbols.append(("*", "*"))
                continue
            }
            guard parts.count == 2, !parts.contains(where: { $0.isEmpty || $0.dropLast().contains("*") }) else {
                throw Wrong("`\(pattern.prefix(60))` is no EXCHANGE|SYMBOL, with * at the end of either")
            }
            symbols.append((parts[0], parts[1]))
        }
        return Permissions(
            methods: Patterns(methods), symbols: SymbolPatterns(symbols), accounts: Patterns(accounts))
    }
}
