import CRdKafka
import EventLog
import KafkaClient

/// What the codes of the protocol and of librdkafka, which are one list, mean to a caller: what was tried, why it
/// failed, what to do.
struct KafkaErrors {
    let brokers: String
    /// The latest thing that went wrong with a broker.
    var problem: KafkaFailure?

    static func name(_ code: rd_kafka_resp_err_t) -> String { String(cString: rd_kafka_err2str(code)) }

    func error(_ what: String, code: Int32, detail: String = "") -> LogError {
        error(what, rd_kafka_resp_err_t(rawValue: code), detail: detail)
    }

    func error(_ what: String, _ code: rd_kafka_resp_err_t, detail: String = "") -> LogError {
        let why = KafkaErrors.name(code) + (detail.isEmpty ? "" : ": \(detail)")
        switch code {
        case RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
            RD_KAFKA_RESP_ERR__RESOLVE, RD_KAFKA_RESP_ERR__WAIT_COORD, RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE,
            RD_KAFKA_RESP_ERR__MSG_TIMED_OUT,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH, RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
            RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
            // A client tries again for ever; who is not let in would wait for ever.
            if let problem, problem.kind == .refused {
                return LogError(
                    .denied,
                    "\(what): the brokers \(brokers) do not let this process in (\(problem)); check login and "
                        + "certificates")
            }
            let cause = problem.map { " (the latest problem: \($0))" } ?? ""
            return LogError(
                .unavailable,
                "\(what): \(why) from the brokers \(brokers)\(cause); check that they run and that "
                    + "their address, TLS and login are what they expect", retryable: true)
        case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
            return LogError(
                .unavailable,
                "\(what): \(why) (\(String(cString: rd_kafka_err2name(code))), \(code.rawValue)) from the brokers "
                    + "\(brokers): the broker that looks after the group is not ready yet; try again in some seconds, "
                    + "and where it stays so, see that every partition of __consumer_offsets has a leader",
                retryable: true)
        case RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT:
            return LogError(
                .unavailable,
                "\(what): \(why): a transaction that may move the offset is not over yet; who began it ends it when "
                    + "started again under its name, and the brokers do after its timeout", retryable: true)
        case RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return LogError(.denied, "\(what): \(why); the brokers \(brokers) need another login or an ACL for it")
        case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
            return LogError(.invalid, "\(what): \(why); `tapedeck topics apply` makes the topics")
        case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
            return LogError(.tooLarge, "\(what): \(why); raise the topic's max.message.bytes")
        default: return LogError(.io, "\(what): \(why)")
        }
    }
}
