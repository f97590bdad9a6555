import EdgeService
import EventLog
import EventLoop
import FeedService
import FileDisk
import GRPC
import Glibc
import Observability
import RocksStore
import SegmentLog
import TickStore
import WriterService

/// What a command could not do. The message says what happened, to which thing, and what to do next.
struct CommandError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Where things are in a data directory.
struct DataDirectory {
    let path: String
    var log: String { path + "/log" }
    var store: String { path + "/store" }
    var control: String { path + "/control" }

    /// Makes it when absent.
    func create() throws(CommandError) {
        var partial = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            partial += "/" + part
            guard mkdir(partial, 0o755) == 0 || errno == EEXIST else {
                throw CommandError(
                    "cannot make the data directory \(partial): \(String(cString: strerror(errno))); "
                        + "choose another with --data")
            }
        }
    }

    /// Refuses a directory that has no log in it.
    func requireLog() throws(CommandError) {
        guard access(log, F_OK) == 0 else {
            throw CommandError("\(path) holds no tape: there is no \(log). Name a data directory with --data")
        }
    }
}

/// Log, store, writer, feeds and edge in one process. Made, run and stopped by the main thread.
final class EmbeddedPlatform {
    let directory: DataDirectory
    let time: SystemTime
    let diagnostics: Diagnostics
    let log: SegmentLog
    let store: any TickStore
    private let writer: WriterService
    private var writerThread: ServiceThread?
    private var feeds: [(service: FeedService, thread: ServiceThread)] = []
    private(set) var edge: EdgeService?
    private let metrics: PlatformMetrics
    /// nil where no parent process keeps this one.
    private let supervision: Supervision?
    /// nil where nobody writes past the log.
    private var direct: DirectWrites?
    /// nil where nothing is served.
    private var operations: PlatformOperations?

    /// Opens log and store, and starts the writer.
    init(
        _ options: ResolvedOptions, _ diagnostics: Diagnostics, _ supervision: Supervision? = nil,
        log configuration: SegmentLog.Configuration? = nil
    ) throws {
        self.supervision = supervision
        self.diagnostics = diagnostics
        time = SystemTime()
        directory = DataDirectory(path: options.string(.data))
        try directory.create()
        let started = time.monotonicNs()
        let time = time
        let disk = try FileDisk(directory: directory.log)
        var lastReportNs = started
        let configuration = configuration ?? EmbeddedPlatform.logConfiguration(options)
        log = try SegmentLog(disk: disk, time: time, configuration: configuration) { done, total in
            let nowNs = time.monotonicNs()
            guard nowNs - lastReportNs > 1_000_000_000 else { return }
            lastReportNs = nowNs
            diagnostics.log(.info, "log", "reading the log's end: \(done >> 20) of \(total >> 20) MiB")
        }
        store = try StoreChoice(options).open(
            directory, time: time, log: log, totalBytes: try disk.space().totalBytes, diagnostics)
        writer = WriterService(log: log, store: store, time: time) { diagnostics.log(.warning, "writer", $0) }
        metrics = PlatformMetrics(
            log: log, store: store, writer: writer, lagRecordsMax: UInt64(options.int(.readyLag)))
        for damage in log.damage { diagnostics.log(.error, "log", damage) }
    }

    static func logConfiguration(_ options: ResolvedOptions) -> SegmentLog.Configuration {
        var configuration = SegmentLog.Configuration()
        configuration.syncIntervalNs = Int64(options.int(.tickSyncMs)) * 1_000_000
        configuration.tipBytes = options.int(.logRingMB) << 20
        configuration.diskSharePercent = options.int(.retentionDiskPercent)
        configuration.retentions[.ticksRaw] = SegmentLog.Configuration.Retention(
            timeNs: Int64(options.int(.retentionDays)) * 86_400_000_000_000)
        return configuration
    }

    func startWriter() {
        // Streams come first: what the writer has not stored yet is in the log.
        writerThread = ServiceThread(name: "writer", givesWay: true, ended: { _ in }) { [writer] in try writer.run() }
    }

    func startFeed(_ source: FeedSource) {
        let diagnostics = diagnostics
        let service = FeedService(log: log, time: time, source: source) { kind, what in
            diagnostics.log(.warning, "feed", kind: kind, what())
        }
        metrics.add(service)
        feeds.append((service, ServiceThread(name: "feed", ended: { _ in }) { try service.run() }))
    }

