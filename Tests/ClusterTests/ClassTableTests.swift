import CassandraCQL
import CassandraStore
import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketProto
import Protobuf
import Simulation
import TestSupport
import Testing
import TickStore

extension ClusterTests {
    /// The writer's other classes, from a real broker into tables of a real node.
    @Suite(.serialized, .timeLimit(.minutes(4)))
    struct ClassTableTests {
        /// Rows of a query by Cassandra's own client.
        private static func rows(_ node: CassandraNode, _ query: String) async throws -> [[String]] {
            let lines = try await node.execute(query).split(separator: "\n")
            return lines.map { $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init) }
        }

        private static func execution(_ number: Int) -> Proto.ExecutionReport {
            var report = Proto.ExecutionReport()
            report.executionId = "E\(number)"
            report.orderId = "O\(number)"
            report.account = "ACC-\(number % 3)"
            report.symbol = "AAPL"
            report.exchange = "XNAS"
            report.side = "BUY"
            report.fillQuantityMicros = Int64(number + 1)
            report.fillPriceMicros = 187_500_000
            // Two in each millisecond: the key has more than the column's time.
            report.executionTime = Timestamp(ns: 1_722_000_000_000_000_000 + Int64(number) * 500_000)
            return report
        }

        private static func lifecycle(_ number: Int) -> [UInt8] {
            var update = Proto.OrderStatusUpdate()
            update.orderId = "O\(number % 5)"
            update.status = number < 5 ? "NEW" : "PARTIAL"
            // Events of one order at one time: their order is the log's.
            update.statusTime = Timestamp(ns: 1_722_000_000_000_000_000)
            update.remainingQuantityMicros = Int64(1000 - number)
            return update.encodedBytes()
        }

        private static func audit(_ number: Int) -> [UInt8] {
            var event = Proto.AuditEvent()
            event.shard = UInt32(number % 2)
            event.sequence = UInt64(number / 2 + 1)
            event.eventTime = Timestamp(ns: 1_722_000_000_000_000_000 + Int64(number))
            event.actor = "alice"
            event.account = "ACC-1"
            event.entityType = "limit"
            event.entityId = "ACC-1/notional"
            event.action = "LIMIT_CHANGED"
            event.before = [UInt8(number)]
            event.after = [UInt8(number + 1)]
            return event.encodedBytes()
        }

        private static func position(_ sequence: UInt64) -> [UInt8] {
            var update = Proto.PositionUpdate()
            update.account = "ACC-1"
            update.exchange = "XNAS"
            update.symbol = "AAPL"
            update.quantityMicros = Int64(sequence) * 100
            update.sequence = sequence
            update.executionTime = Timestamp(ns: 1_722_000_000_000_000_000)
            update.updateTime = Timestamp(ns: 1_722_000_000_000_000_000)
            return update.encodedBytes()
        }

        private static func append(_ log: KafkaLog, _ topic: Topic, key: String, _ values: [[UInt8]]) throws {
            let place = TopicPartition(topic, log.partition(of: topic, exchange: "", symbol: key))
            try log.append([rawBlock(place, symbol: key, values)], consumed: [])
        }

        private static let topics: [Topic] = [.tradesExecuted, .ordersLifecycle, .auditEvents, .positionsUpdates]
        private static let keyspace = "classes_test"

        @Test func `Trades, events and positions reach their tables once, over a kill and a replay of the log`()
            async throws
        {
            let node = try await SharedCassandra.shared.node()
            try await apart { try Self.fill(node.port) }
            try await Self.expectTrades(node)
            try await Self.expectEvents(node)
            let positions = try await Self.rows(
                node, "SELECT account_id, symbol, quantity_micros, sequence FROM classes_test.positions")
            #expect(positions == [["ACC-1", "AAPL", "2000", "20"]])
            // The same records once more from the first: the tables do not change.
            try await node.execute("TRUNCATE classes_test.writer_offsets")
            let before = try await Self.everything(node)
            try await apart { try Self.replay(node.port) }
            #expect(try await Self.everything(node) == before)
        }

