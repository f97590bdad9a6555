/// Everything that can be configured. One definition each, in ``definition``; flags, environment variables, the file's
/// keys, checks and `--help` all come from it.
enum OptionName: String, CaseIterable, Sendable {
    // The platform
    case data
    case listen
    case loops
    case drainSeconds = "drain-seconds"
    case logRingMB = "log-ring-mb"
    case tickSyncMs = "tick-sync-ms"
    case retentionDays = "retention-days"
    case retentionDiskPercent = "retention-disk-percent"
    // What feeds it
    case replay
    case speed
    case seed
    case rate
    // What is asked for
    case server
    case exchange
    case topic
    case from
    case to
    case limit
    case runs
    case rounds
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
        case .data, .listen, .loops, .drainSeconds, .logRingMB, .tickSyncMs, .retentionDays, .retentionDiskPercent:
            platformDefinition
        case .replay, .speed, .seed, .rate: feedDefinition
        default: requestDefinition
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
                "Where gRPC is served. Port 0 lets the system choose; 0.0.0.0 lets others in, without encryption."
            )
        case .loops:
            OptionDefinition(
                .integer(0...64), "N", default: "0",
                "Event loops that serve clients, each a thread. 0 chooses by the number of processors.")
        case .drainSeconds:
            OptionDefinition(
                .integer(0...600), "N", default: "10", unit: "s",
                "On SIGTERM, how long open streams may take to end before they are cut.")
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

    private var requestDefinition: OptionDefinition {
        switch self {
        case .server:
            OptionDefinition(.address, "HOST:PORT", default: "127.0.0.1:50051", "The Tapedeck to ask.")
        case .exchange:
            OptionDefinition(.text, "NAME", "Only this exchange; needed where more than one lists the symbol.")
        case .topic:
            OptionDefinition(.text, "NAME", default: "ticks.raw", "Which topic of the log.")
        case .from:
            OptionDefinition(
                .time, "TIME",
                "From this filing time on (UTC: 2024-08-08, 2024-08-08T09:30:00Z); without it from the oldest.")
        case .to:
            OptionDefinition(.time, "TIME", "Up to, and without, this filing time; without it to the newest.")
        case .limit:
            OptionDefinition(.integer(1...Int64.max), "N", "Stop after this many; without it all.")
        case .runs:
            OptionDefinition(
                .integer(1...100), "N", default: "5", "How often each figure is measured; the median is printed.")
        case .rounds:
            OptionDefinition(
                .integer(1...1_000_000), "N", "How often the drill is repeated; without it the drill's own number.")
        case .json:
            OptionDefinition(.flag, "", default: "false", "One JSON object per line, for programs.")
        case .config:
            OptionDefinition(
                .path, "FILE",
                "The configuration file; without it tapedeck.yaml in the data directory, else in the current one.")
        case .logLevel:
            OptionDefinition(
                .choice(["debug", "info", "warning", "error"]), "LEVEL", default: "info",
                "What is worth a line on stderr.")
        default:
            OptionDefinition(.choice(["text", "json"]), "FORMAT", default: "text", "How lines on stderr are written.")
        }
    }
}
