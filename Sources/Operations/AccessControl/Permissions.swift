/// What a caller may do, as its line in the access file says.
public struct Permissions: Hashable, Sendable {
    let methods: Patterns
    let symbols: SymbolPatterns
    let accounts: Patterns

    /// Everything.
    public static let all = Permissions(
        methods: Patterns(["*"]), symbols: SymbolPatterns([("*", "*")]), accounts: Patterns(["*"]))
}

/// Texts, each whole or with a `*` at its end, which stands for anything.
struct Patterns: Hashable, Sendable {
    private var exact: Set<String> = []
    private var prefixes: [String] = []
    let matchesAll: Bool

    init(_ patterns: [String]) {
        matchesAll = patterns.contains("*")
        for pattern in patterns where pattern != "*" {
            if pattern.hasSuffix("*") { prefixes.append(String(pattern.dropLast())) } else { exact.insert(pattern) }
        }
    }

    func matches(_ text: String) -> Bool {
        matchesAll || exact.contains(text) || prefixes.contains { text.utf8.starts(with: $0.utf8) }
    }
}

/// Instruments as `EXCHANGE|SYMBOL`, each part as in ``Patterns``.
struct SymbolPatterns: Hashable, Sendable {
    private var exchanges: [String: Patterns] = [:]
    private var others: [Other] = []
    let matchesAll: Bool

    /// Under an exchange that is itself a pattern.
    private struct Other: Hashable, Sendable {
        let exchange: Patterns
        let symbol: Patterns
    }

    init(_ pairs: [(exchange: String, symbol: String)]) {
        matchesAll = pairs.contains { $0.exchange == "*" && $0.symbol == "*" }
        var symbols: [String: [String]] = [:]
        for pair in pairs {
            if pair.exchange.hasSuffix("*") {
                others.append(Other(exchange: Patterns([pair.exchange]), symbol: Patterns([pair.symbol])))
            } else {
                symbols[pair.exchange, default: []].append(pair.symbol)
            }
        }
        exchanges = symbols.mapValues { Patterns($0) }
    }

    func matches(exchange: String, symbol: String) -> Bool {
        matchesAll || exchanges[exchange]?.matches(symbol) == true
            || others.contains { $0.exchange.matches(exchange) && $0.symbol.matches(symbol) }
    }
}

/// How much a caller may ask; 0 is without limit.
public struct CallerLimits: Hashable, Sendable {
    /// Calls begun per second, streams among them, after a burst of as many.
    public var callsPerSecond: Int
    /// Streams open at once.
    public var streams: Int
    /// Messages per second that a caller sends on all its streams of requests; more are taken later, not refused.
    public var messagesPerSecond: Int

    public init(callsPerSecond: Int = 0, streams: Int = 0, messagesPerSecond: Int = 0) {
        self.callsPerSecond = callsPerSecond
        self.streams = streams
        self.messagesPerSecond = messagesPerSecond
    }
}
