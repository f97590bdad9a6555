import Glibc
import Observability

/// What another `tapedeck` process asks of the one that has a data directory, through files in its folder `control`:
/// only who may write there may ask.
///
/// `backup.request` holds the target; the answer is `backup.answer`, with `ok` or the error.
struct ControlRequests {
    private static let request = "/backup.request"
    private static let answer = "/backup.answer"

    private let platform: EmbeddedPlatform

    init(_ platform: EmbeddedPlatform) { self.platform = platform }

    /// Carries out what is asked. On the main thread of the process that has the directory.
    func answer() {
        let control = platform.directory.control
        guard let target = TextFile.read(control + ControlRequests.request) else { return }
        unlink(control + ControlRequests.request)
        var result = "ok"
        do {
            try platform.backup(to: target)
            platform.diagnostics.log(.info, "backup", "copied to \(target)")
        } catch {
            result = "\(error)"
        }
        TextFile.write(result, to: control + ControlRequests.answer)
    }

    /// Asks the process that has the directory for a backup, and waits.
    static func backup(of directory: DataDirectory, to target: String) throws(CommandError) {
        guard mkdir(directory.control, 0o700) == 0 || errno == EEXIST else {
            throw CommandError("cannot make \(directory.control): \(String(cString: strerror(errno)))")
        }
        unlink(directory.control + answer)
        guard TextFile.write(target, to: directory.control + request) else {
            throw CommandError("cannot write \(directory.control + request): \(String(cString: strerror(errno)))")
        }
        for tick in 0..<36_000 {
            if let result = TextFile.read(directory.control + answer) {
                unlink(directory.control + answer)
                guard result == "ok" else { throw CommandError(result) }
                return
            }
            if tick == 100, access(directory.control + request, F_OK) == 0 {
                unlink(directory.control + request)
                throw CommandError("the process that has \(directory.path) does not answer; is it `tapedeck up`?")
            }
            poll(nil, 0, 100)
        }
        throw CommandError("no answer within an hour from the process that has \(directory.path)")
    }
}

/// Small files, whole.
enum TextFile {
    static func read(_ path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 16 << 10)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes[..<count], as: UTF8.self)
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
