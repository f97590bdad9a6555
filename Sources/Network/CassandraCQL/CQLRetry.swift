import CQLFrames

/// What is done after a failed attempt. Pure.
enum CQLRetryDecision: Equatable {
    case sameNode
    case nextNode
    case giveUp
}

/// When a request is tried again: by what failed, and by whether carrying it out twice is the same as once.
enum CQLRetry {
    /// Attempts after the first one, at most.
    static let retriesMax = 3

    static func decision(_ error: CQLServerError, isIdempotent: Bool, retries: Int) -> CQLRetryDecision {
        guard retries < retriesMax else { return .giveUp }
        switch error.detail {
        case .unavailable:
            // Nothing was done. Another coordinator may see more replicas; a second one will not.
            return retries == 0 ? .nextNode : .giveUp
        case .bootstrapping: return .nextNode
        case .overloaded, .server, .truncating: return isIdempotent ? .nextNode : .giveUp
        case .readTimeout(_, let received, let required, let hasData):
            // Enough replicas answered, only the one with the data did not: the next time it is another one.
            return retries == 0 && received >= required && !hasData ? .sameNode : .giveUp
        case .writeTimeout(_, _, _, let type, _):
            guard isIdempotent else { return .giveUp }
            switch type {
            // The batch log was not written, so nothing was done.
            case .batchLog: return retries == 0 ? .sameNode : .giveUp
            case .simple, .unloggedBatch: return retries == 0 ? .sameNode : .giveUp
            // A logged batch that is in the log is replayed by the server. The others are counted or compared.
            default: return .giveUp
            }
        default: return .giveUp
        }
    }

    /// Whether a statement that the server answered so may have been carried out all the same.
    static func mayHaveBeenDone(_ error: CQLServerError) -> Bool {
        switch error.detail {
        case .writeTimeout, .writeFailure, .lightweightTransactionUnknown, .server, .overloaded: true
        default: false
        }
    }
}
