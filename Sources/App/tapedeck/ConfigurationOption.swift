import AccessControl
import TLS

/// Everything that can be configured. One definition each, in ``definition``; flags, environment variables, the file's
/// keys, checks and `--help` all come from it.
enum OptionName: String, CaseIterable, Sendable {
    // The platform
    case data
    case listen
    case loops
    case drainSeconds = "drain-seconds"
    case noSupervisor = "no-supervisor"
    case logRingMB = "log-ring-mb"
    case tickSyncMs = "tick-sync-ms"
    case retentionDays = "retention-days"
    case retentionDiskPercent = "retention-disk-percent"
    case readerLagMB = "reader-lag-mb"
    case readerQueueMB = "reader-queue-mb"
    // Who may call it, and who watches it
    case tlsCert = "tls-cert"
    case tlsKey = "tls-key"
    case tlsClientCA = "tls-client-ca"
    case tlsClients = "tls-clients"
    case access
    case anonymous
    case callsPerSecond = "calls-per-second"
    case streamsPerCaller = "streams-per-caller"
    case messagesPerSecond = "messages-per-second"
    case connectionsMax = "connections-max"
    case connectionsPerAddress = "connections-per-address"
    case unaryDeadlineSeconds = "unary-deadline-seconds"
    case streamDeadlineSeconds = "stream-deadline-seconds"
    case webOrigin = "web-origin"
    case callLog = "call-log"
    case metricsListen = "metrics-listen"
    case metricsTLS = "metrics-tls"
    case tickWriterListen = "tick-writer-listen"
    case channelz
    case readyLag = "ready-lag"
    // Where rows are kept
    case store
    case contactPoints = "contact-points"
    case keyspace
    case localDC = "local-dc"
    case dataCenters = "data-centers"
    case consistency
    case cassandraUser = "cassandra-user"
    case cassandraPassword = "cassandra-password"
    case cassandraCA = "cassandra-ca"
    case cassandraCert = "cassandra-cert"
    case cassandraKey = "cassandra-key"
    case minutes
    // A cluster in place of a data directory
    case log
    case brokers
    case topicPrefix = "topic-prefix"
    case kafkaLogin = "kafka-login"
    case kafkaUser = "kafka-user"
    case kafkaPassword = "kafka-password"
    case kafkaCA = "kafka-ca"
    case kafkaCert = "kafka-cert"
    case kafkaKey = "kafka-key"
    case kafkaTokenFile = "kafka-token-file"
    case kafkaOIDCURL = "kafka-oidc-url"
    case kafkaOIDCClientID = "kafka-oidc-client-id"
    case kafkaOIDCClientSecretFile = "kafka-oidc-client-secret-file"
    case kafkaOIDCScope = "kafka-oidc-scope"
    case kafkaOIDCExtension = "kafka-oidc-extension"
    case kafkaOIDCCA = "kafka-oidc-ca"
    case kafkaSet = "kafka-set"
    case instance
    case historyMinutes = "history-minutes"
    case lostRecords = "lost-records"
    case spillMB = "spill-mb"
    case clockOffsetFile = "clock-offset-file"
    case partitions
    case replication
    case toTime = "to-time"
    case toToken = "to-token"
    case into
    case by
    case yes
    case dryRun = "dry-run"
    case reason
    case all
    // What feeds it
    case replay
    case speed
    case seed
    case rate
    case symbolCount = "symbols"
    case batch
    case sourceRate = "source-rate"
    case records
    case inFlight = "in-flight"
    // What goes wrong on purpose
    case drops
    case duplicates
    case reorders
    case crossed
    case oversize
    case stalls
    case resets
    case goaways
    case stallMs = "stall-ms"
    case printSchedule = "print-schedule"
    // What is asked for
    case server
    case tlsCA = "tls-ca"
    case token
    case exchange
    case topic
    case from
    case to
    case limit
    case at
    case depth
    case runs
    case rounds
    case awaySeconds = "away-seconds"
    case engineKill = "engine-kill"
    case engineStart = "engine-start"
    case enginePause = "engine-pause"
    case engineResume = "engine-resume"
    case close
    case json
    // How the program itself behaves
    case config
    case logLevel = "log-level"
    case logFormat = "log-format"

    /// `--data`
    var flag: String { "--" + rawValue }
    /// `TAPEDECK_DATA`
    var environmentVariable: String {
        "TAPEDECK_" + String(rawValue.map { $0 == "-" ? "_" : Character($0.uppercased()) })
    }
}

