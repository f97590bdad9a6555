import EdgeService
import EventLog
import EventLoop
import FaultSchedule
import FeedService
import FileDisk
import GRPC
import Glibc
import HTTP2
import Observability
import RocksStore
import SegmentLog
import SimulatedVenue

/// `tapedeck simulate-edge`: the edge on a market that is the same for a seed, with faults that are the same for it
/// too, for users who test their clients.
struct SimulateEdgeCommand {
    /// Streams whose schedule is printed.
    private static let printedStreams: ClosedRange<UInt64> = 1...8
    private let options: ResolvedOptions
    private let diagnostics: Diagnostics

    init(_ options: ResolvedOptions, _ diagnostics: Diagnostics) {
        self.options = options
        self.diagnostics = diagnostics
    }

    private var schedule: FaultSchedule {
        var rates = FaultRates()
        for (fault, option) in SimulateEdgeCommand.rates { rates[fault] = options.int(option) }
        return FaultSchedule(seed: UInt64(options.int(.seed)), rates: rates)
    }

    private static let rates: [(fault: Fault, option: OptionName)] = [
        (.drop, .drops), (.duplicate, .duplicates), (.reorder, .reorders), (.crossed, .crossed),
        (.oversize, .oversize), (.stall, .stalls), (.reset, .resets), (.goAway, .goaways),
    ]

    /// Runs until a signal, or prints the schedule.
    func run() throws -> ExitCode {
        if let messages = options.optionalInt(.printSchedule) {
            for stream in SimulateEdgeCommand.printedStreams {
                for fault in schedule.faults(stream: stream, messages: UInt64(messages)) { print(fault.json) }
            }
            return .success
        }
        let signals = Signals()
        let scratch = try ScratchDirectory()
        defer { scratch.remove() }
        let edge = try SimulatedEdge(
            directory: scratch.path, schedule: schedule, rate: options.int(.rate),
            stallMilliseconds: options.int(.stallMs)
        ) { applied in
            print(applied.json)
            fflush(nil)
        }
        let address = options.address(.listen)
        let bound = try edge.listen(host: address.host, port: Int(address.port))
        print(
            "{\"ready\":true,\"address\":\"\(Address(host: bound.host, port: UInt16(bound.port)))\","
                + "\"seed\":\(schedule.seed)}")
        fflush(nil)
        diagnostics.log(
            .info, "simulate-edge",
            "serving on \(bound.host):\(bound.port) with faults; each is a line on standard output. End with Ctrl-C")
        while signals.wait(milliseconds: 100) == nil {
            if let failure = edge.failure { throw CommandError(failure) }
        }
        try edge.stop()
        diagnostics.flush()
        return .success
    }
}

/// Feed, log and edge on seeded time. Made and stopped by one thread.
final class SimulatedEdge {
    /// How long what was published can be asked for again.
    private static let retention = SegmentLog.Configuration.Retention(timeNs: 900_000_000_000)
    /// Of the server: the largest message is a fault, and no failure of its own.
    private static let messageBytesMax = 64 << 20
    /// Of connections, about: clients see streams that end well, too, and get tokens.
    private static let ageMilliseconds = 60_000

    private let log: SegmentLog
    private let store: RocksStore
    private let feed: FeedService
    private let feedThread: ServiceThread
    private let edge: EdgeService

    /// `report` is called for each fault that is made, from any thread.
    init(
        directory: String, schedule: FaultSchedule, rate: Int, stallMilliseconds: Int,
        report: @escaping @Sendable (EdgeFaults.Applied) -> Void
    ) throws {
        let time = SystemTime()
        let market = SeededTime(pacedBy: time)
        let files = DataDirectory(path: directory)
        var configuration = SegmentLog.Configuration()
        for topic in [Topic.ticksRaw, .booksDeltas] { configuration.retentions[topic] = SimulatedEdge.retention }
        log = try SegmentLog(disk: try FileDisk(directory: files.log), time: time, configuration: configuration)
        store = try RocksStore(directory: files.store, time: time)
        var venue = SimulatedVenue.Configuration()
        venue.seed = schedule.seed
        venue.messagesPerSecond = rate
        let feed = FeedService(log: log, time: market, source: .simulated(venue)) { _, _ in }
        self.feed = feed
        var faults = EdgeFaults.Configuration(schedule: schedule)
        faults.stallMilliseconds = stallMilliseconds
        var server = GRPCServerConfiguration()
        server.messageBytesMax = SimulatedEdge.messageBytesMax
        server.http2.ageMilliseconds = SimulatedEdge.ageMilliseconds
        edge = try EdgeService(
            log: log, store: store, time: market, loops: EventLoopGroup(count: 1),
            orders: OrderVenue(feed: FeedService.simulatedFeed, time: market),
            faults: EdgeFaults(faults, report: report), server: server)
        feedThread = ServiceThread(name: "feed", ended: { _ in }) { try feed.run() }
    }

    /// Binds; port 0 takes a free one. Returns what is served.
    func listen(host: String, port: Int) throws(AddressError) -> (host: String, port: Int) {
        try edge.listen(host: host, port: port)
    }

    /// Why it cannot go on.
    var failure: String? { log.failure?.message ?? feedThread.failure }

    func stop() throws {
        feed.stop()
        _ = feedThread.join(milliseconds: 5000)
        edge.stop(withinMilliseconds: 500)
        try log.close()
        try store.close()
    }
}
