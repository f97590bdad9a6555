/// A command with everything it was told, checked: by flag, else by environment variable, else by the configuration
/// file, else by default.
struct Invocation: Sendable {
    let command: Command
    let operands: [String]
    let options: ResolvedOptions
    /// For stderr: what was found that is probably a mistake, but is none of ours.
    let warnings: [String]

    /// - Parameters:
    ///   - arguments: The command line without the program's name. `--help` becomes the command `help` with the
    ///     command's name as operand; an empty line becomes `help`.
    ///   - environment: All variables; those that are not an option's are left alone.
    ///   - readFile: The bytes of a file, or nil where there is none.
    static func parse(
        arguments: [String], environment: [String: String],
        readFile: (String) throws(UsageError) -> [UInt8]? = ConfigurationFile.read
    ) throws(UsageError) -> Invocation {
        let words = try Arguments(arguments)
        if words.isHelp || words.command == .help {
            if let topic = words.operands.first, words.command == .help { _ = try Arguments([topic, "--help"]) }
            let operands = words.command == .help ? words.operands : [words.command.rawValue]
            return Invocation(command: .help, operands: operands, options: ResolvedOptions(), warnings: [])
        }
        var options = ResolvedOptions()
        for flag in words.flags {
            try options.set(flag.option, flag.value ?? "true", .flag(flag.option.flag))
        }
        for option in OptionName.allCases {
            // An empty variable counts as absent: that is how a shell or a manifest unsets one.
            guard let text = environment[option.environmentVariable], !text.isEmpty, !options.isSet(option) else {
                continue
            }
            try options.set(option, text, .environment(option.environmentVariable))
        }
        try options.setFromFile(readFile)
        for option in OptionName.allCases where !options.isSet(option) {
            if let text = option.definition.defaultText { try options.set(option, text, .defaultValue) }
        }
        if let from = options.timeNs(.from), let to = options.timeNs(.to), from >= to {
            throw UsageError("--from is not before --to, so there is nothing between them")
        }
        return Invocation(
            command: words.command, operands: words.operands, options: options, warnings: warnings(environment))
    }

    /// Variables that look like a mistyped option. Others that begin alike are somebody else's (Kubernetes sets
    /// TAPEDECK_SERVICE_HOST where a service has this name), so none is refused.
    private static func warnings(_ environment: [String: String]) -> [String] {
        let known = OptionName.allCases.map(\.environmentVariable)
        return environment.keys.sorted().compactMap { name in
            guard name.hasPrefix("TAPEDECK_"), !known.contains(name) else { return nil }
            let suffix = String(name.dropFirst("TAPEDECK_".count))
            let nearest = Suggestion.nearest(to: suffix, in: known.map { String($0.dropFirst("TAPEDECK_".count)) })
            return nearest.map { "the environment variable \(name) is no option; TAPEDECK_\($0) is" }
        }
    }
}

/// Where a value came from; an error about the value names it.
enum ValueSource: Sendable, Hashable, CustomStringConvertible {
    case flag(String)
    case environment(String)
    case file(ConfigurationFile.Mark)
    case defaultValue

    var description: String {
        switch self {
        case .flag(let name): name
        case .environment(let name): "the environment variable \(name)"
        case .file(let mark): mark.description
        case .defaultValue: "the default"
        }
    }
}

/// The values of all options. Getters are typed as the option's definition is.
struct ResolvedOptions: Sendable {
    private var values: [OptionName: (value: ConfigurationValue, source: ValueSource)] = [:]

    init() {}

    /// nil where the option has no value and no default.
    func optionalString(_ option: OptionName) -> String? {
        guard let value = values[option]?.value else { return nil }
        guard case .text(let text) = value else { preconditionFailure("\(option) is no text") }
        return text
    }

    func string(_ option: OptionName) -> String { required(optionalString(option), option) }

    func optionalInt(_ option: OptionName) -> Int? {
        guard let value = values[option]?.value else { return nil }
        guard case .integer(let number) = value else { preconditionFailure("\(option) is no number") }
        return Int(number)
    }

    func int(_ option: OptionName) -> Int { required(optionalInt(option), option) }

    func bool(_ option: OptionName) -> Bool {
        guard case .flag(let isOn)? = values[option]?.value else { preconditionFailure("\(option) is no flag") }
        return isOn
    }

