import EventLog
import FileDisk
import KafkaLog
import Observability
import Repair
import SegmentLog

/// `tapedeck dlq list|show|redrive TOPIC`.
struct DeadLetterCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    func run(_ operands: [String]) throws -> ExitCode {
        guard let topic = Topic(name: operands[1]), topic != .instruments, topic != Topic.instruments.deadLetter else {
            let names = Topic.sources.filter { $0 != .instruments }.map(\.name).joined(separator: ", ")
            throw CommandError("no topic with dead letters is named \(operands[1]); there are \(names)")
        }
        let positions = try Set(
            operands[2...].map { text in
                guard let position = DeadLetterPosition(text) else {
                    throw CommandError("\(text) is no place of a letter, as 0:17: `tapedeck dlq list` prints them")
                }
                return position
            })
        switch operands[0] {
        case "list": return try with(topic, writing: false) { try list($0, positions) }
        case "show":
            guard !positions.isEmpty else {
                throw CommandError("say which letters: `tapedeck dlq list \(topic)` prints their places")
            }
            return try with(topic, writing: false) { try show($0, positions) }
        case "redrive":
            guard !positions.isEmpty || options.isSet(.reason) || options.bool(.all) else {
                throw CommandError("say which letters: their places, --reason CODE, or --all")
            }
            return try with(topic, writing: true) { try redrive($0, positions) }
        default: throw CommandError("dlq does not know `\(operands[0])`; it knows list, show and redrive")
        }
    }

    private func isWanted(_ letter: DeadLetterEntry, _ positions: Set<DeadLetterPosition>) -> Bool {
        (positions.isEmpty || positions.contains(letter.position))
            && (options.optionalString(.reason) ?? letter.reasonCode) == letter.reasonCode
    }

    private func list(_ letters: DeadLetters, _ positions: Set<DeadLetterPosition>) throws -> ExitCode {
        var left = options.optionalInt(.limit) ?? .max
        var count = 0
        try letters.forEach { letter in
            guard isWanted(letter, positions) else { return true }
            count += 1
            print(options.bool(.json) ? DeadLetterText.json(letter, withBytes: false) : DeadLetterText.line(letter))
            left -= 1
            return left > 0
        }
        if count == 0, !options.bool(.json) { print("no letters") }
        return .success
    }

    private func show(_ letters: DeadLetters, _ positions: Set<DeadLetterPosition>) throws -> ExitCode {
        var left = positions
        try letters.forEach { letter in
            guard left.remove(letter.position) != nil else { return true }
            print(
                options.bool(.json)
                    ? DeadLetterText.json(letter, withBytes: true) : DeadLetterText.all(letter).joined(separator: "\n"))
            return !left.isEmpty
        }
        for position in left.sorted(by: { ($0.partition, $0.offset) < ($1.partition, $1.offset) }) {
            diagnostics.log(.warning, "dlq", "there is no letter at \(position)")
        }
        return left.isEmpty ? .success : .failure
    }

    private func redrive(_ letters: DeadLetters, _ positions: Set<DeadLetterPosition>) throws -> ExitCode {
        let count = try letters.redrive { isWanted($0, positions) }
        print(options.bool(.json) ? DeadLetterText.json(count) : DeadLetterText.line(count))
        if let failure = count.failure { diagnostics.log(.error, "dlq", failure) }
        guard count.isBalanced else { throw CommandError("the count does not balance: a fault of this program") }
        return count.failed == 0 ? .success : .failure
    }

    private func with(
        _ topic: Topic, writing: Bool, _ body: (DeadLetters) throws -> ExitCode
    ) throws -> ExitCode {
        let source = Topic.sources.first { topic == $0 || topic == $0.deadLetter } ?? topic
        let log: any EventLog
        if RepairCommand.isCluster(options) {
            var configuration = try ClusterOptions(options, diagnostics).configuration()
            // Of two redrives of a topic, the later ends the earlier.
            configuration.clientID = "tapedeck-dlq"
            configuration.group.instance = source.name
            configuration.topics = [source, source.deadLetter]
            log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        } else {
            let directory = DataDirectory(path: options.string(.data))
            try directory.requireLog()
            log =
                writing
                ? try SegmentLog(
                    disk: try FileDisk(directory: directory.log), time: time,
                    configuration: EmbeddedPlatform.logConfiguration(options))
                : try DataCommands.openLog(directory.log, time)
        }
        defer { try? log.close() }
        guard let letters = DeadLetters(log, topic: topic, time: time) else {
            throw CommandError("\(topic) has no dead letters")
        }
        return try body(letters)
    }
}
