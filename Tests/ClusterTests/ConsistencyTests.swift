import CQLFrames
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
import TestSupport
import Testing
import TickStore

extension ClusterTests {
    /// With how many copies each class is written and read: what the built writer, edge and `verify` say on the wire.
    @Suite(.serialized, .timeLimit(.minutes(4)))
    struct ConsistencyTests {
        private static let keyspace = "levels_test"
        private static let topics: [Topic] = [
            .ticksRaw, .booksDeltas, .tradesExecuted, .ordersLifecycle, .auditEvents, .positionsUpdates,
        ]

        /// Records of each class, `round` after `round`.
        private struct Published {
            var round = 0

            mutating func publish(_ log: KafkaLog) throws {
                round += 1
                try log.append([tickBlock(log, from: UInt64(round * 100), count: 50)], consumed: [])
                try append(log, .booksDeltas, "XNAS|AAPL", book())
                try append(log, .tradesExecuted, "ACC-1", trade())
                try append(log, .ordersLifecycle, "O1", status())
                try append(log, .auditEvents, "0", audit())
                try append(log, .positionsUpdates, "ACC-1|AAPL", position())
                try log.sync()
            }

            private var time: WellKnown.Timestamp { Timestamp(ns: 1_722_000_000_000_000_000 + Int64(round)) }

            private func append(_ log: KafkaLog, _ topic: Topic, _ key: String, _ value: [UInt8]) throws {
                try log.append([rawBlock(TopicPartition(topic, 0), symbol: key, [value])], consumed: [])
            }

            private func book() -> [UInt8] {
                var delta = Proto.BookDelta()
                delta.exchange = "XNAS"
                delta.symbol = "AAPL"
                delta.feedHandlerId = "sim"
                // A book of each epoch is stored.
                delta.epoch = UInt64(round)
                delta.sequence = 1
                delta.snapshot = true
                delta.receivedTime = time
                var level = Proto.BookLevel()
                level.priceMicros = 187_500_000
                level.sizeMicros = 5
                delta.bids = [level]
                return delta.encodedBytes()
            }

            private func trade() -> [UInt8] {
                var report = Proto.ExecutionReport()
                report.executionId = "E\(round)"
                report.orderId = "O1"
                report.account = "ACC-1"
                report.symbol = "AAPL"
                report.exchange = "XNAS"
                report.side = "BUY"
                report.fillQuantityMicros = 7
                report.fillPriceMicros = 187_500_000
                report.executionTime = time
                return report.encodedBytes()
            }

            private func status() -> [UInt8] {
                var update = Proto.OrderStatusUpdate()
                update.orderId = "O1"
                update.status = "PARTIAL"
                update.statusTime = time
                return update.encodedBytes()
            }

            private func audit() -> [UInt8] {
                var event = Proto.AuditEvent()
                event.sequence = UInt64(round)
                event.eventTime = time
                event.actor = "alice"
                event.entityType = "limit"
                event.entityId = "ACC-1/notional"
                event.action = "LIMIT_CHANGED"
                return event.encodedBytes()
            }

            private func position() -> [UInt8] {
                var update = Proto.PositionUpdate()
                update.account = "ACC-1"
                update.exchange = "XNAS"
                update.symbol = "AAPL"
                update.quantityMicros = Int64(round)
                update.sequence = UInt64(round)
                update.executionTime = time
                update.updateTime = time
                return update.encodedBytes()
            }
        }

        /// Topics whose writers have not committed everything.
        private static func behind(_ log: KafkaLog) throws -> Set<Topic> {
            var behind: Set<Topic> = []
            for topic in topics {
                let place = TopicPartition(topic, 0)
                let group = topic == .ticksRaw ? "cassandra-writer" : "cassandra-writer.\(topic.name)"
                if try log.committedOffset(group: group, place) != log.offset(of: .latest, in: place) {
                    behind.insert(topic)
                }
            }
            return behind
        }