/// What values an option takes.
enum ValueKind: Sendable, Hashable {
    /// Present or not; in the environment and the file `true` or `false`.
    case flag
    case text
    /// A path that is read or written by the command; not checked here.
    case path
    /// As `path`, and may be given more than once.
    case paths
    /// As `text`, and may be given more than once.
    case texts
    /// Where pages come from, as browsers say it, or `*`; may be given more than once.
    case origins
    /// A time span back or forward, as `-15m`, `2h` or `30s`.
    case span
    /// Whole numbers, inclusive.
    case integer(ClosedRange<Int64>)
    /// `HOST:PORT`, IPv6 hosts in brackets; port 0 lets the system choose.
    case address
    case choice([String])
    /// A whole multiple of real time, or `max`.
    case speed
    /// A UTC date or time of RFC 3339.
    case time
}

/// The definition of one option.
struct OptionDefinition: Sendable {
    let kind: ValueKind
    /// What `--help` shows in place of the value.
    let placeholder: String
    /// As a user would write it; nil where absence means something of its own, which the help says.
    let defaultText: String?
    let unit: String?
    /// One or two sentences: what it does, and what a different value costs.
    let help: String

    init(
        _ kind: ValueKind, _ placeholder: String, default defaultText: String? = nil, unit: String? = nil,
        _ help: String
    ) {
        self.kind = kind
        self.placeholder = placeholder
        self.defaultText = defaultText
        self.unit = unit
        self.help = help
    }
}

extension OptionName {
    var definition: OptionDefinition {
        switch self {
        case .data, .listen, .loops, .drainSeconds, .noSupervisor, .logRingMB, .tickSyncMs, .retentionDays,
            .retentionDiskPercent:
            platformDefinition
        case .tlsCert, .tlsKey, .tlsClientCA, .tlsClients, .tlsCA, .token: identityDefinition
        case .access, .anonymous, .callsPerSecond, .streamsPerCaller, .messagesPerSecond, .connectionsMax,
            .connectionsPerAddress, .unaryDeadlineSeconds, .streamDeadlineSeconds, .webOrigin:
            accessDefinition
        case .callLog, .metricsListen, .tickWriterListen, .metricsTLS, .channelz, .readyLag: monitoringDefinition
        case .store, .contactPoints, .keyspace, .localDC, .dataCenters, .consistency, .cassandraUser,
            .cassandraPassword, .cassandraCA, .cassandraCert, .cassandraKey:
            storeDefinition
        case .minutes: bucketDefinition
        case .log, .brokers, .topicPrefix, .kafkaLogin, .kafkaUser, .kafkaPassword, .kafkaCA, .kafkaCert, .kafkaKey,
            .kafkaTokenFile, .kafkaSet:
            kafkaDefinition
        case .kafkaOIDCURL, .kafkaOIDCClientID, .kafkaOIDCClientSecretFile, .kafkaOIDCScope, .kafkaOIDCExtension,
            .kafkaOIDCCA:
            oidcDefinition
        case .instance, .historyMinutes, .lostRecords, .spillMB, .clockOffsetFile, .partitions, .replication, .toTime,
            .by, .yes:
            clusterDefinition
        case .dryRun, .reason, .all, .into, .toToken: repairDefinition
        case .awaySeconds, .engineKill, .engineStart, .enginePause, .engineResume: drillDefinition
        case .readerLagMB, .readerQueueMB: readerDefinition
        case .replay, .speed, .seed, .rate: feedDefinition
        case .symbolCount, .batch, .sourceRate, .records, .inFlight: sourceDefinition
        case .drops, .duplicates, .reorders, .crossed, .oversize, .stalls, .resets, .goaways, .stallMs, .printSchedule:
            faultDefinition
        default: requestDefinition
        }
    }

    private var sourceDefinition: OptionDefinition {
        switch self {
        case .symbolCount:
            OptionDefinition(
                .integer(1...450_000), "N", default: "1000", "How many symbols there are: AAPL, MSFT and so on.")
        case .records:
            OptionDefinition(
                .integer(1...1_000_000_000), "N", default: "1000000", "How many ticks are made, or reads, in all.")
        case .inFlight:
            OptionDefinition(.integer(1...4096), "N", default: "1", "How many reads are asked for at once.")
        case .batch:
            OptionDefinition(
                .integer(1...65536), "N", default: "256", unit: "ticks", "The most ticks that are appended at once.")
        default:
            OptionDefinition(
                .integer(0...10_000_000), "N", default: "0", unit: "ticks/s",
                "How many ticks are made; 0: as fast as the slowest stream of everything reads them.")
        }
    }

