import Glibc

/// Copies of flat directories.
enum FileCopy {
    /// Copies every file of a directory, which has no subdirectories, and syncs the copies.
    static func directory(_ source: String, to target: String) throws(CommandError) {
        guard mkdir(target, 0o755) == 0 || errno == EEXIST else { throw failure("make", target) }
        guard let names = names(source) else { throw failure("open", source) }
        for name in names where name != "LOCK" { try file(source + "/" + name, to: target + "/" + name) }
        let descriptor = open(target, O_RDONLY | O_DIRECTORY)
        fsync(descriptor)
        close(descriptor)
    }

    /// What is in a directory; nil where it cannot be read.
    static func names(_ path: String) -> [String]? {
        guard let directory = opendir(path) else { return nil }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    private static func file(_ source: String, to target: String) throws(CommandError) {
        let input = open(source, O_RDONLY | O_CLOEXEC)
        guard input >= 0 else { throw failure("open", source) }
        defer { close(input) }
        let output = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard output >= 0 else { throw failure("make", target) }
        defer { close(output) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = read(input, &buffer, buffer.count)
            guard count >= 0 else { throw failure("read", source) }
            if count == 0 { break }
            var written = 0
            while written < count {
                let more = buffer.withUnsafeBytes { write(output, $0.baseAddress! + written, count - written) }
                guard more > 0 else { throw failure("write", target) }
                written += more
            }
        }
        guard fsync(output) == 0 else { throw failure("sync", target) }
    }

    private static func failure(_ what: String, _ path: String) -> CommandError {
        CommandError("cannot \(what) \(path): \(String(cString: strerror(errno)))")
    }
}
