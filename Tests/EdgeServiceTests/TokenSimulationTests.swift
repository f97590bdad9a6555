import EventLog
import EventLoop
import GRPC
import HTTP2
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec

@testable import EdgeService
@testable import TapedeckClient

/// The edge's own streams in virtual time: its tape, its handlers, servers that share them, a network by seed, and the
/// client as it is.
private final class EdgeNetwork {
    static let symbols = ["A", "B", "C"]

    let loop = SimulatedLoop()
    private(set) var network: SimulatedNetwork!
    /// Updates published of each symbol.
    private(set) var published: [String: UInt64] = [:]
    private(set) var publishedAt: [UInt64] = []
    private let log: SegmentLog
    private let tape: Tape
    private let reader: StoreReader
    private let handlers: MarketDataHandlers
    private let channel: GRPCChannel
    private var tasks: [Task<Void, Never>] = []
    private let encoders = Dictionary(
        uniqueKeysWithValues: symbols.map { ($0, TickEncoder(exchange: "X", symbol: $0, feed: "test")) })

    init(seed: UInt64, hosts: Int, weather: SimulatedNetwork.Weather) throws {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: VirtualTime(), configuration: configuration)
        let store = SimulatedStore()
        let loop = loop
        let tape = Tape(log: log, loop: loop, start: try TapeStart(log: log, store: store))
        self.tape = tape
        reader = StoreReader(store: store)
        let handlers = MarketDataHandlers(
            SubscribeStream.Surroundings(
                tape: tape, books: BookTape(log: log, loop: loop), store: reader, time: VirtualTime(),
                limits: EdgeLimits()))
        self.handlers = handlers
        let note = LockedBegins()
        self.note = note
        var number = seed
        let makeServer = { () -> GRPCLoopServer in
            var configuration = GRPCServerConfiguration()
            number += 1000
            configuration.seed = number
            configuration.http2.pingGapMillisecondsMin = 500
            var table = GRPCServiceTable()
            table.register(
                path: Proto.MarketDataService.streamPrices.path,
                serverStreaming: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    note.add(request, loop.nowMilliseconds)
                    handlers.streamPrices(call, request)
                })
            return GRPCLoopServer(loop: loop, table: table, configuration: configuration)
        }
        let network = SimulatedNetwork(
            loop, SimulatedStream.SharedRandom(seed: seed), hosts: hosts, weather: weather, makeServer: makeServer)
        self.network = network
        var options = GRPCChannelOptions()
        options.seed = seed
        options.transport = network
        options.resolver = network
        options.balancing = seed % 2 == 0 ? .roundRobin : .pickFirst
        options.backoff.initialMilliseconds = 50
        options.backoff.maxMilliseconds = 500
        options.resolutionPauseMilliseconds = 200
        options.connection.http2.keepaliveMilliseconds = 1000
        options.connection.http2.keepaliveTimeoutMilliseconds = 500
        channel = try GRPCChannel(target: "dns:///edge.test:1", options: options, loop: loop)
    }

    /// The offsets that subscriptions began at, in the order in which they came, and when; nil: at the tape.
    final class LockedBegins: Sendable {
        private let entries = Mutex<[(offset: UInt64?, milliseconds: UInt64)]>([])

        func add(_ request: UnsafeRawBufferPointer, _ milliseconds: UInt64) {
            guard let subscription = try? Proto.PriceSubscription(decoding: request) else { return }
            let token = try? ResumeToken(decoding: subscription.resumeToken)
            entries.withLock { $0.append((token?.offsets.first?.offset, milliseconds)) }
        }

        var all: [(offset: UInt64?, milliseconds: UInt64)] { entries.withLock { $0 } }
    }

    private let note: LockedBegins
    var subscriptions: [(offset: UInt64?, milliseconds: UInt64)] { note.all }

    func read(_ subscription: Proto.PriceSubscription) -> TickLog {
        var backoff = GRPCBackoff()
        backoff.initialMilliseconds = 20
        backoff.maxMilliseconds = 300
        let events = PriceEvents(channel: channel, subscription: subscription, backoff: backoff)
        let ticks = TickLog()
        tasks.append(
            Task(executorPreference: loop) {
                do throws(TapedeckError) {
                    for try await event in events { ticks.add(event) }
                    ticks.end(nil)
                } catch {
                    ticks.end(error)
                }
            })
        return ticks
    }

    func publish(_ symbols: [String]) throws {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        for symbol in symbols {
            let sequence = published[symbol, default: 0] + 1
            published[symbol] = sequence
            publishedAt.append(loop.nowMilliseconds)
            var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 1, epoch: 1, sequence: sequence)
            tick.last = 100_000_000_000
            tick.lastSize = 100_000_000
            guard let encoder = encoders[symbol] else { continue }
            let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "test"))
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
        }
        try log.append([builder.build()], consumed: [])
        while tape.drain() {}
    }

    func finish() {
        for task in tasks { task.cancel() }
        channel.close()
        _ = loop.run { false }
        reader.stop()
    }
}

/// What a subscription to several symbols brought.
private final class TickLog: Sendable {
    struct Content {
        var sequences: [String: [UInt64]] = [:]
        var gaps: [SequenceGap] = []
        var interruptions = 0
        var end: TapedeckError?
        var isEnded = false
        var tokens = 0
    }
    private let content = Mutex(Content())
    var now: Content { content.withLock { $0 } }

