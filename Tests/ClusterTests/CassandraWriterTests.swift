import BookView
import CassandraCQL
import CassandraStore
import EventLog
import FeedService
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketModel
import MarketProto
import Protobuf
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore
import WriterService

extension ClusterTests {
    /// `run writer --store cassandra`, a process, between a real broker and a real node.
    @Suite(.serialized, .timeLimit(.minutes(4)))
    struct CassandraWriterTests {
        private static let keyspace = "writer_test"
        private static let partitions = 4
        private static let symbols = (0..<12).map { "SYM\($0)" }

        /// What is published, and what of it has to be in the store.
        private struct Published {
            /// Update by symbol and sequence.
            var rows: [String: [UInt64: [UInt8]]] = [:]
            var poison: [[UInt8]: String] = [:]
            private var next: UInt64 = 1
            private var poisonCount = 0

            /// A tick of any sequence.
            private static func tick(_ sequence: UInt64) -> [UInt8] {
                let encoder = TickEncoder(exchange: "SIMX", symbol: "SYM0", feed: "sim")
                var tick = Tick(
                    kind: .trade, receivedTimeNs: 1_700_000_000_000_000_000, publishTimeNs: 1_700_000_000_000_000_000,
                    epoch: 1, sequence: sequence)
                tick.last = 1_000_000_000
                tick.lastSize = 100_000_000
                return [UInt8](unsafeUninitializedCapacity: encoder.lengthMax) { buffer, count in
                    count = encoder.encode(tick, into: UnsafeMutableRawBufferPointer(buffer))
                }
            }

            /// Ticks of each symbol, some of them a second time, and what no row can hold between them.
            mutating func wave(_ log: KafkaLog, count: UInt64) throws {
                for symbol in symbols {
                    let first = next > 20 ? next - 20 : next
                    let total = Int(next + count - first)
                    try log.append([tickBlock(log, symbol: symbol, from: first, count: total)], consumed: [])
                    for sequence in first..<(next + count) {
                        rows[symbol, default: [:]][sequence] = encodedTick(symbol: symbol, sequence: sequence)
                    }
                }
                next += count
                poisonCount += 1
                let place = TopicPartition(.ticksRaw, UInt16(poisonCount % partitions))
                let large = Published.tick((1 << 40) + UInt64(poisonCount))
                let noise = [0xff, 0xfe] + Array("poison \(poisonCount)".utf8)
                // Names that are not empty, and none.
                let number = UInt64(poisonCount)
                let long = String(repeating: "F", count: 65)
                func bytes(_ tick: [UInt8]) -> [UInt8] {
                    guard let place = tick.firstRange(of: Array("TEXT".utf8)) else { return tick }
                    return Array(tick[..<place.lowerBound]) + [0xc3, 0x28, 0xff, 0xfe]
                        + Array(tick[place.upperBound...])
                }
                for (value, code) in [
                    (large, "SEQUENCE_TOO_LARGE"), (noise, "UNDECODABLE"),
                    (encodedTick(symbol: "A|B\(poisonCount)", sequence: 1), "NO_INSTRUMENT"),
                    (encodedTick(exchange: "SI\nMX", symbol: "POISON", sequence: number), "NO_INSTRUMENT"),
                    (bytes(encodedTick(exchange: "TEXT", symbol: "POISON", sequence: number)), "NO_INSTRUMENT"),
                    (bytes(encodedTick(symbol: "TEXT", sequence: number)), "NO_INSTRUMENT"),
                    (encodedTick(symbol: "POISON", feed: long, sequence: number), "NO_FEED"),
                    (encodedTick(symbol: "POISON", feed: "a\u{7f}b", sequence: number), "NO_FEED"),
                    (bytes(encodedTick(symbol: "POISON", feed: "TEXT", sequence: number)), "NO_FEED"),
                ] {
                    poison[value] = code
                    try log.append([rawBlock(place, symbol: "SYM0", [value])], consumed: [])
                }
                try log.sync()
            }
        }

