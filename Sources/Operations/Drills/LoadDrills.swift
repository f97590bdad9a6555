import EventLog
import EventLoop
import GRPC
import Glibc
import Synchronization

/// What a busy hour and other readers do to feeds and writers.
struct LoadDrills {
    private let cluster: DrilledCluster

    init(_ cluster: DrilledCluster) { self.cluster = cluster }

    /// How much busier than before a market is when it opens.
    private static let openFactor = 20

    /// Twenty times the rate for a while, four writers, then eight, then four: the feed finds room all the time, and
    /// the writers have it all three minutes later.
    func open() throws {
        guard cluster.places.count >= 8 else {
            throw DrillError("open needs 8 partitions, for 8 writers: --partitions 8")
        }
        try cluster.startFeed()
        var writers = try (1...4).map { try cluster.startWriter("writer-\($0)") }
        for writer in writers { try cluster.waitForRows(writer) }
        try cluster.stopFeed()
        let openedNs = Drill.monotonicNs()
        try cluster.startFeed(rate: cluster.setup.rate * LoadDrills.openFactor)
        cluster.progress("\(LoadDrills.openFactor) times the rate")
        for number in 5...8 { writers.append(try cluster.startWriter("writer-\(number)")) }
        for writer in writers.suffix(4) { try cluster.waitForRows(writer) }
        cluster.progress("eight write")
        while Drill.monotonicNs() - openedNs < Int64(cluster.setup.awaySeconds) * 1_000_000_000 {
            Drill.pause(milliseconds: 1000)
            for writer in writers { _ = cluster.rows(writer) }
        }
        let figures = try cluster.stopFeed()
        if let full = figures["tapedeck_produce_queue_full_total"], full > 0 {
            cluster.problem("the feed found no room \(Int(full)) times")
        }
        try cluster.startFeed()
        for writer in writers.suffix(4) {
            try writer.stop()
            cluster.forget(writer)
        }
        let seconds = try cluster.waitUntilStored(seconds: 180)
        cluster.result.recoverySeconds = seconds
        cluster.progress("four have it all after \(LoadDrills.ms(seconds))")
        try cluster.finish()
    }

    /// The slowest of a hundred may take a tenth longer for what others do.
    private static let shareMax = 1.1
    /// Times that rows are timed alone and beside others, in turn: what the machine does meanwhile meets both. Without
    /// a difference between the two, as many slower turns as these have a chance of 1 in 18.
    private static let turnCount = 10
    private static let slowerTurnsMax = 7
    private static let warmUpMilliseconds: Int32 = 10_000

    /// One reader that holds a batch and reads no further, and a group that reads everything from the first record,
    /// again and again: the writer's rows and what an edge sends are as new as before.
    func bystander() throws {
        try cluster.startFeed()
        let writer = try cluster.startWriter("writer")
        try cluster.waitForRows(writer)
        let edge = try cluster.startEdge()
        let client = EventLoop(name: "drill-client")
        defer { client.stop() }
        let channel = try GRPCChannel(target: edge.address, loop: client)
        defer { channel.close() }
        let reader = PromptReader(channel)
        Drill.pause(milliseconds: LoadDrills.warmUpMilliseconds)
        var (alone, beside) = (Windows(), Windows())
        var readCount: UInt64 = 0
        for turn in 1...LoadDrills.turnCount {
            alone.add(try window(writer, reader))
            let bystanders = Bystanders(cluster.setup)
            beside.add(try window(writer, reader))
            let read = try bystanders.stop()
            cluster.progress(
                "turn \(turn) of \(LoadDrills.turnCount): p99 of rows \(LoadDrills.ms(alone.rows.last)) alone, "
                    + "\(LoadDrills.ms(beside.rows.last)) beside \(read) records read by others; of an edge's client "
                    + "\(LoadDrills.ms(alone.client.last)) and \(LoadDrills.ms(beside.client.last))")
            readCount += read
        }
        if readCount == 0 { cluster.problem("the other group read nothing") }
        compare("rows", alone.rows, beside.rows)
        compare("an edge's client", alone.client, beside.client)
        var seen = SlowClientDrill.Result()
        reader.count(into: &seen)
        if seen.lost + seen.repeated > 0 {
            cluster.problem("the edge's client missed \(seen.lost) updates and had \(seen.repeated) twice")
        }
        try edge.stop()
        try cluster.finish()
    }

    /// 99th percentiles of windows, seconds.
    private struct Windows {
        var rows: [Double] = []
        var client: [Double] = []

