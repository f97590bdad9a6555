import MarketModel
import MarketProto

/// What a subscription to prices may ask for, wherever it is asked.
struct SubscriptionRules {
    /// Why a request cannot be; the message names what and what to do.
    enum Problem: Error, Equatable {
        case invalid(String)
        case tooManySymbols(String)

        var message: String {
            switch self {
            case .invalid(let message), .tooManySymbols(let message): message
            }
        }
    }

    let limits: EdgeLimits

    func check(symbols: [String], exchange: String) throws(Problem) {
        guard symbols.count <= limits.symbolsMax else {
            throw .tooManySymbols(
                "\(symbols.count) symbols; at most \(limits.symbolsMax) in one subscription. "
                    + "Leave symbols empty for all, or open several")
        }
        do {
            for symbol in symbols { _ = try Instrument(exchange: "X", symbol: symbol) }
            if !exchange.isEmpty { _ = try Instrument(exchange: exchange, symbol: "X") }
        } catch {
            throw .invalid(error.description)
        }
    }

    /// What goes with a resume token, and how often one is sent.
    func checkTokens(_ asked: Proto.PriceSubscription, isSubscribe: Bool) throws(Problem) {
        guard !asked.resumeSnapshot || !asked.resumeToken.isEmpty else {
            throw .invalid("resume_snapshot goes with a resume_token alone; without one the snapshot comes by itself")
        }
        guard asked.tokenIntervalMs != 0 else { return }
        guard !isSubscribe else {
            throw .invalid("token_interval_ms is for StreamPrices; heartbeats bring the tokens of Subscribe")
        }
        let range = limits.heartbeatMillisecondsRange
        guard range.contains(Int(asked.tokenIntervalMs)) else {
            throw .invalid(
                "token_interval_ms is \(asked.tokenIntervalMs); "
                    + "0 (never) and \(range.lowerBound) to \(range.upperBound) are allowed")
        }
    }

    func policy(
        _ policy: Proto.DeliveryPolicy, throttleMs: Int32, maxStalenessMs: UInt32
    ) throws(Problem) -> StreamPolicy {
        let window = Int(throttleMs)
        guard window >= 0, window <= limits.throttleMillisecondsMax else {
            throw .invalid("throttle_ms is \(window); 0 (off) to \(limits.throttleMillisecondsMax) are allowed")
        }
        let isInterval = policy == .interval || (policy == .unspecified && window > 0)
        guard isInterval || window == 0 else {
            throw .invalid("throttle_ms goes with policy INTERVAL, not \(policy.protoName ?? "\(policy.rawValue)")")
        }
        guard policy == .maxStaleness || maxStalenessMs == 0 else {
            throw .invalid("max_staleness_ms goes with policy MAX_STALENESS alone")
        }
        switch policy {
        case .unspecified: return isInterval ? .interval(milliseconds: window) : .all
        case .all: return .all
        case .latest: return .latest
        case .interval:
            guard window > 0 else { throw .invalid("policy INTERVAL needs throttle_ms above 0") }
            return .interval(milliseconds: window)
        case .maxStaleness:
            guard maxStalenessMs > 0, maxStalenessMs <= limits.stalenessMillisecondsMax else {
                throw .invalid(
                    "policy MAX_STALENESS needs max_staleness_ms from 1 to \(limits.stalenessMillisecondsMax)")
            }
            return .maxStaleness(milliseconds: Int(maxStalenessMs))
        default: throw .invalid("policy \(policy.rawValue) is unknown")
        }
    }
}
