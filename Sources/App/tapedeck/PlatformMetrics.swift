import AccessControl
import BookEngine
import EdgeService
import EventLog
import EventLoop
import FeedService
import Glibc
import Observability
import SegmentLog
import Synchronization
import TickStore
import WriterService

/// What log, store, writer and feeds tell those who watch the process: metrics, and whether it is ready. Asked on the
/// monitoring loop; everything it asks answers from memory.
final class PlatformMetrics: Sendable {
    private let log: SegmentLog
    private let store: any TickStore
    private let writer: WriterService
    private let lagRecordsMax: UInt64
    private let feeds = Mutex<[FeedService]>([])
    private let isServing = Atomic<Bool>(false)

    /// `lagRecordsMax` is how far the store may be behind the log while the process counts as ready.
    init(log: SegmentLog, store: any TickStore, writer: WriterService, lagRecordsMax: UInt64) {
        self.log = log
        self.store = store
        self.writer = writer
        self.lagRecordsMax = lagRecordsMax
    }

    func add(_ feed: FeedService) { feeds.withLock { $0.append(feed) } }

    /// Streams are taken; false before, and from the moment the process begins to stop.
    func setServing(_ value: Bool) { isServing.store(value, ordering: .relaxed) }

    func register(in metrics: MetricsRegistry) {
        metrics.register { [self] in
            FeedMetrics.families(feeds.withLock { $0 }.map(\.counters)) + logFamilies()
                + WriterMetrics.families(writer.counters) + [lagFamily] + ProcessMetrics.families()
        }
    }

    func register(in readiness: Readiness) {
        readiness.add("feed") { [self] in feeds.withLock { $0 }.lazy.compactMap(\.counters.failure).first }
        readiness.add("log") { [self] in log.failure?.message }
        readiness.add("writer") { [self] in
            if let failure = writer.counters.failure { return failure }
            let lag = lags().reduce(0) { $0 + $1.records }
            return lag > lagRecordsMax ? "the store is \(lag) records behind the log" : nil
        }
        readiness.add("edge") { [self] in isServing.load(ordering: .relaxed) ? nil : "not serving" }
    }

    // MARK: Families

    private var places: [TopicPartition] {
        Topic.sources.flatMap { topic in
            (0..<log.partitionCount(topic)).map { TopicPartition(topic, UInt16($0)) }
        }
    }

    private func logFamilies() -> [MetricFamily] {
        let labels = ["topic", "partition"]
        var start = MetricFamily("tapedeck_log_start_offset", .gauge, "The oldest record that is kept.", labels: labels)
        var written = MetricFamily("tapedeck_log_end_offset", .gauge, "One past the newest record.", labels: labels)
        var durable = MetricFamily(
            "tapedeck_log_durable_offset", .gauge, "One past the newest record that is on disk.", labels: labels)
        for place in places {
            let values = [place.topic.name, "\(place.partition)"]
            start.samples.append(.init(values, .whole(log.startOffset(place))))
            written.samples.append(.init(values, .whole(log.endOffset(place, .written))))
            durable.samples.append(.init(values, .whole(log.endOffset(place, .durable))))
        }
        let failed = MetricFamily(
            "tapedeck_log_failed", .gauge, "1 when the log takes no more records.",
            [.init(.whole(log.failure == nil ? 0 : 1))])
        return [start, written, durable, failed]
    }

    /// How far the store is behind, by partition.
    private func lags() -> [(partition: UInt16, records: UInt64)] {
        (0..<log.partitionCount(.ticksRaw)).map { partition in
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            let end = log.endOffset(place, .written)
            let next = (try? store.nextOffset(place)) ?? log.startOffset(place)
            return (UInt16(partition), end > next ? end - next : 0)
        }
    }

    private var lagFamily: MetricFamily {
        MetricFamily(
            "tapedeck_writer_lag_records", .gauge, "Records in the log that are not stored yet.", labels: ["partition"],
            lags().map { .init(["\($0.partition)"], .whole($0.records)) })
    }
}

