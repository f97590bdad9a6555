/// What the program can be asked to do. `run SERVICE` (one service of a cluster) takes its place after `up`.
enum Command: String, CaseIterable, Sendable {
    case up
    case replay
    case schema
    case buckets
    case run
    case topics
    case lag
    case groups
    case quote
    case watch
    case book
    case verify
    case repair
    case dlq
    case inspect
    case dump
    case backup
    case restore
    case token
    case connections
    case restart
    case simulateEdge = "simulate-edge"
    case bench
    case benchServer = "bench-server"
    case benchFeed = "bench-feed"
    case benchReads = "bench-reads"
    case drill
    case version
    case help
}

/// What `--help` says of a command, and what it takes.
struct CommandDefinition: Sendable {
    /// One line, for the list of commands.
    let summary: String
    /// What comes after the command's name, as in `[SYMBOL...]`; empty where nothing does.
    let operands: String
    let operandCount: ClosedRange<Int>
    let options: [OptionName]
    /// Paragraphs for people.
    let text: String
    /// Command lines and what each does.
    let examples: [(line: String, meaning: String)]

    init(
        _ summary: String, operands: String = "", count: ClosedRange<Int> = 0...0, options: [OptionName] = [],
        text: String, examples: [(line: String, meaning: String)]
    ) {
        self.summary = summary
        self.operands = operands
        operandCount = count
        self.options = options
        self.text = text
        self.examples = examples
    }
}

extension Command {
    /// Options that every command takes.
    static let commonOptions: [OptionName] = [.config, .logLevel, .logFormat]

    /// Options of every command that asks a server.
    static let clientOptions: [OptionName] = [.server, .tlsCA, .tlsCert, .tlsKey, .token]

    /// How Cassandra is reached.
    static let cassandraOptions: [OptionName] = [
        .contactPoints, .keyspace, .localDC, .cassandraUser, .cassandraPassword, .cassandraCA, .cassandraCert,
        .cassandraKey,
    ]

    /// Which store, and how it is reached.
    static let storeOptions: [OptionName] = [.store, .consistency] + cassandraOptions

    var definition: CommandDefinition {
        switch self {
        case .up, .replay: feedingDefinition
        case .schema: schemaDefinition
        case .buckets: bucketsDefinition
        case .run, .topics, .lag, .groups, .benchFeed, .benchReads: clusterDefinition
        case .quote, .watch: askingDefinition
        case .book: bookDefinition
        case .verify, .inspect, .dump: readingDefinition
        case .repair: repairDefinition
        case .dlq: deadLetterDefinition
        case .backup, .restore: copyingDefinition
        case .token, .connections, .restart: accessDefinition
        case .simulateEdge: simulatingDefinition
        default: provingDefinition
        }
    }