        private static func ready(_ service: ServiceProcess) throws -> (code: String, text: String) {
            struct Ready: Decodable { let metrics: String }
            let address = try JSONDecoder().decode(Ready.self, from: Data(service.ready.utf8)).metrics
            let curl = ChildProcess()
            curl.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            curl.arguments = ["curl", "-s", "-m", "5", "-w", "\n%{http_code}", "http://\(address)/readyz"]
            let output = Pipe()
            curl.standardOutput = output
            try curl.run()
            let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            curl.waitUntilExit()
            return (text.split(separator: "\n").last.map(String.init) ?? "", text)
        }

        /// Levels by table.
        private static func levels(_ seen: Set<SeenRequest>, _ what: SeenRequest.What) -> [String: Set<CQLConsistency>]
        {
            var levels: [String: Set<CQLConsistency>] = [:]
            for request in seen where request.what == what {
                levels[request.table, default: []].insert(request.consistency)
            }
            return levels
        }

        private struct World {
            let log: KafkaLog
            let proxy: RequestProxy
            let folder: TemporaryFolder
            let cluster: [String]
            let cassandra: [String]
            var published = Published()

            init(_ node: CassandraNode) throws {
                cluster = ["--brokers", try Broker.shared().brokers, "--topic-prefix", "levels."]
                proxy = try RequestProxy(to: node.port)
                cassandra = ["--contact-points", "127.0.0.1:\(proxy.port)", "--keyspace", keyspace]
                try WriterProgram.tapedeck(["topics", "apply", "--partitions", "1"] + cluster)
                try WriterProgram.tapedeck([
                    "schema", "apply", "--data-centers", "datacenter1:1", "--contact-points",
                    "127.0.0.1:\(node.port)", "--keyspace", keyspace,
                ])
                var configuration = KafkaConfiguration(brokers: try Broker.shared().brokers)
                configuration.prefix = "levels."
                configuration.topics = topics
                log = try KafkaLog(configuration, time: RealTime()) { _, _ in }
                folder = try TemporaryFolder()
            }

            func writer(_ more: [String] = []) throws -> ServiceProcess {
                try WriterProgram.start(cluster + cassandra + WriterProgram.shortSession + more, data: folder.path)
            }

            /// Publishes a record of each class, and waits until a writer has stored them all.
            mutating func store() throws {
                try published.publish(log)
                var behind: Set<Topic> = []
                #expect(
                    try holds(within: 60) {
                        behind = try ConsistencyTests.behind(log)
                        return behind.isEmpty
                    }, "\(behind)")
            }

            func close() {
                try? log.close()
                proxy.stop()
            }
        }

        @Test func `Each class is written and read at its own level, on the wire, and where one is away only it waits`()
            async throws
        {
            let node = try await SharedCassandra.shared.node()
            try await apart {
                var world = try World(node)
                defer { world.close() }
                try Self.expectPublished(&world)
                try Self.expectReads(&world)
                try Self.expectOverridden(&world)
                try Self.expectWaiting(&world)
                #expect(world.proxy.unknown == 0)
            }
        }

