import CassandraStore
import Drills
import EdgeService
import EventLog
import EventLoop
import FeedService
import FileDisk
import GRPC
import Glibc
import KafkaLog
import Observability
import SegmentLog
import SimulatedVenue
import TickStore
import TimeSource
import WriterService

/// `tapedeck run feed|writer|edge`: one service as a process of its own, with Kafka as the log.
struct RunCommand {
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics
    private let time = SystemTime()

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    /// Runs until a signal, or a failure that no retry mends.
    func run(_ service: String) throws -> ExitCode {
        let signals = Signals(reloads: UpCommand.reloads(options))
        var configuration = try ClusterOptions(options, diagnostics).configuration()
        configuration.clientID = "tapedeck-\(service)"
        configuration.group.instance = options.optionalString(.instance) ?? ""
        switch service {
        case "feed": return try feed(configuration, signals)
        case "writer": return try write(configuration, signals)
        case "edge": return try serve(configuration, signals)
        default: throw CommandError("there is no service `\(service)`; there are feed, writer and edge")
        }
    }

    // MARK: Feed

    /// How long brokers that take nothing are waited for at the end: longer than it takes until ticks are spilled.
    private static let feedStopMilliseconds = 8000

    private func feed(_ configuration: KafkaConfiguration, _ signals: Signals) throws -> ExitCode {
        try UpCommand.requireFiles(options.strings(.replay))
        var configuration = configuration
        let spillMB = options.int(.spillMB)
        configuration.spillBytesMax = spillMB << 20
        // With a spill no tick is ever given up for its age.
        if spillMB > 0 { configuration.producer.ticksDeadlineNs = 0 }
        let log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        let spill = spillMB > 0 ? try FeedSpill.open(options, time, beside: log) : nil
        if let spill { try log.spill(into: spill) }
        let operations = try operations(log)
        let diagnostics = diagnostics
        let feeds = UpCommand(options, diagnostics).sources.map { source in
            let service = FeedService(
                log: log, time: time, source: source, stopWaitNs: Int64(RunCommand.feedStopMilliseconds) * 1_000_000
            ) { kind, what in
                diagnostics.log(.warning, "feed", kind: kind, what())
            }
            return (service: service, thread: ServiceThread(name: "feed", ended: { _ in }) { try service.run() })
        }
        operations.metrics.register { FeedMetrics.families(feeds.map(\.service.counters)) }
        operations.readiness.add("feed") { feeds.lazy.compactMap(\.service.counters.failure).first }
        let metrics = try PlatformSockets.metrics(options, diagnostics)
        operations.listen(on: metrics)
        ready("feed", address: nil, metrics)
        wait(signals, operations) {
            feeds.lazy.compactMap(\.thread.failure).first ?? log.failure?.message
        } isDone: {
            feeds.allSatisfy(\.thread.isDone)
        }
        for feed in feeds { feed.service.stop() }
        for feed in feeds where !feed.thread.join(milliseconds: RunCommand.feedStopMilliseconds + 4000) {
            diagnostics.log(.warning, "feed", "the feed did not stop in 12 s; it is left behind")
        }
        operations.close()
        var failure = feeds.lazy.compactMap(\.thread.failure).first
        do { try log.close() } catch { failure = failure ?? error.message }
        try spill?.close()
        let counters = feeds.reduce(into: FeedCounters()) { $0.add($1.service.counters) }
        diagnostics.log(.info, "feed", "since the start: \(FeedText.line(counters))")
        return try end(failure)
    }

    // MARK: Writer

