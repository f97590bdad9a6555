@preconcurrency import Glibc

/// The process's environment variables. Read once at the start, before there is a second thread that could change them.
enum ConfigurationEnvironment {
    /// By name; variables that are not UTF-8 are repaired, of a repeated name the first counts.
    static func read() -> [String: String] {
        var variables: [String: String] = [:]
        var next = environ
        while let text = next.pointee {
            let parts = String(cString: text).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2, variables[String(parts[0])] == nil { variables[String(parts[0])] = String(parts[1]) }
            next += 1
        }
        return variables
    }
}
