import EventLog
import GRPC
import Glibc
import MarketModel
import MarketProto
import Protobuf
import Synchronization
import TapedeckClient
import TickCodec

/// Benches of a running platform: a process of its own, this one is its clients.
public struct PlatformBench: Sendable {
    /// A platform that was started for a bench.
    public struct Started: Sendable {
        public let address: String
        public let pid: Int32
        /// From the start of the process to its line that it serves.
        public let readySeconds: Double
        /// Ends it with SIGTERM, or with SIGKILL, and waits.
        public let stop: @Sendable (_ kill: Bool) -> Void

        public init(
            address: String, pid: Int32, readySeconds: Double, stop: @escaping @Sendable (_ kill: Bool) -> Void
        ) {
            self.address = address
            self.pid = pid
            self.readySeconds = readySeconds
            self.stop = stop
        }
    }

    /// Starts `tapedeck up` on a data directory with more arguments.
    let start: @Sendable (_ directory: String, _ arguments: [String]) throws -> Started
    /// Opens the log of a data directory that no process has, to fill it.
    let openLog: @Sendable (_ directory: String) throws -> any EventLog
    /// Makes an empty data directory, and removes one.
    let makeDirectory: @Sendable () throws -> String
    let removeDirectory: @Sendable (String) -> Void

    public init(
        start: @escaping @Sendable (_ directory: String, _ arguments: [String]) throws -> Started,
        openLog: @escaping @Sendable (_ directory: String) throws -> any EventLog,
        makeDirectory: @escaping @Sendable () throws -> String, removeDirectory: @escaping @Sendable (String) -> Void
    ) {
        self.start = start
        self.openLog = openLog
        self.makeDirectory = makeDirectory
        self.removeDirectory = removeDirectory
    }

    /// A benchmark's precondition that did not hold.
    struct Failure: Error, CustomStringConvertible { let description: String }

    // MARK: way

    static let wayMessagesPerSecond = 33_000
    static let waySeconds = 5

    /// From the event at the venue to its bytes at a client.
    public var way: Bench {
        let bench = self
        return Bench(
            name: "way",
            method: """
                One process runs simulated venue, feed, log, store, writer and edge; this process is one gRPC client \
                of everything. The venue is an open loop: every event has its intended time, about 20,000 ticks a \
                second (the rate figure says how many came); latency counts from that time to the moment the \
                client's callback has the message, both read from the machine's wall clock. 1 s of warm-up, then 5 \
                s; p50 and p99 of each run. feed_p50 and feed_p99 are the part from the event to the stamp before \
                encoding.
                """,
            run: { runs, progress in
                var samples: [[Double]] = [[], [], [], [], []]
                for run in 1...max(1, runs) {
                    let values = try bench.measureWay()
                    for (index, value) in values.enumerated() { samples[index].append(value) }
                    progress("way: run \(run) of \(runs)")
                }
                return [
                    Figure(bench: "way", figure: "p50", unit: "us", samples: samples[0]),
                    Figure(bench: "way", figure: "p99", unit: "us", samples: samples[1]),
                    Figure(bench: "way", figure: "rate", unit: "ticks/s", samples: samples[2]),
                    Figure(bench: "way", figure: "feed_p50", unit: "us", samples: samples[3]),
                    Figure(bench: "way", figure: "feed_p99", unit: "us", samples: samples[4]),
                ]
            })
    }

    private func measureWay() throws -> [Double] {
        let directory = try makeDirectory()
        defer { removeDirectory(directory) }
        let platform = try start(directory, ["--rate", "\(PlatformBench.wayMessagesPerSecond)"])
        defer { platform.stop(false) }
        let client = try MarketDataClient(target: platform.address)
        defer { client.close() }
        let latencies = Mutex<[Int64]>([])
        let feedParts = Mutex<[Int64]>([])
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        let stream = client.streamPrices(subscription) { batch in
            let nowNs = PlatformBench.wallNs()
            var new: [Int64] = []
            var feed: [Int64] = []
            for update in batch.updates {
                guard let reader = try? TickReader(update), let event = reader.eventTimeNs else { continue }
                new.append(nowNs - event)
                feed.append(reader.publishTimeNs - event)
            }
            latencies.withLock { $0 += new }
            feedParts.withLock { $0 += feed }
        }
        defer { stream.cancel() }
        poll(nil, 0, 1000)
        latencies.withLock { $0.removeAll() }
        feedParts.withLock { $0.removeAll() }
        poll(nil, 0, Int32(PlatformBench.waySeconds * 1000))
        let sorted = latencies.withLock { $0 }.sorted()
        guard sorted.count > 1000 else { throw Failure(description: "only \(sorted.count) ticks came") }
        let feed = feedParts.withLock { $0 }.sorted()
        return [
            Double(sorted[sorted.count / 2]) / 1000, Double(sorted[sorted.count * 99 / 100]) / 1000,
            Double(sorted.count) / Double(PlatformBench.waySeconds), Double(feed[feed.count / 2]) / 1000,
            Double(feed[feed.count * 99 / 100]) / 1000,
        ]
    }