/// What feeds published and could not use.
enum FeedMetrics {
    static func families(_ all: [FeedCounters]) -> [MetricFamily] {
        let sum = all.reduce(into: FeedCounters()) { $0.add($1) }
        let bad = BadInput.allCases.map { MetricFamily.Sample([$0.rawValue], .whole(sum.bad[$0] ?? 0)) }
        let violations = BookViolation.allCases.map {
            MetricFamily.Sample([$0.rawValue], .whole(sum.violations[$0] ?? 0))
        }
        let lastNs = all.map(\.lastPublishNs).max() ?? 0
        return [
            MetricFamily(
                "tapedeck_feed_messages_total", .counter, "Messages of venues.", [.init(.whole(sum.messages))]),
            MetricFamily("tapedeck_feed_ticks_total", .counter, "Ticks published.", [.init(.whole(sum.ticks))]),
            MetricFamily(
                "tapedeck_feed_ticks_known_total", .counter, "Ticks that the log had already.",
                [.init(.whole(sum.ticksKnown))]),
            MetricFamily(
                "tapedeck_feed_bad_input_total", .counter, "What feeds could not use.", labels: ["kind"], bad),
            MetricFamily(
                "tapedeck_feed_violations_total", .counter, "Books dropped because they could not be right any more.",
                labels: ["kind"], violations),
            MetricFamily(
                "tapedeck_feed_stale_instruments", .gauge, "Instruments without a valid book.",
                [.init(.signed(Int64(sum.staleInstruments)))]),
            MetricFamily(
                "tapedeck_feed_last_publish_timestamp_seconds", .gauge, "When the last tick was published.",
                [.init(.number(Double(lastNs) / 1e9))]),
        ]
    }
}

/// What writers stored and could not store.
enum WriterMetrics {
    /// Of the writer of ticks.
    static func families(_ counters: WriterCounters) -> [MetricFamily] {
        let totals = counts(counters).map {
            MetricFamily("tapedeck_writer_\($0.name)_total", .counter, $0.help, [.init(.whole($0.value))])
        }
        return totals + [
            waiting("tapedeck_writer_waiting_since_seconds", [counters]),
            MetricFamily(
                "tapedeck_writer_batch_seconds", .histogram,
                "From a batch's first record to the store's having taken it.",
                [.init(.latency(counters.batchLatency))]),
            MetricFamily(
                "tapedeck_writer_held_bytes_max", .gauge,
                "The most bytes of records that were read and not stored yet.",
                [.init(.signed(Int64(counters.heldBytesMost)))]),
        ]
    }

    /// Of the writers of other topics.
    static func families(_ writers: [(topic: Topic, counters: WriterCounters)]) -> [MetricFamily] {
        let totals = writers.map { counts($0.counters) }
        let families = (totals.first ?? []).indices.map { index in
            MetricFamily(
                "tapedeck_class_writer_\(totals[0][index].name)_total", .counter, totals[0][index].help,
                labels: ["topic"],
                zip(writers, totals).map { .init([$0.topic.name], .whole($1[index].value)) })
        }
        return families + [waiting("tapedeck_class_writer_waiting_since_seconds", writers.map(\.counters))]
    }

    private static func counts(_ counters: WriterCounters) -> [(name: String, help: String, value: UInt64)] {
        [
            ("rows", "Rows stored.", counters.rows), ("batches", "Batches stored.", counters.batches),
            ("dead_letters", "Records that could not be read.", counters.deadLetters),
            ("records_lost", "Records that were gone before they were stored.", counters.recordsLost),
            ("retries", "Batches that were tried again.", counters.retries),
        ]
    }

    private static func waiting(_ name: String, _ all: [WriterCounters]) -> MetricFamily {
        MetricFamily(
            name, .gauge, "Partitions of the log that the store does not take records of now, and since when.",
            labels: ["topic", "partition"],
            all.flatMap(\.waiting).map {
                .init([$0.place.topic.name, "\($0.place.partition)"], .number(Double($0.sinceNs) / 1e9))
            })
    }
}

