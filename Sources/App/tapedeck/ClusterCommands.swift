// Commands of a cluster and their options.

extension Command {
    /// How a cluster is reached.
    static let kafkaOptions: [OptionName] = [
        .log, .brokers, .topicPrefix, .kafkaLogin, .kafkaUser, .kafkaPassword, .kafkaCA, .kafkaCert, .kafkaKey,
        .kafkaTokenFile, .kafkaOIDCURL, .kafkaOIDCClientID, .kafkaOIDCClientSecretFile, .kafkaOIDCScope,
        .kafkaOIDCExtension, .kafkaOIDCCA, .kafkaSet,
    ]

    var clusterDefinition: CommandDefinition {
        switch self {
        case .run: runDefinition
        case .topics: topicsDefinition
        case .lag: lagDefinition
        case .benchFeed: benchDefinition
        case .benchReads: benchReadsDefinition
        default: groupsDefinition
        }
    }

    private var runDefinition: CommandDefinition {
        CommandDefinition(
            "run one service of a platform on a cluster",
            operands: "feed|writer|edge", count: 1...1,
            options: Command.kafkaOptions + [
                .replay, .speed, .seed, .rate, .data, .spillMB, .instance, .lostRecords, .clockOffsetFile, .listen,
                .loops,
                .historyMinutes,
                .drainSeconds, .logRingMB, .readerLagMB, .readerQueueMB, .retentionDiskPercent, .tlsCert, .tlsKey,
                .tlsClientCA, .tlsClients, .access, .anonymous, .callsPerSecond, .streamsPerCaller, .messagesPerSecond,
                .connectionsMax, .connectionsPerAddress, .unaryDeadlineSeconds, .streamDeadlineSeconds, .webOrigin,
                .callLog, .metricsListen, .tickWriterListen,
            ] + Command.storeOptions,
            text: """
                Runs a feed, a writer or an edge as a process of its own, with Kafka as the log between them, until \
                SIGINT or SIGTERM. Any number of edges may run, and any number of writers divide the partitions among \
                them; with --store cassandra they write trades, order events, positions and books too. \
                `tapedeck topics apply` makes the topics first. One line of JSON on standard output says when it works.
                """,
            examples: [
                ("tapedeck run feed --brokers 127.0.0.1:9092", "the simulated venue into Kafka"),
                ("tapedeck run edge --brokers 127.0.0.1:9092", "clients are served on 127.0.0.1:50051"),
                ("tapedeck run writer --brokers 127.0.0.1:9092 --data rows", "every tick into the store in ./rows"),
                ("tapedeck run writer --store cassandra", "every tick into the tables that `schema apply` made"),
            ])
    }

    private var topicsDefinition: CommandDefinition {
        CommandDefinition(
            "the topics of a cluster, as they should be",
            operands: "plan|apply|check", count: 1...1,
            options: Command.kafkaOptions + [.partitions, .replication, .json],
            text: """
                Compares the topics on the brokers with the published table: partitions, copies, retention, settings. \
                `plan` prints what is to be done, `apply` does it, `check` exits 1 where anything differs. Nothing is \
                ever removed, and no partition taken away.
                """,
            examples: [
                ("tapedeck topics apply --brokers 127.0.0.1:9092", "make what is missing"),
                ("tapedeck topics check --brokers 127.0.0.1:9092", "for a monitor"),
            ])
    }

    private var lagDefinition: CommandDefinition {
        CommandDefinition(
            "how far each group of readers is behind",
            operands: "[GROUP...]", count: 0...Int.max, options: Command.kafkaOptions + [.json],
            text: """
                Looks twice, a second apart: records and seconds behind, by how many records that changes each second, \
                and how long it takes to catch up.
                """,
            examples: [("tapedeck lag --brokers 127.0.0.1:9092", "all groups")])
    }

