import EventLog
import EventLoop
import KafkaFrames
import KafkaTestSupport
import MarketModel
import Simulation
import TestSupport
import Testing

@testable import KafkaClient
@testable import KafkaLog

/// What is sent through any weather is in the log once, in order.
@Suite struct SendingTests {
    private static let topics: [Topic] = [.ticksRaw, .booksDeltas]

    /// A sender on the simulated brokers, and what it was given.
    private final class World {
        let loop = SimulatedLoop()
        let brokers: SimulatedBrokers
        let sender: RecordSender
        var given: [TopicPartition: [UInt32]] = [:]
        var failed: Set<UInt32> = []
        /// Those of them that are said not to be in the log.
        var denied: Set<UInt32> = []
        /// When each was given.
        var times: [UInt32: Int64] = [:]
        var settled = 0
        var number: UInt32 = 0
        private var timer: (any LoopTimer)?

        init(seed: UInt64, weather: SimulatedBrokers.Weather, deadlineMs: Int64, recordsMax: Int = 5) {
            brokers = SimulatedBrokers(
                loop, seed: seed, topics: ["t.ticks.raw": 3, "t.books.deltas": 2], weather: weather)
            var options = KafkaClientOptions()
            options.clientID = "test"
            options.handshakeMilliseconds = 2000
            let client = KafkaBrokers(
                brokers.nodes.map(SimulatedBrokers.address), options: options, transport: brokers, loop: loop)
            let machine = ProduceMachine(recordsMax: recordsMax) { _ in deadlineMs * 1_000_000 }
            let loop = loop
            sender = RecordSender(
                machine, client, linger: Linger(2_000_000, recordsMax: recordsMax), name: { "t." + $0.name }
            ) {
                (Int64(loop.nowMilliseconds) * 1_000_000, Int64(loop.nowMilliseconds))
            }
            sender.settled = { [unowned self] in
                for flight in sender.machine.takeFinished() {
                    settled += 1
                    guard let first = flight.firstFailed else { continue }
                    let values = (first...flight.lastFailed).map { World.value(flight.block.payload($0)) }
                    failed.formUnion(values)
                    if !flight.mayBeStored { denied.formUnion(values) }
                }
            }
            timer = loop.repeatTimer(everyMilliseconds: 50) { [unowned self] in sender.tick() }
        }

        static func value(_ bytes: UnsafeRawBufferPointer) -> UInt32 { bytes.loadUnaligned(as: UInt32.self) }

        func append(_ records: Int) {
            let topic = SendingTests.topics[brokers.int(0...1)]
            let place = TopicPartition(topic, UInt16(brokers.int(0...(topic == .ticksRaw ? 2 : 1))))
            let values = (0..<records).map { _ -> [UInt8] in
                number += 1
                given[place, default: []].append(number)
                times[number] = Int64(loop.nowMilliseconds)
                return withUnsafeBytes(of: number) { Array($0) } + [UInt8](repeating: 7, count: brokers.int(0...300))
            }
            sender.machine.add(
                KafkaProducer.Flight(
                    rawBlock(place, symbol: "k", values), KafkaProducer.Ticket(1),
                    Int64(loop.nowMilliseconds) * 1_000_000))
            sender.send()
        }

        /// What a partition's log has.
        func written(_ place: TopicPartition) throws -> [UInt32] {
            let log = try #require(
                brokers.logs[.init(topic: "t." + place.topic.name, partition: Int32(place.partition))])
            var values: [UInt32] = []
            for batch in log.batches {
                try batch.bytes.withUnsafeBytes { bytes in
                    var rest = bytes
                    let batch = try #require(try RecordBatch.next(of: &rest))
                    let start = values.count
                    try KafkaRecord.read(batch, scratch: KafkaBuffer()) { record in
                        #expect(record.key.elementsEqual("k".utf8))
                        values.append(World.value(record.value))
                        if values.count == start + 1 { #expect(record.timestampMs == times[values[start]]) }
                        return true
                    }
                }
            }
            return values
        }

        func run(_ milliseconds: Int) {
            let end = loop.nowMilliseconds + UInt64(milliseconds)
            _ = loop.run(until: { loop.nowMilliseconds >= end })
        }

        func close() {
            timer?.cancel()
            sender.close()
            run(60_000)
        }
    }

    private static func weather(_ seed: UInt64) -> SimulatedBrokers.Weather {
        var random = SeededRandom(seed: seed)
        var weather = SimulatedBrokers.Weather()
        weather.cut = Int.random(in: 0...60, using: &random)
        weather.silent = Int.random(in: 0...1, using: &random) * 10
        weather.errors = Int.random(in: 0...30, using: &random)
        weather.cutOff = Int.random(in: 0...1, using: &random) * 5
        weather.changed = Int.random(in: 0...1, using: &random) * 3
        weather.delayMillisecondsMax = Int.random(in: 0...40, using: &random)
        weather.isTiny = Bool.random(using: &random)
        return weather
    }

    private static func storm(_ world: World, appends: Int) {
        for _ in 0..<appends {
            world.append(world.brokers.int(1...12))
            world.run(world.brokers.int(0...30))
            if world.brokers.happens(8) { world.brokers.move(world.brokers.anyPlace()) }
            if world.brokers.happens(2) {
                let node = world.brokers.nodes[world.brokers.int(0...2)]
                world.brokers.crash(node)
                world.run(world.brokers.int(0...300))
                world.brokers.isDown.remove(node)
            }
        }
        world.brokers.weather = SimulatedBrokers.Weather()
    }

