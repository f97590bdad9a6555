// What the running program tells its operator, one line at a time. Every service and adapter is given a Diagnostics by
// the App.
import Glibc
import Synchronization

/// Writes lines for operators: time, level, component, message. What repeats is written once per kind and period, with
/// the number of those that were not, so that a feed of garbage costs a line every few seconds and hides nothing.
///
/// Safe to call from any thread. The line is written outside the lock, so lines of different threads may swap places.
/// Not for event loops under load: a write to a slow terminal waits.
public final class Diagnostics: Sendable {
    /// How much a line matters.
    public enum Level: Int, Comparable, Sendable, CaseIterable {
        case debug, info, warning, error

        /// nil for a name that no level has.
        public init?(name: String) {
            guard let level = Level.allCases.first(where: { $0.name == name }) else { return nil }
            self = level
        }

        /// As it is written.
        public var name: String {
            switch self {
            case .debug: "debug"
            case .info: "info"
            case .warning: "warning"
            case .error: "error"
            }
        }

        public static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }
    }

    /// How a line is written.
    public enum Format: Sendable {
        /// `2024-08-08T09:30:00.123Z warning feed: message (and 12 more like it)`
        case text
        /// One JSON object with `time`, `level`, `component`, `kind`, `message`, `suppressed`.
        case json
    }

    /// Kinds that are told apart; those beyond are counted and written together as `other`.
    public static let kindCountMax = 1024
    /// Longer messages are cut, in Unicode scalars.
    public static let messageLengthMax = 2000

    private struct Kind {
        var level: Level
        var component: String
        var sinceNs: Int64
        var suppressed: UInt64
        var total: UInt64
    }

    private let level: Level
    private let format: Format
    private let periodNs: Int64
    private let wallNs: @Sendable () -> Int64
    private let write: @Sendable (String) -> Void
    private let kinds = Mutex<[String: Kind]>([:])

    /// - Parameters:
    ///   - level: Lines below it are neither written nor counted.
    ///   - periodNs: A kind is written at most once in this many nanoseconds; above 0.
    ///   - wallNs: Nanoseconds since the Unix epoch, as a TimeSource gives them.
    ///   - write: Takes a line with its newline; by default standard error.
    public init(
        level: Level = .info, format: Format = .text, periodNs: Int64 = 10_000_000_000,
        wallNs: @escaping @Sendable () -> Int64, write: @escaping @Sendable (String) -> Void = Diagnostics.standardError
    ) {
        precondition(periodNs > 0)
        self.level = level
        self.format = format
        self.periodNs = periodNs
        self.wallNs = wallNs
        self.write = write
    }

    /// Writes a line, whatever came before. For what happens seldom: starts, stops, changes of state.
    public func log(_ level: Level, _ component: String, _ message: @autoclosure () -> String) {
        guard level >= self.level else { return }
        write(line(at: wallNs(), level, component, kind: nil, message(), suppressed: 0))
    }

    /// Writes a line with named values behind its message: `name=value` in text, members of their own in JSON. Names
    /// are the program's, values anything.
    public func log(_ level: Level, _ component: String, _ message: String, fields: [(name: String, value: String)]) {
        guard level >= self.level else { return }
        write(line(at: wallNs(), level, component, kind: nil, message, fields, suppressed: 0))
    }

    /// Writes the first line of a kind in each period and counts the rest; the next one written says how many they
    /// were. `kind` is a fixed word for the cause (`feed.crossed_book`), never made of input. The message is made only
    /// when written.
    public func log(_ level: Level, _ component: String, kind: String, _ message: @autoclosure () -> String) {
        guard level >= self.level else { return }
        let now = wallNs()
        guard let (kind, suppressed) = admit(level, component, kind, now) else { return }
        write(line(at: now, level, component, kind: kind, message(), suppressed: suppressed))
    }

    /// How often a kind was reported, written or not.
    public func count(kind: String) -> UInt64 { kinds.withLock { $0[kind]?.total ?? 0 } }

    /// Writes what is still held back, by kind in order of name. Called at the end of the program, and as often as one
    /// likes.
    public func flush() {
        let now = wallNs()
        let held = kinds.withLock { kinds in
            let held = kinds.filter { $0.value.suppressed > 0 }.sorted { $0.key < $1.key }
            for (name, _) in held { kinds[name]?.suppressed = 0 }
            return held
        }
        for (name, kind) in held {
            write(line(at: now, kind.level, kind.component, kind: name, name, suppressed: kind.suppressed))
        }
    }

    /// Writes to file descriptor 2, in one call where the system takes it whole. Errors are ignored: there is nowhere
    /// to tell.
    public static let standardError: @Sendable (String) -> Void = { line in
        var line = line
        line.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while let start = rest.baseAddress, !rest.isEmpty {
                let count = Glibc.write(2, start, rest.count)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { return }
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
    }

    /// The kind to write under and what was held back since its last line; nil when this one is held back too.
    private func admit(
        _ level: Level, _ component: String, _ name: String, _ now: Int64
    ) -> (kind: String, suppressed: UInt64)? {
        kinds.withLock { kinds in
            let name = kinds[name] == nil && kinds.count >= Diagnostics.kindCountMax ? "other" : name
            guard var kind = kinds[name] else {
                kinds[name] = Kind(level: level, component: component, sinceNs: now, suppressed: 0, total: 1)
                return (name, 0)
            }
            kind.total += 1
            kind.level = level
            kind.component = component
            defer { kinds[name] = kind }
            // A wall clock that went back ends the period; otherwise it could be silent for as long as the step.
            guard now < kind.sinceNs || now.subtractingReportingOverflow(kind.sinceNs).partialValue >= periodNs else {
                kind.suppressed += 1
                return nil
            }
            let suppressed = kind.suppressed
            kind.sinceNs = now
            kind.suppressed = 0
            return (name, suppressed)
        }
    }

    private func line(
        at now: Int64, _ level: Level, _ component: String, kind: String?, _ message: String,
        _ fields: [(name: String, value: String)] = [], suppressed: UInt64
    ) -> String {
        let time = UTCText.milliseconds(now)
        switch format {
        case .text:
            let more = suppressed == 0 ? "" : " (and \(suppressed) more like it)"
            let values = fields.map { " \($0.name)=\(LineText.word($0.value))" }.joined()
            return "\(time) \(level.name) \(component): \(LineText.plain(message))\(values)\(more)\n"
        case .json:
            let kindField = kind.map { ",\"kind\":\(LineText.json($0))" } ?? ""
            let more = suppressed == 0 ? "" : ",\"suppressed\":\(suppressed)"
            let members = fields.map { ",\(LineText.json($0.name)):\(LineText.json($0.value))" }.joined()
            return """
                {"time":"\(time)","level":"\(level.name)","component":\(LineText.json(component))\(kindField),\
                "message":\(LineText.json(message))\(members)\(more)}

                """
        }
    }
}

