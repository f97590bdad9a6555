import EventLog
import KafkaLog
import Observability
import Repair
import TickStore

/// `tapedeck replay --brokers ...` without files: a range of Kafka's ticks again, into the store or another topic.
struct ReplayRangeCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run() throws -> ExitCode {
        guard options.isSet(.from) || options.isSet(.to) else {
            throw CommandError("say which range is to be replayed: --from, --to or both")
        }
        var configuration = try ClusterOptions(options, diagnostics).configuration()
        configuration.clientID = "tapedeck-replay"
        configuration.topics = [.ticksRaw]
        let log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        defer { try? log.close() }
        let selection = RepairSelection(
            exchange: options.optionalString(.exchange), fromNs: options.timeNs(.from) ?? .min,
            toNs: options.timeNs(.to) ?? .max)
        var reportedNs = time.monotonicNs()
        let replay = TapeReplay(log, selection) { what, done, total in
            guard time.monotonicNs() - reportedNs > 1_000_000_000 else { return }
            reportedNs = time.monotonicNs()
            diagnostics.log(.info, "replay", "\(what): \(done) of \(total) records read")
        }
        let count =
            try options.optionalString(.into).map { try publish(replay, into: $0, configuration) }
            ?? store(replay, log)
        for line in count.damage { diagnostics.log(.warning, "replay", "damaged: \(line)") }
        print(
            options.bool(.json)
                ? "{\"ticks\":\(count.ticks),\"replayed\":\(count.replayed),\"corrupt\":\(count.corrupt),"
                    + "\"damaged\":\(count.damage.count)}"
                : "\(count.ticks) ticks read, \(count.replayed) replayed, \(count.corrupt) others left out")
        return count.damage.isEmpty && count.ticks == count.replayed ? .success : .failure
    }

    private func publish(
        _ replay: TapeReplay, into name: String, _ configuration: KafkaConfiguration
    ) throws -> TapeReplay.Count {
        let topic = Topic.ticksRaw.name
        guard name.hasSuffix(topic) else {
            throw CommandError("--into \(name): the topic's name has to end in \(topic), as lab.\(topic)")
        }
        var target = configuration
        target.prefix = String(name.dropLast(topic.count))
        guard target.prefix != configuration.prefix else {
            throw CommandError("--into \(name): that is where the ticks are; each would be there twice")
        }
        target.producer.fullWaitNs = 30_000_000_000
        let log = try KafkaLog(target, time: time, report: ClusterOptions.report(diagnostics))
        let count = try replay.run(into: log)
        // Throws where a tick was not acknowledged.
        try log.close()
        if let failure = log.failure { throw failure }
        return count
    }

    private func store(_ replay: TapeReplay, _ log: any EventLog) throws -> TapeReplay.Count {
        let opened = try StoreChoice(options).open(
            DataDirectory(path: options.string(.data)), time: time, log: log, diagnostics)
        defer { try? opened.close() }
        guard let store = opened as? any RepairableStore else {
            throw CommandError("this store does not take single rows")
        }
        return try replay.run(into: store)
    }
}