    private var benchDefinition: CommandDefinition {
        CommandDefinition(
            "append made-up ticks to Kafka and say how fast it went",
            options: Command.kafkaOptions + [.symbolCount, .batch, .sourceRate, .records],
            text: """
                What `make bench-cluster` measures beside other feeds: ticks are encoded and appended until the \
                brokers have acknowledged all. Prints one line of JSON.
                """,
            examples: [
                (
                    "tapedeck bench-feed --brokers 127.0.0.1:9092 --topic-prefix bench.",
                    "a million ticks as fast as the brokers take them"
                )
            ])
    }

    private var benchReadsDefinition: CommandDefinition {
        CommandDefinition(
            "read ticks from Cassandra and say how fast it went",
            operands: "quotes|history", count: 1...1,
            options: Command.cassandraOptions + [.records, .inFlight],
            text: """
                What `make bench-cluster` measures: the newest row of an instrument's hour, or all of its rows page by \
                page, at LOCAL_QUORUM. The keyspace's hours are read in one shuffled order, again and again. Prints \
                one line of JSON.
                """,
            examples: [
                (
                    "tapedeck bench-reads quotes --contact-points 127.0.0.1:9042 --in-flight 256",
                    "a million quotes, 256 asked for at once"
                )
            ])
    }

    private var groupsDefinition: CommandDefinition {
        CommandDefinition(
            "have a group of readers go on somewhere else",
            operands: "reset GROUP", count: 2...2,
            options: Command.kafkaOptions + [.topic, .toTime, .by, .toToken, .yes, .json],
            text: """
                Sets the offsets of a group that has no members: to a time, by a time span from where it is, or to a \
                client's resume token. Prints \
                old and new offsets and asks, unless --yes says so already. Where the store keeps its own offsets, as \
                the embedded one does, those count and not these.
                """,
            examples: [
                (
                    "tapedeck groups reset cassandra-writer --by -15m --brokers 127.0.0.1:9092",
                    "a quarter of an hour back"
                )
            ])
    }
}

extension OptionName {
    var kafkaDefinition: OptionDefinition {
        switch self {
        case .log:
            OptionDefinition(.choice(["kafka"]), "KIND", default: "kafka", "What the log is made of.")
        case .brokers:
            OptionDefinition(
                .text, "HOST:PORT,...", default: "127.0.0.1:9092",
                "Some brokers of the cluster; they name the others.")
        case .topicPrefix:
            OptionDefinition(
                .text, "TEXT",
                "Stands before every topic's and group's name, so that several platforms can share a cluster.")
        case .kafkaLogin:
            OptionDefinition(
                .choice(["plain", "scram-sha-256", "scram-sha-512"]), "HOW", default: "plain",
                "How --kafka-user logs in. SCRAM needs librdkafka 2.6.1 or newer.")
        case .kafkaUser: OptionDefinition(.text, "NAME", "Who logs in at the brokers. Absent: no login.")
        case .kafkaPassword:
            OptionDefinition(
                .text, "TEXT",
                "The password of --kafka-user. Other users of the machine see command lines: "
                    + "TAPEDECK_KAFKA_PASSWORD keeps it to yourself.")
        case .kafkaCA:
            OptionDefinition(
                .path, "FILE|system",
                "The authorities that the brokers' certificates must come from, PEM; `system` takes this machine's. "
                    + "With it, or with --kafka-cert, TLS is spoken.")
        case .kafkaCert: OptionDefinition(.path, "FILE", "The certificate to show to the brokers, PEM.")
        case .kafkaKey: OptionDefinition(.path, "FILE", "The key of --kafka-cert, PEM, without a password.")
        case .kafkaTokenFile:
            OptionDefinition(
                .path, "FILE",
                "A bearer token to log in by (OAUTHBEARER), read again for each connection. Somebody else writes it "
                    + "anew before it ends.")
        default:
            OptionDefinition(
                .texts, "NAME=VALUE",
                "A setting of librdkafka, which has groups and transactions, by its own name. May be given several "
                    + "times.")
        }
    }

