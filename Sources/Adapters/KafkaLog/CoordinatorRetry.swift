import CRdKafka

/// How often the coordinator of a group is asked again that is not ready to answer: one that still reads what the group
/// committed, as in the seconds after the first group of a cluster has formed, one that is not chosen yet, or one that
/// no longer is; or that knows of a transaction which may move the offset asked for. Pure: it says how long to wait.
struct CoordinatorRetry: Sendable {
    /// How often is asked at most.
    let attemptsMax: Int
    private let firstWaitMs: Int32
    private var attempts = 0

    /// Some ten seconds in all: reading a partition of offsets takes one or two.
    init(attemptsMax: Int = 14, firstWaitMs: Int32 = 100) {
        self.attemptsMax = attemptsMax
        self.firstWaitMs = firstWaitMs
    }

    /// Milliseconds until the next attempt, after one that was refused with a code; nil where none is to be made.
    mutating func wait(after code: rd_kafka_resp_err_t) -> Int32? {
        attempts += 1
        guard CoordinatorRetry.passes(code), attempts < attemptsMax else { return nil }
        return min(firstWaitMs << Int32(min(attempts - 1, 16)), CoordinatorRetry.waitMsMax)
    }

    /// Whether a code says that the coordinator is not ready, which passes by itself.
    static func passes(_ code: rd_kafka_resp_err_t) -> Bool {
        switch code {
        case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_COORDINATOR, RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT:
            true
        default: false
        }
    }

    private static let waitMsMax: Int32 = 1000
}
