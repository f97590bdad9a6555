// `tapedeck book`, `tapedeck repair`, `tapedeck dlq`, and their options.

extension Command {
    var bookDefinition: CommandDefinition {
        CommandDefinition(
            "the book of an instrument at a time",
            operands: "SYMBOL", count: 1...1,
            options: [.at, .exchange, .depth, .data, .json] + Command.storeOptions.filter { $0 != .consistency }
                + Command.kafkaOptions,
            text: """
                Makes the book as it was then of a whole book in `books.deltas` and the changes until then; without \
                --at, of now. Reads the log of a data directory, also of a platform that runs, or Kafka's. Times are \
                those of the venue, or of receipt where the venue gives none. What the log has no more, --store \
                cassandra has once an hour: such a book says that it is not complete.
                """,
            examples: [
                ("tapedeck book AAPL", "now, the best ten levels"),
                ("tapedeck book BTCUSDT --at 2024-08-08T23:57:00Z --depth 3", "of a recording that was played"),
                (
                    "tapedeck book AAPL --at 2026-11-26T09:30:00Z --brokers kafka:9092",
                    "of a cluster; `--store cassandra` for older times"
                ),
            ])
    }

    var repairDefinition: CommandDefinition {
        CommandDefinition(
            "put the store's rows right from the log",
            operands: "[SYMBOL...]", count: 0...Int.max,
            options: [.data, .topic, .exchange, .from, .to, .dryRun, .yes, .json] + Command.storeOptions
                + Command.kafkaOptions,
            text: """
                Compares as `verify` does, writes what is missing or different from the log, deletes rows under keys \
                that no record has, and compares again. Rows to be deleted are listed first, and asked for, unless \
                --yes says so already. Rows written by `WriteTick`, and those whose records the log has no more, stay \
                as they are. Without --brokers, the log is a data directory's, whose platform is stopped.
                """,
            examples: [
                ("tapedeck repair --brokers kafka:9092 --store cassandra --from 2026-11-26", "since midnight"),
                ("tapedeck repair --dry-run", "what would be done to ./tapedeck-data"),
            ])
    }

    var deadLetterDefinition: CommandDefinition {
        CommandDefinition(
            "records that a consumer put aside: list, show, publish again",
            operands: "list|show|redrive TOPIC [PARTITION:OFFSET...]", count: 2...Int.max,
            options: [.data, .reason, .all, .limit, .tickSyncMs, .logRingMB, .retentionDays, .retentionDiskPercent]
                + [.json] + Command.kafkaOptions,
            text: """
                `list` prints a line for each letter of a topic, `show` those at the given places with their original \
                bytes, `redrive` publishes them to the topic again that they came from: those at the given places, \
                those of one --reason, or --all. A letter is published once: a receipt lies in the dead-letter topic, \
                written in one transaction with it. At the end it prints how many were read, redriven, skipped and \
                failed. Without --brokers the log is a data directory's, whose platform is stopped.
                """,
            examples: [
                ("tapedeck dlq list ticks.raw --brokers kafka:9092", "what was put aside, and why"),
                ("tapedeck dlq show ticks.raw 0:17 --brokers kafka:9092", "one letter, bytes and all"),
                (
                    "tapedeck dlq redrive ticks.raw --reason INVALID_VALUE --brokers kafka:9092",
                    "after the consumer was mended"
                ),
            ])
    }
}

extension OptionName {
    var repairDefinition: OptionDefinition {
        switch self {
        case .reason: OptionDefinition(.text, "CODE", "Only letters with this reason code, as UNDECODABLE.")
        case .into:
            OptionDefinition(
                .text, "TOPIC",
                "The topic that a range of ticks is published to, as lab.ticks.raw; without it, they go to the store.")
        case .toToken:
            OptionDefinition(
                .text, "TOKEN",
                "The group goes on where the resume token of a client stands: hexadecimal, or base64 as gRPC tools "
                    + "print it.")
        case .all: OptionDefinition(.flag, "", default: "false", "All letters that were not published again yet.")
        default:
            OptionDefinition(.flag, "", default: "false", "Say what would be done, row by row, and change nothing.")
        }
    }
}