    @Test func `Everything that was given is in the log once, in its order`() throws {
        for seed in UInt64(0)..<UInt64(Checkout.isSoak ? 10_000 : 300) {
            let weather = Self.weather(seed)
            let world = World(seed: seed, weather: weather, deadlineMs: 0)
            Self.storm(world, appends: 60)
            #expect(world.loop.run(until: { world.settled == 60 }, turnsMax: 3_000_000), "seed \(seed)")
            for (place, given) in world.given { #expect(try world.written(place) == given, "seed \(seed), \(place)") }
            #expect(world.failed.isEmpty && world.sender.machine.waitingCount == 0, "seed \(seed)")
            world.close()
            // A broker does not hear of the end of a silent one.
            #expect(weather.silent > 0 || world.brokers.openConnections == 0, "seed \(seed)")
            #expect(world.loop.openTimers == 0, "seed \(seed)")
        }
    }

    @Test(arguments: SimulatedBrokers.Fault.allCases.filter { $0 != .flippedRecord })
    func `An answer that was changed on its way costs its connection, and its batches are in the log once`(
        _ fault: SimulatedBrokers.Fault
    ) throws {
        for seed in UInt64(0)..<10 {
            let world = World(seed: seed, weather: SimulatedBrokers.Weather(), deadlineMs: 0)
            for log in world.brokers.logs.values { log.leader = 1 }
            var kinds: Set<KafkaFailure.Kind> = []
            let watch = world.loop.repeatTimer(everyMilliseconds: 1) {
                if let now = world.sender.brokers.problem { kinds.insert(now.kind) }
            }
            world.append(2)
            #expect(world.loop.run(until: { world.settled == 1 }))
            let connections = world.brokers.connections
            world.brokers.fault = (fault, 0)
            for _ in 0..<20 {
                world.append(3)
                world.run(1)
            }
            let isDone = { world.settled == 21 && !kinds.isEmpty && world.brokers.connections > connections }
            #expect(world.loop.run(until: isDone, turnsMax: 300_000), "seed \(seed)")
            let mayBeSilent = fault == .flippedLength || fault == .hugeLength
            let known: Set<KafkaFailure.Kind> = mayBeSilent ? [.protocol, .silent] : [.protocol]
            #expect(kinds.isSubset(of: known), "seed \(seed): \(kinds)")
            for (place, given) in world.given { #expect(try world.written(place) == given, "seed \(seed), \(place)") }
            #expect(world.failed.isEmpty && world.brokers.faults == 1)
            watch.cancel()
            world.close()
        }
    }

    @Test func `What is past its deadline is given up by name, and the rest is in the log once, in its order`() throws {
        var given = 0
        var lost = 0
        var denied = 0
        for seed in UInt64(0)..<UInt64(Checkout.isSoak ? 10_000 : 300) {
            let world = World(seed: seed, weather: Self.weather(seed), deadlineMs: 1500)
            Self.storm(world, appends: 60)
            #expect(world.loop.run(until: { world.settled == 60 }, turnsMax: 3_000_000), "seed \(seed)")
            for (place, numbers) in world.given {
                let written = try world.written(place)
                #expect(Set(written).count == written.count, "seed \(seed), \(place): twice")
                // One that was given up may have arrived all the same, and late.
                let taken = written.filter { !world.failed.contains($0) }
                #expect(taken == numbers.filter { !world.failed.contains($0) }, "seed \(seed), \(place)")
            }
            given += world.given.values.reduce(0) { $0 + $1.count }
            lost += world.failed.count
            denied += world.denied.count
            world.close()
            for place in world.given.keys {
                #expect(try world.denied.isDisjoint(with: world.written(place)), "seed \(seed), \(place)")
            }
        }
        #expect(lost > 0 && lost < given / 2)
        #expect(denied > 0 && denied < lost)
    }

    @Test func `What is taken back is what was not acknowledged, and can be given again`() throws {
        for seed in UInt64(0)..<100 {
            var weather = Self.weather(seed)
            weather.cutOff = 0
            weather.changed = 0
            let world = World(seed: seed, weather: weather, deadlineMs: 0)
            Self.storm(world, appends: 20)
            let back = world.sender.machine.takeBack()
            let values = back.flatMap { flight, first in
                (first..<flight.block.recordCount).map { World.value(flight.block.payload($0)) }
            }
            #expect(Set(values).count == values.count)
            let all = Set(world.given.values.flatMap { $0 })
            world.run(5000)
            var written: Set<UInt32> = []
            for place in world.given.keys { written.formUnion(try world.written(place)) }
            // Nothing is in neither.
            #expect(written.union(values) == all, "seed \(seed)")
            // The lanes go on.
            world.given = [:]
            let before = world.settled
            for _ in 0..<10 { world.append(3) }
            #expect(world.loop.run(until: { world.settled == before + 10 }, turnsMax: 3_000_000), "seed \(seed)")
            for (place, given) in world.given { #expect(try world.written(place).suffix(given.count) == given[...]) }
            world.close()
        }
    }

    @Test func `A second request waits for the first, and takes all partitions that have something`() {
        let world = World(seed: 1, weather: SimulatedBrokers.Weather(), deadlineMs: 0, recordsMax: 500)
        for log in world.brokers.logs.values { log.leader = 1 }
        world.append(1)
        #expect(world.loop.run(until: { world.settled == 1 }))
        let before = world.brokers.requests[0] ?? 0
        for _ in 0..<200 { world.append(1) }
        #expect(world.loop.run(until: { world.settled == 201 }))
        #expect((world.brokers.requests[0] ?? 0) - before <= 3)
        world.close()
    }

    @Test func `Sequences begin again at 0 after the largest`() {
        #expect(RecordBatchEncoder.sequence(.max, after: 1) == 0)
        #expect(RecordBatchEncoder.sequence(.max - 3, after: 10) == 6)
        #expect(RecordBatchEncoder.sequence(5, after: 10) == 15)
    }
}
