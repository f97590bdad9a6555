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
        var configuration = try ClusterOptions(options, diagnostics).configuration()
        configuration.clientID = "tapedeck-book"
        configuration.topics = [.booksDeltas]
        return try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
    }
}
