import EventLoop
import Glibc
import Observability

/// The parent process of `tapedeck up`. It has the listening sockets, so that connections wait and are not refused
/// while there is no platform, and starts the platform with them: again after a crash, and when asked to. It does
/// nothing else that could fail. Confined to the main thread.
final class Supervisor {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let arguments: [String]
    private let reloads: Bool
    private var policy = RestartPolicy()
    private var isStopping = false
    private var isRestarting = false

    /// `arguments` are those of the platform: this program's own, without its name.
    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics, _ arguments: [String]) {
        self.options = options
        self.diagnostics = diagnostics
        self.arguments = arguments
        reloads = UpCommand.reloads(options)
    }

    /// Keeps a platform until it ends by itself or is told to.
    func run() throws -> ExitCode {
        var original = sigset_t()
        let signals = SupervisorSignals(reloads: reloads, before: &original)
        let program = try Supervisor.programPath()
        let sockets = try PlatformSockets(options, diagnostics)
        var delay = 0
        while true {
            if delay > 0, waitToStart(milliseconds: delay, signals) { return .success }
            let child = try start(program, sockets, original)
            let startedNs = Supervisor.monotonicNs()
            isRestarting = false
            let end = watch(child, signals)
            let lived = Int((Supervisor.monotonicNs() - startedNs) / 1_000_000)
            switch policy.ended(end, livedMilliseconds: lived, isStopping: isStopping, isRestarting: isRestarting) {
            case .end(let status):
                if case .killed(let signal) = end { tell(.error, child, signal, "while it stopped") }
                return ExitCode(rawValue: status) ?? .failure
            case .giveUp:
                throw CommandError(
                    "the platform crashed \(RestartPolicy.crashesMax + 1) times in a row, each time within "
                        + "\(RestartPolicy.healthyMilliseconds / 1000) s; what it wrote before may say why")
            case .start(let afterMilliseconds):
                delay = afterMilliseconds
                if case .killed(let signal) = end {
                    tell(.error, child, signal, "it is started again in \(Double(delay) / 1000) s")
                } else {
                    diagnostics.log(.info, "up", "the platform (process \(child)) stopped to be started again")
                }
            }
        }
    }

    private func tell(_ level: Diagnostics.Level, _ child: pid_t, _ signal: Int32, _ what: String) {
        let name = strsignal(signal).map { String(cString: $0) } ?? ""
        diagnostics.log(level, "up", "the platform (process \(child)) was ended by signal \(signal) (\(name)); \(what)")
    }

    /// By path, not by the file that runs now: a planned restart is how a new version is begun.
    static func programPath() throws(CommandError) -> String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard count > 0 else { throw CommandError("cannot find this program: \(String(cString: strerror(errno)))") }
        let path = String(decoding: buffer[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let replaced = " (deleted)"
        return path.hasSuffix(replaced) ? String(path.dropLast(replaced.count)) : path
    }

    private static func monotonicNs() -> Int64 { SystemTime().monotonicNs() }

    // MARK: The platform

    private func start(_ program: String, _ sockets: PlatformSockets, _ mask: sigset_t) throws(CommandError) -> pid_t {
        let supervision = Supervision(
            parent: getpid(), crashes: policy.crashes, restarts: policy.restarts,
            clients: sockets.clients.descriptor, metrics: sockets.metrics.descriptor)
        return try Supervisor.spawn(
            program, arguments, role: supervision.text, [supervision.clients, supervision.metrics], mask)
    }

    /// Starts a program in a role. It has the descriptors, and blocks what `mask` blocks, if not what this process
    /// does. The environment of this process is not touched: other threads may read it.
    private static func spawn(
        _ program: String, _ arguments: [String], role: String, _ descriptors: [Int32] = [], _ mask: sigset_t? = nil
    ) throws(CommandError) -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // Onto itself: the descriptor stays open in the new process.
        for descriptor in descriptors { posix_spawn_file_actions_adddup2(&actions, descriptor, descriptor) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        if var mask {
            posix_spawnattr_setsigmask(&attributes, &mask)
            posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        }
        var argv: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) }
        argv.append(nil)
        defer { for argument in argv { free(argument) } }
        var variables: [UnsafeMutablePointer<CChar>?] = ConfigurationEnvironment.read()
            .filter { $0.key != Supervision.variable }.map { strdup("\($0.key)=\($0.value)") }
        variables += [strdup("\(Supervision.variable)=\(role)"), nil]
        defer { for variable in variables { free(variable) } }
        var pid: pid_t = 0
        let error = posix_spawn(&pid, program, &actions, &attributes, argv, variables)
        guard error == 0 else { throw CommandError("cannot start \(program): \(String(cString: strerror(error)))") }
        return pid
    }

    /// Hands signals on until the platform has ended.
    private func watch(_ child: pid_t, _ signals: SupervisorSignals) -> ProcessEnd {
        while true {
            var status: Int32 = 0
            if waitpid(child, &status, WNOHANG) == child {
                let signal = status & 0x7f
                return signal == 0 ? .exited((status >> 8) & 0xff) : .killed(signal: signal)
            }
            switch signals.wait(milliseconds: 1000) {
            case SIGTERM, SIGINT:
                isStopping = true
                kill(child, SIGTERM)
            case SIGHUP: kill(child, SIGHUP)
            case SIGUSR2:
                if !isRestarting, !isStopping { restart(child) }
            default: break
            }
        }
    }

    /// Unless what would follow does not come up: then what runs goes on.
    private func restart(_ child: pid_t) {
        do throws(CommandError) {
            try Supervisor.check(arguments)
        } catch {
            diagnostics.log(.error, "up", "\(error)")
            return
        }
        isRestarting = true
        diagnostics.log(.info, "up", "restarting the platform (process \(child)) as asked")
        kill(child, SIGTERM)
    }

    /// Has the program, as it is now, read the configuration and the files that it names. Throws where it cannot use
    /// them; standard error says why.
    static func check(_ arguments: [String]) throws(CommandError) {
        let program = try programPath()
        let pid = try spawn(program, arguments, role: Supervision.check)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        guard status == 0 else {
            throw CommandError("not restarted: the program or its configuration does not work, see standard error")
        }
    }

    /// Whether it was told to stop meanwhile.
    private func waitToStart(milliseconds: Int, _ signals: SupervisorSignals) -> Bool {
        let due = Supervisor.monotonicNs() + Int64(milliseconds) * 1_000_000
        while case let left = (due - Supervisor.monotonicNs()) / 1_000_000, left > 0 {
            switch signals.wait(milliseconds: Int(left)) {
            case SIGTERM, SIGINT: return true
            case SIGUSR2: return false
            default: break
            }
        }
        return false
    }
}

/// What the parent process waits for. Made before any other thread.
private struct SupervisorSignals {
    private let waited: sigset_t

    /// `before` is what was blocked before: the platform gets that.
    init(reloads: Bool, before: inout sigset_t) {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in [SIGTERM, SIGINT, SIGUSR2, SIGCHLD] + (reloads ? [SIGHUP] : []) { sigaddset(&set, signal) }
        pthread_sigmask(SIG_BLOCK, &set, &before)
        waited = set
    }

    /// The signal that came; nil after the time.
    func wait(milliseconds: Int) -> Int32? {
        var set = waited
        var timeout = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
        let signal = sigtimedwait(&set, nil, &timeout)
        return signal > 0 ? signal : nil
    }
}