    // MARK: fanout

    /// Ticks that each subscriber reads.
    static func fanoutTicks(_ subscribers: Int) -> Int { subscribers > 8 ? 250_000 : 1_000_000 }

    /// How fast the edge gives everything to 1, 8 and 64 subscribers.
    public var fanout: Bench {
        let bench = self
        return Bench(
            name: "fanout",
            method: """
                A log is filled with 1 million ticks of about 95 bytes (250,000 for 64 subscribers); then 1, 8 or 64 \
                subscribers of everything, each with its own connection, begin at its first record by resume token \
                and read as fast as they can: closed loop. rate: messages/s over all receivers, from the first \
                request to the last message; receivers count frames, they do not decode. cpu: CPU ns of the server's \
                process per message, user and system, from the kernel's accounting. Server and clients share the \
                machine's cores.
                """,
            run: { runs, progress in
                var figures: [Figure] = []
                for subscribers in [1, 8, 64] {
                    var rates: [Double] = []
                    var costs: [Double] = []
                    for run in 1...max(1, runs) {
                        let (rate, cost) = try bench.measureFanout(subscribers)
                        rates.append(rate)
                        costs.append(cost)
                        progress("fanout to \(subscribers): run \(run) of \(runs)")
                    }
                    figures.append(
                        Figure(bench: "fanout", figure: "rate_\(subscribers)", unit: "messages/s", samples: rates))
                    figures.append(
                        Figure(bench: "fanout", figure: "cpu_\(subscribers)", unit: "ns/message", samples: costs))
                }
                return figures
            })
    }

    private func measureFanout(_ subscribers: Int) throws -> (rate: Double, cpuNs: Double) {
        let directory = try makeDirectory()
        defer { removeDirectory(directory) }
        let count = PlatformBench.fanoutTicks(subscribers)
        let token = try firstToken(directory)
        try fill(directory, count: count)
        let platform = try start(directory, ["--rate", "1", "--log-ring-mb", "512"])
        defer { platform.stop(false) }
        waitUntilIdle(platform.pid)
        let received = Counter()
        let clients = try (0..<subscribers).map { _ in try MarketDataClient(target: platform.address) }
        defer { for client in clients { client.close() } }
        let cpuBefore = PlatformBench.cpuNs(platform.pid)
        let began = PlatformBench.monotonicNs()
        var subscription = Proto.PriceSubscription()
        subscription.resumeToken = token
        let streams = clients.map { client in
            client.streamPrices(subscription) { batch in
                var messages = 0
                var frames = batch.updates
                while frames.next() != nil { messages += 1 }
                received.value.add(messages, ordering: .relaxed)
            }
        }
        defer { for stream in streams { stream.cancel() } }
        let total = count * subscribers
        while received.value.load(ordering: .relaxed) < total {
            if let end = streams.lazy.compactMap(\.end).first {
                throw Failure(description: "a stream ended: \(end.status)")
            }
            poll(nil, 0, 1)
        }
        let elapsedNs = PlatformBench.monotonicNs() - began
        let cpuNs = PlatformBench.cpuNs(platform.pid) - cpuBefore
        return (Double(total) / Double(elapsedNs) * 1e9, Double(cpuNs) / Double(total))
    }

    private final class Counter: Sendable { let value = Atomic<Int>(0) }

    /// A token for the first record, from the log while it is empty.
    private func firstToken(_ directory: String) throws -> [UInt8] {
        // The venue's own few records come first; a subscriber gets them too.
        let platform = try start(directory, ["--rate", "1"])
        defer { platform.stop(false) }
        let client = try MarketDataClient(target: platform.address)
        defer { client.close() }
        let stream = client.streamPrices(Proto.PriceSubscription()) { _ in }
        defer { stream.cancel() }
        while stream.startToken == nil {
            if let end = stream.end { throw Failure(description: "\(end.status)") }
            poll(nil, 0, 1)
        }
        return stream.startToken ?? []
    }

