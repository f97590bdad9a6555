import Admin
import CassandraStore
import EventLog
import KafkaLog
import MarketModel
import Observability

/// `tapedeck book`: the book of an instrument at a time.
struct BookCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run(_ symbol: String) throws -> ExitCode {
        let log = try openLog()
        defer { try? log.close() }
        let store =
            options.string(.store) == "cassandra" ? try CassandraClassStore(StoreChoice.cassandra(options)) : nil
        defer { store?.close() }
        let atNs = options.timeNs(.at) ?? time.wallNs()
        let past = PastBook(log) { instrument, timeNs in try store?.book(instrument, at: timeNs) }
        let found = try past.find(symbol, exchange: options.optionalString(.exchange), at: atNs)
        let depth = options.int(.depth)
        print(
            options.bool(.json)
                ? BookText.json(found, at: atNs, depth: depth)
                : BookText.lines(found, at: atNs, depth: depth).joined(separator: "\n"))
        return .success
    }

    private func openLog() throws -> any EventLog {
        guard RepairCommand.isCluster(options) else {
            let directory = DataDirectory(path: options.string(.data))
            try directory.requireLog()
            return try DataCommands.openLog(directory.log, time)
        }
        var configuration = try ClusterOptions(options).configuration()
        configuration.clientID = "tapedeck-book"
        configuration.topics = [.booksDeltas]
        return try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
    }
}

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
}
