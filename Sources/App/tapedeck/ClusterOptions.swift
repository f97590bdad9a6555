import EventLog
import KafkaLog
import Observability

// What the options of a cluster mean to the log there.

/// The cluster that the options name.
struct ClusterOptions {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics?

    /// `diagnostics`: where it is said that tokens are not renewed; nil where the processes that are started say so.
    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics?) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func configuration() throws(CommandError) -> KafkaConfiguration {
        var configuration = KafkaConfiguration(brokers: options.string(.brokers))
        configuration.prefix = options.optionalString(.topicPrefix) ?? ""
        configuration.security = try security()
        for text in options.strings(.kafkaSet) {
            let isOfConnections = ["security.", "sasl.", "ssl."].contains { text.hasPrefix($0) }
            guard !isOfConnections else {
                throw CommandError(
                    "--kafka-set \(text): not all connections are librdkafka's; --kafka-user, --kafka-token-file, "
                        + "--kafka-oidc-url, --kafka-ca and --kafka-cert say it to all of them")
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
        if let tokens = try tokens() {
            guard security.login == nil else {
                throw CommandError(
                    "--kafka-oidc-url is a login, as --kafka-user and --kafka-token-file are: one of them")
            }
            security.login = .token { try tokens.token() }
            // What the provider refuses now is a mistake; what it refuses later is waited for.
            do { _ = try tokens.token() } catch { throw CommandError("--kafka-oidc-url: \(error)") }
        }
        let authorities = options.optionalString(.kafkaCA)
        let certificate = options.optionalString(.kafkaCert)
        guard authorities != nil || certificate != nil else { return security }
        security.tls = KafkaSecurity.TLS(
            authorities: authorities == "system" ? nil : authorities, certificate: certificate,
            key: options.optionalString(.kafkaKey))
        return security
    }

    /// What fetches tokens; nil where none are to be fetched.
    private func tokens() throws(CommandError) -> OIDCTokens? {
        let parts: [OptionName] = [
            .kafkaOIDCClientID, .kafkaOIDCClientSecretFile, .kafkaOIDCScope, .kafkaOIDCCA, .kafkaOIDCExtension,
        ]
        guard let endpoint = options.optionalString(.kafkaOIDCURL) else {
            guard let part = parts.first(where: options.isSet) else { return nil }
            throw CommandError("\(part.flag) needs --kafka-oidc-url, where tokens are fetched")
        }
        guard let clientID = options.optionalString(.kafkaOIDCClientID),
            let secretFile = options.optionalString(.kafkaOIDCClientSecretFile)
        else {
            throw CommandError("--kafka-oidc-url needs --kafka-oidc-client-id and --kafka-oidc-client-secret-file")
        }
        var configuration = OIDCConfiguration(endpoint: endpoint, clientID: clientID, secretFile: secretFile)
        configuration.scope = options.optionalString(.kafkaOIDCScope)
        let authorities = options.optionalString(.kafkaOIDCCA)
        configuration.authorities = authorities == "system" ? nil : authorities
        for text in options.strings(.kafkaOIDCExtension) {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else {
                throw CommandError("--kafka-oidc-extension \(text): an extension is NAME=VALUE")
            }
            configuration.extensions.append((String(parts[0]), String(parts[1])))
        }
        var report: KafkaReport = { _, _ in }
        if let diagnostics { report = ClusterOptions.report(diagnostics) }
        do throws(KafkaTokenError) {
            return try OIDCTokens(configuration, time: SystemTime(), report: report)
        } catch {
            throw CommandError("--kafka-oidc-url: \(error)")
        }
    }

    /// What the log reports, as lines of the diagnostics.
    static func report(_ diagnostics: Diagnostics) -> KafkaReport {
        { kind, what in diagnostics.log(.warning, "kafka", kind: kind, what) }
    }
}
