import CassandraStore
import MarketModel
import Protobuf
import TickStore

/// `tapedeck buckets list|set`.
struct BucketsCommand {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    private static let dayNs: Int64 = 86_400_000_000_000

    func run(_ operands: [String]) throws -> ExitCode {
        let symbols = Array(operands.dropFirst())
        switch operands[0] {
        case "list": return try list(symbols)
        case "set": return try set(symbols)
        default: throw CommandError("buckets does not know `\(operands[0])`; it knows list and set")
        }
    }

    private func tool() throws -> BucketWidthTool {
        try BucketWidthTool(StoreChoice.cassandra(options), time: SystemTime())
    }

    private func list(_ symbols: [String]) throws -> ExitCode {
        guard !options.isSet(.minutes), !options.isSet(.from) else {
            throw CommandError("list takes no --minutes and no --from; `tapedeck buckets set` does")
        }
        let exchange = options.optionalString(.exchange)
        let entries = try tool().entries().filter { entry in
            (exchange ?? entry.instrument.exchange) == entry.instrument.exchange
                && (symbols.isEmpty || symbols.contains(entry.instrument.symbol))
        }
        for entry in entries { print(BucketsText.line(entry, json: options.bool(.json))) }
        if entries.isEmpty, !options.bool(.json) { print("no width was set: buckets are an hour") }
        return .success
    }

    private func set(_ symbols: [String]) throws -> ExitCode {
        guard let minutes = options.optionalString(.minutes), let exchange = options.optionalString(.exchange),
            !symbols.isEmpty
        else { throw CommandError("say which instruments, and how wide: set SYMBOL... --exchange NAME --minutes N") }
        guard let width = Int(minutes).flatMap({ BucketWidth(minutes: $0) }) else {
            throw CommandError("--minutes \(minutes): it is a divisor of an hour, as 5, 10 or 15")
        }
        let fromNs = options.timeNs(.from)
        if let fromNs, fromNs % BucketsCommand.dayNs != 0 {
            throw CommandError("--from: a width begins with a trade date, as 2026-11-29, and not within one")
        }
        let instruments = try symbols.map { symbol in
            do {
                return try Instrument(exchange: exchange, symbol: symbol)
            } catch {
                throw CommandError("\(exchange) \(symbol) names no instrument: \(error)")
            }
        }
        let tool = try tool()
        let day = fromNs.map { floorDivide($0, by: BucketsCommand.dayNs) } ?? tool.firstDay
        for instrument in instruments {
            let date = try tool.set(width, of: instrument, from: day)
            print(BucketsText.set(instrument, width, date, json: options.bool(.json)))
        }
        return .success
    }
}

/// Widths, for people and programs.
enum BucketsText {
    static func line(_ entry: BucketWidthTool.Entry, json isJSON: Bool) -> String {
        guard !isJSON else {
            return object(entry.instrument, entry.width, entry.tradeDate)
                + ",\"state\":\(quoted(entry.state.rawValue))}"
        }
        let state: String =
            switch entry.state {
            case .over: "over"
            case .current: "in force"
            case .pending: "not yet in force"
            }
        return "\(entry.instrument) from \(entry.tradeDate) on: \(entry.width), \(state)"
    }

    static func set(_ instrument: Instrument, _ width: BucketWidth, _ date: String, json isJSON: Bool) -> String {
        isJSON
            ? object(instrument, width, date) + "}"
            : "\(instrument): buckets are \(width) from \(date) on"
    }

    private static func object(_ instrument: Instrument, _ width: BucketWidth, _ date: String) -> String {
        "{\"exchange\":\(quoted(instrument.exchange)),\"symbol\":\(quoted(instrument.symbol)),"
            + "\"trade_date\":\(quoted(date)),\"minutes\":\(width.minutes)"
    }

    private static func quoted(_ text: String) -> String { JSONWriter.quoted(text) }
}
