import EventLog
import KafkaTestSupport
import Simulation
import Synchronization
import TestSupport
import Testing
import TimeSource

@testable import KafkaLog

extension KafkaTests {
    /// What `kafka_produce_latency_seconds` is made of.
    @Suite struct ProduceLatencyTests {
        /// The machine's clocks until it is stopped; then what it is set to.
        private final class StoppableTime: TimeSource {
            private let real = RealTime()
            private let stoppedNs = Mutex<Int64?>(nil)

            func stop() { stoppedNs.withLock { $0 = real.monotonicNs() } }
            func advance(ns: Int64) { stoppedNs.withLock { $0 = ($0 ?? 0) + ns } }
            func wallNs() -> Int64 { real.wallNs() }
            func monotonicNs() -> Int64 { stoppedNs.withLock { $0 } ?? real.monotonicNs() }
            func sleep(ns: Int64) { real.sleep(ns: ns) }
        }

        @Test func `Each acknowledged block counts once, under what it took from its append`() async throws {
            try await apart {
                let tape = try Tape(partitions: 2)
                let time = StoppableTime()
                var configuration = tape.configuration
                configuration.producer.lingerNsMax = 0
                let log = try KafkaLog(configuration, time: time) { _, _ in }
                defer { try? log.close() }
                func figures() throws -> KafkaCounters.Produced { try #require(log.counters.produced[.ticksRaw]) }
                func append(_ from: UInt64, symbols: [String]) throws {
                    try log.append(symbols.map { tickBlock(log, symbol: $0, from: from, count: 600) }, consumed: [])
                }
                try append(1, symbols: ["AAPL"])
                try append(601, symbols: ["AAPL", "MSFT", "TSLA"])
                try log.sync()
                let before = try figures()
                // Blocks of more records than a batch has count once all the same.
                #expect(before.latency.counts.reduce(0, +) == 4 && before.acknowledged == 2400)
                #expect(before.latencyNsMost > 0 && before.latency.sumNs >= UInt64(before.latencyNsMost))
                time.stop()
                var counted = before.latency
                for (round, ms) in [300, 1, 0, 7000].enumerated() {
                    try tape.broker.pause()
                    try append(1201 + UInt64(round) * 600, symbols: ["AAPL", "MSFT"])
                    time.advance(ns: Int64(ms) * 1_000_000)
                    try tape.broker.command("resume", "1")
                    try log.sync()
                    for _ in 0..<2 { counted.add(Int64(ms) * 1_000_000) }
                    #expect(try figures().latency == counted, "\(ms) ms")
                }
                #expect(try figures().latencyNsMost == 7_000_000_000)
            }
        }
    }
}
