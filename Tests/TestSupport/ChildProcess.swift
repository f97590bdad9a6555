import CLinux
import Foundation
import Synchronization

/// A program that a test starts: what tests need of Foundation's `Process`, by the same names.
///
/// That one gives its children descriptors that other threads open meanwhile, reads past its list of them where there
/// are some 1,360, and was seen to miss the end of a child in a process of 1,800. A child of this one inherits the
/// three standard descriptors and no blocked signal, and the kernel is asked for its end.
///
/// Its settings are made by one thread before it runs; after that any thread may ask and wait.
public final class ChildProcess: @unchecked Sendable {
    public var executableURL: URL?
    public var arguments: [String] = []
    /// As this process's own where it is nil, as the other settings are.
    public var environment: [String: String]?
    public var currentDirectoryURL: URL?
    /// A `Pipe`, whose other end belongs to the test, or a `FileHandle`.
    public var standardInput: AnyObject?
    public var standardOutput: AnyObject?
    public var standardError: AnyObject?

    private let ended = Mutex<Int32?>(nil)
    public private(set) var processIdentifier: pid_t = 0

    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    public init() {}

    /// Starts it, in a process group of its own.
    public func run() throws {
        let program = executableURL?.path ?? ""
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for (number, stream) in [standardInput, standardOutput, standardError].enumerated() {
            guard let handle = Self.child(stream, isInput: number == 0) else { continue }
            if handle === FileHandle.nullDevice {
                posix_spawn_file_actions_addopen(&actions, Int32(number), "/dev/null", O_RDWR, 0)
            } else {
                posix_spawn_file_actions_adddup2(&actions, handle.fileDescriptor, Int32(number))
            }
        }
        clinux_spawn_close_from(&actions, 3)
        if let folder = currentDirectoryURL { clinux_spawn_in(&actions, folder.path) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigaddset(&signals, SIGPIPE)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words = ([program] + arguments).map { strdup($0) } + [nil]
        // How scripts/stage has the tests' own output buffered is nothing for what they start.
        let inherited = ProcessInfo.processInfo.environment.filter {
            $0.key != "LD_PRELOAD" && !$0.key.hasPrefix("_STDBUF")
        }
        var variables = (environment ?? inherited).map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for text in words + variables { free(text) } }
        let error = posix_spawn(&processIdentifier, program, &actions, &attributes, &words, &variables)
        guard error == 0 else { throw Failure(description: "\(program): \(String(cString: strerror(error)))") }
        for (number, stream) in [standardInput, standardOutput, standardError].enumerated() where stream is Pipe {
            try? Self.child(stream, isInput: number == 0)?.close()
        }
    }

    /// The child's end.
    private static func child(_ stream: AnyObject?, isInput: Bool) -> FileHandle? {
        guard let pipe = stream as? Pipe else { return stream as? FileHandle }
        return isInput ? pipe.fileHandleForReading : pipe.fileHandleForWriting
    }

    public var isRunning: Bool { processIdentifier != 0 && reap() == nil }

    /// Waits on the calling thread, which may not be one of an async test.
    public func waitUntilExit() {
        var information = siginfo_t()
        while reap() == nil { _ = waitid(P_PID, id_t(processIdentifier), &information, WEXITED | WNOWAIT) }
    }

    /// Its exit code, or the signal's number where one ended it. -1 while it runs.
    public var terminationStatus: Int32 { reap() ?? -1 }

    public func terminate() { if isRunning { kill(processIdentifier, SIGTERM) } }

    private func reap() -> Int32? {
        ended.withLock { ended in
            guard ended == nil else { return ended }
            var status: Int32 = 0
            switch waitpid(processIdentifier, &status, WNOHANG) {
            case 0: return nil
            case processIdentifier: ended = status & 0x7f == 0 ? status >> 8 & 0xff : status & 0x7f
            default: if errno != EINTR { ended = -1 }
            }
            return ended
        }
    }
}