        mutating func add(_ window: (rows: Double, client: Double)) {
            rows.append(window.rows)
            client.append(window.client)
        }
    }

    private func compare(_ what: String, _ alone: [Double], _ beside: [Double]) {
        let slowerCount = zip(alone, beside).count { $1 > $0 * LoadDrills.shareMax }
        let (alone, beside) = (LoadDrills.median(alone), LoadDrills.median(beside))
        let line =
            "p99 of \(what) was \(LoadDrills.ms(beside)) beside others and \(LoadDrills.ms(alone)) alone (medians), a "
            + "tenth longer in \(slowerCount) of \(LoadDrills.turnCount) turns"
        let isSlower = beside > alone * LoadDrills.shareMax && slowerCount > LoadDrills.slowerTurnsMax
        if isSlower { cluster.problem(line) } else { cluster.progress(line) }
    }

    private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    private static func ms(_ seconds: Double?) -> String { "\(((seconds ?? 0) * 10_000).rounded() / 10) ms" }

    /// Of what comes now, the slowest of a hundred: seconds from event to acknowledged row, and to an edge's client.
    private func window(
        _ writer: StartedService, _ reader: PromptReader
    ) throws -> (rows: Double, client: Double) {
        let before = writer.read()
        _ = reader.takeLatencies()
        Drill.pause(milliseconds: Int32(clamping: max(1, cluster.setup.awaySeconds / LoadDrills.turnCount) * 1000))
        let after = writer.read()
        let client = reader.takeLatencies().percentile(0.99) / 1e6
        _ = cluster.rows(writer)
        guard
            let seconds = MetricsPage.percentile("tapedeck_row_latency_seconds", 0.99, from: before, to: after)
        else { throw DrillError("\(writer.name) stored no rows in a turn") }
        guard client > 0 else { throw DrillError("the edge sent nothing in a turn") }
        return (seconds, client)
    }
}

/// Readers of the drill's log that writers have nothing to do with, each on a thread of its own. They stand for other
/// machines: what they and their clients compute has the lowest priority, what the brokers do for them has not.
private final class Bystanders: Sendable {
    private let isOver = Atomic<Bool>(false)
    private let recordCount = Atomic<UInt64>(0)
    private let failure = Mutex<(any Error)?>(nil)
    private let threads: [EventLoop]

    init(_ setup: ClusterDrill.Setup) {
        threads = [EventLoop(name: "paused-reader"), EventLoop(name: "new-reader")]
        start(threads[0]) { try $0.hold(try setup.openLog()) }
        start(threads[1]) { try $0.readAll(try setup.openLog()) }
    }

    private func start(_ thread: EventLoop, _ body: @escaping @Sendable (Bystanders) throws -> Void) {
        thread.execute { [self] in
            // Of this thread alone, and of those that it starts.
            setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 19)
            do { try body(self) } catch { failure.withLock { $0 = error } }
        }
    }

    /// Records that the new group read.
    func stop() throws -> UInt64 {
        isOver.store(true, ordering: .releasing)
        for thread in threads { thread.stop() }
        if let failure = failure.withLock({ $0 }) { throw failure }
        return recordCount.load(ordering: .relaxed)
    }

    /// Takes a batch of each of its partitions and keeps it.
    private func hold(_ log: any EventLog) throws {
        defer { try? log.close() }
        let group = try log.join(group: "drill-paused", .ticksRaw)
        defer { group.leave() }
        var held: Set<TopicPartition> = []
        while !isOver.load(ordering: .acquiring) {
            for place in try group.partitions() where held.insert(place).inserted {
                let offset = try log.offset(of: .earliest, in: place)
                group.begin(place, at: offset)
                _ = try log.readBlocking(place, at: offset, .durable)
            }
            Drill.pause(milliseconds: 100)
        }
    }

    private func readAll(_ log: any EventLog) throws {
        defer { try? log.close() }
        while true {
            for number in 0..<log.partitionCount(.ticksRaw) {
                let place = TopicPartition(.ticksRaw, UInt16(clamping: number))
                var next = try log.offset(of: .earliest, in: place)
                reading: while true {
                    if isOver.load(ordering: .acquiring) { return }
                    switch try log.readBlocking(place, at: next, .durable) {
                    case .block(let block, let index):
                        recordCount.add(UInt64(block.recordCount - index), ordering: .relaxed)
                        next = block.endOffset
                    case .atEnd, .onDisk: break reading
                    case .expired(let oldest): next = max(oldest, next + 1)
                    case .damaged(let after, _): next = max(after, next + 1)
                    }
                }
            }
        }
    }
}
