import Admin
import GRPC
import Glibc
import MarketProto
import Protobuf
import TapedeckClient

/// `tapedeck quote` and `tapedeck watch`.
struct AskCommands {
    /// Before a server that went away is asked again.
    private static let pauseMilliseconds = 1000

    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    func quote(_ symbol: String) throws -> ExitCode {
        let client = try ServerToAsk(options).client()
        defer { client.close() }
        let exchange = options.optionalString(.exchange) ?? ""
        let answer = Blocking.wait { () async -> Result<Proto.QuoteResponse, GRPCStatus> in
            do throws(GRPCStatus) {
                return .success(try await client.quote(symbol, exchange: exchange))
            } catch {
                return .failure(error)
            }
        }
        let quote: Proto.QuoteResponse
        switch answer {
        case .success(let found): quote = found
        case .failure(let status): throw CommandError(advice(status))
        }
        print(options.bool(.json) ? quote.json() : QuoteText.lines(quote).joined(separator: "\n"))
        return .success
    }

    /// What to do about a status.
    private func advice(_ error: any Error) -> String {
        let text = "\(error)"
        if text.contains("certificate required") { return text + "; give one with --tls-cert and --tls-key" }
        guard text.hasPrefix("UNAVAILABLE"), !text.contains("certificate") else { return text }
        let isSecure = options.isSet(.tlsCA) || options.isSet(.tlsCert)
        return text + "; is it running? Start it with `tapedeck up`, or name it with --server"
            + (isSecure ? "" : ". If it speaks TLS, add --tls-ca")
    }

    /// Until Ctrl-C, or the end of whoever reads. A server that goes away once it was there is asked again, each
    /// second.
    func watch(_ symbols: [String]) throws -> ExitCode {
        let signals = Signals()
        var client = try ServerToAsk(options).client()
        defer { client.close() }
        var subscription = Proto.PriceSubscription()
        subscription.symbols = symbols
        subscription.exchange = options.optionalString(.exchange) ?? ""
        subscription.policy = .latest
        let isTerminal = isatty(1) != 0 && !options.bool(.json)
        let view = WatchView(isTerminal: isTerminal, isJSON: options.bool(.json))
        var stream = client.streamPrices(subscription) { view.add($0) }
        var wasLive = false
        while !view.isBroken, signals.wait(milliseconds: isTerminal ? 250 : 50) == nil {
            view.refresh()
            guard let end = stream.end else { continue }
            wasLive = wasLive || view.isLive
            guard wasLive, end.status.code == .unavailable else { break }
            view.interrupted("\(end.status); asked again each second")
            view.refresh()
            guard signals.wait(milliseconds: AskCommands.pauseMilliseconds) == nil else { break }
            client.close()
            client = try ServerToAsk(options).client()
            stream = client.streamPrices(subscription) { view.add($0) }
        }
        view.finish()
        guard let end = stream.end, !end.status.isOK, end.status.code != .unavailable || !wasLive else {
            stream.cancel()
            return .success
        }
        throw CommandError(advice(end.status))
    }
}