    private var platformDefinition: OptionDefinition {
        switch self {
        case .data:
            OptionDefinition(
                .path, "DIR", default: "tapedeck-data",
                "Where the log and the store live. Made when absent; one process at a time uses it.")
        case .listen:
            OptionDefinition(
                .address, "HOST:PORT", default: "127.0.0.1:50051",
                "Where gRPC is served. Port 0 lets the system choose; 0.0.0.0 lets others in, without encryption where "
                    + "there is no --tls-cert.")
        case .loops:
            OptionDefinition(
                .integer(0...64), "N", default: "0",
                "Event loops that serve clients, each a thread. 0: one fewer than there are processors, at least 1.")
        case .drainSeconds:
            OptionDefinition(
                .integer(0...600), "N", default: "10", unit: "s",
                "On SIGTERM, how long open streams may take to end before they are cut.")
        case .noSupervisor:
            OptionDefinition(
                .flag, "", default: "false",
                "No parent process: a crash ends it all, and connections are refused until somebody starts it again.")
        case .logRingMB:
            OptionDefinition(
                .integer(1...65536), "N", default: "64", unit: "MiB",
                "The newest part of the log that is kept in memory. A reader further behind is served from files.")
        case .tickSyncMs:
            OptionDefinition(
                .integer(1...1000), "N", default: "5", unit: "ms",
                "Ticks are on disk this long after they were written. Larger is cheaper, and loses more in a power cut."
            )
        case .retentionDays:
            OptionDefinition(
                .integer(1...3650), "N", default: "7", unit: "days",
                "How long the log keeps ticks, counted from when they were appended.")
        default:
            OptionDefinition(
                .integer(1...90), "N", default: "20", unit: "% of the disk",
                "The most that ticks may take in the log, and again in the store; the oldest go first.")
        }
    }

    private var identityDefinition: OptionDefinition {
        switch self {
        case .tlsCert:
            OptionDefinition(
                .path, "FILE",
                "The certificate to show, PEM, followed by those between it and its authority. A server with one "
                    + "speaks TLS only; a client proves by it who it is.")
        case .tlsKey:
            OptionDefinition(.path, "FILE", "The key of --tls-cert, PEM, without a password.")
        case .tlsClientCA:
            OptionDefinition(
                .path, "FILE",
                "The authorities whose clients are let in, PEM. With it a client needs a certificate, and is known by "
                    + "its SPIFFE id, else its DNS name, else its common name.")
        case .tlsClients:
            OptionDefinition(
                .choice([ClientCertificatePolicy.required, .optional].map(\.rawValue)), "WHETHER",
                default: ClientCertificatePolicy.required.rawValue,
                "With --tls-client-ca: whether a client may come without a certificate, and prove itself by a token. "
                    + "A bad certificate is refused either way.")
        case .tlsCA:
            OptionDefinition(
                .path, "FILE|system",
                "The authorities that the server's certificate must come from, PEM; `system` takes this machine's. "
                    + "With it, or with --tls-cert, TLS is spoken.")
        default:
            OptionDefinition(
                .text, "TOKEN",
                "What proves who asks, from `tapedeck token`. Other users of the machine see command lines: "
                    + "TAPEDECK_TOKEN keeps it to yourself.")
        }
    }

