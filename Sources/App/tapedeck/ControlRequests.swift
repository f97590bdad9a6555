import Glibc
import Observability

/// What another `tapedeck` process asks of the one that has a data directory, through files in its folder `control`:
/// only who may write there may ask, so that no port is open for it and no password is kept.
///
/// `KIND-PID.request` holds the argument; `KIND-PID.answer` has `ok` or `failed` in its first line, the result or the
/// reason behind it.
struct ControlRequests {
    /// What can be asked.
    enum Kind: String, CaseIterable {
        /// Argument: the target.
        case backup
        /// The open calls, as ``ConnectionText`` has them.
        case connections
        /// Argument: the id of the call to end.
        case close
        /// A planned restart; the answer is the process that will end.
        case restart
        /// Which process has the directory.
        case process
    }

    private static let answerBytesMax = 64 << 20

    private let platform: EmbeddedPlatform

    init(_ platform: EmbeddedPlatform) { self.platform = platform }

    /// Carries out what is asked. On the main thread of the process that has the directory.
    func answer() {
        let control = platform.directory.control
        for name in (FileCopy.names(control) ?? []).sorted() where name.hasSuffix(".request") {
            let stem = String(name.dropLast(".request".count))
            guard let kind = Kind.allCases.first(where: { stem.hasPrefix($0.rawValue + "-") }),
                let argument = TextFile.read(control + "/" + name)
            else { continue }
            unlink(control + "/" + name)
            do {
                TextFile.write("ok\n" + (try carryOut(kind, argument)), to: control + "/" + stem + ".answer")
            } catch {
                TextFile.write("failed\n\(error)", to: control + "/" + stem + ".answer")
            }
        }
    }

    private func carryOut(_ kind: Kind, _ argument: String) throws -> String {
        switch kind {
        case .backup:
            try platform.backup(to: argument)
            platform.diagnostics.log(.info, "backup", "copied to \(argument)")
            return ""
        case .restart:
            try platform.askForRestart()
            return "\(getpid())"
        case .process: return "\(getpid())"
        case .connections: return ConnectionText.encode(platform.calls())
        case .close:
            guard platform.endCall(argument) else {
                throw CommandError("there is no call \(argument); `tapedeck connections` lists them")
            }
            platform.diagnostics.log(.info, "call", "ended \(argument) as an operator asked")
            return ""
        }
    }

    /// Asks the process that has the directory, and waits for what it answers.
    static func ask(_ kind: Kind, _ argument: String = "", of directory: DataDirectory) throws(CommandError) -> String {
        guard mkdir(directory.control, 0o700) == 0 || errno == EEXIST else {
            throw CommandError("cannot make \(directory.control): \(String(cString: strerror(errno)))")
        }
        let stem = directory.control + "/\(kind.rawValue)-\(getpid())"
        let request = stem + ".request"
        let answer = stem + ".answer"
        unlink(answer)
        guard TextFile.write(argument, to: request) else {
            throw CommandError("cannot write \(request): \(String(cString: strerror(errno)))")
        }
        for tick in 0..<180_000 {
            if let result = TextFile.read(answer, bytesMax: answerBytesMax) {
                unlink(answer)
                let lines = result.split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
                let rest = lines.count > 1 ? String(lines[1]) : ""
                guard lines.first == "ok" else { throw CommandError(rest) }
                return rest
            }
            if tick == 500, unlink(request) == 0 {
                throw CommandError("the process that has \(directory.path) does not answer; is it `tapedeck up`?")
            }
            poll(nil, 0, 20)
        }
        throw CommandError("no answer within an hour from the process that has \(directory.path)")
    }

    /// Waits, ten minutes at most, until another process than `before` has the directory; which one.
    static func askSuccessor(of before: String, _ directory: DataDirectory) throws(CommandError) -> String {
        let time = SystemTime()
        let startedNs = time.monotonicNs()
        while time.monotonicNs() - startedNs < 600_000_000_000 {
            // Between two platforms nobody answers.
            if let process = try? ask(.process, of: directory), process != before { return process }
            poll(nil, 0, 50)
        }
        throw CommandError(
            "no other process has \(directory.path) within ten minutes; what `tapedeck up` wrote says why")
    }
}

/// Small files, whole.
enum TextFile {
    /// nil where there is none; what is longer than `bytesMax` is cut.
    static func read(_ path: String, bytesMax: Int = 16 << 10) -> String? {
        readBytes(path, bytesMax: bytesMax).map { String(decoding: $0, as: UTF8.self) }
    }

    static func readBytes(_ path: String, bytesMax: Int) -> [UInt8]? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16 << 10)
        while bytes.count < bytesMax {
            let count = fread(&piece, 1, min(piece.count, bytesMax - bytes.count), file)
            if count == 0 { break }
            bytes += piece[..<count]
        }
        return bytes
    }

    /// Replaces a file atomically.
    @discardableResult
    static func write(_ text: String, to path: String) -> Bool {
        guard let file = fopen(path + ".new", "w") else { return false }
        let bytes = Array(text.utf8)
        let written = fwrite(bytes, 1, bytes.count, file)
        return fclose(file) == 0 && written == bytes.count && rename(path + ".new", path) == 0
    }
}
