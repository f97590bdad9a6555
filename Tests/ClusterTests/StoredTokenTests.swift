import CassandraCQL
import CassandraStore
import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketModel
import MarketProto
import Protobuf
import Simulation
import Synchronization
import TapedeckClient
import TestSupport
import Testing
import TickCodec
import TickStore
import WriterService

extension ClusterTests {
    /// Tokens of which Kafka has no more, and Cassandra has: an edge that runs as a process, as a user runs it.
    @Suite(.serialized, .timeLimit(.minutes(5))) struct StoredTokenTests {
        private static let place = TopicPartition(.ticksRaw, 0)

        private static func store(_ node: CassandraNode, _ keyspace: String, _ log: any EventLog) throws
            -> CassandraStore
        {
            var configuration = CassandraStoreConfiguration(
                contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
            configuration.keyspace = keyspace
            configuration.limits.openMilliseconds = 30_000
            configuration.limits.flushIntervalNs = 100_000_000
            configuration.log = String(log.identity.id, radix: 16)
            _ = try SchemaTool(configuration, replication: nil).apply()
            return try CassandraStore(configuration, time: RealTime())
        }

        /// A writer at work while `body` runs, which then stores what there is.
        private static func withWriter(
            _ log: any EventLog, _ store: CassandraStore, _ body: () throws -> Void
        ) throws {
            let writer = WriterService(log: log, store: store, time: RealTime()) { _ in }
            let ended = DispatchSemaphore(value: 0)
            Thread.detachNewThread {
                do { try writer.run() } catch { Issue.record("\(error)") }
                ended.signal()
            }
            defer {
                writer.stop()
                ended.wait()
            }
            try body()
            #expect(try holds { try store.nextOffset(place) ?? 0 >= log.offset(of: .latest, in: place) })
        }

        /// Appends a tick now and then until retention has taken all up to an offset; the next sequence.
        private static func expire(_ log: KafkaLog, through offset: UInt64, _ sequence: UInt64) throws -> UInt64 {
            var sequence = sequence
            #expect(
                try holds(within: 60) {
                    try log.append([tickBlock(log, from: sequence, count: 1)], consumed: [])
                    try log.sync()
                    sequence += 1
                    RealTime().sleep(ns: 200_000_000)
                    return try log.offset(of: .earliest, in: place) >= offset
                })
            return sequence
        }

        private static func edge(_ node: CassandraNode, _ tape: Tape, _ keyspace: String) throws -> ServiceProcess {
            try ServiceProcess([
                "edge", "--listen", "127.0.0.1:0", "--loops", "1", "--store", "cassandra", "--contact-points",
                "127.0.0.1:\(node.port)", "--keyspace", keyspace, "--brokers", tape.broker.brokers,
                "--topic-prefix",
                tape.configuration.prefix,
            ])
        }

        /// Another process learns what is held, all from one offset to the end, and where it is filed. Returns the
        /// first.
        private static func expectHeld(_ node: CassandraNode, _ log: any EventLog, _ end: UInt64) throws -> UInt64 {
            let reader = try store(node, "token_gone", log)
            defer { try? reader.close() }
            try reader.refreshHeldOffsets()
            let held = reader.heldOffsets(place).ranges
            #expect(held.count == 1 && held.first?.upperBound == end, "\(held)")
            let first = try #require(held.first?.lowerBound)
            let wanted = (first + 20)..<(first + 25)
            let runs = try reader.filed(place, wanted)
            for offset in wanted {
                // Sequences are offsets and one, and filing times sequences after a moment.
                let time = 1_700_000_000_000_000_000 + Int64(offset + 1)
                let run = runs.first { $0.offsets.contains(offset) }
                #expect(run?.times.ranges.contains { $0.contains(time) } == true, "\(offset): \(runs)")
            }
            return first
        }

        @Test func `A token resumes from Cassandra after Kafka's retention, and says what is missing`() async throws {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter, .booksDeltas])
                try tape.keepTicks(milliseconds: 1000)
                let log = try tape.open()
                defer { try? log.close() }
                // What no writer had before it went.
                try log.append([tickBlock(log, from: 1, count: 40)], consumed: [])
                try log.sync()
                var next = try Self.expire(log, through: 40, 41)
                try tape.keepTicks(milliseconds: 600_000)
                let store = try Self.store(node, "token_gone", log)
                try Self.withWriter(log, store) {
                    try log.append([tickBlock(log, from: next, count: 200)], consumed: [])
                    try log.sync()
                    next += 200
                    let end = try log.offset(of: .latest, in: Self.place)
                    #expect(try holds { try store.nextOffset(Self.place) ?? 0 >= end })
                    try tape.keepTicks(milliseconds: 1000)
                    next = try Self.expire(log, through: end, next)
                }
                try store.close()
                let end = next - 1