    private var accessDefinition: OptionDefinition {
        switch self {
        case .access:
            OptionDefinition(
                .path, "FILE",
                "Who may call, and what: a line for each caller, read again when it changes and on SIGHUP. With it "
                    + "nobody else may call, not even from this machine; `tapedeck token` makes a line.")
        case .anonymous:
            OptionDefinition(
                .choice(AnonymousAccess.allCases.map(\.rawValue)), "WHO", default: AnonymousAccess.loopback.rawValue,
                "Without --access: who may do everything without a token or a client certificate.")
        case .callsPerSecond:
            OptionDefinition(
                .integer(0...1_000_000_000), "N", default: "0", unit: "calls/s",
                "How many calls a caller may begin, after a burst of as many; 0 is without limit. A line of --access "
                    + "may say another number.")
        case .streamsPerCaller:
            OptionDefinition(
                .integer(0...1_000_000_000), "N", default: "0",
                "How many streams a caller may have open at once; 0 is without limit.")
        case .messagesPerSecond:
            OptionDefinition(
                .integer(0...1_000_000_000), "N", default: "0", unit: "messages/s",
                "How fast a caller may send on its streams of requests; 0 is without limit. What comes faster is read "
                    + "later, not refused.")
        case .connectionsMax:
            OptionDefinition(
                .integer(1...10_000_000), "N", default: "100000",
                "How many connections the clients may have together; more are told so and closed.")
        case .connectionsPerAddress:
            OptionDefinition(
                .integer(1...10_000_000), "N", default: "25000",
                "How many of them may come from one address. All clients behind a proxy have one.")
        case .unaryDeadlineSeconds:
            OptionDefinition(
                .integer(0...86_400), "N", default: "30", unit: "s",
                "The most that a call with one answer may take, whatever its own deadline; 0 is without limit.")
        case .streamDeadlineSeconds:
            OptionDefinition(
                .integer(0...31_536_000), "N", default: "0", unit: "s",
                "The most that a stream may take; 0 is without limit.")
        default:
            OptionDefinition(
                .origins, "ORIGIN",
                "Pages of this origin may call by gRPC-Web, as https://desk.example; * is any. May be given several "
                    + "times; without it, no page of another server may.")
        }
    }

    private var monitoringDefinition: OptionDefinition {
        switch self {
        case .callLog:
            OptionDefinition(
                .integer(0...100_000), "N", default: "1", unit: "lines/s",
                "How many calls that went well get a line, for each event loop. Those that failed get one.")
        case .metricsListen:
            OptionDefinition(
                .address, "HOST:PORT", default: "127.0.0.1:9090",
                "Where /metrics, /healthz and /readyz are served. Where the default port is taken, another one is.")
        case .tickWriterListen:
            OptionDefinition(
                .address, "HOST:PORT",
                "Where TickWriterService is served, for this machine or an internal network, as 127.0.0.1:50052. "
                    + "Without it, it is not. Who may call is said as for --listen.")
        case .channelz:
            OptionDefinition(
                .flag, "", default: "false",
                "Serves grpc.channelz.v1: whoever may call it sees the addresses of all clients and how many calls "
                    + "each connection has had.")
        case .metricsTLS:
            OptionDefinition(
                .choice(MonitoringTLS.allCases.map(\.rawValue)), "HOW", default: MonitoringTLS.off.rawValue,
                "TLS for --metrics-listen, by --tls-cert: `server` asks nobody for a certificate, `mutual` asks as "
                    + "--tls-client-ca and --tls-clients say.")
        default:
            OptionDefinition(
                .integer(0...Int64.max), "N", default: "1000000", unit: "records",
                "How far the store may be behind the log before /readyz says no.")
        }
    }

    private var feedDefinition: OptionDefinition {
        switch self {
        case .replay:
            OptionDefinition(
                .paths, "FILE",
                "A recording to play in place of the simulated venue (Binance, Kraken or Coinbase; .gz or plain). "
                    + "May be given several times.")
        case .speed:
            OptionDefinition(
                .speed, "1|N|max", default: "1",
                "How fast recordings play: in their own time, N times as fast, or as fast as they can be taken.")
        case .seed:
            OptionDefinition(
                .integer(0...Int64.max), "N", default: "1",
                "What the simulated market, a drill or a simulation starts from: the same seed makes the same run.")
        default:
            OptionDefinition(
                .integer(1...1_000_000), "N", default: "2000", unit: "updates/s",
                "How busy the simulated venue is, over all its instruments.")
        }
    }

    private var readerDefinition: OptionDefinition {
        if self == .readerLagMB {
            return OptionDefinition(
                .integer(1...1_048_576), "N", default: "1024", unit: "MiB of the log",
                "How far a reader of everything under policy ALL may fall behind before its stream ends with its "
                    + "token. It costs no memory; what is behind --log-ring-mb is read from files.")
        }
        return OptionDefinition(
            .integer(1...1024), "N", default: "8", unit: "MiB",
            "What may wait in memory for a reader of some symbols under policy ALL before its stream ends with its "
                + "token.")
    }
}
