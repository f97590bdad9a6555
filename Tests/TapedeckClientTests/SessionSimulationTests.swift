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

/// What a session brought, by subscription and instrument.
final class SessionLog: Sendable {
    struct Content: Sendable {
        /// Sequences by subscription and symbol, as they came.
        var sequences: [UInt64: [String: [UInt64]]] = [:]
        /// Those that came twice or out of order, or behind some that no update stands for.
        var wrong: [UInt64] = []
        var gaps: [SequenceGap] = []
        var filled: [UInt64: [UInt64]] = [:]
        var fillEnds: [UInt64: Proto.FillEnd] = [:]
        var refusals: [SubscriptionRefusal] = []
        var ended: [UInt64: Proto.SubscriptionEnd] = [:]
        var lost: [UInt64: [Proto.LostRecords]] = [:]
        var interruptions: [TapedeckError] = []
        var resumed = 0
        var end: TapedeckError?
        var isEnded = false
    }
    private let content = Mutex(Content())
    var now: Content { content.withLock { $0 } }

    func add(_ event: SubscriptionEvent) {
        content.withLock { content in
            switch event {
            case .ticks(let id, let batch, _):
                for update in batch.updates {
                    if let last = content.sequences[id]?[update.symbol]?.last {
                        let first = update.conflated?.firstSequence ?? update.sequence
                        if update.sequence <= last || first > last + 1 { content.wrong.append(update.sequence) }
                    }
                    content.sequences[id, default: [:]][update.symbol, default: []].append(update.sequence)
                }
            case .gap(_, let gap): content.gaps.append(gap)
            case .filled(let id, let batch): content.filled[id, default: []] += batch.updates.map(\.sequence)
            case .fillEnded(let id, let end): content.fillEnds[id] = end
            case .refused(let refusal): content.refusals.append(refusal)
            case .ended(let id, let end, _): content.ended[id] = end
            case .lost(let id, let records): content.lost[id] = records
            case .interrupted(let error): content.interruptions.append(error)
            case .resumed: content.resumed += 1
            }
        }
    }

    func end(_ error: TapedeckError?) {
        content.withLock { content in
            content.end = error
            content.isEnded = true
        }
    }

    /// Reads a session to its end.
    nonisolated(nonsending) func read(_ session: PriceSession) async {
        do throws(TapedeckError) {
            for try await event in session { add(event) }
            end(nil)
        } catch {
            end(error)
        }
    }
}

/// A session in virtual time: the reader as it is, edges of one log, and a network between them by seed.
private final class SessionWorld {
    let loop = SimulatedLoop()
    let log = SessionLog()
    let network: SimulatedNetwork
    private let tape: LoopConfined<Tape>
    private let reader: StoreReader
    private let events: SegmentLog
    private let channel: GRPCChannel
    let session: PriceSession
    private var task: Task<Void, Never>?
    private(set) var published: [String: UInt64] = ["A": 0, "B": 0]

    init(seed: UInt64) throws {
        let loop = loop
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        let time = VirtualTime()
        let events = try SegmentLog(disk: SimulatedDisk(seed: seed), time: time, configuration: configuration)
        self.events = events
        let store = SimulatedStore()
        let reader = StoreReader(store: store)
        self.reader = reader
        let tape = Tape(log: events, loop: loop, start: try TapeStart(log: events, store: store), store: reader)
        self.tape = LoopConfined(tape)
        let surroundings = SubscribeStream.Surroundings(
            tape: tape, books: BookTape(log: events, loop: loop), store: reader, time: time, limits: EdgeLimits())
        var weather = SimulatedNetwork.Weather()
        weather.failedNames = 0
        weather.cut = 50
        weather.isTiny = seed % 3 == 0
        var number = seed
        network = SimulatedNetwork(loop, SimulatedStream.SharedRandom(seed: seed), hosts: 3, weather: weather) {
            var configuration = GRPCServerConfiguration()
            number += 1000
            configuration.seed = number
            configuration.http2.ageMilliseconds = weather.isTiny ? 0 : 20_000
            configuration.http2.graceMilliseconds = 1000
            configuration.http2.pingGapMillisecondsMin = 500
            var table = GRPCServiceTable()
            let handlers = MarketDataHandlers(surroundings)
            table.register(path: Proto.MarketDataService.subscribe.path, streaming: handlers.subscribe)
            return GRPCLoopServer(loop: loop, table: table, configuration: configuration)
        }
        // The first connection lasts a while: whoever has never had a stream gives up after four tries.
        network.cuts = [(nil, network.int(1500...8000))]
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
        var backoff = GRPCBackoff()
        backoff.initialMilliseconds = 20
        backoff.maxMilliseconds = 300
        session = PriceSession(channel: channel, backoff: backoff)
    }

    func at(_ milliseconds: Int, _ body: @escaping () -> Void) {
        _ = loop.timer(afterMilliseconds: milliseconds, body)
    }

