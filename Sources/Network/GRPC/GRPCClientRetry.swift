/// When a failed call is tried again (gRFC A6). The defaults: 4 attempts, 0.1 s to 1 s, twice as long each time, with
/// jitter; UNAVAILABLE, and RESOURCE_EXHAUSTED only where the server says when. For methods that may be executed twice
/// and no others.
public struct GRPCRetryPolicy: Hashable, Sendable {
    /// The first one included.
    public var attemptsMax = 4
    public var backoff: GRPCBackoff
    public var codes: Set<GRPCStatus.Code> = [.unavailable]
    /// Retried too, but only when the server sends `grpc-retry-pushback-ms`.
    public var pushbackCodes: Set<GRPCStatus.Code> = [.resourceExhausted]

    public init() {
        backoff = GRPCBackoff()
        backoff.initialMilliseconds = 100
        backoff.multiplierPercent = 200
        backoff.maxMilliseconds = 1000
    }
}

/// When more attempts begin before the first has answered (gRFC A6): the first answer counts, the others are
/// cancelled. For methods that may be executed several times and no others.
public struct GRPCHedgingPolicy: Hashable, Sendable {
    /// The first one included.
    public var attemptsMax = 2
    public var delayMilliseconds: Int
    /// Statuses that start the next attempt at once instead of ending the call.
    public var nonFatalCodes: Set<GRPCStatus.Code> = [.unavailable]

    public init(delayMilliseconds: Int) { self.delayMilliseconds = delayMilliseconds }
}

/// Whether the server wants a call again, from the trailer `grpc-retry-pushback-ms`.
enum GRPCPushback: Equatable {
    case absent
    /// Not again.
    case never
    case after(milliseconds: Int)

    init(_ trailers: GRPCMetadata) {
        guard let text = trailers.value("grpc-retry-pushback-ms") else {
            self = .absent
            return
        }
        guard let milliseconds = Int32(text), milliseconds >= 0 else {
            self = .never
            return
        }
        self = .after(milliseconds: Int(milliseconds))
    }
}

/// A channel's budget for retries (gRFC A6, "Throttling"): failures take a token, successes give a part of one back,
/// and below half of the tokens nothing is retried, so that retries do not add to an overload.
public struct GRPCRetryThrottle: Hashable, Sendable {
    /// Thousandths of a token.
    private let max: Int
    private let ratio: Int
    private var tokens: Int

    /// `tokensMax` 1...1000; a success gives back `ratioThousandths` thousandths of a token.
    public init(tokensMax: Int = 10, ratioThousandths: Int = 100) {
        max = Swift.max(1, Swift.min(1000, tokensMax)) * 1000
        ratio = Swift.max(1, ratioThousandths)
        tokens = max
    }

    /// Whether a retry may begin now.
    public var allowsRetry: Bool { tokens > max / 2 }

    mutating func succeeded() { tokens = Swift.min(max, tokens + ratio) }
    mutating func failed() { tokens = Swift.max(0, tokens - 1000) }
}

/// What follows the end of an attempt.
enum GRPCRetryDecision: Equatable {
    /// The call ends with this attempt's status.
    case finish
    case retry(afterMilliseconds: Int)
    /// Other attempts still run; the call waits for them.
    case waitForOthers
}

/// Counts the attempts of one call and decides about more. Pure.
struct GRPCRetryMachine {
    private let policy: GRPCRetryPolicy
    private(set) var attempts = 0

    init(_ policy: GRPCRetryPolicy) { self.policy = policy }

    mutating func attemptBegan() { attempts += 1 }

    /// An attempt ended before anything of its answer was passed on.
    func ended(
        _ status: GRPCStatus, pushback: GRPCPushback, throttle: inout GRPCRetryThrottle,
        using random: inout some RandomNumberGenerator
    ) -> GRPCRetryDecision {
        let isPlain = policy.codes.contains(status.code)
        let isOnPushback = policy.pushbackCodes.contains(status.code)
        guard isPlain || isOnPushback || pushback == .never else {
            throttle.succeeded()
            return .finish
        }
        throttle.failed()
        guard attempts < policy.attemptsMax, throttle.allowsRetry else { return .finish }
        switch pushback {
        case .never: return .finish
        case .after(let milliseconds): return .retry(afterMilliseconds: milliseconds)
        case .absent:
            guard isPlain else { return .finish }
            return .retry(afterMilliseconds: policy.backoff.milliseconds(afterFailures: attempts, using: &random))
        }
    }
}

/// Counts the attempts of one hedged call and decides about more. Pure.
struct GRPCHedgingMachine {
    let policy: GRPCHedgingPolicy
    private(set) var attempts = 0
    private(set) var running = 0

    init(_ policy: GRPCHedgingPolicy) { self.policy = policy }

    /// How long after an attempt's beginning the next begins; nil when it was the last.
    mutating func attemptBegan() -> Int? {
        attempts += 1
        running += 1
        return attempts < policy.attemptsMax ? policy.delayMilliseconds : nil
    }

    /// Whether another attempt may begin when its time has come.
    func mayBegin(_ throttle: GRPCRetryThrottle) -> Bool { attempts < policy.attemptsMax && throttle.allowsRetry }

    mutating func ended(
        _ status: GRPCStatus, pushback: GRPCPushback, throttle: inout GRPCRetryThrottle
    ) -> GRPCRetryDecision {
        running -= 1
        guard policy.nonFatalCodes.contains(status.code) else {
            throttle.succeeded()
            return .finish
        }
        throttle.failed()
        let isLast = running == 0
        guard mayBegin(throttle), pushback != .never else { return isLast ? .finish : .waitForOthers }
        if case .after(let milliseconds) = pushback { return .retry(afterMilliseconds: milliseconds) }
        return .retry(afterMilliseconds: 0)
    }
}