    func add(_ event: PriceEvent) {
        content.withLock { content in
            switch event {
            case .ticks(let batch):
                for update in batch.updates {
                    content.sequences[update.symbol, default: []].append(update.sequence)
                    if !update.resumeToken.isEmpty { content.tokens += 1 }
                }
            case .gap(let gap): content.gaps.append(gap)
            case .interrupted: content.interruptions += 1
            case .resumed: break
            }
        }
    }

    func end(_ error: TapedeckError?) {
        content.withLock { content in
            content.end = error
            content.isEnded = true
        }
    }
}

/// Streams that are cut, not ended: there are no trailers, and the tokens are those that updates brought.
@Suite(.timeLimit(.minutes(Checkout.isSoak ? 20 : 2)))
struct TokenSimulationTests {
    private static func subscription(_ symbols: [String]) -> Proto.PriceSubscription {
        var subscription = Proto.PriceSubscription()
        subscription.symbols = symbols
        subscription.tokenIntervalMs = 200
        return subscription
    }

    @Test(arguments: [[], ["A", "C"]])
    func `By seed: cut at any byte, every update comes once, in order, and the snapshot whole`(_ symbols: [String])
        throws
    {
        var interruptions = 0
        for seed in 1...UInt64(Checkout.isSoak ? 500 : 40) {
            var weather = SimulatedNetwork.Weather()
            weather.failedNames = 0
            weather.cut = 70
            weather.lost = 0
            weather.isTiny = seed % 4 == 0
            let world = try EdgeNetwork(seed: seed, hosts: 2, weather: weather)
            defer { world.finish() }
            let before = world.network.int(0...5)
            for _ in 0..<before { try world.publish(EdgeNetwork.symbols) }
            // The first connection lasts until the subscription has begun; it may be cut within the snapshot.
            world.network.cuts = [(nil, world.network.int(400...3000))]
            let ticks = world.read(Self.subscription(symbols))
            for _ in 0..<100 {
                let count = world.network.int(1...20)
                _ = world.loop.timer(afterMilliseconds: world.network.int(100...10_000)) {
                    let chosen = (0..<count).map { EdgeNetwork.symbols[($0 * 7 + count) % 3] }
                    do { try world.publish(chosen) } catch { Issue.record(error) }
                }
            }
            let wanted = symbols.isEmpty ? EdgeNetwork.symbols : symbols
            let isComplete = {
                let now = ticks.now
                return now.isEnded
                    || wanted.allSatisfy { now.sequences[$0]?.last == world.published[$0] }
            }
            #expect(
                world.loop.run(
                    until: { world.loop.nowMilliseconds > 12_000 && isComplete() }, turnsMax: 50_000_000),
                "seed \(seed): a hang")
            let got = ticks.now
            interruptions += got.interruptions
            // Who has never had a stream is told after four tries.
            if got.isEnded, got.sequences.isEmpty, got.end?.code == .unavailable { continue }
            #expect(got.end == nil, "seed \(seed)")
            #expect(got.gaps == [], "seed \(seed)")
            #expect(got.tokens == 0)
            #expect(Set(got.sequences.keys) == Set(wanted), "seed \(seed)")
            for symbol in wanted {
                // From the snapshot on, which is of the time when the stream began.
                let came = got.sequences[symbol] ?? []
                let expected = Array((came.first ?? 0)...world.published[symbol]!)
                #expect((came.first ?? 0) >= UInt64(max(1, before)), "seed \(seed): \(symbol)")
                #expect(came == expected, "seed \(seed): \(symbol)")
            }
        }
        #expect(interruptions > 40)
    }

    @Test(arguments: [[], ["A"]], [1, 0])
    func `What comes again after a cut is what was sent since the last token`(_ symbols: [String], _ rate: Int) throws {
        var weather = SimulatedNetwork.Weather()
        (weather.cut, weather.silent, weather.lost, weather.failedNames) = (0, 0, 0, 0)
        let world = try EdgeNetwork(seed: 7, hosts: 1, weather: weather)
        defer { world.finish() }
        let ticks = world.read(Self.subscription(symbols))
        // Every 100 ms an update of B, and every 100 ms or once a second one of A; a cut every three seconds. The
        // slowest link carries that.
        var step = 0
        let timer = world.loop.repeatTimer(everyMilliseconds: 100) {
            step += 1
            let names = rate == 1 || step % 10 == 0 ? ["A", "B"] : ["B"]
            do { try world.publish(names) } catch { Issue.record(error) }
            if step % 30 == 0 {
                world.network.crash(world.network.hosts[0])
                world.network.start(world.network.hosts[0])
            }
        }
        #expect(world.loop.run(until: { step >= 400 }, turnsMax: 10_000_000))
        timer.cancel()
        #expect(
            world.loop.run(
                until: { ticks.now.sequences["A"]?.last == world.published["A"] }, turnsMax: 1_000_000))
        let begins = world.subscriptions
        #expect(begins.count >= 10)
        #expect(ticks.now.gaps == [])
        let came = ticks.now.sequences["A"] ?? []
        #expect(came == Array((came.first ?? 0)...world.published["A"]!))
        for begin in begins.dropFirst() {
            // The first stream may have been cut before anything was published.
            guard let offset = begin.offset, offset > 0 else {
                Issue.record("a subscription began anew")
                continue
            }
            // The interval and an update more, the time of the way, and until the client came back.
            let behind = begin.milliseconds - world.publishedAt[Int(offset) - 1]
            #expect(behind <= 200 + 100 + 3 * 30 + 20 + 500, "\(symbols) \(rate): \(behind) ms")
        }
    }
}