        private static func store(_ log: KafkaLog, _ port: Int) throws -> CassandraStore {
            var configuration = CassandraStoreConfiguration(
                contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
            configuration.keyspace = keyspace
            configuration.log = String(log.identity.id, radix: 16)
            return try CassandraStore(configuration, time: RealTime())
        }

        /// The updates that the store has, by symbol and sequence; a sequence that is there twice is an issue.
        private static func stored(_ store: CassandraStore) throws -> [String: [UInt64: [UInt8]]] {
            var rows: [String: [UInt64: [UInt8]]] = [:]
            for symbol in symbols {
                var found: [UInt64: [UInt8]] = [:]
                try store.scan(try Instrument(exchange: "SIMX", symbol: symbol), from: .min, to: .max) { batch in
                    for update in frames(batch.frames) {
                        let sequence = sequence(of: update)
                        if found.updateValue(Array(update), forKey: sequence) != nil {
                            Issue.record("\(symbol) has sequence \(sequence) twice")
                        }
                    }
                    return true
                }
                rows[symbol] = found
            }
            return rows
        }

        /// No offset lies past a record that is neither a row nor a dead letter.
        private static func expectNothingSkipped(_ log: KafkaLog, _ port: Int) throws {
            let store = try store(log, port)
            defer { try? store.close() }
            // Offsets first: rows that come later do no harm.
            let places = (0..<partitions).map { TopicPartition(.ticksRaw, UInt16($0)) }
            var through: [TopicPartition: UInt64] = [:]
            for place in places {
                let committed = try log.committedOffset(group: "cassandra-writer", place) ?? 0
                through[place] = max(committed, try store.nextOffset(place) ?? 0)
            }
            let rows = try stored(store)
            for place in places {
                for record in try readAll(log, place) where record.offset < through[place] ?? 0 {
                    guard record.sequence <= TickRowIdentity.sequenceMax, symbols.contains(record.symbol) else {
                        continue
                    }
                    #expect(rows[record.symbol]?[record.sequence] == record.bytes, "\(place) \(record.offset)")
                }
            }
        }

        private static func letters(_ log: KafkaLog) throws -> [Proto.DeadLetter] {
            try (0..<partitions).flatMap { partition in
                try readAll(log, TopicPartition(Topic.ticksRaw.deadLetter, UInt16(partition))).map {
                    try Proto.DeadLetter(decoding: $0.bytes)
                }
            }
        }

        @Test func `Killed at load and started again: each row once, each poison record one letter, no offset too far`()
            async throws
        {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                let broker = try Broker.shared()
                let cluster = ["--brokers", broker.brokers, "--topic-prefix", "cassandra."]
                let cassandra = ["--contact-points", "127.0.0.1:\(node.port)", "--keyspace", Self.keyspace]
                try WriterProgram.tapedeck(["topics", "apply", "--partitions", "\(Self.partitions)"] + cluster)
                try WriterProgram.tapedeck(["schema", "apply"] + cassandra)
                var configuration = KafkaConfiguration(brokers: broker.brokers)
                configuration.prefix = "cassandra."
                configuration.topics = [.ticksRaw, .ticksRaw.deadLetter]
                let log = try KafkaLog(configuration, time: RealTime()) { _, _ in }
                defer { try? log.close() }
                let folder = try TemporaryFolder()
                var published = Published()
                try published.wave(log, count: 2000)
                for round in 0..<4 {
                    let writer = try WriterProgram.start(cluster + cassandra, data: folder.path)
                    for _ in 0..<3 { try published.wave(log, count: 300) }
                    // In the midst of what it has to do, each time elsewhere.
                    RealTime().sleep(ns: 300_000_000 + Int64(round) * 250_000_000)
                    writer.end(SIGKILL)
                    try Self.expectNothingSkipped(log, node.port)
                }
                let writer = try WriterProgram.start(cluster + cassandra, data: folder.path)
                try published.wave(log, count: 300)
                let ends = try (0..<Self.partitions).map { partition in
                    let place = TopicPartition(.ticksRaw, UInt16(partition))
                    return (place, try log.offset(of: .latest, in: place))
                }
                let isStored = try holds(within: 60) {
                    try ends.allSatisfy { place, end in
                        // Another session: a store keeps to itself what it has read once.
                        let store = try Self.store(log, node.port)
                        defer { try? store.close() }
                        return try store.nextOffset(place) == end
                    }
                }
                #expect(isStored)
                // What it has is stored and committed when it has ended.
                #expect(writer.end(SIGTERM) == 0)
                for (place, end) in ends where end > 0 {
                    #expect(try log.committedOffset(group: "cassandra-writer", place) == end)
                }
                let store = try Self.store(log, node.port)
                defer { try? store.close() }
                let rows = try Self.stored(store)
                #expect(rows == published.rows, "\(rows.mapValues(\.count))")
                // What no row can hold is not missing there.
                let verified = try Program.run(["verify", "--store", "cassandra"] + cluster + cassandra)
                #expect(verified.status == 0, "\(verified.output)")
                let instruments = try store.instruments()
                #expect(instruments.count == Self.symbols.count)
                // Each once, with its place and its bytes.
                let letters = try Self.letters(log)
                #expect(letters.count == published.poison.count)
                #expect(Set(letters.map(\.value)) == Set(published.poison.keys))
                for letter in letters {
                    #expect(letter.reasonCode == published.poison[letter.value])
                    #expect(letter.sourceTopic == "ticks.raw" && !letter.reason.isEmpty)
                    let place = TopicPartition(.ticksRaw, UInt16(letter.sourcePartition))
                    let source = try readAll(log, place, from: letter.sourceOffset).first
                    #expect(source?.bytes == letter.value && source?.offset == letter.sourceOffset)
                }
            }
        }
    }
}