/// Connections of clients, by the loop that serves them.
enum ConnectionMetrics {
    static func register(_ loops: EventLoopGroup, in metrics: MetricsRegistry) {
        metrics.register {
            let samples = loops.loops.enumerated().map { number, loop in
                MetricFamily.Sample(
                    ["\(number)"], .signed(Int64(loop.connectionCount.load(ordering: .relaxed))))
            }
            return [
                MetricFamily(
                    "tapedeck_edge_connections", .gauge, "Connections of clients.", labels: ["loop"], samples),
                MetricFamily(
                    "tapedeck_edge_loop_turn_seconds", .histogram,
                    "From something's arrival at a loop to its waiting for more.", labels: ["loop"],
                    loops.loops.enumerated().map { number, loop in
                        .init(["\(number)"], .histogram(histogram(loop.turns)))
                    }),
            ]
        }
    }

    private static func histogram(_ turns: LoopTurns) -> HistogramValue {
        let (counts, sumNs) = turns.values
        return HistogramValue(
            upperBounds: (0..<LoopTurns.boundCount).map { Double(1 << $0) / 1e6 }, counts: counts,
            sum: Double(sumNs) / 1e9)
    }
}

/// What streams hold for their readers, by the loop that serves them.
enum ReaderMetrics {
    static func register(_ edge: EdgeService, in metrics: MetricsRegistry) {
        metrics.register { [weak edge] in
            let usage = edge?.recentUsage ?? []
            func family(_ name: String, _ help: String, _ value: (EdgeUsage) -> UInt64) -> MetricFamily {
                MetricFamily(
                    name, .gauge, help, labels: ["loop"],
                    usage.enumerated().map { .init(["\($0.offset)"], .whole(value($0.element))) })
            }
            return [
                family("tapedeck_edge_streams", "Streams of market data.") { UInt64($0.streams) },
                family("tapedeck_edge_held_bytes", "Bytes that streams hold for their readers.") {
                    UInt64($0.heldBytes)
                },
                family("tapedeck_edge_held_bytes_max", "The most of it at one stream.") { UInt64($0.heldBytesMax) },
                family("tapedeck_edge_lag_bytes_max", "How far the furthest reader of everything is behind.") {
                    $0.lagBytesMax
                },
            ]
        }
    }
}

/// What a policy refused.
enum AccessMetrics {
    static func register(_ policy: AccessPolicy, in metrics: MetricsRegistry) {
        metrics.register {
            let counters = policy.counters
            let refused: [(String, UInt64)] = [
                ("unauthenticated", counters.unauthenticated), ("denied", counters.denied),
                ("call_rate", counters.rateLimited), ("streams", counters.streamLimited),
            ]
            return [
                MetricFamily(
                    "tapedeck_access_refused_total", .counter, "Calls refused, by reason.", labels: ["reason"],
                    refused.map { .init([$0.0], .whole($0.1)) }),
                MetricFamily(
                    "tapedeck_access_delayed_total", .counter,
                    "Times that a stream of requests was held back because of its rate.",
                    [.init(.whole(counters.delayed))]),
            ]
        }
    }
}

/// The process itself, under the names of Prometheus' own libraries.
enum ProcessMetrics {
    /// Of a platform that a parent process keeps.
    static func restarts(_ supervision: Supervision) -> [MetricFamily] {
        let counts = [("crash", supervision.crashes), ("planned", supervision.restarts)]
        return [
            MetricFamily(
                "tapedeck_restarts_total", .counter, "Times that the parent process started the platform again.",
                labels: ["reason"], counts.map { .init([$0.0], .whole(UInt64($0.1))) })
        ]
    }

    static func families() -> [MetricFamily] {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        let cpu =
            Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
        var families = [
            MetricFamily(
                "tapedeck_build_info", .gauge, "1, with the version.", labels: ["version"],
                [.init([Program.version], .whole(1))]),
            MetricFamily(
                "process_cpu_seconds_total", .counter, "Total user and system CPU time spent in seconds.",
                [.init(.number(cpu))]),
        ]
        let memory = TextFile.read("/proc/self/statm")?.split(separator: " ") ?? []
        if memory.count > 1, let pages = UInt64(memory[1]) {
            families.append(
                MetricFamily(
                    "process_resident_memory_bytes", .gauge, "Resident memory size in bytes.",
                    [.init(.whole(pages * UInt64(getpagesize())))]))
        }
        return families
    }
}
