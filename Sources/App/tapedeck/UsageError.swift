/// How the program ends. `tapedeck help` documents the same.
enum ExitCode: Int32, Sendable {
    case success = 0
    /// It was tried and failed, or what was compared differs.
    case failure = 1
    /// The command line, an environment variable or the configuration file is wrong; nothing was tried.
    case usage = 2
}

/// What a user asked cannot be understood; nothing was tried.
struct UsageError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What is wrong, and where: a flag, a variable, or a place in a file.
    let message: String
    /// What to do next, in lines of their own.
    let hints: [String]

    init(_ message: String, hints: [String] = []) {
        self.message = message
        self.hints = hints
    }

    /// For stderr, without a newline at the end.
    var description: String {
        (["tapedeck: " + message] + hints.map { "  " + $0 }).joined(separator: "\n")
    }
}

/// The known name that a mistyped one was probably meant to be.
enum Suggestion {
    /// The nearest of `names`, where it is near enough to be meant: at most a third of its letters differ, or it begins
    /// so.
    static func nearest(to name: String, in names: [String]) -> String? {
        var best: (name: String, distance: Int)?
        for candidate in names {
            let distance = distance(Array(name.utf8.prefix(64)), Array(candidate.utf8))
            if best.map({ distance < $0.distance }) ?? true { best = (candidate, distance) }
        }
        if let best, best.distance <= max(1, best.name.utf8.count / 3) { return best.name }
        let beginning = names.filter { name.utf8.count >= 2 && $0.hasPrefix(name) }
        return beginning.count == 1 ? beginning[0] : nil
    }

    /// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
    private static func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var beforePrevious = [Int](repeating: 0, count: b.count + 1)
        var previous = Array(0...b.count)
        for i in 1..<(a.count + 1) {
            var current = [Int](repeating: i, count: b.count + 1)
            for j in 1..<(b.count + 1) {
                let replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)
                current[j] = min(replaced, previous[j] + 1, current[j - 1] + 1)
                if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] {
                    current[j] = min(current[j], beforePrevious[j - 2] + 1)
                }
            }
            beforePrevious = previous
            previous = current
        }
        return previous[b.count]
    }
}
