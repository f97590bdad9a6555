import EventLog
import FeedService
import MarketModel
import SegmentLog
import SimulatedVenue
import Simulation
import Synchronization
import Testing
import TickCodec

struct SimulatedFeedTests {
    /// Runs the simulated venue for a while of virtual time.
    private func run(_ world: FeedWorld, _ log: SegmentLog, seconds: Int) throws -> FeedCounters {
        var configuration = SimulatedVenue.Configuration()
        configuration.messagesPerSecond = 5000
        let stopTime = StoppingTime(world.time, afterNs: Int64(seconds) * 1_000_000_000)
        let feed = FeedService(log: log, time: stopTime, source: .simulated(configuration)) { _, _ in }
        stopTime.onEnd = { feed.stop() }
        try feed.run()
        return feed.counters
    }

    @Test func `The simulated venue publishes live books of every instrument without a violation`() throws {
        let world = FeedWorld()
        let log = try world.open()
        let counters = try run(world, log, seconds: 10)
        #expect(counters.violations.isEmpty && counters.badMessages == 0)
        #expect((30_000...80_000).contains(counters.messages), "\(counters.messages)")
        let records = try FeedWorld.records(log)
        FeedWorld.check(records)
        var instruments: Set<String> = []
        for record in records {
            record.withUnsafeBytes { bytes in
                guard let reader = try? TickReader(bytes) else { return }
                instruments.insert(
                    String(decoding: reader.exchange, as: UTF8.self) + " "
                        + String(decoding: reader.symbol, as: UTF8.self))
            }
        }
        #expect(instruments.count == 40)
        #expect(instruments.isSuperset(of: ["SIMX AAPL", "SIMX MSFT", "SIMY BTCUSDT", "SIMZ BTCUSDT"]))
    }

    @Test func `Every start of the simulated venue begins a new epoch`() throws {
        let world = FeedWorld()
        let log = try world.open()
        _ = try run(world, log, seconds: 1)
        let first = try #require(log.lastPlace(.ticksRaw, feed: "sim", exchange: "SIMX", symbol: "AAPL"))
        // A clock that went back may not bring an old epoch again.
        world.time.step(wallNs: world.time.wallNs() - 3_600_000_000_000)
        _ = try run(world, log, seconds: 1)
        let second = try #require(log.lastPlace(.ticksRaw, feed: "sim", exchange: "SIMX", symbol: "AAPL"))
        #expect(second.epoch > first.epoch)
        FeedWorld.check(try FeedWorld.records(log))
    }

    @Test(arguments: [true, false])
    func `A feed that is stopped while the log takes nothing asks it again, for as long as it was told`(
        _ comesBack: Bool
    ) throws {
        let world = FeedWorld()
        let log = try world.open()
        let second: Int64 = 1_000_000_000
        let startNs = world.time.monotonicNs()
        let stopTime = StoppingTime(world.time, afterNs: 2 * second)
        var configuration = SimulatedVenue.Configuration()
        configuration.messagesPerSecond = 5000
        let feed = FeedService(
            log: log, time: stopTime, source: .simulated(configuration), stopWaitNs: 8 * second
        ) { _, _ in }
        // Full when it is stopped; two seconds later there is room, or never.
        stopTime.onEnd = { [disk = world.disk, time = world.time] in
            feed.stop()
            disk.setCapacity(bytes: comesBack && time.monotonicNs() >= startNs + 4 * second ? 1 << 30 : 0)
        }
        if comesBack {
            try feed.run()
            #expect(world.time.monotonicNs() >= startNs + 4 * second)
            #expect(try FeedWorld.records(log).count == Int(feed.counters.ticks))
        } else {
            let error = #expect(throws: FeedError.self) { try feed.run() }
            #expect(error?.description.contains("the disk is full") == true, "\(String(describing: error))")
            #expect((10...12).contains((world.time.monotonicNs() - startNs) / second))
        }
        #expect(feed.counters.ticks > 1000)
    }
}
