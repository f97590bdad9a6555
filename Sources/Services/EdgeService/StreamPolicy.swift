import GRPC
import MarketModel

/// How a stream treats a reader that is slower than the market, as resolved from the request.
enum StreamPolicy: Equatable {
    case all
    case latest
    case interval(milliseconds: Int)
    case maxStaleness(milliseconds: Int)

    /// For operators.
    var name: String {
        switch self {
        case .all: "ALL"
        case .latest: "LATEST"
        case .interval(let milliseconds): "INTERVAL \(milliseconds) ms"
        case .maxStaleness(let milliseconds): "MAX_STALENESS \(milliseconds) ms"
        }
    }
}

/// Which instruments a subscription wants. Empty means all that the caller may see.
struct InstrumentFilter {
    let exchange: String
    let symbols: Set<String>
    /// nil: every instrument is allowed.
    let permissions: (any CallerPermissions)?

    init(exchange: String, symbols: Set<String>, permissions: (any CallerPermissions)? = nil) {
        self.exchange = exchange
        self.symbols = symbols
        self.permissions = permissions.flatMap { $0.allowsEverySymbol ? nil : $0 }
    }

    static var everything: InstrumentFilter { InstrumentFilter(exchange: "", symbols: []) }

    var isEverything: Bool { exchange.isEmpty && symbols.isEmpty && permissions == nil }

    func matches(_ instrument: Instrument) -> Bool {
        (exchange.isEmpty || exchange == instrument.exchange)
            && (symbols.isEmpty || symbols.contains(instrument.symbol))
            && (permissions?.allows(exchange: instrument.exchange, symbol: instrument.symbol) ?? true)
    }
}
