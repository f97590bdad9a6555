import EdgeService
import EventLog
import EventLoop
import GRPC
import MarketModel
import MarketProto
import SegmentLog
import Simulation
import Testing
import TickCodec

@testable import TapedeckClient

/// An edge on a log in memory that can be stopped and started on its port.
final class EdgeWorld {
    private let log: SegmentLog
    private let store = SimulatedStore()
    private var edge: EdgeService?
    private(set) var port = 0
    private let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
    private let encoder = TickEncoder(exchange: "X", symbol: "A", feed: "test")
    private let key: Int
    private var sequence: UInt64 = 0
    private let faults: EdgeFaults?
    private let server: GRPCServerConfiguration
    private let takesOrders: Bool

    init(
        faults: EdgeFaults? = nil, takesOrders: Bool = false,
        server: GRPCServerConfiguration = GRPCServerConfiguration()
    ) throws {
        self.faults = faults
        self.takesOrders = takesOrders
        self.server = server
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: VirtualTime(), configuration: configuration)
        key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "A", feed: "test"))
        try start()
    }

    func start() throws {
        let edge = try EdgeService(
            log: log, store: store, time: VirtualTime(), loops: EventLoopGroup(count: 1),
            orders: takesOrders ? OrderVenue(feed: "test", time: VirtualTime()) : nil, faults: faults, server: server)
        port = try edge.listen(host: "127.0.0.1", port: port).port
        self.edge = edge
    }

    func stop() {
        edge?.stop(withinMilliseconds: 500)
        edge = nil
    }

    func publish(_ count: Int) throws {
        for _ in 0..<count {
            sequence += 1
            var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 1, epoch: 1, sequence: sequence)
            tick.last = 100_000_000_000
            tick.lastSize = 100_000_000
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
        }
        try log.append([builder.build()], consumed: [])
    }
}

/// The client against the edge itself, through a network that cuts.
@Suite(.timeLimit(.minutes(1)))
struct EdgeTests {
    @Test func `Cuts and restarts while ticks flow lose and repeat nothing`() async throws {
        let world = try EdgeWorld()
        let proxy = try CuttingProxy(to: world.port)
        defer {
            proxy.stop()
            world.stop()
        }
        let client = try ClientTests.client(port: proxy.port)
        defer { client.close() }
        try world.publish(1)
        let log = ClientTests.Log()
        let task = ClientTests.read(client.prices(["A"], exchange: "X"), into: log)
        await ClientTests.wait { log.now.sequences.count == 1 }
        var published = 1
        for round in 1...12 {
            try world.publish(200)
            published += 200
            switch round % 3 {
            case 0:
                world.stop()
                try world.start()
            case 1: proxy.cut()
            default: await ClientTests.wait { log.now.sequences.count >= published - 100 }
            }
        }
        await ClientTests.wait { log.now.sequences.count >= published }
        #expect(log.now.sequences == Array(1...UInt64(published)))
        #expect(log.now.gaps == [])
        #expect(log.now.interruptions.count >= 2)
        task.cancel()
        await task.value
        let quote = try await client.quote("A", exchange: "X")
        #expect(quote.latest?.sequence == UInt64(published))
    }
}
