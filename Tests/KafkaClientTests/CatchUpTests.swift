import EventLog
import EventLoop
import KafkaTestSupport
import Simulation
import Synchronization
import TestSupport
import Testing
import TimeSource

@testable import KafkaClient
@testable import KafkaFrames
@testable import KafkaLog

/// Readers behind the tip, in virtual time: what each gets, and what is fetched for it.
@Suite struct CatchUpTests {
    private static let place = TopicPartition(.ordersCommands, 0)
    private static let brokerPlace = SimulatedBrokers.Place(topic: Topic.ordersCommands.name, partition: 0)

    /// The loop's time.
    private final class LoopTime: TimeSource {
        let loop: SimulatedLoop

        init(loop: SimulatedLoop) { self.loop = loop }

        func wallNs() -> Int64 { monotonicNs() }
        func monotonicNs() -> Int64 { Int64(loop.nowMilliseconds) * 1_000_000 }
        func sleep(ns: Int64) {}
    }

    /// Fetchers on the simulation's loop.
    private final class Lanes: FetchLanes, @unchecked Sendable {
        let brokers: SimulatedBrokers
        var fetchers: [Int: (fetcher: KafkaFetcher, timer: any LoopTimer)] = [:]

        init(_ brokers: SimulatedBrokers) { self.brokers = brokers }

        func execute(lane: Int, _ body: @escaping (KafkaFetcher) -> Void) {
            let body = LoopConfined(body)
            brokers.loop.execute { [self] in body.value(fetcher(lane)) }
        }

        private func fetcher(_ lane: Int) -> KafkaFetcher {
            if let known = fetchers[lane] { return known.fetcher }
            var options = KafkaClientOptions()
            options.clientID = "test"
            options.handshakeMilliseconds = 2000
            let client = KafkaBrokers(
                brokers.nodes.map(SimulatedBrokers.address), options: options, transport: brokers, loop: brokers.loop)
            let made = KafkaFetcher(client, limits: KafkaFetcher.Limits())
            fetchers[lane] = (made, brokers.loop.repeatTimer(everyMilliseconds: 50) { made.tick() })
            return made
        }

        func error(_ what: String, code: Int32) -> LogError { LogError(.unavailable, "\(what): \(code)") }

        func close() {
            for (fetcher, timer) in fetchers.values {
                timer.cancel()
                fetcher.close()
            }
        }
    }

    /// A partition, and reads of it.
    private final class World {
        let loop = SimulatedLoop()
        let brokers: SimulatedBrokers
        let lanes: Lanes
        let reads: CatchUpReads
        /// What readers may see.
        var visible: [UInt64] = []
        private var encoder = RecordBatchEncoder()
        private var timer: (any LoopTimer)?

        init(seed: UInt64, cacheBytes: Int, waitingMax: Int = 1000, recordsAheadMax: UInt64 = 30) {
            brokers = SimulatedBrokers(loop, seed: seed, topics: [CatchUpTests.brokerPlace.topic: 1])
            lanes = Lanes(brokers)
            let loop = loop
            reads = CatchUpReads(
                lanes, cache: BlockCache(byteCountMax: cacheBytes), time: LoopTime(loop: loop), waitingMax: waitingMax,
                recordsAheadMax: recordsAheadMax, name: { $0.name },
                perform: { job in
                    loop.execute(job)
                    return true
                })
            timer = loop.repeatTimer(everyMilliseconds: 1000) { [unowned self] in reads.tick() }
        }

        /// Batches of records that say their offset, some of transactions that came to nothing, with gaps between.
        func append(batches: Int, hasTransactions: Bool = true) {
            guard let log = brokers.logs[CatchUpTests.brokerPlace] else { return }
            for _ in 0..<batches {
                encoder.begin()
                let count = brokers.int(1...8)
                for index in 0..<count {
                    visible.append(UInt64(log.end) + UInt64(index))
                    let value =
                        withUnsafeBytes(of: UInt64(log.end) + UInt64(index)) { Array($0) }
                        + [UInt8](repeating: 1, count: brokers.int(0...150))
                    value.withUnsafeBytes { encoder.add(key: UnsafeRawBufferPointer(rebasing: $0[..<2]), value: $0) }
                }
                let buffer = KafkaBuffer()
                encoder.end(into: buffer, timestampMs: 1000, producer: KafkaProducerID(id: 5, epoch: 0), sequence: 0)
                log.append([UInt8](buffer.bytes), count: Int64(count))
                // As the marker of a transaction's end would.
                if hasTransactions, brokers.happens(10) { log.end += 1 }
            }
        }

