import Admin
import GRPC
import Glibc
import MarketProto
import Protobuf
import TapedeckClient

/// `tapedeck quote` and `tapedeck watch`.
struct AskCommands {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    private func client() throws -> MarketDataClient {
        try MarketDataClient(target: options.address(.server).description)
    }

    func quote(_ symbol: String) async throws -> ExitCode {
        let client = try client()
        defer { client.close() }
        let quote: Proto.QuoteResponse
        do {
            quote = try await client.quote(symbol, exchange: options.optionalString(.exchange) ?? "")
        } catch {
            throw CommandError(advice(error))
        }
        print(options.bool(.json) ? quote.json() : QuoteText.lines(quote).joined(separator: "\n"))
        return .success
    }

    /// What to do about a status.
    private func advice(_ error: any Error) -> String {
        let text = "\(error)"
        return text.hasPrefix("UNAVAILABLE")
            ? text + "; is it running? Start it with `tapedeck up`, or name it with --server" : text
    }

    /// Until Ctrl-C, the limit of the terminal's patience, or the end of the stream.
    func watch(_ symbols: [String]) throws -> ExitCode {
        let signals = Signals()
        let client = try client()
        defer { client.close() }
        var subscription = Proto.PriceSubscription()
        subscription.symbols = symbols
        subscription.exchange = options.optionalString(.exchange) ?? ""
        subscription.policy = .latest
        let isTerminal = isatty(1) != 0 && !options.bool(.json)
        let view = WatchView(isTerminal: isTerminal, isJSON: options.bool(.json))
        let stream = client.streamPrices(subscription) { view.add($0) }
        while stream.end == nil, !view.isBroken, signals.wait(milliseconds: isTerminal ? 250 : 50) == nil {
            view.refresh()
        }
        view.finish()
        guard let end = stream.end, !end.status.isOK else {
            stream.cancel()
            return .success
        }
        throw CommandError(advice(end.status))
    }
}