    /// Empty where none was given.
    func strings(_ option: OptionName) -> [String] {
        guard let value = values[option]?.value else { return [] }
        guard case .texts(let texts) = value else { preconditionFailure("\(option) is no list") }
        return texts
    }

    func address(_ option: OptionName) -> Address {
        guard case .address(let address)? = values[option]?.value else {
            preconditionFailure("\(option) is no address")
        }
        return address
    }

    func speed(_ option: OptionName) -> ReplaySpeed {
        guard case .speed(let speed)? = values[option]?.value else { preconditionFailure("\(option) is no speed") }
        return speed
    }

    /// Nanoseconds since the Unix epoch; nil where none was given.
    func timeNs(_ option: OptionName) -> Int64? {
        guard let value = values[option]?.value else { return nil }
        guard case .time(let time) = value else { preconditionFailure("\(option) is no time") }
        return time
    }

    /// Nanoseconds; nil where none was given.
    func spanNs(_ option: OptionName) -> Int64? {
        guard let value = values[option]?.value else { return nil }
        guard case .span(let span) = value else { preconditionFailure("\(option) is no time span") }
        return span
    }

    /// True where a flag, a variable, the file or the default gave a value.
    func isSet(_ option: OptionName) -> Bool { values[option] != nil }

    /// nil where the option has no value.
    func source(_ option: OptionName) -> ValueSource? { values[option]?.source }

    /// Checks and keeps a value. A repeated flag is an error unless its option may be repeated.
    mutating func set(_ option: OptionName, _ text: String, _ source: ValueSource) throws(UsageError) {
        let kind = option.definition.kind
        guard let value = kind.parse(text) else {
            throw UsageError(
                "\(source): \(option.rawValue) must be \(kind.allowed), not \(ResolvedOptions.quoted(text))")
        }
        if let earlier = values[option] {
            guard case .texts(let old) = earlier.value, case .texts(let new) = value else {
                throw UsageError("\(source) is given twice")
            }
            values[option] = (.texts(old + new), source)
        } else {
            values[option] = (value, source)
        }
    }

    /// Reads the configuration file and keeps what neither a flag nor a variable gave. All of it is checked.
    mutating func setFromFile(_ readFile: (String) throws(UsageError) -> [UInt8]?) throws(UsageError) {
        guard let (path, bytes) = try file(readFile) else { return }
        let names = OptionName.allCases.filter { $0 != .config }.map(\.rawValue)
        for entry in try ConfigurationFile.parse(bytes, path: path) {
            guard let option = OptionName(rawValue: entry.key.text), option != .config else {
                let nearest = Suggestion.nearest(to: entry.key.text, in: names)
                throw UsageError(
                    "\(entry.key.mark): there is no option \(ResolvedOptions.quoted(entry.key.text))",
                    hints: nearest.map { ["Did you mean \($0)?"] } ?? ["Known: \(names.joined(separator: ", "))."])
            }
            if entry.values.count != 1, !option.definition.kind.isList {
                throw UsageError("\(entry.key.mark): \(option.rawValue) takes one value, not a list")
            }
            var fromFile = ResolvedOptions()
            for value in entry.values { try fromFile.set(option, value.text, .file(value.mark)) }
            if !isSet(option) { values[option] = fromFile.values[option] }
        }
    }

    private func file(
        _ readFile: (String) throws(UsageError) -> [UInt8]?
    ) throws(UsageError) -> (path: String, bytes: [UInt8])? {
        if let path = optionalString(.config) {
            guard let bytes = try readFile(path) else {
                throw UsageError("\(source(.config) ?? .defaultValue): there is no file \(path)")
            }
            return (path, bytes)
        }
        let directory = optionalString(.data) ?? OptionName.data.definition.defaultText ?? "."
        for path in [directory + "/tapedeck.yaml", "tapedeck.yaml"] {
            if let bytes = try readFile(path) { return (path, bytes) }
        }
        return nil
    }

    private func required<T>(_ value: T?, _ option: OptionName) -> T {
        guard let value else { preconditionFailure("\(option) has no default; ask for the optional value") }
        return value
    }

    /// Readable and short, whatever the bytes.
    private static func quoted(_ text: String) -> String {
        let shown = text.unicodeScalars.prefix(60).map { $0.value < 0x20 || $0.value == 0x7f ? "?" : String($0) }
            .joined()
        return "`\(shown)`" + (text.unicodeScalars.count > 60 ? "..." : "")
    }
}
