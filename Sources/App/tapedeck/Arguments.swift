/// The words of a command line, sorted but not yet checked.
struct Arguments: Sendable, Hashable {
    struct Flag: Sendable, Hashable {
        let option: OptionName
        /// nil where a flag stands without a value.
        let value: String?
    }

    let command: Command
    let isHelp: Bool
    let flags: [Flag]
    let operands: [String]

    /// `words` are without the program's name. `--name value` and `--name=value` are the same; `--` ends the flags;
    /// flags may stand before or after operands, and after the command's name.
    init(_ words: [String]) throws(UsageError) {
        guard let first = words.first else {
            self.init(command: .help)
            return
        }
        switch first {
        case "--help", "-h":
            self.init(command: .help)
            return
        case "--version", "-V":
            self.init(command: .version)
            return
        default: break
        }
        guard let command = Command(rawValue: first) else { throw Arguments.unknownCommand(first) }
        try self.init(command, Array(words.dropFirst()))
    }

    private init(command: Command) {
        self.command = command
        isHelp = false
        flags = []
        operands = []
    }

    private init(_ command: Command, _ words: [String]) throws(UsageError) {
        var flags: [Flag] = []
        var operands: [String] = []
        var isHelp = false
        var position = 0
        while position < words.count {
            let word = words[position]
            position += 1
            if word == "--" {
                operands += words[position...]
                break
            }
            if word == "--help" || word == "-h" {
                isHelp = true
                continue
            }
            // A single - is an operand by custom (standard input), and a negative number is a value.
            guard word.hasPrefix("-"), word != "-" else {
                operands.append(word)
                continue
            }
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let option = try Arguments.option(String(parts[0]), of: command)
            if parts.count == 2 {
                flags.append(Flag(option: option, value: String(parts[1])))
            } else if option.definition.kind == .flag {
                flags.append(Flag(option: option, value: nil))
            } else if position < words.count, !words[position].hasPrefix("--") {
                flags.append(Flag(option: option, value: words[position]))
                position += 1
            } else {
                throw UsageError(
                    "\(option.flag) needs a value: \(option.definition.kind.allowed)",
                    hints: ["`tapedeck \(command.rawValue) --help` explains it."])
            }
        }
        self.command = command
        self.isHelp = isHelp
        self.flags = flags
        self.operands = operands
        if !isHelp { try checkOperands() }
    }

    private func checkOperands() throws(UsageError) {
        let definition = command.definition
        let hints = ["`tapedeck \(command.rawValue) --help` explains it."]
        if operands.count < definition.operandCount.lowerBound {
            throw UsageError(
                "`tapedeck \(command.rawValue) \(definition.operands)`: \(definition.operands) is missing", hints: hints
            )
        }
        if operands.count > definition.operandCount.upperBound {
            let extra = operands[definition.operandCount.upperBound]
            throw UsageError("\(command.rawValue) does not know what to do with `\(extra)`", hints: hints)
        }
        if let empty = operands.firstIndex(of: "") {
            throw UsageError("argument \(empty + 1) of \(command.rawValue) is empty", hints: hints)
        }
    }

    private static func option(_ word: String, of command: Command) throws(UsageError) -> OptionName {
        let taken = command.definition.options + Command.commonOptions
        let name = String(word.drop { $0 == "-" })
        if word.hasPrefix("--"), let option = OptionName(rawValue: name) {
            guard taken.contains(option) else {
                let others = Command.allCases.filter { $0.definition.options.contains(option) }.map(\.rawValue)
                throw UsageError(
                    "\(command.rawValue) does not take \(option.flag)",
                    hints: [
                        "It belongs to: \(others.joined(separator: ", ")).",
                        "`tapedeck \(command.rawValue) --help` lists what \(command.rawValue) takes.",
                    ])
            }
            return option
        }
        let nearest = Suggestion.nearest(to: name, in: taken.map(\.rawValue))
        throw UsageError(
            "\(command.rawValue) has no option \(word)",
            hints: (nearest.map { ["Did you mean --\($0)?"] } ?? [])
                + ["`tapedeck \(command.rawValue) --help` lists what it takes."])
    }

    private static func unknownCommand(_ word: String) -> UsageError {
        if word.hasPrefix("-") {
            return UsageError(
                "a command comes first, then its options; `\(word)` is no command",
                hints: ["`tapedeck help` lists the commands."])
        }
        let nearest = Suggestion.nearest(to: word, in: Command.allCases.map(\.rawValue))
        return UsageError(
            "there is no command `\(word)`",
            hints: (nearest.map { ["Did you mean `tapedeck \($0)`?"] } ?? []) + ["`tapedeck help` lists the commands."])
    }
}
