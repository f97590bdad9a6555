import Disk
import EventLog
import EventLoop
import FileDisk
import Foundation
import GRPC
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TapedeckClient
import Testing
import TickCodec
import WriterService

@testable import EdgeService

/// An edge that can be stopped and started on the same log and store, with a clock of its own. The log does its work
/// only when told, so that a test decides what a power cut finds unsynced.
final class RestartWorld {
    enum Medium: CaseIterable {
        case simulated, files
    }

    let simulated: SimulatedDisk
    let time = VirtualTime()
    let store = SimulatedStore()
    private let directory: String?
    private let partitions: Int
    private let change: (inout SegmentLog.Configuration) -> Void
    private(set) var log: SegmentLog!
    private(set) var client: MarketDataClient!
    private var edge: EdgeService?
    private var loops: EventLoopGroup?
    private var port = 0
    private var sequences: [String: UInt64] = [:]
    /// A new one begins with every start of the log, as with a live feed.
    private(set) var epoch: UInt64 = 0

    init(
        _ medium: Medium = .simulated, seed: UInt64 = 1, partitions: Int = 1,
        _ change: @escaping (inout SegmentLog.Configuration) -> Void = { _ in }
    ) throws {
        simulated = SimulatedDisk(seed: seed)
        self.partitions = partitions
        self.change = change
        if medium == .files {
            let path = NSTemporaryDirectory() + "tapedeck-restart-" + UUID().uuidString
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            directory = path
        } else {
            directory = nil
        }
        try startLog()
        try startEdge()
    }

    deinit {
        client?.close()
        edge?.stop(withinMilliseconds: 1000)
        loops?.stop()
        if let directory { try? FileManager.default.removeItem(atPath: directory) }
    }

    func startLog() throws {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        configuration.partitionCounts[.ticksRaw] = partitions
        change(&configuration)
        let disk: any Disk = try directory.map { try FileDisk(directory: $0) } ?? simulated
        log = try SegmentLog(disk: disk, time: time, configuration: configuration)
        epoch += 1
        sequences = [:]
    }

    func startEdge() throws {
        let loops = EventLoopGroup(count: 1)
        self.loops = loops
        let edge = try EdgeService(log: log, store: store, time: time, loops: loops)
        port = try edge.listen(host: "127.0.0.1", port: 0).port
        self.edge = edge
        client = try MarketDataClient(target: "127.0.0.1:\(port)")
    }

    /// Ends every stream with its token.
    func stopEdge() {
        edge?.stop(withinMilliseconds: 2000)
        edge = nil
        loops?.stop()
        loops = nil
        client.close()
    }

    func restartEdge() throws {
        stopEdge()
        try startEdge()
    }

    /// A clean stop of everything and a start.
    func restartAll() throws {
        stopEdge()
        try log.close()
        log = nil
        try startLog()
        try startEdge()
    }

    /// The machine loses power and starts again; the feed begins a new epoch. Only on the simulated disk.
    func losePower() throws {
        stopEdge()
        simulated.crashNow(.powerLoss)
        log = nil
        simulated.restart()
        try startLog()
        try startEdge()
    }

    /// Which partition an instrument's records go to.
    func place(_ symbol: String) -> TopicPartition {
        TopicPartition(.ticksRaw, UInt16(Int(symbol.utf8.last ?? 0) % partitions))
    }

    /// One append with a block per partition: a trade of each named symbol, in turn.
    func publish(_ symbols: [String], exchange: String = "X", price: Int64 = 100) throws {
        var builders: [TopicPartition: BlockBuilder] = [:]
        for symbol in symbols {
            let place = place(symbol)
            let builder = builders[place] ?? BlockBuilder(place)
            builders[place] = builder
            let name = exchange + "|" + symbol
            let sequence = (sequences[name] ?? 0) + 1
            sequences[name] = sequence
            time.advance(ns: 1_000_000)
            var tick = Tick(
                kind: .trade, receivedTimeNs: time.wallNs(), publishTimeNs: time.wallNs(), epoch: epoch,
                sequence: sequence)
            tick.last = price * 1_000_000_000
            tick.lastSize = 100_000_000
            let encoder = TickEncoder(exchange: exchange, symbol: symbol, feed: "test")
            let key = builder.register(BlockBuilder.Key(exchange: exchange, symbol: symbol, feed: "test"))
            builder.append(key: key, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
        }
        try log.append(builders.values.map { $0.build() }, consumed: [])
    }

    /// Syncs, and lets the writer store everything.
    func write() throws {
        try log.sync()
        let writer = WriterService(log: log, store: store, time: time) { _ in }
        writer.stop()
        try writer.run()
    }

    /// A token as a stream that had delivered everything before these offsets would have given.
    func token(_ offsets: [UInt64]) -> [UInt8] {
        ResumeToken(
            logID: log.identity.id, generation: log.identity.generation,
            offsets: offsets.enumerated().map { (UInt16($0.offset), $0.element) }
        ).encoded()
    }

    var ends: [UInt64] { (0..<partitions).map { log.endOffset(TopicPartition(.ticksRaw, UInt16($0)), .written) } }

    /// Records by partition and offset, as encoded.
    func records() throws -> [[[UInt8]]] {
        try (0..<partitions).map { partition in
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            var found: [[UInt8]] = []
            while case .block(let block, let index) = try log.readBlocking(place, at: UInt64(found.count), .written) {
                for record in index..<block.recordCount { found.append(Array(block.payload(record))) }
            }
            return found
        }
    }

    func stream(_ change: (inout Proto.PriceSubscription) -> Void = { _ in }) -> (stream: PriceStream, got: Received) {
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        change(&subscription)
        let received = Received()
        return (client.streamPrices(subscription) { received.add($0) }, received)
    }

    /// The end of a stream that the server ends by itself.
    func end(_ change: (inout Proto.PriceSubscription) -> Void) async throws -> PriceStreamEnd {
        let stream = stream(change).stream
        await RestartWorld.wait { stream.end != nil }
        return try #require(stream.end, "the stream does not end")
    }

    func waitForStart(_ stream: PriceStream) async {
        await RestartWorld.wait { stream.startToken != nil || stream.end != nil }
    }

    /// Returns once the condition holds, or after ten seconds: the test then fails by what it finds.
    static func wait(_ condition: () -> Bool) async {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(10)
        while !condition(), clock.now < end { await Task.yield() }
    }
}
