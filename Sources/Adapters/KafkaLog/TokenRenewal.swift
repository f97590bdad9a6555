/// When a token is asked for again, and what is known meanwhile. Times are monotonic milliseconds.
struct TokenRenewal {
    struct Held: Equatable {
        let token: String
        let endsMs: Int64
    }

    /// The newest; it may be over.
    private(set) var held: Held?
    /// Why the last attempt failed; nil after one that did not.
    private(set) var failure: String?
    /// When the next attempt begins.
    private(set) var dueMs: Int64 = 0
    private var failures = 0

    /// Pauses after failures, the first and the longest, and between any two attempts.
    static let pauseMs: ClosedRange<Int64> = 1000...10_000

    /// A token came that lives for `lifeMs` from when it was asked for. `spread`: 0..<1, another one in each process,
    /// so that many that were started together do not ask together.
    mutating func took(_ token: String, lifeMs: Int64, askedMs: Int64, spread: Double) {
        held = Held(token: token, endsMs: askedMs + lifeMs)
        failure = nil
        failures = 0
        dueMs = askedMs + max(TokenRenewal.pauseMs.lowerBound, Int64(Double(lifeMs) * (0.8 - 0.05 * spread)))
    }

    mutating func failed(_ failure: String, nowMs: Int64, spread: Double) {
        self.failure = failure
        let longest = TokenRenewal.pauseMs.upperBound
        let pause = min(longest, TokenRenewal.pauseMs.lowerBound << min(failures, 10))
        failures += 1
        dueMs = nowMs + pause + Int64(Double(pause) * 0.2 * spread)
    }

    func valid(nowMs: Int64) -> Held? { held.flatMap { $0.endsMs > nowMs ? $0 : nil } }
}