    /// Serves clients and those who watch. Orders are taken where the simulated venue is to be a feed, or another feed
    /// is named whose quotes they meet.
    func serve(
        _ options: ResolvedOptions, loops count: Int, on sockets: PlatformSockets, orderFeed: String? = nil
    ) throws {
        let operations = try PlatformOperations(options, time, diagnostics)
        self.operations = operations
        metrics.register(in: operations.metrics)
        metrics.register(in: operations.readiness)
        CassandraMetrics.register(store, in: operations.metrics)
        var server = operations.server
        server.webOrigins = options.strings(.webOrigin)
        let loops = EventLoopGroup(count: count)
        ConnectionMetrics.register(loops, in: operations.metrics)
        let simulatesVenue = options.strings(.replay).isEmpty
        let feed = orderFeed ?? (simulatesVenue ? FeedService.simulatedFeed : nil)
        let orders = feed.map { OrderVenue(feed: $0, time: time) }
        let edge = try EdgeService(
            log: log, store: store, time: time, loops: loops, orders: orders, limits: EmbeddedPlatform.limits(options),
            showsConnections: options.bool(.channelz), server: server)
        self.edge = edge
        ReaderMetrics.register(edge, in: operations.metrics)
        operations.declare(edge.methods)
        operations.metrics.register { EdgeMetrics.families(edge.counters, edge.serverCounters) }
        if let supervision { operations.metrics.register { ProcessMetrics.restarts(supervision) } }
        direct = try DirectWrites.make(options, store, time, operations) {
            try StoreChoice(options).open(directory, time: time, log: log, diagnostics)
        }
        if let direct { diagnostics.log(.info, "up", "TickWriterService on \(direct.address)") }
        edge.listen(on: sockets.clients, secure: operations.secure)
        operations.listen(on: sockets.metrics)
        metrics.setServing(true)
        edge.setServing(operations.readiness.isReady)
    }

    static func limits(_ options: ResolvedOptions) -> EdgeLimits {
        var limits = EdgeLimits()
        limits.cursorLagBytesMax = UInt64(options.int(.readerLagMB)) << 20
        limits.queueBytesMax = options.int(.readerQueueMB) << 20
        return limits
    }

    /// A few times a second while it serves.
    func tick() {
        guard let operations else { return }
        operations.tick()
        edge?.setServing(operations.readiness.isReady)
    }

    /// Reads again what may change while it serves.
    func reload() { operations?.reload() }

    /// Has the parent process start this platform anew: what is open is drained first.
    func askForRestart() throws(CommandError) {
        guard let supervision else {
            throw CommandError("this platform was started with --no-supervisor: stop it and start it again")
        }
        try Supervisor.check(Array(CommandLine.arguments.dropFirst()))
        diagnostics.log(.info, "up", "an operator asks for a restart")
        supervision.askForRestart()
    }

    /// Calls of clients that are open now.
    func calls() -> [CallDescription] { operations?.openCalls() ?? [] }

    /// Ends one of them; false where there is none of this id.
    func endCall(_ id: String) -> Bool { operations?.endCall(id) ?? false }

    /// Where ticks are written past the log; nil where they are not.
    var tickWriterAddress: Address? { direct?.address }

    /// Of all feeds together.
    var feedCounters: FeedCounters { feeds.reduce(into: FeedCounters()) { $0.add($1.service.counters) } }
    var writerCounters: WriterCounters { writer.counters }
    var feedsAreDone: Bool { feeds.allSatisfy { $0.thread.isDone } }

    /// The first failure that no retry mends.
    var fatalFailure: String? {
        if let failure = log.failure { return failure.message }
        if let failure = writerThread?.failure ?? direct?.failure { return failure }
        return feeds.lazy.compactMap(\.thread.failure).first
    }

    /// Stops in the order of the way of a tick: feeds, streams (with everything), writer (with everything), files.
    func stop(drainSeconds: Int) throws {
        metrics.setServing(false)
        edge?.setServing(false)
        for feed in feeds { feed.service.stop() }
        for feed in feeds where !feed.thread.join(milliseconds: 5000) {
            diagnostics.log(.warning, "feed", "the feed did not stop in 5 s; it is left behind")
        }
        edge?.stop(withinMilliseconds: drainSeconds * 1000)
        try direct?.stop(drainSeconds: drainSeconds)
        operations?.close()
        if log.failure == nil { try log.sync() }
        writer.stop()
        if let writerThread, !writerThread.join(milliseconds: 30_000) {
            diagnostics.log(.warning, "writer", "the writer did not stop in 30 s; the next start goes on where it was")
        }
        try log.close()
        try store.close()
    }

    /// Copies log and store as of one moment: the store first, so that the log has everything the store has.
    func backup(to target: String) throws {
        let copy = DataDirectory(path: target)
        try copy.create()
        guard let store = store as? RocksStore else {
            throw CommandError("rows are in Cassandra: back them up there (nodetool snapshot); nothing was copied")
        }
        try store.checkpoint(to: copy.store)
        try log.backup(to: try FileDisk(directory: copy.log))
    }
}
