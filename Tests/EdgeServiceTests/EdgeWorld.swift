import EdgeService
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
import Synchronization
import TapedeckClient
import TickCodec

/// A log on real files, an edge on it, and a client.
final class EdgeWorld {
    let directory: String
    let log: SegmentLog
    let store = SimulatedStore()
    let edge: EdgeService
    let client: MarketDataClient
    let port: Int
    private let encoders: [String: TickEncoder]
    private var sequences: [String: UInt64] = [:]
    private let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
    private var keys: [String: Int] = [:]
    /// Everything published, as encoded, in the order of the log.
    private(set) var published: [[UInt8]] = []

    static let instruments = ["X|AAPL", "X|MSFT", "Y|BTC", "Z|BTC"]

    init(
        limits: EdgeLimits = EdgeLimits(), orders: OrderVenue? = nil,
        server: GRPCServerConfiguration = GRPCServerConfiguration()
    ) throws {
        directory = NSTemporaryDirectory() + "tapedeck-edge-" + UUID().uuidString
        log = try SegmentLog(disk: try FileDisk(directory: directory), time: RealTime())
        edge = try EdgeService(
            log: log, store: store, time: RealTime(), loops: EventLoopGroup(count: 2), orders: orders, limits: limits,
            server: server)
        let bound = try edge.listen(host: "127.0.0.1", port: 0)
        port = bound.port
        client = try MarketDataClient(target: "127.0.0.1:\(bound.port)")
        var encoders: [String: TickEncoder] = [:]
        for name in EdgeWorld.instruments {
            let parts = name.split(separator: "|").map(String.init)
            encoders[name] = TickEncoder(exchange: parts[0], symbol: parts[1], feed: "test")
            keys[name] = builder.register(BlockBuilder.Key(exchange: parts[0], symbol: parts[1], feed: "test"))
        }
        self.encoders = encoders
    }

    deinit {
        client.close()
        edge.stop(withinMilliseconds: 1000)
        try? log.close()
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Appends one block: a trade at a price in whole units of each named instrument, in turn.
    func publish(_ names: [String], price: Int64 = 100, epoch: UInt64 = 1) throws {
        for name in names {
            let sequence = (sequences[name] ?? 0) + 1
            sequences[name] = sequence
            try add(name, sequence: sequence, price: price, epoch: epoch)
        }
        try log.append([builder.build()], consumed: [])
    }

    private func add(_ name: String, sequence: UInt64, price: Int64, epoch: UInt64) throws {
        let nowNs = 1_700_000_000_000_000_000 + Int64(published.count) * 1000
        var tick = Tick(kind: .trade, receivedTimeNs: nowNs, publishTimeNs: nowNs, epoch: epoch, sequence: sequence)
        tick.last = price * 1_000_000_000
        tick.lastSize = 100_000_000
        let encoder = encoders[name]!
        builder.append(key: keys[name]!, epoch: epoch, sequence: sequence, lengthMax: encoder.lengthMax) { buffer in
            let count = encoder.encode(tick, into: buffer)
            published.append(Array(buffer[..<count]))
            return count
        }
    }

    /// Appends what was published before again.
    func repeatLast(_ name: String) throws {
        try add(name, sequence: sequences[name]!, price: 1, epoch: 1)
        published.removeLast()
        try log.append([builder.build()], consumed: [])
    }

    func stream(_ change: (inout Proto.PriceSubscription) -> Void = { _ in }) -> (PriceStream, Received) {
        var subscription = Proto.PriceSubscription()
        subscription.skipSnapshot = true
        change(&subscription)
        let received = Received()
        return (client.streamPrices(subscription) { received.add($0) }, received)
    }

    /// Returns when a stream has begun on the server.
    func waitForStart(_ stream: PriceStream) async {
        while stream.startToken == nil, stream.end == nil { await Task.yield() }
    }
}

/// What a stream brought.
final class Received: Sendable {
    private let messages = Mutex<[[UInt8]]>([])

    func add(_ batch: PriceBatch) {
        let new = batch.updates.map { Array($0) }
        messages.withLock { $0 += new }
    }

    var all: [[UInt8]] { messages.withLock { $0 } }
    var updates: [Proto.PriceUpdate] { get throws { try all.map { try Proto.PriceUpdate(decoding: $0) } } }

    /// Returns once so many have come, or after ten seconds: the test then fails by what it finds.
    func wait(for count: Int) async { await RestartWorld.wait { self.messages.withLock { $0.count } >= count } }
}
