/// The texts of `--help`, made from the tables of commands and options.
enum Help {
    /// `tapedeck` alone, `tapedeck help`.
    static var overview: String {
        var lines = [
            "Tapedeck records, streams and replays the market's tape.", "", "  tapedeck COMMAND [OPTIONS]", "",
        ]
        let width = Command.allCases.map(\.rawValue.count).max() ?? 0
        for command in Command.allCases {
            lines.append("  " + padded(command.rawValue, width) + "  " + command.definition.summary)
        }
        lines += [
            "", "Begin with `tapedeck up`, and in another terminal `tapedeck watch`.",
            "`tapedeck COMMAND --help` explains a command. Exit codes: 0 done; 1 failed, or what was compared differs;",
            "2 the command line or the configuration is wrong and nothing was tried.",
        ]
        return lines.joined(separator: "\n") + "\n"
    }

    /// `tapedeck COMMAND --help`.
    static func text(for command: Command) -> String {
        let definition = command.definition
        let usage = ["tapedeck", command.rawValue, definition.operands, "[OPTIONS]"].filter { !$0.isEmpty }
        var lines =
            [usage.joined(separator: " "), ""] + wrapped(definition.text, width: 96, indent: "") + ["", "Examples"]
        let exampleWidth = definition.examples.map(\.line.count).max() ?? 0
        for example in definition.examples {
            lines.append("  " + padded(example.line, exampleWidth) + "   " + example.meaning)
        }
        if !definition.options.isEmpty {
            lines += ["", "Options"] + definition.options.flatMap(describe)
        }
        lines += ["", "Options of every command"] + Command.commonOptions.flatMap(describe)
        lines += [
            "", "Every option can also be an environment variable (\(example(definition))) or a line of",
            "the configuration file; a flag comes before a variable, a variable before the file.",
        ]
        return lines.joined(separator: "\n") + "\n"
    }

    private static func example(_ definition: CommandDefinition) -> String {
        let option = definition.options.first ?? .logLevel
        return "\(option.flag): \(option.environmentVariable)"
    }

    private static func describe(_ option: OptionName) -> [String] {
        let definition = option.definition
        var facts: [String] = []
        switch definition.kind {
        case .integer(let range):
            let upper = range.upperBound == Int64.max ? "" : "\(range.upperBound)"
            facts.append("\(range.lowerBound)...\(upper)" + (definition.unit.map { " " + $0 } ?? ""))
        case .choice(let names): facts.append(names.joined(separator: ", "))
        default: break
        }
        if let text = definition.defaultText, definition.kind != .flag { facts.append("default \(text)") }
        let end = facts.isEmpty ? "" : " (" + facts.joined(separator: "; ") + ")"
        let head = "  " + option.flag + (definition.placeholder.isEmpty ? "" : " " + definition.placeholder)
        return [head] + wrapped(definition.help + end, width: 96, indent: "      ")
    }

    private static func wrapped(_ text: String, width: Int, indent: String) -> [String] {
        var lines: [String] = []
        var line = indent
        for word in text.split(separator: " ") {
            if line.count + 1 + word.count > width, line != indent {
                lines.append(line)
                line = indent
            }
            line += (line == indent ? "" : " ") + word
        }
        return line == indent ? lines : lines + [line]
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