    private var feedingDefinition: CommandDefinition {
        if self == .up {
            return CommandDefinition(
                "run the platform in one process",
                options: [
                    .data, .listen, .replay, .speed, .seed, .rate, .loops, .drainSeconds, .noSupervisor, .logRingMB,
                    .tickSyncMs, .retentionDays, .retentionDiskPercent, .readerLagMB, .readerQueueMB, .tlsCert,
                    .tlsKey, .tlsClientCA, .tlsClients, .access, .anonymous, .callsPerSecond, .streamsPerCaller,
                    .messagesPerSecond, .connectionsMax, .connectionsPerAddress, .unaryDeadlineSeconds,
                    .streamDeadlineSeconds, .webOrigin, .callLog, .metricsListen, .tickWriterListen, .metricsTLS,
                    .channelz,
                    .readyLag,
                ] + Command.storeOptions,
                text: """
                    Runs feed, log, store and gRPC server until SIGINT or SIGTERM, which lets open streams end and \
                    exits 0. Without --replay a simulated venue feeds it, so that a machine without network shows \
                    life. One line of JSON on standard output says when it serves and where. A small parent process \
                    has its sockets and starts it again after a crash, or on SIGUSR2 and `tapedeck restart`: \
                    connections wait meanwhile, and none is refused.
                    """,
                examples: [
                    ("tapedeck up", "the simulated venue on 127.0.0.1:50051, data in ./tapedeck-data"),
                    ("tapedeck up --replay day.jsonl.gz --speed max", "a recording, as fast as it can be taken"),
                    ("tapedeck up --tls-cert me.pem --tls-key me.key", "by TLS alone, as who the certificate says"),
                    (
                        "tapedeck up --listen 127.0.0.1:0",
                        "a port of the system's choice, told in the line that says it serves"
                    ),
                ])
        }
        return CommandDefinition(
            "take recordings into a data directory, and end",
            operands: "[FILE...]", count: 0...Int.max,
            options: [.data, .speed, .tickSyncMs, .logRingMB, .retentionDays, .retentionDiskPercent, .json]
                + [.exchange, .from, .to, .into] + Command.storeOptions + Command.kafkaOptions,
            text: """
                Plays recordings through the feed, the log and the writer, without serving, until all of it is stored. \
                Played twice, or broken off and started again, it makes the same rows. With --brokers and without \
                files, it reads a range of Kafka's ticks again, by filing time: into the store, or with --into \
                to another topic. To publish a recording to Kafka, `tapedeck run feed --replay FILE`.
                """,
            examples: [
                ("tapedeck replay --speed max day.jsonl.gz", "a day's recording into ./tapedeck-data"),
                (
                    "tapedeck replay --brokers kafka:9092 --from 2026-11-26 --into lab.ticks.raw",
                    "a day to the topics of a lab"
                ),
            ])
    }

    private var schemaDefinition: CommandDefinition {
        CommandDefinition(
            "the tables in Cassandra",
            operands: "plan|apply|check", count: 1...1, options: Command.cassandraOptions + [.dataCenters, .json],
            text: """
                `plan` prints what the keyspace lacks and the statements that would mend it, `apply` carries them out, \
                `check` exits 1 where anything differs from what it has to be. Tables that are there keep their rows; \
                what cannot be changed in place is said and left alone.
                """,
            examples: [
                ("tapedeck schema plan --contact-points 10.0.0.1,10.0.0.2", "what would be done"),
                ("tapedeck schema apply --data-centers dc-london:3,dc-newyork:3", "three copies in each"),
                ("tapedeck schema check", "for a monitor: 0 where all is as it has to be"),
            ])
    }

    private var askingDefinition: CommandDefinition {
        if self == .quote {
            return CommandDefinition(
                "the latest price of an instrument, with its day",
                operands: "SYMBOL", count: 1...1, options: Command.clientOptions + [.exchange, .json],
                text: """
                    Asks a running Tapedeck for bid, ask, last and the day's high, low, open and previous close. Where \
                    several exchanges list the symbol, the answer names them and --exchange chooses.
                    """,
                examples: [
                    ("tapedeck quote AAPL", "the one exchange that lists it"),
                    ("tapedeck quote BTCUSDT --exchange SIMY --json", "of two that do, as JSON"),
                    ("tapedeck quote AAPL --server tape.example:50051 --tls-ca ca.pem", "of a server with TLS"),
                ])
        }
        return CommandDefinition(
            "a live view of the market in the terminal",
            operands: "[SYMBOL...]", count: 0...Int.max, options: Command.clientOptions + [.exchange, .json],
            text: """
                Shows last, bid, ask, spread, rate and lag of each instrument, refreshed in place; without symbols, of \
                all. Where standard output is not a terminal it prints one plain line per update. A server that goes \
                away is asked again each second. End it with Ctrl-C.
                """,
            examples: [
                ("tapedeck watch", "everything"),
                ("tapedeck watch AAPL MSFT", "two symbols"),
                ("tapedeck watch BTCUSDT --json | head", "a few updates for a program"),
            ])
    }