        var end: UInt64 { UInt64(brokers.logs[CatchUpTests.brokerPlace]?.end ?? 0) }

        func run(milliseconds: Int) {
            let end = loop.nowMilliseconds + UInt64(milliseconds)
            _ = loop.run(until: { loop.nowMilliseconds >= end })
        }

        func close() {
            reads.close()
            lanes.close()
            timer?.cancel()
            run(milliseconds: 3000)
        }
    }

    /// Reads on from where it is.
    private final class Reader: @unchecked Sendable {
        private let world: World
        private let pauseMs: ClosedRange<Int>
        var next: UInt64
        var seen: [UInt64] = []
        var errors: [LogError.Code] = []
        /// Reads no further.
        var end: UInt64

        init(_ world: World, from offset: UInt64, to end: UInt64 = .max, pauseMs: ClosedRange<Int> = 0...0) {
            self.world = world
            self.pauseMs = pauseMs
            next = offset
            self.end = end
        }

        func go() {
            guard next < min(end, world.end) else { return }
            world.reads.ask(CatchUpTests.place, at: next, timeoutNs: 600_000_000_000) { [self] result in
                let box = LoopConfined((self, result))
                world.loop.execute { box.value.0.take(box.value.1) }
            }
        }

        private func take(_ result: Result<PartitionCursor.Found, LogError>) {
            switch result {
            case .success(.block(let block)):
                #expect(next < block.endOffset)
                for index in 0..<block.recordCount where block.firstOffset + UInt64(index) >= next {
                    let number = block.payload(index).loadUnaligned(as: UInt64.self)
                    #expect(number == block.firstOffset + UInt64(index))
                    seen.append(number)
                }
                next = block.endOffset
            case .success(.end): next = max(next, world.end)
            case .success(.outOfRange): return errors.append(.lost)
            case .failure(let error):
                errors.append(error.code)
                guard error.code != .closed else { return }
            }
            let pause = world.brokers.int(pauseMs)
            guard pause > 0 else { return go() }
            _ = world.loop.timer(afterMilliseconds: pause) { [self] in go() }
        }
    }

    @Test func `Readers at different places each get every record once, in order, whatever happens to brokers`() {
        for seed in UInt64(0)..<(Checkout.isSoak ? 3000 : 150) {
            let world = World(seed: seed, cacheBytes: [1, 20_000, 1 << 20][Int(seed % 3)])
            let brokers = world.brokers
            world.append(batches: brokers.int(50...400))
            brokers.weather.cut = brokers.int(0...30)
            brokers.weather.errors = brokers.int(0...10)
            brokers.weather.cutOff = brokers.int(0...1) * 5
            brokers.weather.changed = brokers.int(0...1) * 5
            brokers.weather.forgets = brokers.int(0...1) * 20
            brokers.weather.delayMillisecondsMax = brokers.int(0...20)
            let isHasty = brokers.happens(50)
            let readers = (0..<brokers.int(1...12)).map { _ in
                Reader(
                    world, from: UInt64(brokers.int(0...Int(world.end - 1))),
                    pauseMs: isHasty ? 0...0 : 0...brokers.int(0...200))
            }
            let starts = readers.map(\.next)
            for reader in readers { reader.go() }
            for _ in 0..<20 {
                if brokers.happens(20) { brokers.move(Self.brokerPlace) }
                world.run(milliseconds: brokers.int(0...60))
                #expect(world.reads.counters.lanes <= CatchUpReads.lanesMax)
            }
            brokers.weather = SimulatedBrokers.Weather()
            let isDone = { readers.allSatisfy { $0.next > world.visible.last ?? 0 } }
            #expect(world.loop.run(until: isDone, turnsMax: 1_000_000), "seed \(seed)")
            for (reader, start) in zip(readers, starts) {
                #expect(reader.seen == world.visible.filter { $0 >= start }, "seed \(seed), from \(start)")
            }
            world.close()
            #expect(world.loop.openTimers == 0, "seed \(seed)")
            #expect(world.reads.counters.lanes == 0)
        }
    }

