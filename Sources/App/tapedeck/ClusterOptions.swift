import EventLog
import KafkaLog
import Observability

// What the options of a cluster mean to the log there.

/// The cluster that the options name.
struct ClusterOptions {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    func configuration() throws(CommandError) -> KafkaConfiguration {
        var configuration = KafkaConfiguration(brokers: options.string(.brokers))
        configuration.prefix = options.optionalString(.topicPrefix) ?? ""
        configuration.security = try security()
        for text in options.strings(.kafkaSet) {
            let isOfConnections = ["security.", "sasl.", "ssl."].contains { text.hasPrefix($0) }
            guard !isOfConnections else {
                throw CommandError(
                    "--kafka-set \(text): not all connections are librdkafka's; --kafka-user, --kafka-token-file, "
                        + "--kafka-ca and --kafka-cert say it to all of them")
            }
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, !parts[0].isEmpty else {
                throw CommandError("--kafka-set \(text): a setting is NAME=VALUE, as socket.timeout.ms=10000")
            }
            configuration.properties.append((String(parts[0]), String(parts[1])))
        }
        return configuration
    }

    private func security() throws(CommandError) -> KafkaSecurity {
        var security = KafkaSecurity()
        if let user = options.optionalString(.kafkaUser) {
            guard let password = options.optionalString(.kafkaPassword) else {
                throw CommandError("--kafka-user \(user) needs a password: set TAPEDECK_KAFKA_PASSWORD")
            }
            security.login =
                switch options.string(.kafkaLogin) {
                case "scram-sha-256": .scramSHA256(user: user, password: password)
                case "scram-sha-512": .scramSHA512(user: user, password: password)
                default: .plain(user: user, password: password)
                }
        }
        if let file = options.optionalString(.kafkaTokenFile) {
            guard security.login == nil else {
                throw CommandError("--kafka-token-file and --kafka-user are two logins: one of them")
            }
            let read: @Sendable () throws -> KafkaToken = {
                try KafkaToken(file: file, nowMs: SystemTime().wallNs() / 1_000_000)
            }
            // A file that is not there now is a mistake; one that goes later is waited for.
            do { _ = try read() } catch { throw CommandError("--kafka-token-file: \(error)") }
            security.login = .token(read)
        }
        let authorities = options.optionalString(.kafkaCA)
        let certificate = options.optionalString(.kafkaCert)
        guard authorities != nil || certificate != nil else { return security }
        security.tls = KafkaSecurity.TLS(
            authorities: authorities == "system" ? nil : authorities, certificate: certificate,
            key: options.optionalString(.kafkaKey))
        return security
    }

    /// What the log reports, as lines of the diagnostics.
    static func report(_ diagnostics: Diagnostics) -> KafkaReport {
        { kind, what in diagnostics.log(.warning, "kafka", kind: kind, what) }
    }
}
