import GRPC

/// Decides how a subscription goes on when its stream ends: from which token, after which wait, or not. Pure.
struct PriceResume {
    enum Decision: Equatable {
        /// The server ended the stream well.
        case finish
        case fail
        /// Begin again from the token; nil: as the subscription says.
        case resume(token: [UInt8]?, afterMilliseconds: Int)
    }

    /// Tries before the first stream has begun.
    static let firstAttemptsMax = 4

    private let backoff: GRPCBackoff
    private var token: [UInt8]?
    private var hasBegun = false
    private var failures = 0
    /// Whether there may be a snapshot of which not everything was delivered.
    private(set) var wantsSnapshot: Bool

    /// `token` is the subscription's own; `wantsSnapshot`: it is to begin with a snapshot.
    init(token: [UInt8]?, wantsSnapshot: Bool = false, backoff: GRPCBackoff) {
        self.token = token
        self.wantsSnapshot = wantsSnapshot
        self.backoff = backoff
    }

    /// A stream has begun; the token says where.
    mutating func began(token: [UInt8]?) {
        hasBegun = true
        if let token { self.token = token }
    }

    /// Something was delivered: waits begin anew. The token goes on behind it; it comes with the end of the snapshot or
    /// later.
    mutating func delivered(token: [UInt8]? = nil) {
        failures = 0
        guard let token else { return }
        self.token = token
        wantsSnapshot = false
    }

    mutating func ended(_ error: TapedeckError, using random: inout some RandomNumberGenerator) -> Decision {
        if error.status.isOK { return .finish }
        let isTokenRefused = hasBegun && token != nil && error.code == .invalidArgument
        if isTokenRefused {
            // Another log, after a failover: from its latest values on; the tracker says what is missing.
            token = nil
            wantsSnapshot = true
        } else if !canResume(error) {
            return .fail
        }
        if let given = error.resumeToken { token = given }
        failures += 1
        if !hasBegun, failures >= PriceResume.firstAttemptsMax { return .fail }
        // Many clients of a server that stops do not come back in one moment.
        let firstMax = max(1, backoff.initialMilliseconds)
        let wait =
            failures == 1
            ? Int.random(in: 0...firstMax, using: &random)
            : backoff.milliseconds(afterFailures: failures - 1, using: &random)
        return .resume(token: token, afterMilliseconds: max(wait, error.retryAfterMilliseconds ?? 0))
    }

    private func canResume(_ error: TapedeckError) -> Bool {
        switch error.code {
        case .unavailable: true
        case .resourceExhausted: error.resumeToken != nil || error.retryAfterMilliseconds != nil
        case .dataLoss: error.resumeToken != nil
        // Of the server's own deadline, or of rights that may still be enough: it said where the stream goes on.
        case .deadlineExceeded, .unauthenticated: error.resumeToken != nil
        // By a proxy or the server, not by this client.
        case .cancelled: hasBegun
        default: false
        }
    }
}