    func publish(_ symbol: String, _ count: Int) {
        let encoder = TickEncoder(exchange: "X", symbol: symbol, feed: "test")
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: symbol, feed: "test"))
        for _ in 0..<count {
            let sequence = (published[symbol] ?? 0) + 1
            published[symbol] = sequence
            var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 1, epoch: 1, sequence: sequence)
            tick.last = 100_000_000_000
            tick.lastSize = 100_000_000
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
        }
        do {
            try events.append([builder.build()], consumed: [])
        } catch {
            Issue.record("the log takes nothing: \(error)")
        }
        let tape = tape
        loop.execute { while tape.value.drain() {} }
    }

    /// Updates come and servers go for ten seconds, then until a condition holds; false where it never does.
    func run(until condition: (SessionLog.Content) -> Bool) -> Bool {
        let (log, session) = (log, session)
        task = Task(executorPreference: loop) { await log.read(session) }
        for _ in 0..<60 {
            at(network.int(0...10_000)) { [self] in publish(network.int(0...1) == 0 ? "A" : "B", network.int(1...10)) }
        }
        for _ in 0..<network.int(1...5) {
            let host = network.hosts[network.int(0...2)]
            let start = network.int(500...9000)
            let isCrash = network.int(0...1) == 0
            at(start) { [network] in isCrash ? network.crash(host) : network.replace(host) }
            if isCrash { at(start + network.int(1...2000)) { [network] in network.start(host) } }
        }
        return loop.run(
            until: { loop.nowMilliseconds > 12_000 && (log.now.isEnded || condition(log.now)) }, turnsMax: 50_000_000)
    }

    /// Ends the reader, then everything; what is left.
    func finish() -> [String] {
        var problems: [String] = []
        task?.cancel()
        if !loop.run(until: { log.now.isEnded }) { problems.append("the reader does not end") }
        task = nil
        channel.close()
        _ = loop.run(until: { network.servers.allSatisfy { $0.connectionCount + $0.openCallCount == 0 } })
        _ = loop.run { false }
        reader.stop()
        if loop.openTimers > 0 { problems.append("\(loop.openTimers) timers are left") }
        let open = network.servers.reduce(0) { $0 + $1.connectionCount + $1.openCallCount }
        if open > 0 { problems.append("\(open) connections and calls are open at the servers") }
        return problems
    }
}

/// What ``PriceSession`` promises, where every byte's fate is decided by a seed.
@Suite(.timeLimit(.minutes(Checkout.isSoak ? 20 : 2)))
struct SessionSimulationTests {
    @Test func `By seed: through cuts, silence and restarts each subscription has each update once, none is missed`()
        throws
    {
        var interruptions = 0
        var givenUp = 0
        let seeds = Checkout.isSoak ? 1000 : 60
        for seed in 1...UInt64(seeds) {
            let world = try SessionWorld(seed: seed)
            let session = world.session
            world.publish("A", 20)
            world.publish("B", 20)
            let whole = session.add(["A"])
            let latest = session.add(exchange: "X", policy: .latest)
            let changed = session.add(["A", "B"])
            let removed = session.add(["B"])
            var late: UInt64 = 0
            var fill: UInt64 = 0
            world.at(world.network.int(0...9000)) { late = session.add(["B"]) }
            world.at(world.network.int(0...9000)) { session.changePolicy(of: changed, to: .latest) }
            let removal = world.network.int(0...9000)
            world.at(removal) { session.remove(removed) }
            world.at(world.network.int(0...9000)) {
                var range = Proto.FillRange()
                (range.exchange, range.symbol) = ("X", "A")
                (range.firstSequence, range.lastSequence) = (3, 20)
                fill = session.fill([range])
            }
            let isOver = world.run { got in
                let (a, b) = (world.published["A"] ?? 0, world.published["B"] ?? 0)
                return [(whole, "A", a), (latest, "A", a), (latest, "B", b), (changed, "A", a), (late, "B", b)]
                    .allSatisfy {
                        got.sequences[$0.0]?[$0.1]?.last == $0.2
                    } && got.fillEnds[fill] != nil
            }
            #expect(isOver, "seed \(seed): a hang")
            let got = world.log.now
            #expect(world.finish() == [], "seed \(seed)")
            interruptions += got.interruptions.count
            // Who has never had a stream is told after four tries.
            if got.sequences.isEmpty, got.end?.code == .unavailable {
                givenUp += 1
                continue
            }
            #expect(got.end == nil && got.gaps == [] && got.refusals == [], "seed \(seed)")
            #expect(got.wrong == [], "seed \(seed)")
            // From where it began on, one by one; of the others each says what it stands for.
            for (id, symbol) in [(whole, "A"), (late, "B"), (removed, "B")] {
                guard let all = got.sequences[id]?[symbol], let first = all.first, let last = all.last else {
                    #expect(id == removed, "seed \(seed)")
                    continue
                }
                #expect(first >= 20 && all == Array(first...last), "seed \(seed): \(id)")
            }
            #expect(got.filled[fill] == Array(3...20), "seed \(seed)")
            #expect(got.fillEnds[fill]?.results.map(\.count) == [18], "seed \(seed)")
        }
        #expect(givenUp * 20 <= seeds, "\(givenUp)")
        #expect(interruptions > seeds / 2)
    }
}
