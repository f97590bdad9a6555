import BookView
import CassandraCQL
import CassandraStore
import EventLog
import FeedService
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketModel
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore
import WriterService

extension ClusterTests {
    /// Books in Cassandra, held against the live ones.
    @Suite(.serialized, .timeLimit(.minutes(4)))
    struct BookTableTests {
        @Test func `A book at any time is a stored one and the changes since`() async throws {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let tape = try Tape([.ticksRaw, .booksDeltas, .booksDeltas.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                let feed = FeedService(
                    log: log, time: RealTime(),
                    source: .recording(
                        path: SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz"), speed: .maximum)
                ) { _, _ in }
                try feed.run()
                try log.sync()
                var configuration = CassandraStoreConfiguration(
                    contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
                configuration.keyspace = "books_test"
                configuration.log = tape.configuration.prefix
                _ = try SchemaTool(configuration, replication: nil).apply()
                let store = try CassandraClassStore(configuration)
                defer { store.close() }
                let writer = ClassWriter(
                    .booksDeltas, log: log, store: store, time: RealTime(), stopsAtLostRecords: true
                ) { _ in }
                let ended = Mutex<Result<Void, any Error>?>(nil)
                Thread.detachNewThread {
                    let result = Result { try writer.run() }
                    ended.withLock { $0 = result }
                }
                let places = (0..<2).map { TopicPartition(.booksDeltas, UInt16($0)) }
                let isStored = try holds(within: 60) {
                    try places.allSatisfy { place in
                        let end = try log.offset(of: .latest, in: place)
                        return try end == 0 || store.nextOffset(place) == end
                    }
                }
                #expect(isStored)
                writer.stop()
                #expect(holds { ended.withLock { $0 != nil } })
                try ended.withLock { $0 }?.get()
                #expect(writer.counters.rows > 0 && writer.counters.deadLetters == 0)
                var compared = 0
                for place in places {
                    let symbols = Set(try readAll(log, place).map(\.symbol))
                    for symbol in symbols { compared += try Self.compareBooks(symbol, log, place, store) }
                }
                #expect(compared >= 20)
                let cassandra = ["--contact-points", "127.0.0.1:\(node.port)", "--keyspace", "books_test"]
                try Self.expectCommand(tape, log, store, places, cassandra)
            }
        }

        /// `tapedeck book` of the built binary: the live book while the log has it, then the stored one of the hour.
        private static func expectCommand(
            _ tape: Tape, _ log: KafkaLog, _ store: CassandraClassStore, _ places: [TopicPartition],
            _ cassandra: [String]
        ) throws {
            let timeNs: Int64 = 1_723_161_420_000_000_000
            let words =
                ["book", "BTCUSDT", "--exchange", "BINANCE", "--at", "2024-08-08T23:57:00Z", "--json"] + [
                    "--brokers", tape.broker.brokers, "--topic-prefix", tape.configuration.prefix,
                ]
            var live = BookReplica()
            for place in places {
                for read in try readAll(log, place) where read.symbol == "BTCUSDT" {
                    var record = BookRecord()
                    try read.bytes.withUnsafeBytes { try record.decode($0) }
                    let filing = FilingTime.of(
                        eventTimeNs: record.head.eventTimeNs, receivedTimeNs: record.head.receivedTimeNs)
                    guard filing.ns <= timeNs else { break }
                    _ = live.apply(record)
                }
            }
            #expect(live.sequence > 100)
            for more in [[], ["--store", "cassandra"] + cassandra] {
                let now = try Program.run(words + more)
                #expect(now.status == 0 && now.output.contains("\"complete\":true"), "\(now)")
                #expect(now.output.contains("\"sequence\":\(live.sequence),"), "\(now)")
            }
            let stored = try #require(
                try store.book(try Instrument(exchange: "BINANCE", symbol: "BTCUSDT"), at: timeNs))
            let admin = try KafkaAdmin(tape.configuration) { _, _ in }
            defer { admin.close() }
            for place in places {
                let end = try log.offset(of: .latest, in: place)
                if end > 0 { try admin.removeRecords(before: [place: end]) }
            }
            let later = try Program.run(words + ["--store", "cassandra"] + cassandra)
            #expect(later.status == 0 && later.output.contains("\"complete\":false"), "\(later)")
            #expect(later.output.contains("\"sequence\":\(stored.sequence),"), "\(later)")
            let gone = try Program.run(words)
            #expect(gone.status == 1 && gone.output.contains("no book of BINANCE|BTCUSDT"), "\(gone)")
        }

        /// At some twenty moments of the tape: the live book, and what the store and the log make of it.
        private static func compareBooks(
            _ symbol: String, _ log: KafkaLog, _ place: TopicPartition, _ store: CassandraClassStore
        ) throws -> Int {
            let records = try readAll(log, place).filter { $0.symbol == symbol }.map { read in
                var record = BookRecord()
                try read.bytes.withUnsafeBytes { try record.decode($0) }
                return record
            }
            func time(_ record: BookRecord) -> Int64 {
                FilingTime.of(eventTimeNs: record.head.eventTimeNs, receivedTimeNs: record.head.receivedTimeNs).ns
            }
            let instrument = try Instrument(exchange: "BINANCE", symbol: symbol)
            var live = BookReplica()
            var compared = 0
            for (index, record) in records.enumerated() {
                _ = live.apply(record)
                guard index % max(records.count / 20, 1) == 0, live.state == .live else { continue }
                // Times have a millisecond in the table.
                guard let stored = try store.book(instrument, at: time(record) + 1_000_000) else {
                    Issue.record("\(symbol): no book at record \(index)")
                    continue
                }
                var made = BookReplica()
                _ = made.apply(stored.record)
                for later in records[...index]
                where later.head.epoch == stored.epoch && later.head.sequence > stored.sequence {
                    _ = made.apply(later)
                }
                #expect(made.sequence == live.sequence && made.epoch == live.epoch)
                #expect(made.bids(1000) == live.bids(1000) && made.asks(1000) == live.asks(1000), "\(symbol) \(index)")
                #expect(!live.bids(1).isEmpty)
                compared += 1
            }
            return compared
        }
    }
}