/// Text that stays within its line, whatever a venue or a client put into it.
enum LineText {
    static func plain(_ text: String) -> String {
        var out = String.UnicodeScalarView()
        for scalar in text.unicodeScalars.prefix(Diagnostics.messageLengthMax) {
            if isControl(scalar) {
                out.append(contentsOf: escaped(scalar).unicodeScalars)
            } else {
                out.append(scalar)
            }
        }
        return String(out)
    }

    /// One word of a line: what has spaces or quotes is quoted.
    static func word(_ text: String) -> String {
        text.isEmpty || text.unicodeScalars.contains { $0 == " " || $0 == "\"" || $0 == "=" } ? json(text) : plain(text)
    }

    static func json(_ text: String) -> String {
        var out = String.UnicodeScalarView()
        out.append("\"")
        for scalar in text.unicodeScalars.prefix(Diagnostics.messageLengthMax) {
            if scalar == "\"" || scalar == "\\" {
                out.append("\\")
                out.append(scalar)
            } else if isControl(scalar) {
                out.append(contentsOf: escaped(scalar).unicodeScalars)
            } else {
                out.append(scalar)
            }
        }
        out.append("\"")
        return String(out)
    }

    /// C0, DEL, C1 and the line separators: what can move a terminal's cursor or end a line.
    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) || scalar.value == 0x2028 || scalar.value == 0x2029
    }

    private static func escaped(_ scalar: Unicode.Scalar) -> String {
        switch scalar {
        case "\n": return "\\n"
        case "\t": return "\\t"
        case "\r": return "\\r"
        default:
            let hex = String(scalar.value, radix: 16)
            return "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
        }
    }
}

/// Times as RFC 3339 in UTC.
enum UTCText {
    /// `2024-08-08T09:30:00.123Z`; any time, the fraction cut off.
    static func milliseconds(_ ns: Int64) -> String {
        let second: Int64 = 1_000_000_000
        let seconds = ns >= 0 ? ns / second : -((-(ns + 1)) / second) - 1
        // Wrapping: the seconds of the earliest time, rounded down, are just out of range in nanoseconds.
        let fraction = (ns &- seconds &* second) / 1_000_000
        let days = seconds >= 0 ? seconds / 86_400 : -((-(seconds + 1)) / 86_400) - 1
        let ofDay = seconds - days * 86_400
        // Civil date from days, in eras of 400 years that begin on 1 March.
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
        let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        return "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))T\(digits(ofDay / 3600, 2)):"
            + "\(digits(ofDay / 60 % 60, 2)):\(digits(ofDay % 60, 2)).\(digits(fraction, 3))Z"
    }

    private static func digits(_ value: Int64, _ width: Int) -> String {
        let text = String(value)
        return String(repeating: "0", count: max(0, width - text.count)) + text
    }
}
