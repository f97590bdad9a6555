import EventLoop
import Observability
import TLS

/// TLS of `tapedeck up`: from files that are read again when they change, with what was refused told to the operator.
/// Confined to the main thread, but for what it gives to the server.
final class ServerTLS {
    private let context: TLSServerContext
    /// Of the port where metrics are; nil where that is not encrypted.
    private let monitoring: TLSServerContext?
    private let diagnostics: Diagnostics
    private var watch: FileWatch
    private var lines = TLSRefusalLines()
    private var monitoringLines = TLSRefusalLines()

    /// nil where no certificate is configured. Throws where the files cannot be used.
    static func make(_ options: ResolvedOptions, _ diagnostics: Diagnostics) throws(CommandError) -> ServerTLS? {
        guard let chain = options.optionalString(.tlsCert) else {
            let isWanted = MonitoringTLS(options) != .off
            for option in [OptionName.tlsKey, .tlsClientCA, .metricsTLS]
            where option == .metricsTLS ? isWanted : options.isSet(option) {
                throw CommandError("\(option.flag) needs a certificate: add --tls-cert")
            }
            return nil
        }
        guard let key = options.optionalString(.tlsKey) else {
            throw CommandError("--tls-cert needs its key: add --tls-key")
        }
        var configuration = TLSServerConfiguration(certificateChainFile: chain, privateKeyFile: key)
        configuration.clientAuthorityFile = options.optionalString(.tlsClientCA)
        if configuration.clientAuthorityFile != nil {
            configuration.clientCertificates =
                ClientCertificatePolicy(rawValue: options.string(.tlsClients)) ?? .required
        }
        do {
            return ServerTLS(
                try TLSServerContext(configuration), try makeMonitoring(options, configuration), configuration,
                diagnostics)
        } catch let error as TLSError {
            throw CommandError(error.description)
        } catch {
            throw CommandError("\(error)")
        }
    }

    /// The same certificate, and HTTP/1.1 for whoever offers it, or nothing.
    private static func makeMonitoring(
        _ options: ResolvedOptions, _ configuration: TLSServerConfiguration
    ) throws -> TLSServerContext? {
        var configuration = configuration
        configuration.applicationProtocols = []
        switch MonitoringTLS(options) {
        case .off: return nil
        case .server:
            configuration.clientAuthorityFile = nil
            configuration.clientCertificates = .none
        case .mutual:
            guard configuration.clientAuthorityFile != nil else {
                throw CommandError(
                    "--metrics-tls mutual needs to know whose certificates are good: add --tls-client-ca")
            }
        }
        return try TLSServerContext(configuration)
    }

    private init(
        _ context: TLSServerContext, _ monitoring: TLSServerContext?, _ configuration: TLSServerConfiguration,
        _ diagnostics: Diagnostics
    ) {
        self.context = context
        self.monitoring = monitoring
        self.diagnostics = diagnostics
        watch = FileWatch(
            [configuration.certificateChainFile, configuration.privateKeyFile]
                + [configuration.clientAuthorityFile].compactMap { $0 })
        diagnostics.log(.info, "tls", "serving TLS as \(description)")
    }

    private var description: String {
        let certificate = context.certificate
        return "\(certificate.subject), valid until \(TLSOwnCertificate.text(certificate.validTo))"
    }

    /// What the server puts between a connection and its bytes.
    var secure: @Sendable (any ByteStream) -> any ByteStream {
        { [context] stream in context.wrap(stream) }
    }

    /// The same for the port where metrics are; nil: nothing.
    var secureMonitoring: (@Sendable (any ByteStream) -> any ByteStream)? {
        guard let monitoring else { return nil }
        return { stream in monitoring.wrap(stream) }
    }

    func register(in metrics: MetricsRegistry) {
        metrics.register { [context] in TLSMetrics.families(context.counters, context.certificate) }
    }

    /// Twice a second: takes files that have changed, and tells of refused handshakes.
    func tick(nowNs: Int64) {
        if watch.look() { reload() }
        for line in lines.take(context.counters, nowNs: nowNs) {
            diagnostics.log(line.level, "tls", line.text)
        }
        guard let monitoring else { return }
        for line in monitoringLines.take(monitoring.counters, nowNs: nowNs) {
            diagnostics.log(line.level, "metrics", line.text)
        }
    }

    /// Reads the files again, changed or not. Connections go on; new ones see what was read. Files that cannot be used
    /// are told, and change nothing.
    func reload() {
        do {
            try context.reload()
            try monitoring?.reload()
            diagnostics.log(.info, "tls", "read the certificates again: \(description)")
        } catch {
            diagnostics.log(.error, "tls", "\(error); the certificates stay as they were")
        }
    }
}

/// What is written of refused handshakes: a line per kind and ten seconds, with the latest.
struct TLSRefusalLines {
    private static let periodNs: Int64 = 10_000_000_000

    private var written: [TLSRefusal: (count: Int, atNs: Int64)] = [:]

    mutating func take(_ counters: TLSCounters, nowNs: Int64) -> [(level: Diagnostics.Level, text: String)] {
        var lines: [(level: Diagnostics.Level, text: String)] = []
        for kind in TLSRefusal.allCases {
            let before = written[kind]
            guard let count = counters.refused[kind], let last = counters.lastRefused[kind],
                count > before?.count ?? 0
            else { continue }
            if let before, nowNs &- before.atNs < TLSRefusalLines.periodNs { continue }
            written[kind] = (count, nowNs)
            let more = count - (before?.count ?? 0)
            let handshakes = more == 1 ? "a TLS handshake" : "\(more) TLS handshakes"
            // Probes of ports leave in the middle, and mean no harm.
            lines.append(
                (
                    kind == .abandoned ? .debug : .warning,
                    "refused \(handshakes) (\(kind.rawValue)), the last from \(last.peer): \(last.reason)"
                ))
        }
        return lines
    }
}

/// TLS in numbers.
enum TLSMetrics {
    static func families(_ counters: TLSCounters, _ certificate: TLSOwnCertificate) -> [MetricFamily] {
        let versions = TLSVersion.allCases.map { version in
            MetricFamily.Sample([version.name], .whole(UInt64(counters.versions[version] ?? 0)))
        }
        let refused = TLSRefusal.allCases.map { kind in
            MetricFamily.Sample([kind.rawValue], .whole(UInt64(counters.refused[kind] ?? 0)))
        }
        return [
            MetricFamily(
                "tapedeck_tls_handshakes_total", .counter, "TLS handshakes done, by the version agreed.",
                labels: ["version"], versions),
            MetricFamily(
                "tapedeck_tls_handshakes_refused_total", .counter, "TLS handshakes refused or left, by reason.",
                labels: ["reason"], refused),
            MetricFamily(
                "tapedeck_tls_certificate_expiry_timestamp_seconds", .gauge,
                "When the server's certificate is over.", [.init(.signed(certificate.validTo))]),
        ]
    }
}

extension TLSVersion {
    /// As in `TLS 1.3`.
    var name: String {
        switch self {
        case .tls12: "1.2"
        case .tls13: "1.3"
        }
    }
}