    @Test func `Who jumps about does not begin another reader's fetch anew`() {
        let world = World(seed: 1, cacheBytes: 1)
        world.append(batches: 6000, hasTransactions: false)
        let steady = Reader(world, from: 0, to: 4000, pauseMs: 1...3)
        steady.go()
        var jumps: UInt64 = 0
        while steady.next < 4000 {
            let target = 6000 + (jumps * 3001) % 15_000
            let jumping = Reader(world, from: target, to: target + 1)
            jumping.go()
            jumps += 1
            #expect(world.loop.run(until: { jumping.next > target }))
        }
        #expect(jumps > 20)
        #expect(steady.seen == Array(0..<steady.next))
        #expect(world.reads.counters.begins == 1 + jumps)
        world.close()
    }

    @Test func `Readers that are near each other are fetched for once`() {
        func fetches(readers count: Int, cacheBytes: Int) -> (requests: Int, begins: UInt64) {
            let world = World(seed: 3, cacheBytes: cacheBytes, recordsAheadMax: CatchUpReads.recordsAheadMax)
            world.append(batches: 2000)
            let readers = (0..<count).map { (index: Int) -> Reader in
                Reader(world, from: UInt64(index * 40), pauseMs: 0...(index * 2))
            }
            for reader in readers { reader.go() }
            #expect(world.loop.run(until: { readers.allSatisfy { $0.next > world.visible.last ?? 0 } }))
            for (index, reader) in readers.enumerated() {
                #expect(reader.seen == world.visible.filter { $0 >= UInt64(index * 40) })
            }
            defer { world.close() }
            return (world.brokers.requests[1] ?? 0, world.reads.counters.begins)
        }
        let alone = fetches(readers: 1, cacheBytes: 1 << 20)
        let together = fetches(readers: 8, cacheBytes: 2 << 20)
        // Alone each would be as much; a lane that is left had fetched ahead.
        #expect(together.requests <= alone.requests * 4)
        #expect(together.begins <= 8)
    }

    @Test func `A partition is read in few places at once, all get their turn, and lanes are closed when nobody reads`()
    {
        let world = World(seed: 5, cacheBytes: 1)
        world.append(batches: 9000, hasTransactions: false)
        let readers = (UInt64(0)..<20).map { (number: UInt64) -> Reader in
            Reader(world, from: number * 1500, to: number * 1500 + 400)
        }
        for reader in readers { reader.go() }
        var lanesMost = 0
        let isDone = { () -> Bool in
            lanesMost = max(lanesMost, world.reads.counters.lanes)
            return readers.allSatisfy { $0.next >= $0.end }
        }
        #expect(world.loop.run(until: isDone))
        #expect(lanesMost == CatchUpReads.lanesMax)
        #expect(world.lanes.fetchers.count == CatchUpReads.lanesMax)
        world.run(milliseconds: 12_000)
        #expect(world.reads.counters.lanes == 0)
        #expect(world.lanes.fetchers.values.allSatisfy { $0.fetcher.isIdle })
        let requests = world.brokers.requests[1]
        world.run(milliseconds: 5000)
        #expect(world.brokers.requests[1] == requests)
        world.close()
    }

    @Test func `Reads that get no answer in their time are told, and so are those of a log that is closed`() {
        let world = World(seed: 7, cacheBytes: 1, waitingMax: 6)
        world.append(batches: 10)
        for node in world.brokers.nodes { world.brokers.crash(node) }
        let answers = Mutex<[LogError.Code]>([])
        func ask(_ offset: UInt64, seconds: Int64) {
            world.reads.ask(Self.place, at: offset, timeoutNs: seconds * 1_000_000_000) { result in
                if case .failure(let error) = result { answers.withLock { $0.append(error.code) } }
            }
        }
        for offset in 0..<6 { ask(UInt64(offset), seconds: offset < 3 ? 2 : 100) }
        ask(0, seconds: 2)
        world.run(milliseconds: 500)
        #expect(answers.withLock { $0 } == [.io])
        world.run(milliseconds: 4000)
        #expect(answers.withLock { $0 } == [.io, .unavailable, .unavailable, .unavailable])
        world.reads.close()
        ask(0, seconds: 2)
        world.run(milliseconds: 10)
        #expect(answers.withLock { $0.suffix(4) } == [.closed, .closed, .closed, .closed])
        world.close()
    }
}