    private func write(_ configuration: KafkaConfiguration, _ signals: Signals) throws -> ExitCode {
        var configuration = configuration
        configuration.topics = [.ticksRaw, .ticksRaw.deadLetter]
        let time: any TimeSource = options.optionalString(.clockOffsetFile).map(SteppedTime.init(file:)) ?? time
        let directory = DataDirectory(path: options.string(.data))
        try directory.create()
        let space = try FileDisk(directory: directory.path).space()
        let log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        let store = try StoreChoice(options).open(
            directory, time: time, log: log, totalBytes: space.totalBytes, diagnostics)
        let operations = try operations(log)
        var settings = WriterConfiguration()
        settings.stopsAtLostRecords = options.string(.lostRecords) == "stop"
        settings.drainsLog = false
        if store is CassandraStore {
            // A fetch has gathered them, and rows of many instruments are put together again where they are sent: only
            // the other partitions of the same fetch are waited for.
            settings.batchIntervalNs = 200_000
        }
        let diagnostics = diagnostics
        let writer = WriterService(log: log, store: store, time: time, configuration: settings) {
            diagnostics.log(.warning, "writer", $0)
        }
        let thread = ServiceThread(name: "writer", ended: { _ in }) { try writer.run() }
        operations.metrics.register { WriterMetrics.families(writer.counters) }
        if let cassandra = store as? CassandraStore {
            operations.metrics.register { RowMetrics.families(cassandra.rowLatency) }
        }
        operations.readiness.add("writer") { writer.counters.failure }
        CassandraMetrics.register(store, in: operations.metrics, operations.readiness)
        let classes =
            store is CassandraStore
            ? try ClassWrites.make(options, configuration, counts: log.partitionCount, time, operations, diagnostics)
            : nil
        let direct = try DirectWrites.make(options, store, time, operations) {
            try StoreChoice(options).open(directory, time: time, log: log, diagnostics)
        }
        let metrics = try PlatformSockets.metrics(options, diagnostics)
        operations.listen(on: metrics)
        ready("writer", address: direct?.address, metrics)
        wait(signals, operations) {
            thread.failure ?? direct?.failure ?? classes?.failure ?? log.failure?.message
        } isDone: {
            thread.isDone
        }
        writer.stop()
        if !thread.join(milliseconds: 30_000) {
            diagnostics.log(.warning, "writer", "the writer did not stop in 30 s; the next start goes on where it was")
        }
        try direct?.stop(drainSeconds: options.int(.drainSeconds))
        try classes?.stop(diagnostics)
        operations.close()
        try log.close()
        try store.close()
        diagnostics.log(.info, "writer", "\(writer.counters.rows) rows in \(writer.counters.batches) batches")
        return try end(thread.failure)
    }

    // MARK: Edge

    private func serve(_ configuration: KafkaConfiguration, _ signals: Signals) throws -> ExitCode {
        var configuration = configuration
        configuration.followed = [.ticksRaw, .booksDeltas]
        configuration.tipBytes = options.int(.logRingMB) << 20
        let log = try KafkaLog(configuration, time: time, report: ClusterOptions.report(diagnostics))
        if !log.waitUntilCaughtUp(timeoutNs: configuration.requestTimeoutNs) {
            diagnostics.log(.warning, "edge", "the brokers are slow: the newest records are not all here yet")
        }
        let store = try EdgeHistory.open(options, log, time, diagnostics)
        let operations = try operations(log)
        var server = operations.server
        server.webOrigins = options.strings(.webOrigin)
        let loops = EventLoopGroup(count: EdgeLoops.count(options))
        ConnectionMetrics.register(loops, in: operations.metrics)
        let edge = try EdgeService(
            log: log, store: store, time: time, loops: loops, limits: EmbeddedPlatform.limits(options),
            server: server)
        ReaderMetrics.register(edge, in: operations.metrics)
        operations.declare(edge.methods)
        operations.metrics.register { EdgeMetrics.families(edge.counters, edge.serverCounters) }
        let sockets = try PlatformSockets(options, diagnostics)
        edge.listen(on: sockets.clients, secure: operations.secure)
        operations.listen(on: sockets.metrics)
        let follower = HeldOffsetsFollower(store, time, diagnostics)
        edge.setServing(operations.readiness.isReady)
        ready("edge", address: Address(sockets.clients), sockets.metrics)
        wait(signals, operations) {
            edge.setServing(operations.readiness.isReady)
            return log.failure?.message
        } isDone: {
            false
        }
        edge.stop(withinMilliseconds: options.int(.drainSeconds) * 1000)
        operations.close()
        follower?.stop()
        try log.close()
        try store.close()
        return try end(nil)
    }

    // MARK: All of them

    private func operations(_ log: KafkaLog) throws -> PlatformOperations {
        let operations = try PlatformOperations(options, time, diagnostics)
        operations.metrics.register { KafkaMetrics.families(log.counters) + ProcessMetrics.families() }
        operations.readiness.add("log") { log.failure?.message }
        return operations
    }

    private func ready(_ service: String, address: Address?, _ metrics: ListeningSocket) {
        let metrics = Address(metrics).description
        if let address {
            print(ReadyLine.make(address: address.description, metrics: metrics))
        } else {
            print("{\"ready\":true,\"service\":\"\(service)\",\"metrics\":\"\(metrics)\"}")
        }
        fflush(nil)
        let place = address.map { " on \($0)" } ?? ""
        diagnostics.log(
            .info, service, "working\(place), Kafka at \(options.string(.brokers)); end with Ctrl-C")
    }

    private func wait(
        _ signals: Signals, _ operations: PlatformOperations, failure: () -> String?, isDone: () -> Bool
    ) {
        while failure() == nil, !isDone() {
            switch signals.wait(milliseconds: 100) {
            case nil: operations.tick()
            case SIGHUP: operations.reload()
            default: return
            }
        }
    }