        private static func cluster() throws -> [String] {
            ["--brokers", try Broker.shared().brokers, "--topic-prefix", "classes."]
        }

        private static func arguments(_ port: Int) throws -> [String] {
            try cluster() + ["--contact-points", "127.0.0.1:\(port)", "--keyspace", keyspace]
                + WriterProgram.shortSession
        }

        private static func open() throws -> KafkaLog {
            var configuration = KafkaConfiguration(brokers: try Broker.shared().brokers)
            configuration.prefix = "classes."
            configuration.topics = topics + topics.map(\.deadLetter)
            return try KafkaLog(configuration, time: RealTime()) { _, _ in }
        }

        private static func publish(_ log: KafkaLog, _ numbers: Range<Int>) throws {
            for number in numbers {
                let report = Self.execution(number)
                try Self.append(log, .tradesExecuted, key: report.account, [report.encodedBytes()])
            }
            // Twice by their publisher, which the key makes one row of.
            let again = Self.execution(numbers.lowerBound)
            try Self.append(log, .tradesExecuted, key: again.account, [again.encodedBytes(), [0xff, 0xff]])
            for number in numbers where number < 20 {
                try Self.append(log, .ordersLifecycle, key: "O\(number % 5)", [Self.lifecycle(number)])
                try Self.append(log, .auditEvents, key: "\(number % 2)", [Self.audit(number)])
                try Self.append(log, .positionsUpdates, key: "ACC-1|AAPL", [Self.position(UInt64(number) + 1)])
            }
        }

        /// Records and a writer that is killed, more records and another one; it ends when all is committed.
        private static func fill(_ port: Int) throws {
            try WriterProgram.tapedeck(["topics", "apply", "--partitions", "2"] + cluster())
            try WriterProgram.tapedeck([
                "schema", "apply", "--contact-points", "127.0.0.1:\(port)", "--keyspace", keyspace,
            ])
            let log = try open()
            defer { try? log.close() }
            let folder = try TemporaryFolder()
            // Killed at several moments of a start.
            for round in 0..<4 {
                try publish(log, (16 * round)..<(16 * round + 16))
                let killed = try WriterProgram.start(
                    arguments(port) + ["--consistency", "events=QUORUM", "--consistency", "ticks=ONE"],
                    data: folder.path)
                RealTime().sleep(ns: 100_000_000 + Int64(round) * 130_000_000)
                killed.end(SIGKILL)
            }
            try publish(log, 64..<80)
            let writer = try WriterProgram.start(arguments(port), data: folder.path)
            var missing: [String] = []
            let isCommitted = try holds(within: 60) {
                missing = try ends(log).compactMap { place, end in
                    let group = "cassandra-writer.\(place.topic.name)"
                    let committed = try log.committedOffset(group: group, place)
                    return committed == end ? nil : "\(place) at \(committed ?? 0) of \(end)"
                }
                return missing.isEmpty
            }
            #expect(isCommitted, "\(missing)")
            #expect(writer.end(SIGTERM) == 0)
            #expect(try letters(log) == 5)
        }

        private static func letters(_ log: KafkaLog) throws -> Int {
            try (0..<2).reduce(0) { count, partition in
                try count + readAll(log, TopicPartition(Topic.tradesExecuted.deadLetter, UInt16(partition))).count
            }
        }

        /// The end of each partition that has records.
        private static func ends(_ log: KafkaLog) throws -> [(place: TopicPartition, end: UInt64)] {
            try topics.flatMap { topic in
                try (0..<2).compactMap { partition in
                    let place = TopicPartition(topic, UInt16(partition))
                    let end = try log.offset(of: .latest, in: place)
                    return end == 0 ? nil : (place, end)
                }
            }
        }

