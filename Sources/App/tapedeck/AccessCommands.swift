import AccessControl
import Glibc
import Observability

/// `tapedeck token`, `tapedeck connections` and `tapedeck restart`.
struct AccessCommands {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    func token(_ name: String) throws(CommandError) -> ExitCode {
        guard let token = AccessToken(name: name, random: AccessCommands.random(32)), name != "anonymous" else {
            throw CommandError("the name of a token is 1 to 64 letters, digits, - and _, and not anonymous")
        }
        let line = "\(name) \(token.proof(salt: AccessCommands.random(16))) methods=* symbols=* accounts=*"
        if options.bool(.json) {
            print("{\"token\":\"\(token.text)\",\"line\":\"\(line)\"}")
        } else {
            print("For the client, as `authorization: Bearer TOKEN`; it is shown this once:")
            print("  \(token.text)")
            print("For the file of --access; narrow what is allowed:")
            print("  \(line)")
        }
        return .success
    }

    /// From the system's generator.
    private static func random(_ count: Int) -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
    }

    func connections() throws(CommandError) -> ExitCode {
        let directory = DataDirectory(path: options.string(.data))
        try directory.requireLog()
        if let id = options.optionalString(.close) {
            _ = try ControlRequests.ask(.close, id, of: directory)
            print(options.bool(.json) ? "{\"closed\":true}" : "the call was told to end")
            return .success
        }
        let calls = ConnectionText.decode(try ControlRequests.ask(.connections, of: directory))
        for line in options.bool(.json) ? ConnectionText.json(calls) : ConnectionText.table(calls) { print(line) }
        return .success
    }

    /// Returns when the new platform answers.
    func restart() throws(CommandError) -> ExitCode {
        let directory = DataDirectory(path: options.string(.data))
        try directory.requireLog()
        let before = try ControlRequests.ask(.restart, of: directory)
        let after = try ControlRequests.askSuccessor(of: before, directory)
        print(
            options.bool(.json)
                ? "{\"before\":\(before),\"after\":\(after)}" : "restarted: process \(before) is now \(after)")
        return .success
    }
}

/// Keeps a policy as its file says: read at the start, and again when the file changes or someone asks. Confined to the
/// main thread.
struct AccessFileReader {
    private static let bytesMax = 64 << 20

    private let path: String
    private let policy: AccessPolicy
    private let limits: CallerLimits
    private let diagnostics: Diagnostics
    private var version: FileVersion?

    /// Reads the file. Throws when it cannot be read or is wrong: a server must not start with other rules than meant.
    init(
        _ path: String, policy: AccessPolicy, limits: CallerLimits, diagnostics: Diagnostics
    ) throws(CommandError) {
        self.path = path
        self.policy = policy
        self.limits = limits
        self.diagnostics = diagnostics
        version = FileVersion(path)
        policy.use(try read())
    }

    /// Reads it again if it is another one than last time, or if `always`. What is wrong then is told, and the rules
    /// stay as they are.
    mutating func refresh(always: Bool = false) {
        let found = FileVersion(path)
        guard always || found != version else { return }
        version = found
        do throws(CommandError) {
            policy.use(try read())
            diagnostics.log(.info, "access", "read \(path) again")
        } catch {
            diagnostics.log(.error, "access", "\(error); the rules stay as they were")
        }
    }

    private func read() throws(CommandError) -> AccessFile {
        guard let bytes = TextFile.readBytes(path, bytesMax: AccessFileReader.bytesMax + 1) else {
            throw CommandError("cannot read the access file \(path): \(String(cString: strerror(errno)))")
        }
        guard bytes.count <= AccessFileReader.bytesMax else {
            throw CommandError("the access file \(path) is larger than \(AccessFileReader.bytesMax >> 20) MiB")
        }
        do {
            return try AccessFile(parsing: bytes, limits: limits)
        } catch {
            throw CommandError("the access file \(path), \(error)")
        }
    }
}