    private func fill(_ directory: String, count: Int) throws {
        let log = try openLog(directory)
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let lines = (0..<50).map { index in
            (
                encoder: TickEncoder(exchange: "NASDAQ", symbol: "SYM\(index)", feed: "fill"),
                key: builder.register(BlockBuilder.Key(exchange: "NASDAQ", symbol: "SYM\(index)", feed: "fill"))
            )
        }
        let startNs = PlatformBench.wallNs()
        for number in 0..<count {
            let line = lines[number % lines.count]
            let sequence = UInt64(number / lines.count + 1)
            let timeNs = startNs + Int64(number)
            var tick = Tick(kind: .quote, receivedTimeNs: timeNs, publishTimeNs: timeNs, epoch: 1, sequence: sequence)
            tick.bid = 152_370_000_000 + Int64(number % 1000) * 10_000_000
            tick.ask = 152_380_000_000 + Int64(number % 1000) * 10_000_000
            tick.bidSize = 30_000_000_000
            tick.askSize = 20_000_000_000
            tick.eventTimeNs = timeNs
            builder.append(key: line.key, epoch: 1, sequence: sequence, lengthMax: line.encoder.lengthMax) {
                line.encoder.encode(tick, into: $0)
            }
            if builder.byteCount > 64 << 10 { try log.append([builder.build()], consumed: []) }
        }
        if !builder.isEmpty { try log.append([builder.build()], consumed: []) }
        try log.close()
    }

    /// The writer first stores what it finds; that is no part of the fan-out.
    private func waitUntilIdle(_ pid: Int32) {
        var before = PlatformBench.cpuNs(pid)
        for _ in 0..<300 {
            poll(nil, 0, 200)
            let now = PlatformBench.cpuNs(pid)
            if now - before <= 20_000_000 { return }
            before = now
        }
    }

    // MARK: start

    /// How long until a platform serves.
    public var startup: Bench {
        let bench = self
        return Bench(
            name: "start",
            method: """
                From the start of the process to its line that it serves: ready on an empty directory, ready_data on \
                one with 2 million ticks in log and store after a clean stop, ready_killed after kill -9 on the \
                same.
                """,
            run: { runs, progress in
                var samples: [[Double]] = [[], [], []]
                let directory = try bench.makeDirectory()
                defer { bench.removeDirectory(directory) }
                try bench.fill(directory, count: 2_000_000)
                let filled = try bench.start(directory, ["--rate", "1"])
                bench.waitUntilIdle(filled.pid)
                filled.stop(false)
                for run in 1...max(1, runs) {
                    let empty = try bench.makeDirectory()
                    let fresh = try bench.start(empty, [])
                    fresh.stop(false)
                    bench.removeDirectory(empty)
                    let clean = try bench.start(directory, [])
                    clean.stop(true)
                    let killed = try bench.start(directory, [])
                    killed.stop(false)
                    for (index, started) in [fresh, clean, killed].enumerated() {
                        samples[index].append(started.readySeconds * 1000)
                    }
                    progress("start: run \(run) of \(runs)")
                }
                return zip(["ready", "ready_data", "ready_killed"], samples).map {
                    Figure(bench: "start", figure: $0, unit: "ms", samples: $1)
                }
            })
    }

    // MARK: The machine

    static func wallNs() -> Int64 { clock(CLOCK_REALTIME) }
    static func monotonicNs() -> Int64 { clock(CLOCK_MONOTONIC) }

    private static func clock(_ id: clockid_t) -> Int64 {
        var time = timespec()
        clock_gettime(id, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    /// User and system time of a process so far, from /proc; 0 where there is none.
    static func cpuNs(_ pid: Int32) -> Int64 {
        guard let file = fopen("/proc/\(pid)/stat", "r") else { return 0 }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = fread(&bytes, 1, bytes.count, file)
        let text = String(decoding: bytes[..<count], as: UTF8.self)
        // The name in parentheses may hold anything; what follows it is numbers.
        guard let end = text.lastIndex(of: ")") else { return 0 }
        let fields = text[text.index(after: end)...].split(separator: " ")
        guard fields.count > 12, let user = Int64(fields[11]), let system = Int64(fields[12]) else { return 0 }
        return (user + system) * 1_000_000_000 / Int64(sysconf(Int32(_SC_CLK_TCK)))
    }
}