    var oidcDefinition: OptionDefinition {
        switch self {
        case .kafkaOIDCURL:
            OptionDefinition(
                .text, "URL",
                "The token endpoint of an OpenID Connect provider: tokens to log in by (OAUTHBEARER) are fetched "
                    + "there, by client credentials, and renewed before they end. https; http only on this machine.")
        case .kafkaOIDCClientID: OptionDefinition(.text, "ID", "Who asks at --kafka-oidc-url.")
        case .kafkaOIDCClientSecretFile:
            OptionDefinition(
                .path, "FILE", "The secret of --kafka-oidc-client-id, read again for each request to the endpoint.")
        case .kafkaOIDCScope:
            OptionDefinition(.text, "TEXT", "What the token is asked for; without it the provider decides.")
        case .kafkaOIDCExtension:
            OptionDefinition(
                .texts, "NAME=VALUE",
                "A further word to the brokers with each token (RFC 7628). May be given several times.")
        default:
            OptionDefinition(
                .path, "FILE|system",
                "The authorities that the certificate of --kafka-oidc-url must come from, PEM; without it this "
                    + "machine's.")
        }
    }

    var drillDefinition: OptionDefinition {
        switch self {
        case .awaySeconds:
            OptionDefinition(
                .integer(0...7200), "N", unit: "s",
                "How long a drill keeps an engine away, a market opens or rows are timed; without it 60, 30 for a "
                    + "broker that stands still and for bystander, 120 for open.")
        case .engineKill:
            OptionDefinition(
                .text, "COMMAND",
                "A shell command that kills one broker, or one node, for a drill that needs it. Returns when it is "
                    + "dead.")
        case .engineStart:
            OptionDefinition(
                .text, "COMMAND", "A shell command that starts what --engine-kill killed. Returns when it serves.")
        case .enginePause:
            OptionDefinition(
                .text, "COMMAND", "A shell command that has one broker stand still, as kill -STOP does.")
        default: OptionDefinition(.text, "COMMAND", "A shell command that has it go on, as kill -CONT does.")
        }
    }

    var clusterDefinition: OptionDefinition {
        switch self {
        case .instance:
            OptionDefinition(
                .text, "NAME",
                "A name that this writer keeps over restarts and no other has: its partitions wait for it for 45 s.")
        case .historyMinutes:
            OptionDefinition(
                .integer(0...10_080), "N", default: "60", unit: "minutes",
                "How far back an edge reads the log when it starts, for the latest prices and days. 0: not at all.")
        case .lostRecords:
            OptionDefinition(
                .choice(["stop", "skip"]), "WHAT", default: "stop",
                "What a writer does where retention took records before they were stored: stop, so that somebody "
                    + "decides, or count them, say so and go on.")
        case .spillMB:
            OptionDefinition(
                .integer(0...1_048_576), "N", default: "1024", unit: "MiB",
                "What a feed keeps in spill/ of --data while the brokers do not take its ticks; what does not fit is "
                    + "lost and counted. 0: no spill, and ticks are given up after a minute.")
        case .clockOffsetFile:
            OptionDefinition(
                .path, "FILE",
                "A writer's wall clock is wrong by as many seconds as this file says: `drill clock` sets it. Of no use "
                    + "otherwise.")
        case .partitions:
            OptionDefinition(
                .integer(1...1000), "N",
                "Partitions of every topic but `instruments`, in place of the published counts: for a small cluster.")
        case .replication:
            OptionDefinition(
                .integer(1...16), "N", "Copies of each partition. Absent: 3, or as many as there are brokers.")
        case .toTime: OptionDefinition(.time, "TIME", "The group goes on with the first record at or after this time.")
        case .by:
            OptionDefinition(
                .span, "SPAN", "By how much time, back or forward, from the record where the group is now.")
        default: OptionDefinition(.flag, "", default: "false", "Do it without asking.")
        }
    }
}