    private var readingDefinition: CommandDefinition {
        switch self {
        case .verify:
            CommandDefinition(
                "compare the log with the store",
                operands: "[SYMBOL...]", count: 0...Int.max,
                options: [.data, .topic, .exchange, .from, .to, .json] + Command.storeOptions + Command.kafkaOptions,
                text: """
                    Reads both and prints, per instrument, how many ticks agree, are missing, differ or are too many. \
                    Exits 1 where they differ. Stop the platform first: one process uses a data directory at a time. \
                    With --brokers the log is Kafka's, and rows are compared by instrument, day and bucket, while the \
                    platform runs; --from and --to are filing times.
                    """,
                examples: [
                    ("tapedeck verify --brokers kafka:9092 --store cassandra --from 2026-11-26", "since midnight"),
                    ("tapedeck verify", "everything in ./tapedeck-data"),
                    ("tapedeck verify BTCUSDT --from 2024-08-08 --to 2024-08-09", "one symbol on one day"),
                ])
        case .inspect:
            CommandDefinition(
                "what a data directory holds",
                options: [.data, .json],
                text: """
                    Prints partitions, offsets, times, sizes and damage of the log, and instruments, rows and size of \
                    the store. Changes nothing.
                    """,
                examples: [("tapedeck inspect --data /srv/tape", "another directory")])
        default:
            CommandDefinition(
                "records of the log as text or JSON",
                operands: "[SYMBOL...]", count: 0...Int.max,
                options: [.data, .topic, .exchange, .from, .to, .limit, .json],
                text: "Prints the records of one topic in the order of each partition, from the oldest on.",
                examples: [
                    ("tapedeck dump AAPL --json --limit 10", "the ten oldest ticks of a symbol"),
                    ("tapedeck dump --topic ticks.raw.dlq", "what could not be processed, and why"),
                ])
        }
    }

    private var copyingDefinition: CommandDefinition {
        if self == .backup {
            return CommandDefinition(
                "copy a data directory while it is in use",
                operands: "TARGET", count: 1...1, options: [.data, .json],
                text: """
                    Makes a copy that is consistent at one moment, in a directory that is absent or empty, and checks \
                    it. The platform may go on running.
                    """,
                examples: [("tapedeck backup /backup/monday", "of ./tapedeck-data")])
        }
        return CommandDefinition(
            "make a data directory from a backup",
            operands: "BACKUP", count: 1...1, options: [.data, .json],
            text:
                "Checks a backup and copies it into a data directory that is absent or empty. Nothing is overwritten.",
            examples: [("tapedeck restore /backup/monday --data tapedeck-data", "back in place")])
    }

    private var accessDefinition: CommandDefinition {
        if self == .token {
            return CommandDefinition(
                "make a token for a caller",
                operands: "NAME", count: 1...1, options: [.json],
                text: """
                    Prints a new token, once, and the line of the --access file that lets its owner in. The line has a \
                    proof of the token, not the token. Anyone may make one; it counts where its line is.
                    """,
                examples: [("tapedeck token alice", "for the caller alice")])
        }
        if self == .restart {
            return CommandDefinition(
                "start a running platform anew, without refusing a connection",
                options: [.data, .json],
                text: """
                    Asks the platform that has a data directory to stop in order and to be started again by its parent \
                    process, with the program and the configuration as they are then; addresses stay. Connections that \
                    come meanwhile wait. Returns when the new one answers.
                    """,
                examples: [("tapedeck restart", "of the platform on ./tapedeck-data, after an upgrade of the program")])
        }
        return CommandDefinition(
            "who is connected to a running platform",
            options: [.data, .close, .json],
            text: """
                Lists the open calls of the platform that has a data directory: who calls from where, which method, \
                the policy of a stream and how far its reader is behind, bytes and age. It asks through the data \
                directory, so who may write there may ask. With --close it ends one; the client may call again.
                """,
            examples: [
                ("tapedeck connections", "of the platform on ./tapedeck-data"),
                ("tapedeck connections --close 0-17", "end the call with the id 0-17"),
            ])
    }

