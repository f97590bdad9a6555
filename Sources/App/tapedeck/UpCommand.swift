import Drills
import FeedService
import Glibc
import Observability
import SimulatedVenue
import WriterService

/// `tapedeck up` and `tapedeck replay`.
struct UpCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    /// nil where no parent process keeps this one.
    private let supervision: Supervision?

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics, _ supervision: Supervision? = nil) {
        self.options = options
        self.diagnostics = diagnostics
        self.supervision = supervision
    }

    /// SIGHUP means that files are to be read again.
    static func reloads(_ options: ResolvedOptions) -> Bool { options.isSet(.access) || options.isSet(.tlsCert) }

    /// Whether the configuration and the files that it names can be used; throws where not.
    func check() throws -> ExitCode {
        try UpCommand.requireFiles(options.strings(.replay))
        let silent = Diagnostics(level: .error, wallNs: { 0 }, write: { _ in })
        try PlatformOperations(options, SystemTime(), silent).close()
        return .success
    }

    /// Runs until a signal, or a failure that no retry mends.
    func run() throws -> ExitCode {
        let signals = Signals(reloads: UpCommand.reloads(options), restarts: supervision != nil)
        if let supervision, !supervision.endWithParent() { throw CommandError("the parent process has gone") }
        try UpCommand.requireFiles(options.strings(.replay))
        let inherited = try supervision.map { try PlatformSockets(options, $0) }
        let platform = try EmbeddedPlatform(options, diagnostics, supervision)
        platform.startWriter()
        let sockets = try inherited ?? PlatformSockets(options, diagnostics)
        try platform.serve(options, loops: EdgeLoops.count(options), on: sockets)
        startFeeds(platform)
        let address = Address(sockets.clients)
        print(
            ReadyLine.make(
                address: address.description, metrics: Address(sockets.metrics).description,
                tickWriter: platform.tickWriterAddress?.description))
        fflush(nil)
        diagnostics.log(.info, "up", "serving on \(address), data in \(platform.directory.path); end with Ctrl-C")
        var failure: String?
        var isPlayed = false
        running: while failure == nil {
            switch signals.wait(milliseconds: 100) {
            case nil: break
            case SIGHUP: platform.reload()
            case SIGUSR2: supervision?.askForRestart()
            default: break running
            }
            platform.tick()
            ControlRequests(platform).answer()
            failure = platform.fatalFailure
            guard !isPlayed, platform.feedsAreDone else { continue }
            isPlayed = true
            diagnostics.log(.info, "feed", "played to the end: \(FeedText.line(platform.feedCounters))")
        }
        diagnostics.log(.info, "up", "stopping: streams end with their tokens, the writer stores what is in the log")
        try platform.stop(drainSeconds: options.int(.drainSeconds))
        diagnostics.log(.info, "feed", "since the start: \(FeedText.line(platform.feedCounters))")
        diagnostics.flush()
        if let failure { throw CommandError(failure) }
        return .success
    }

    /// Refuses what is no readable file before anything is opened or served.
    static func requireFiles(_ paths: [String]) throws(CommandError) {
        for path in paths {
            var status = stat()
            guard stat(path, &status) == 0 else {
                throw CommandError("cannot read the recording \(path): \(String(cString: strerror(errno)))")
            }
            guard status.st_mode & S_IFMT != S_IFDIR else {
                throw CommandError("the recording \(path) is a directory; name files, one --replay each")
            }
            guard access(path, R_OK) == 0 else {
                throw CommandError("cannot read the recording \(path): \(String(cString: strerror(errno)))")
            }
        }
    }

    private func startFeeds(_ platform: EmbeddedPlatform) {
        for source in sources { platform.startFeed(source) }
    }

    /// The recordings, or the simulated venue where there are none.
    var sources: [FeedSource] {
        let recordings = options.strings(.replay)
        guard recordings.isEmpty else { return recordings.map { .recording(path: $0, speed: speed) } }
        var venue = SimulatedVenue.Configuration()
        venue.seed = UInt64(options.int(.seed))
        venue.messagesPerSecond = options.int(.rate)
        return [.simulated(venue)]
    }

    private var speed: PlaySpeed {
        switch options.speed(.speed) {
        case .times(let factor): .times(Double(factor))
        case .unlimited: .maximum
        }
    }

    /// Plays recordings until all of them are stored.
    func replay(_ files: [String]) throws -> ExitCode {
        let signals = Signals()
        try UpCommand.requireFiles(files)
        let platform = try EmbeddedPlatform(options, diagnostics)
        platform.startWriter()
        let startedNs = platform.time.monotonicNs()
        for path in files { platform.startFeed(.recording(path: path, speed: speed)) }
        var reportedNs = startedNs
        while !platform.feedsAreDone, platform.fatalFailure == nil, signals.wait(milliseconds: 20) == nil {
            if platform.time.monotonicNs() - reportedNs > 1_000_000_000 {
                reportedNs = platform.time.monotonicNs()
                progress(platform)
            }
        }
        let failure = platform.fatalFailure
        try platform.stop(drainSeconds: 0)
        let feeds = platform.feedCounters
        let rows = platform.writerCounters.rows
        print(options.bool(.json) ? FeedText.json(feeds, rows: rows) : FeedText.line(feeds, rows: rows))
        diagnostics.flush()
        if let failure { throw CommandError(failure) }
        return .success
    }

    private func progress(_ platform: EmbeddedPlatform) {
        let feeds = platform.feedCounters
        let ticks = feeds.ticks + feeds.ticksKnown
        diagnostics.log(.info, "replay", "\(ticks) ticks so far, \(platform.writerCounters.rows) stored")
    }
}

/// How many event loops serve clients.
enum EdgeLoops {
    /// The number that the user names; where it is 0 one fewer than there are processors, at least 1: one is left to
    /// what feeds the loops, the log and its readers, and to clients on the same machine. On two processors one loop
    /// answers more calls than two do, at less processor time (docs/BENCHMARKS.md).
    static func count(_ options: ResolvedOptions) -> Int {
        let named = options.int(.loops)
        return named > 0 ? named : max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))) - 1)
    }
}

/// SIGTERM and SIGINT, taken by the main thread. Made before any other thread, which inherit that they are blocked.
struct Signals {
    private let waited: sigset_t

    /// One that reloads takes SIGHUP too, one that can be restarted SIGUSR2.
    init(reloads: Bool = false, restarts: Bool = false) {
        var set = sigset_t()
        sigemptyset(&set)
        sigaddset(&set, SIGTERM)
        sigaddset(&set, SIGINT)
        if reloads { sigaddset(&set, SIGHUP) }
        if restarts { sigaddset(&set, SIGUSR2) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
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
