import Synchronization

/// A token bucket that all loops share, in one number: the time at which it will be full again (the generic cell rate
/// algorithm, ITU-T I.371). Holds as much as flows in during a second. Safe to use from any thread; never waits.
final class RateBucket: Sendable {
    private static let burstNs: UInt64 = 1_000_000_000
    /// What one charge may count: more would be a debt of hours.
    private static let chargeMax = 1_000_000

    private let intervalNs: UInt64
    private let fullAtNs = Atomic<UInt64>(0)

    /// `perSecond` is above 0.
    init(perSecond: Int) { intervalNs = max(1, RateBucket.burstNs / UInt64(max(1, perSecond))) }

    /// Takes a token; nil when there was one, else the milliseconds, at least 1, after which there will be.
    func take(nowMilliseconds: UInt64) -> Int? { change(1, nowMilliseconds, always: false) }

    /// Takes tokens whether they are there or not; the milliseconds after which the debt is paid, nil without one.
    func charge(_ count: Int, nowMilliseconds: UInt64) -> Int? {
        change(UInt64(min(max(0, count), RateBucket.chargeMax)), nowMilliseconds, always: true)
    }

    private func change(_ count: UInt64, _ nowMilliseconds: UInt64, always: Bool) -> Int? {
        let nowNs = nowMilliseconds &* 1_000_000
        var seen = fullAtNs.load(ordering: .relaxed)
        while true {
            let next = max(seen, nowNs) &+ intervalNs &* count
            let aheadNs = next &- nowNs
            let wait = aheadNs > RateBucket.burstNs ? Int((aheadNs - RateBucket.burstNs) / 1_000_000) + 1 : nil
            if wait != nil, !always { return wait }
            let exchange = fullAtNs.compareExchange(expected: seen, desired: next, ordering: .relaxed)
            if exchange.exchanged { return wait }
            seen = exchange.original
        }
    }
}
