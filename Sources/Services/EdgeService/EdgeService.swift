// The edge: follows the tape on every loop and serves it to clients as `MarketDataService`. Fed by the log (at the
// written point) and, at its start, by the store.

import EventLog
import EventLoop
import GRPC
import MarketProto
import Protobuf
import Synchronization
import TickStore
import TimeSource

/// Serves the market data API. Made and stopped by one thread; everything else happens on the loops.
public final class EdgeService: Sendable {
    private let log: any EventLog
    private let server: GRPCServer
    private let loops: EventLoopGroup
    private let listener: ListenerID
    private let wakers: Mutex<[Waker]>
    private let handlers: [LoopConfined<MarketDataHandlers>]
    private let gauges: [UsageGauge]
    private let reader: StoreReader
    private let orderHandlers: [LoopConfined<OrderHandlers>]
    private let tallies: [EdgeTally]
    private let health: GRPCHealth
    /// Whether there is a venue for orders.
    private let takesOrders: Bool

    /// Reads the last values from the store (this may wait for files), then follows the log on every loop of the group.
    /// Without `orders` the calls that send orders are refused. `faults` are for trying clients. With
    /// `showsConnections`, channelz shows callers who is connected.
    public init(
        log: any EventLog, store: any TickStore, time: any TimeSource, loops: EventLoopGroup, orders: OrderVenue? = nil,
        limits: EdgeLimits = EdgeLimits(), faults: EdgeFaults? = nil, showsConnections: Bool = false,
        server configuration: GRPCServerConfiguration = GRPCServerConfiguration()
    ) throws {
        self.log = log
        self.loops = loops
        let start = try TapeStart(log: log, store: store)
        let reader = StoreReader(store: store)
        self.reader = reader
        let made = Mutex<[ObjectIdentifier: LoopConfined<MarketDataHandlers>]>([:])
        let tapes = Mutex<[LoopConfined<Tape>]>([])
        let tallies = Mutex<[EdgeTally]>([])
        var wakers: [Waker] = []
        var interests: [TapeInterest] = []
        for loop in loops.loops {
            let (waker, interest) = loop.runAndWait { loop in
                let tape = Tape(log: log, loop: loop, start: start, store: reader)
                tapes.withLock { $0.append(LoopConfined(tape)) }
                tallies.withLock { $0.append(tape.tally) }
                let books = BookTape(log: log, loop: loop, interest: tape.interest)
                let handlers = MarketDataHandlers(
                    SubscribeStream.Surroundings(
                        tape: tape, books: books, store: reader, time: time, limits: limits), faults: faults)
                made.withLock { $0[ObjectIdentifier(loop)] = LoopConfined(handlers) }
                return (tape.makeWaker(on: loop, books, time), tape.interest)
            }
            wakers.append(waker)
            interests.append(interest)
        }
        let waking = TapeWaking(interests)
        listener = log.addListener(.ticks, .written, ofBlocks: waking.appended)
        for waker in wakers { waker.wake() }
        self.wakers = Mutex(wakers)
        self.tallies = tallies.withLock { $0 }
        takesOrders = orders != nil
        let health = EdgeService.makeHealth()
        self.health = health
        let tables = made.withLock { $0 }
        let channelz = showsConnections ? GRPCChannelz() : nil
        handlers = loops.loops.compactMap { tables[ObjectIdentifier($0)] }
        gauges = handlers.map(\.value.gauge)
        let orderHandlers = OrderRouting.make(loops: loops.loops, tapes: tapes.withLock { $0 }, venue: orders)
        self.orderHandlers = orderHandlers
        server = GRPCServer(group: loops, configuration: configuration) { loop in
            var table = GRPCServiceTable()
            guard let handlers = tables[ObjectIdentifier(loop)]?.value else { return table }
            table.register(path: Proto.MarketDataService.getQuote.path, unary: handlers.getQuote)
            table.register(path: Proto.MarketDataService.streamPrices.path, serverStreaming: handlers.streamPrices)
            for (index, other) in loops.loops.enumerated() where other === loop {
                orderHandlers[index].value.register(on: &table)
            }
            table.register(path: Proto.MarketDataService.subscribe.path, streaming: handlers.subscribe)
            health.register(on: &table)
            channelz?.register(on: &table)
            do {
                try table.registerReflection(files: [Proto.marketDataFile, Proto.orderServiceFile])
            } catch {
                preconditionFailure("the program's own schema cannot be read: \(error)")
            }
            return table
        }
        channelz?.show(server)
    }

    /// What `grpc.health.v1` is asked for: the server as a whole, and each service.
    private static let healthNames = ["", Proto.MarketDataService.protoName, Proto.OrderService.protoName]

    private static func makeHealth() -> GRPCHealth {
        let health = GRPCHealth()
        for name in healthNames { health.set(.notServing, service: name) }
        return health
    }

    /// Says to those who ask `grpc.health.v1` whether clients should come here; at first they should not. For orders
    /// they never should where there is no venue for them. From any thread.
    public func setServing(_ isServing: Bool) {
        for name in EdgeService.healthNames {
            let isServed = isServing && (takesOrders || name != Proto.OrderService.protoName)
            health.set(isServed ? .serving : .notServing, service: name)
        }
    }

    /// Every method that is served.
    public var methods: [GRPCMethod] { server.methods }

    /// What was left out for readers, and how streams ended. From any thread.
    public var counters: EdgeCounters {
        var counters = EdgeCounters()
        for tally in tallies { tally.add(to: &counters) }
        return counters
    }

    /// What the server holds and has refused. From any thread.
    public var serverCounters: GRPCServerCounters { server.counters }

    /// Binds; port 0 takes a free one. `secure` puts a layer (TLS) between a connection and its bytes. Returns the
    /// address that is served.
    public func listen(
        host: String, port: Int, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil
    ) throws(AddressError) -> (host: String, port: Int) {
        try server.listen(host: host, port: port, secure: secure)
    }

    /// Serves the connections of a socket, which is the edge's from now on.
    public func listen(on socket: ListeningSocket, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil) {
        server.listen(on: socket, secure: secure)
    }

    /// What the slowest stream of everything has still to take, in bytes; nil where there is none. Waits for the loops.
    public func slowestLagBytes() -> UInt64? {
        zip(loops.loops, handlers).compactMap { loop, handlers in
            loop.runAndWait { _ in handlers.value.slowestLagBytes }
        }.max()
    }

    /// What the streams hold for their readers now. Waits for each loop's turn; never on a loop.
    public func usage() -> EdgeUsage {
        var usage = EdgeUsage()
        for (loop, handlers) in zip(loops.loops, handlers) { usage.add(loop.runAndWait { _ in handlers.value.usage }) }
        return usage
    }

    /// The same of each loop, as it was a moment ago: a quarter of a second for each 256 of its streams. From any
    /// thread, without waiting.
    public var recentUsage: [EdgeUsage] { gauges.map(\.value) }

    /// Ends every stream with its token once it has what the tape has, then the connections. Waits, at most as long.
    public func stop(withinMilliseconds milliseconds: Int) {
        health.shutDown()
        for (loop, handlers) in zip(loops.loops, handlers) {
            loop.execute { handlers.value.end() }
        }
        for (loop, handlers) in zip(loops.loops, orderHandlers) {
            loop.execute { handlers.value.end() }
        }
        server.shutdown(withinMilliseconds: milliseconds)
        log.removeListener(listener)
        let wakers = wakers.withLock { wakers in
            defer { wakers = [] }
            return wakers
        }
        for (loop, waker) in zip(loops.loops, wakers) { loop.execute { waker.close() } }
        reader.stop()
    }
}