        private static func expectPublished(_ world: inout World) throws {
            let writer = try world.writer()
            try world.store()
            #expect(writer.end(SIGTERM) == 0)
            let seen = world.proxy.take()
            var written = levels(seen, .write)
            // A ticks' writer goes on at an offset that may be old; those of the others are of their rows' classes.
            #expect(written.removeValue(forKey: "writer_offsets") == [.localOne, .localQuorum])
            // Agreed on by a lightweight transaction.
            #expect(written.removeValue(forKey: "feeds") == [.localQuorum])
            #expect(
                written == [
                    "tick_data": [.localOne], "tick_partitions": [.localOne], "latest_ticks": [.localOne],
                    "held_offsets": [.localOne], "filed_records": [.localOne], "order_book_snapshots": [.localOne],
                    "trade_executions": [.localQuorum], "positions": [.localQuorum], "event_store": [.eachQuorum],
                ])
        }

        /// Quotes and history, by the edge, by `verify`, by whoever uses the store.
        private static func expectReads(_ world: inout World) throws {
            let edge = try ServiceProcess(
                ["edge", "--store", "cassandra", "--data", world.folder.path, "--listen", "127.0.0.1:0"] + world.cluster
                    + world.cassandra)
            let quote = try Program.run(["quote", "AAPL", "--exchange", "SIMX", "--server", try #require(edge.address)])
            #expect(quote.status == 0, "\(quote.output)")
            #expect(edge.end(SIGTERM) == 0)
            let verified = try Program.run(["verify", "--store", "cassandra"] + world.cluster + world.cassandra)
            #expect(verified.status == 0, "\(verified.output)")
            var configuration = CassandraStoreConfiguration(
                contactPoints: [CQLAddress(host: "127.0.0.1", port: world.proxy.port)])
            configuration.keyspace = keyspace
            configuration.log = String(world.log.identity.id, radix: 16)
            let store = try CassandraStore(configuration, time: RealTime())
            let instrument = try Instrument(exchange: "SIMX", symbol: "AAPL")
            #expect(try store.latest(instrument) != nil)
            var count = 0
            try store.scan(instrument, from: .min, to: .max) { batch in
                count += batch.count
                return true
            }
            #expect(count == 50)
            try store.close()
            let seen = world.proxy.take()
            var read = levels(seen, .read)
            // The tables themselves are the same on every node.
            #expect(read.removeValue(forKey: "schema_versions") == [.localOne])
            #expect(Set(read.keys).isSuperset(of: ["tick_data", "tick_partitions", "latest_ticks", "writer_offsets"]))
            #expect(Set(read.values.joined()) == [.localQuorum], "\(read)")
            #expect(levels(seen, .write).isEmpty)
        }

        private static func expectOverridden(_ world: inout World) throws {
            let choices = [
                "ticks=ONE", "books=QUORUM", "trades=EACH_QUORUM", "events=LOCAL_QUORUM", "positions=ALL",
            ]
            let writer = try world.writer(choices.flatMap { ["--consistency", $0] })
            try world.store()
            #expect(writer.end(SIGTERM) == 0)
            let written = levels(world.proxy.take(), .write)
            #expect(written["tick_data"] == [.one] && written["order_book_snapshots"] == [.quorum])
            #expect(written["trade_executions"] == [.eachQuorum] && written["event_store"] == [.localQuorum])
            #expect(written["positions"] == [.all])
            #expect(written["writer_offsets"] == [.one, .localQuorum])
        }

        /// A data centre that is away: what needs every one waits by name, all else goes on, and then nothing is lost.
        private static func expectWaiting(_ world: inout World) throws {
            let writer = try world.writer(["--consistency", "trades=EACH_QUORUM"])
            try world.store()
            world.proxy.refuse(.eachQuorum)
            try world.published.publish(world.log)
            let waiting: Set<Topic> = [.ordersLifecycle, .auditEvents, .tradesExecuted]
            var behind: Set<Topic> = []
            #expect(
                try holds(within: 60) {
                    behind = try Self.behind(world.log)
                    return behind == waiting
                }, "\(behind)")
            #expect(try holds { try ready(writer).code == "503" })
            let said = try ready(writer).text
            for topic in waiting { #expect(said.contains("\(topic.name)/0 waits since"), "\(said)") }
            #expect(said.contains("Cannot achieve consistency level EACH_QUORUM in DC dc-newyork"), "\(said)")
            for topic in Set(topics).subtracting(waiting) { #expect(!said.contains("\(topic.name)/0"), "\(said)") }
            // Again, while it lasts.
            try world.published.publish(world.log)
            #expect(
                try holds(within: 60) {
                    behind = try Self.behind(world.log)
                    return behind == waiting
                }, "\(behind)")
            #expect(world.proxy.refused > 0)
            world.proxy.refuse(nil)
            try world.store()
            #expect(try holds { try ready(writer).code == "200" })
            #expect(writer.end(SIGTERM) == 0)
            _ = world.proxy.take()
        }
    }
}
