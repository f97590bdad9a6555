/// Exponential backoff with jitter: how long to wait before the next try.
///
/// The defaults are those of gRPC's connection backoff
/// (https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md). Times are milliseconds.
public struct GRPCBackoff: Hashable, Sendable {
    public var initialMilliseconds = 1000
    public var multiplierPercent = 160
    public var maxMilliseconds = 120_000
    /// A wait is this much shorter or longer at most.
    public var jitterPercent = 20

    public init() {}

    /// The wait after so many failures in a row, from 1.
    public func milliseconds(afterFailures failures: Int, using random: inout some RandomNumberGenerator) -> Int {
        var wait = min(initialMilliseconds, maxMilliseconds)
        var failure = 1
        while failure < failures, wait < maxMilliseconds {
            wait = min(maxMilliseconds, max(wait + 1, wait * multiplierPercent / 100))
            failure += 1
        }
        return jittered(wait, using: &random)
    }

    private func jittered(_ wait: Int, using random: inout some RandomNumberGenerator) -> Int {
        let spread = wait * jitterPercent / 100
        return wait + (spread > 0 ? Int.random(in: -spread...spread, using: &random) : 0)
    }
}
