import EventLog
import FeedService
import FileDisk
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketModel
import SegmentLog
import Simulation
import Synchronization
import TestSupport
import Testing
import TickStore
import WriterService

extension KafkaTests {
    /// One input through both logs: what the contract fixes is equal byte for byte.
    @Suite(.serialized) struct ParityTests {
        private static func play(_ log: any EventLog) throws -> FeedCounters {
            let feed = FeedService(
                log: log, time: RealTime(),
                source: .recording(
                    path: SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz"), speed: .maximum)
            ) { _, _ in }
            try feed.run()
            try log.sync()
            return feed.counters
        }

        private static func store(_ log: any EventLog, expecting rows: UInt64) throws -> SimulatedStore {
            let store = SimulatedStore()
            let writer = WriterService(log: log, store: store, time: RealTime()) { _ in }
            let ended = Mutex<Result<Void, any Error>?>(nil)
            Thread.detachNewThread {
                let result = Result { try writer.run() }
                ended.withLock { $0 = result }
            }
            #expect(holds(within: 60) { writer.counters.rows >= rows })
            writer.stop()
            #expect(holds { ended.withLock { $0 != nil } })
            try ended.withLock { $0 }?.get()
            return store
        }

        private static func rows(_ store: SimulatedStore) throws -> [Instrument: [UInt8]] {
            var rows: [Instrument: [UInt8]] = [:]
            for instrument in try store.instruments() {
                try store.scan(instrument, from: .min, to: .max) { batch in
                    rows[instrument, default: []] += Array(batch.frames)
                    return true
                }
            }
            return rows
        }

        /// Records by instrument, in order.
        private static func records(_ log: any EventLog, _ topic: Topic) throws -> [String: [[UInt8]]] {
            var records: [String: [[UInt8]]] = [:]
            for partition in 0..<log.partitionCount(topic) {
                for record in try readAll(log, TopicPartition(topic, UInt16(partition))) {
                    records[record.symbol + " " + record.feed, default: []].append(record.bytes)
                }
            }
            return records
        }

        @Test func `A recording makes the same records, rows, last ticks and days in both modes`() async throws {
            try await apart {
                let topics: [Topic] = [.ticksRaw, .booksDeltas, .ticksRaw.deadLetter]
                let tape = try Tape(topics, partitions: 4)
                let kafka = try tape.open()
                defer { try? kafka.close() }
                let folder = try TemporaryFolder()
                var configuration = SegmentLog.Configuration()
                configuration.diskSharePercent = 100
                configuration.freeBytesMin = 0
                let segments = try SegmentLog(
                    disk: try FileDisk(directory: folder.path), time: RealTime(), configuration: configuration)
                let counters = try ParityTests.play(segments)
                #expect(counters.ticks > 30_000 && counters.bookRecords > 1000)
                #expect(try ParityTests.play(kafka).ticks == counters.ticks)
                for topic in [Topic.ticksRaw, .booksDeltas] {
                    let expected = try ParityTests.records(segments, topic)
                    #expect(!expected.isEmpty)
                    #expect(try ParityTests.records(kafka, topic) == expected)
                }
                let stores = try [segments as any EventLog, kafka].map {
                    try ParityTests.store($0, expecting: counters.ticks)
                }
                let expected = try ParityTests.rows(stores[0])
                #expect(!expected.isEmpty)
                #expect(try ParityTests.rows(stores[1]) == expected)
                for instrument in expected.keys {
                    let latest = try stores.map { try $0.latest(instrument) }
                    #expect(latest[0]?.update == latest[1]?.update)
                    #expect(latest[0]?.day == latest[1]?.day)
                }
                // A feed that plays it again knows what the log has.
                let again = try tape.open()
                defer { try? again.close() }
                let repeated = try ParityTests.play(again)
                #expect(repeated.ticks == 0 && repeated.ticksKnown == counters.ticks)
                try segments.close()
            }
        }
    }
}