    private var simulatingDefinition: CommandDefinition {
        CommandDefinition(
            "an edge that makes faults, to test clients with",
            options: [
                .listen, .seed, .rate, .drops, .duplicates, .reorders, .crossed, .oversize, .stalls, .resets, .goaways,
                .stallMs, .printSchedule,
            ],
            text: """
                Serves the market data API from the simulated venue, and on purpose leaves messages out, sends them \
                twice, late, crossed or too large, stalls, resets streams and ends connections. The same --seed makes \
                the same market, times included, and the same faults at the same messages of each stream. Each fault \
                that is made is a line of JSON on standard output. Nothing is kept when it ends.
                """,
            examples: [
                (
                    "tapedeck simulate-edge --seed 7",
                    "rare faults: a careless client lives for a while"
                ),
                ("tapedeck simulate-edge --seed 7 --resets 2000 --goaways 500", "a bad day"),
                ("tapedeck simulate-edge --seed 7 --print-schedule 10000", "what goes wrong where, without serving"),
            ])
    }

    private var provingDefinition: CommandDefinition {
        switch self {
        case .bench:
            CommandDefinition(
                "measure it here",
                operands: "[NAME|all]", count: 0...1, options: [.runs, .json] + Command.cassandraOptions,
                text: "Runs one bench, or all, and prints the method beside the figures. Without a name it lists them.",
                examples: [
                    ("tapedeck bench codec", "one"),
                    ("tapedeck bench all --json", "all, one line of JSON per figure"),
                    ("tapedeck bench cassandra --contact-points 127.0.0.1:9042", "on a node of one's own"),
                ])
        case .benchServer:
            CommandDefinition(
                "serve made-up ticks to load programs",
                options: [
                    .data, .listen, .symbolCount, .batch, .sourceRate, .loops, .logRingMB, .retentionDiskPercent,
                    .tlsCert, .tlsKey, .tlsClientCA, .tlsClients, .access, .anonymous, .metricsListen,
                ],
                text: """
                    The edge of `up` with everything that stands around it (metrics, access, deadlines), on a log of \
                    16 MiB that a source fills as fast as the slowest stream of everything reads it, or at a rate. No \
                    venue, no writer: what `make bench-edge` measures beside other servers. A data directory in \
                    memory (/dev/shm) keeps the disk out of it.
                    """,
                examples: [
                    (
                        "tapedeck bench-server --data /dev/shm/bench --listen 127.0.0.1:0",
                        "on a free port, told when it serves"
                    )
                ])
        case .drill:
            CommandDefinition(
                "break it on purpose and see what is lost",
                operands: "[NAME|all]", count: 0...1,
                options: [
                    .rounds, .seed, .json, .rate, .awaySeconds, .engineKill, .engineStart, .enginePause, .engineResume,
                    .partitions, .replication, .dataCenters,
                ] + Command.kafkaOptions + Command.cassandraOptions,
                text: """
                    Starts its own platform in a directory of its own, breaks it, starts it again and counts what is \
                    missing or twice. Exits 1 where anything is. Without a name it lists the drills; `all` are those \
                    that need no other server. Drills of a cluster use brokers and nodes that run, with topics and a \
                    keyspace of their own, which they remove when they have passed.
                    """,
                examples: [
                    (
                        "tapedeck drill writer-kill --brokers 127.0.0.1:9092",
                        "20 kills of a writer from Kafka to Cassandra"
                    ),
                    ("tapedeck drill kill --rounds 100", "kill -9 at a hundred random moments"),
                    ("tapedeck drill slow-clients", "64 clients, nine of which hardly read"),
                ])
        case .version:
            CommandDefinition(
                "which Tapedeck this is", options: [.json], text: "Prints the version, and what it was built with.",
                examples: [("tapedeck version", "one line")])
        default:
            CommandDefinition(
                "this text, or that of a command", operands: "[COMMAND]", count: 0...1,
                text: "`tapedeck COMMAND --help` prints the same.", examples: [("tapedeck help up", "how to run it")])
        }
    }
}