                let first = try Self.expectHeld(node, log, end)
                #expect(first >= 40)
                let from = first + 20
                let edge = try Self.edge(node, tape, "token_gone")
                let client = try MarketDataClient(target: try #require(edge.address))
                defer { client.close() }
                let came = Mutex<[UInt64]>([])
                func stream(_ offset: UInt64) -> PriceStream {
                    var subscription = Proto.PriceSubscription()
                    subscription.resumeToken = resumeToken(log, [offset])
                    return client.streamPrices(subscription) { batch in
                        let sequences = batch.updates.map { sequence(of: $0) }
                        came.withLock { $0 += sequences }
                    }
                }
                // The edge has asked what is held by then.
                var stored = stream(from)
                #expect(
                    holds {
                        if came.withLock({ $0.contains(end) }) { return true }
                        if stored.end != nil { stored = stream(from) }
                        RealTime().sleep(ns: 200_000_000)
                        return false
                    })
                let sequences = came.withLock { $0 }
                #expect(Set(sequences).isSuperset(of: (from + 1)...end), "\(sequences)")
                #expect(stored.fromStore.first?.hasPrefix("ticks.raw/0 \(from)-") == true, "\(stored.fromStore)")

                let lost = stream(5)
                #expect(holds { lost.end != nil })
                #expect(lost.end?.missing == ["ticks.raw/0 5-\(first) expired"], "\(String(describing: lost.end))")
                #expect(edge.end() == 0)
            }
        }

        /// A client's streams one after the other, and the sequences that the latest one brought.
        private final class Reader: Sendable {
            private let client: MarketDataClient
            private let came = Mutex<[UInt64]>([])

            init(_ edge: ServiceProcess) throws { client = try MarketDataClient(target: try #require(edge.address)) }

            var sequences: [UInt64] { came.withLock { $0 } }

            func stream(from token: [UInt8]) -> PriceStream {
                came.withLock { $0 = [] }
                var subscription = Proto.PriceSubscription()
                subscription.skipSnapshot = true
                subscription.resumeToken = token
                return client.streamPrices(subscription) { [weak self] batch in
                    let sequences = batch.updates.map { sequence(of: $0) }
                    self?.came.withLock { $0 += sequences }
                }
            }

            func close() { client.close() }
        }

        /// Ticks come while a client reads, and after it; its token is what its stream ended with.
        private static func readLive(
            _ node: CassandraNode, _ tape: Tape, _ append: (_ from: UInt64, _ count: Int) throws -> Void
        ) throws -> [UInt8] {
            try append(1, 100)
            let edge = try Self.edge(node, tape, "token_live")
            let reader = try Reader(edge)
            defer { reader.close() }
            let live = reader.stream(from: [])
            #expect(holds { live.startToken != nil })
            try append(101, 50)
            #expect(holds { reader.sequences == Array(101...150) })
            #expect(edge.end() == 0)
            #expect(holds { live.end != nil })
            try append(151, 100)
            return try #require(live.end?.resumeToken)
        }

        @Test
        func
            `A live stream's token resumes from Cassandra when the log has no more, and what neither has is named`()
            async throws
        {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter, .booksDeltas])
                let log = try tape.open()
                defer { try? log.close() }
                func append(_ from: UInt64, _ count: Int) throws {
                    try log.append([tickBlock(log, from: from, count: count)], consumed: [])
                    try log.sync()
                }
                let store = try Self.store(node, "token_live", log)
                var token: [UInt8] = []
                try Self.withWriter(log, store) { token = try Self.readLive(node, tape, append) }
                try store.close()
                // Of these no writer had the first ten before they went.
                try append(251, 20)
                let admin = try KafkaAdmin(tape.configuration) { _, _ in }
                defer { admin.close() }
                try admin.removeRecords(before: [Self.place: 260])
                #expect(try log.offset(of: .earliest, in: Self.place) == 260)

                let edge = try Self.edge(node, tape, "token_live")
                let reader = try Reader(edge)
                defer { reader.close() }
                var stream = reader.stream(from: token)
                // The edge has asked what is held by then.
                #expect(
                    holds {
                        guard let end = stream.end else { return false }
                        if end.missing == ["ticks.raw/0 250-260 expired"] { return true }
                        stream = reader.stream(from: token)
                        return false
                    }, "\(String(describing: stream.end))")
                #expect(Set(reader.sequences).isSuperset(of: 151...250) && reader.sequences.allSatisfy { $0 <= 250 })
                #expect(stream.fromStore.first?.hasPrefix("ticks.raw/0 150-") == true, "\(stream.fromStore)")
                let rest = reader.stream(from: try #require(stream.end?.resumeToken))
                #expect(holds { reader.sequences == Array(261...270) }, "\(reader.sequences)")
                #expect(rest.end == nil)
                #expect(edge.end() == 0)
            }
        }
    }
}
