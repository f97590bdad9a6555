import EdgeService
import EventLog
import Glibc
import KafkaLog
import Observability

/// `tapedeck groups reset GROUP`.
struct GroupsCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    /// Where one partition is and where it is to go on.
    private struct Move {
        let place: TopicPartition
        let from: UInt64?
        let to: UInt64
    }

    func run(_ operands: [String]) throws -> ExitCode {
        guard operands[0] == "reset" else {
            throw CommandError("groups does not know `\(operands[0])`; it knows reset")
        }
        guard [OptionName.toTime, .by, .toToken].count(where: options.isSet) == 1 else {
            throw CommandError("say where the group is to go on: one of --to-time, --by and --to-token")
        }
        let configuration = try ClusterOptions(options, diagnostics).configuration()
        let admin = try KafkaAdmin(configuration, report: ClusterOptions.report(diagnostics))
        defer { admin.close() }
        let name = configuration.name(ofGroup: operands[1])
        let group = try admin.groups([name]).first
        if let members = group?.members, !members.isEmpty {
            let who = members.map {
                "\($0.clientID)\($0.instance.isEmpty ? "" : " \($0.instance)") at \($0.host)"
            }.joined(separator: ", ")
            // Ended in order or not: it is to have its partitions again.
            let named =
                members.allSatisfy(\.instance.isEmpty)
                ? ""
                : "; one that was started with --instance is a member until its session is over, 45 s after its end"
            throw CommandError("group \(name) has \(members.count) live members (\(who)): stop them first\(named)")
        }
        let moves = try moves(admin, group?.committed ?? [:])
        for move in moves {
            let from = move.from.map { "\($0)" } ?? (options.bool(.json) ? "null" : "(none)")
            print(
                options.bool(.json)
                    ? "{\"topic\":\"\(move.place.topic)\",\"partition\":\(move.place.partition),\"from\":\(from),"
                        + "\"to\":\(move.to)}"
                    : "\(move.place): \(from) becomes \(move.to)")
        }
        guard isWanted(name, moves.count) else {
            print("nothing was changed")
            return .failure
        }
        try admin.reset(
            name, to: Dictionary(moves.map { ($0.place, $0.to) }, uniquingKeysWith: { $1 }))
        return .success
    }

    private func moves(_ admin: KafkaAdmin, _ committed: [TopicPartition: UInt64]) throws -> [Move] {
        guard let topic = Topic(name: options.string(.topic)) else {
            throw CommandError("no topic is named \(options.string(.topic))")
        }
        let count = try admin.partitionCounts()[topic] ?? 0
        guard count > 0 else {
            throw CommandError("the brokers have no topic \(topic); `tapedeck topics apply` makes it")
        }
        let places = (0..<count).map { TopicPartition(topic, UInt16(clamping: $0)) }
        let starts = try admin.starts(places)
        let ends = try admin.ends(places)
        func bounded(_ offset: UInt64?, _ place: TopicPartition) -> UInt64 {
            let end = ends[place] ?? 0
            return min(max(offset ?? end, starts[place] ?? 0), end)
        }
        if let text = options.optionalString(.toToken) {
            let token = try token(text, topic, admin)
            // A partition that the token does not name had no record when it was made.
            return places.map {
                Move(place: $0, from: committed[$0], to: bounded(token.offsets[$0.partition] ?? 0, $0))
            }
        }
        if let timeNs = options.timeNs(.toTime) {
            let found = try admin.offsets(places, atNs: timeNs)
            return places.map { Move(place: $0, from: committed[$0], to: bounded(found[$0], $0)) }
        }
        let spanNs = options.spanNs(.by) ?? 0
        return try places.map { place in
            // Retention may have taken what was next.
            let from = max(committed[place] ?? 0, starts[place] ?? 0)
            let end = ends[place] ?? 0
            // Where the group is at the end, it is at now.
            let atNs =
                from < end ? try admin.timestampNs(of: place, at: from) ?? SystemTime().wallNs() : SystemTime().wallNs()
            let (timeNs, overflow) = atNs.addingReportingOverflow(spanNs)
            let found = try admin.offsets([place], atNs: overflow ? 0 : max(timeNs, 0))[place]
            return Move(place: place, from: committed[place], to: bounded(found, place))
        }
    }

    private func token(_ text: String, _ topic: Topic, _ admin: KafkaAdmin) throws -> TokenOffsets {
        guard topic == .ticksRaw else { throw CommandError("tokens have places of \(Topic.ticksRaw), not of \(topic)") }
        guard let bytes = TokenText.bytes(text) else {
            throw CommandError("--to-token: neither hexadecimal nor base64")
        }
        let token: TokenOffsets
        do throws(TokenOffsets.Malformed) {
            token = try TokenOffsets(bytes)
        } catch {
            throw CommandError("--to-token is no resume token: \(error)")
        }
        guard try token.logID == admin.logID() else {
            throw CommandError("--to-token is of another log than that of these brokers and this --topic-prefix")
        }
        return token
    }

    /// Asks, where somebody can answer.
    private func isWanted(_ group: String, _ count: Int) -> Bool {
        if options.bool(.yes) { return true }
        print("Have group \(group) go on there in \(count) partitions? [y/N] ", terminator: "")
        fflush(nil)
        return readLine().map { ["y", "yes"].contains($0.lowercased()) } ?? false
    }
}
