import EventLog
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import TestSupport
import Testing
import TickStore

@testable import WriterService

struct WriterTests {
    /// A few lives, each ended by a power loss at a random write or sync.
    private func live(seed: UInt64) throws -> WriterWorld {
        let world = WriterWorld(seed: seed)
        try world.start()
        for _ in 0..<5 {
            world.disk.crash(.powerLoss, atOperation: Int.random(in: 5...60, using: &world.random))
            for _ in 0..<40 where !world.disk.isDown {
                switch Int.random(in: 0..<4, using: &world.random) {
                case 0, 1: try? world.feed()
                case 2: world.pump()
                default: world.write()
                }
            }
            world.crash()
            try world.start()
        }
        return world
    }

    @Test func `After power losses at any write, log and store agree and each corrupt record has one letter`() throws {
        let count: UInt64 = Checkout.isSoak ? 10_000 : 200
        for seed in 1...count {
            let differences = try live(seed: seed).differences()
            guard differences.isEmpty else {
                Issue.record("seed \(seed): \(differences)")
                return
            }
        }
    }

    @Test func `A corrupt record goes to the dead letters with its reason and its bytes, and the others are stored`()
        throws
    {
        let world = WriterWorld(seed: 3)
        try world.start()
        for _ in 0..<10 { try world.feed() }
        #expect(try world.differences().isEmpty)
        let log = try #require(world.log)
        let place = TopicPartition(Topic.ticksRaw.deadLetter, 0)
        guard case .block(let block, _) = try log.readBlocking(place, at: 0, .durable) else {
            Issue.record("no dead letters")
            return
        }
        let letter = try Proto.DeadLetter(decoding: block.payload(0))
        #expect(letter.sourceTopic == "ticks.raw")
        #expect(letter.consumer == WriterService.readerName)
        #expect(letter.reasonCode == "UNDECODABLE")
        #expect(!letter.reason.isEmpty)
        guard
            case .block(let source, let index) = try log.readBlocking(
                TopicPartition(.ticksRaw, 0), at: letter.sourceOffset, .durable)
        else {
            Issue.record("the source record is gone")
            return
        }
        #expect(letter.value == Array(source.payload(index)))
    }

    @Test func `A store that fails for a while is tried again, and nothing is lost`() throws {
        let world = WriterWorld(seed: 5)
        try world.start()
        for _ in 0..<10 { try world.feed() }
        try world.log?.sync()
        world.store.fail(with: StoreError(.diskFull, "the disk is full", retryable: true))
        world.write()
        #expect(world.writerFailures == 1)
        world.store.fail(with: nil)
        #expect(try world.store.instruments().isEmpty)
        #expect(try world.differences().isEmpty)
    }

    @Test func `A record whose identity differs from the block's index is refused`() throws {
        let world = WriterWorld(seed: 9)
        try world.start()
        let log = try #require(world.log)
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "SIM", symbol: "AAPL", feed: "test"))
        var update = Proto.PriceUpdate()
        update.exchange = "SIM"
        update.symbol = "MSFT"
        update.feedHandlerId = "test"
        update.epoch = 1
        update.sequence = 1
        update.receivedTime = Timestamp(ns: 1)
        update.publishTime = Timestamp(ns: 1)
        update.encodedBytes().withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: 1, payload: $0) }
        try log.append([builder.build()], consumed: [])
        try log.sync()
        world.write()
        #expect(try world.deadLetters() == [0])
        #expect(try world.store.instruments().isEmpty)
    }

    @Test func `The size of a batch grows while batches come in full, and comes back`() {
        let configuration = WriterConfiguration()
        var size = BatchSize(configuration)
        for (tracks, most) in [(1, 4096), (32, 4096), (100, 12_800), (100_000, 32_768), (1, 4096)] {
            for _ in 0..<20 { size.adapt(full: true, tracks: tracks, applyNs: 1_000_000) }
            #expect(size.rows == most, "\(tracks) tracks")
        }
        for _ in 0..<20 { size.adapt(full: false, tracks: 1, applyNs: 1_000_000) }
        #expect(size.rows == 200 && size.intervalNs == 50_000_000)
        size.adapt(full: false, tracks: 1, applyNs: 400_000_000)
        #expect(size.intervalNs == configuration.batchIntervalNsMax)
    }
}