    private func end(_ failure: String?) throws -> ExitCode {
        diagnostics.flush()
        if let failure { throw CommandError(failure) }
        return .success
    }
}

/// How old ticks are when their rows are in Cassandra.
enum RowMetrics {
    static func families(_ latency: LatencyHistogram) -> [MetricFamily] {
        [
            MetricFamily(
                "tapedeck_row_latency_seconds", .histogram, "From a tick's event to its row's acknowledgement.",
                [.init(.latency(latency))])
        ]
    }
}

/// Where a feed puts ticks while the brokers do not take them.
enum FeedSpill {
    /// As many partitions as the brokers have; what the brokers have of it by now is kept for an hour at most.
    static func open(_ options: ResolvedOptions, _ time: SystemTime, beside log: KafkaLog) throws -> SegmentLog {
        let path = options.string(.data) + "/spill"
        try DataDirectory(path: path).create()
        var configuration = SegmentLog.Configuration()
        configuration.diskSharePercent = 100
        configuration.tipBytes = 8 << 20
        for topic in [Topic.ticksRaw, .booksDeltas] {
            configuration.partitionCounts[topic] = log.partitionCount(topic)
            configuration.retentions[topic] = SegmentLog.Configuration.Retention(timeNs: 3_600_000_000_000)
        }
        return try SegmentLog(disk: try FileDisk(directory: path), time: time, configuration: configuration)
    }
}

/// What an edge without a store knows of the past: the log since a time.
enum EdgeHistory {
    /// The cluster's store where there is one, else what the log has.
    static func open(
        _ options: ResolvedOptions, _ log: KafkaLog, _ time: SystemTime, _ diagnostics: Diagnostics
    ) throws -> any TickStore {
        guard options.string(.store) == "cassandra" else {
            return try store(log, time, minutes: options.int(.historyMinutes))
        }
        let directory = DataDirectory(path: options.string(.data))
        return try StoreChoice(options).open(directory, time: time, log: log, diagnostics)
    }

    private static func store(_ log: KafkaLog, _ time: SystemTime, minutes: Int) throws -> NoStore {
        let fromNs = time.wallNs() - Int64(minutes) * 60_000_000_000
        var offsets: [TopicPartition: UInt64] = [:]
        for number in 0..<log.partitionCount(.ticksRaw) {
            let place = TopicPartition(.ticksRaw, UInt16(clamping: number))
            offsets[place] = try log.offset(of: minutes > 0 ? .time(fromNs) : .latest, in: place)
        }
        let starts = offsets
        return NoStore { starts[$0] }
    }
}

/// What this process sent to Kafka and read of it.
enum KafkaMetrics {
    static func families(_ counters: KafkaCounters) -> [MetricFamily] {
        let topics = counters.produced.sorted { $0.key.name < $1.key.name }
        func family(
            _ name: String, _ kind: MetricFamily.Kind, _ help: String,
            _ value: (KafkaCounters.Produced) -> MetricFamily.Value
        ) -> MetricFamily {
            MetricFamily(name, kind, help, labels: ["topic"], topics.map { .init([$0.key.name], value($0.value)) })
        }
        return [
            family("kafka_produce_records_total", .counter, "Records that the brokers acknowledged.") {
                .whole($0.acknowledged)
            },
            family("kafka_produce_errors_total", .counter, "Records that are not in the log.") { .whole($0.failed) },
            family("kafka_produce_latency_seconds", .histogram, "From append to acknowledgement, by block.") {
                .latency($0.latency)
            },
            family("tapedeck_produce_queue_records", .gauge, "Records that wait for their acknowledgement.") {
                .whole(UInt64(max($0.queued, 0)))
            },
            family("tapedeck_produce_queue_records_max", .gauge, "The most of them since the start.") {
                .whole(UInt64(max($0.queuedMost, 0)))
            },
            family("tapedeck_produce_queue_full_total", .counter, "Appends that found no room in time.") {
                .whole($0.full)
            },
            MetricFamily(
                "tapedeck_spill_records_total", .counter, "Records that went to the spill, by what became of them.",
                labels: ["what"],
                [
                    .init(["spilled"], .whole(counters.spilled)), .init(["drained"], .whole(counters.drained)),
                    .init(["lost"], .whole(counters.spillLost)),
                ]),
            MetricFamily(
                "tapedeck_log_records_read_total", .counter, "Records read from the brokers.",
                [.init(.whole(counters.recordsRead))]),
            MetricFamily(
                "tapedeck_log_records_malformed_total", .counter, "Records read that are none of their topic's.",
                [.init(.whole(counters.recordsMalformed))]),
            MetricFamily(
                "kafka_read_latency_seconds", .histogram,
                "From the newest record's timestamp to its being read, by block.",
                [.init(.latency(counters.readLatency))]),
        ]
    }
}