        /// Has the groups begin with the first record again, and a writer write it all.
        private static func replay(_ port: Int) throws {
            for topic in topics {
                let reset = ["groups", "reset", "cassandra-writer.\(topic.name)", "--by", "-1h", "--topic", topic.name]
                // A member that keeps its name stays in its group for a session.
                #expect(try holds { try Program.run(reset + ["--yes"] + cluster()).status == 0 })
            }
            let log = try open()
            defer { try? log.close() }
            var rows = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
            rows.keyspace = keyspace
            rows.log = String(log.identity.id, radix: 16)
            let store = try CassandraClassStore(rows)
            defer { store.close() }
            let folder = try TemporaryFolder()
            let writer = try WriterProgram.start(arguments(port), data: folder.path)
            let isWritten = try holds(within: 60) {
                try ends(log).allSatisfy { place, end in try store.nextOffset(place) == end }
            }
            #expect(isWritten)
            #expect(writer.end(SIGTERM) == 0)
            // A letter that was written is not written again.
            #expect(try letters(log) == 5)
        }

        private static func expectTrades(_ node: CassandraNode) async throws {
            let trades = try await rows(
                node,
                "SELECT account_id, execution_id, quantity_micros, trade_id, writetime(quantity_micros) "
                    + "FROM classes_test.trade_executions")
            #expect(trades.count == 80 && Set(trades.map { $0[3] }).count == 80)
            for row in trades {
                let number = try #require(Int(row[1].dropFirst()))
                #expect(row[0] == "ACC-\(number % 3)" && row[2] == "\(number + 1)")
                #expect(row[4] == "\(1_722_000_000_000_000 + number * 500)")
            }
        }

        private static func expectEvents(_ node: CassandraNode) async throws {
            let events = try await rows(
                node,
                "SELECT sequence, chain_hash, payload FROM classes_test.event_store WHERE entity_type = 'order' "
                    + "AND entity_id = 'O3' AND day = '2024-07-26'")
            #expect(events.count == 4)
            let sequences = events.compactMap { Int($0[0]) }
            #expect(sequences == sequences.sorted() && Set(sequences).count == 4)
            let audited = try await rows(
                node,
                "SELECT event_type, payload, metadata['actor'], metadata['shard'], metadata['shard_sequence'] "
                    + "FROM classes_test.event_store WHERE entity_type = 'limit' AND entity_id = 'ACC-1/notional' "
                    + "AND day = '2024-07-26'")
            // By their times.
            #expect(audited.map { bytes($0[1]) } == (0..<20).map(audit))
            #expect(Set(audited.map { $0[0] + " " + $0[2] }) == ["LIMIT_CHANGED alice"])
            #expect(audited.map { [$0[3], $0[4]] } == (0..<20).map { ["\($0 % 2)", "\($0 / 2 + 1)"] })
            // A chain for each partition of the log, in the order of its offsets.
            let all = try await rows(
                node,
                "SELECT metadata['partition'], sequence, chain_hash, payload, metadata['topic'] "
                    + "FROM classes_test.event_store")
            #expect(all.count == 40 && Set(all.map { $0[4] }) == ["orders.lifecycle", "audit.events"])
            for place in Set(all.map { [$0[4], $0[0]] }) {
                var hash = CassandraClassStore.chainStart
                let chain = all.filter { [$0[4], $0[0]] == place }.sorted { Int($0[1]) ?? 0 < Int($1[1]) ?? 0 }
                for row in chain {
                    hash = CassandraClassStore.link(hash, bytes(row[3]))
                    #expect(bytes(row[2]) == hash)
                }
            }
            #expect(Set(all.map { bytes($0[3]) }) == Set((0..<20).map(lifecycle) + (0..<20).map(audit)))
        }

        private static func everything(_ node: CassandraNode) async throws -> [[String]] {
            try await rows(node, "SELECT * FROM classes_test.trade_executions")
                + rows(node, "SELECT * FROM classes_test.event_store")
                + rows(node, "SELECT * FROM classes_test.positions")
        }

        private static func bytes(_ text: String) -> [UInt8] {
            let digits = Array(text.hasPrefix("0x") ? text.dropFirst(2) : Substring(text))
            return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
                UInt8(String(digits[$0...($0 + 1)]), radix: 16)
            }
        }
    }
}
