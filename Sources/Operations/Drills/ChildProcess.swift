import Glibc

/// A `tapedeck` process that a drill starts, watches and kills. Used by one thread.
final class ChildProcess {
    let pid: pid_t
    private let output: Int32
    private var buffered: [UInt8] = []
    private var status: Int32?

    /// Starts a program with its standard output readable here and its standard error appended to a file.
    init(_ program: String, _ arguments: [String], errorsTo path: String) throws(DrillError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw DrillError("cannot make a pipe: \(String(cString: strerror(errno)))") }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_addclose(&actions, ends[0])
        posix_spawn_file_actions_addopen(&actions, 2, path, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        var argv: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) }
        argv.append(nil)
        defer { for argument in argv { free(argument) } }
        var pid: pid_t = 0
        let error = posix_spawn(&pid, program, &actions, nil, argv, environ)
        close(ends[1])
        guard error == 0 else {
            close(ends[0])
            throw DrillError("cannot start \(program): \(String(cString: strerror(error)))")
        }
        self.pid = pid
        output = ends[0]
    }

    deinit {
        if status == nil {
            Glibc.kill(pid, SIGKILL)
            var ended: Int32 = 0
            waitpid(pid, &ended, 0)
        }
        close(output)
    }

    /// The next line it prints; nil at the end of its output or after the time.
    func readLine(timeoutMilliseconds: Int32) -> String? {
        let deadline = Drill.monotonicNs() + Int64(timeoutMilliseconds) * 1_000_000
        while true {
            if let end = buffered.firstIndex(of: UInt8(ascii: "\n")) {
                defer { buffered.removeFirst(end + 1) }
                return String(decoding: buffered[..<end], as: UTF8.self)
            }
            let left = Int32((deadline - Drill.monotonicNs()) / 1_000_000)
            var descriptor = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            guard left > 0, poll(&descriptor, 1, left) > 0 else { return nil }
            var chunk = [UInt8](repeating: 0, count: 4096)
            let count = read(output, &chunk, chunk.count)
            guard count > 0 else { return nil }
            buffered.append(contentsOf: chunk[..<count])
        }
    }

    func signal(_ number: Int32) { if status == nil { Glibc.kill(pid, number) } }

    /// Waits for the end; the exit status, or 128 + the signal that ended it; nil when it is still running after the
    /// time.
    func wait(timeoutMilliseconds: Int) -> Int32? {
        let deadline = Drill.monotonicNs() + Int64(timeoutMilliseconds) * 1_000_000
        while status == nil {
            var ended: Int32 = 0
            if waitpid(pid, &ended, WNOHANG) == pid {
                let signal = ended & 0x7f
                status = signal == 0 ? (ended >> 8) & 0xff : 128 + signal
                break
            }
            if Drill.monotonicNs() > deadline { return nil }
            poll(nil, 0, 2)
        }
        return status
    }
}

/// Why a drill could not be carried out, or what it found wrong.
public struct DrillError: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

enum Drill {
    static func monotonicNs() -> Int64 { read(CLOCK_MONOTONIC) }
    static func wallNs() -> Int64 { read(CLOCK_REALTIME) }

    static func pause(milliseconds: Int32) { poll(nil, 0, milliseconds) }

    private static func read(_ clock: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(clock, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
