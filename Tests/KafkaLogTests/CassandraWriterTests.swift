import BookView
import CassandraCQL
import CassandraStore
import EventLog
import FeedService
import Foundation
import KafkaLog
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

extension KafkaTests {
    /// `run writer --store cassandra`, a process, between a real broker and a real node.
    @Suite(.serialized, .enabled(if: CassandraNode.isPresent, "../shared is absent"), .timeLimit(.minutes(4)))
    struct CassandraWriterTests {
        private static let program: String = {
            let bundle = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
            return bundle.appendingPathComponent("tapedeck").path
        }()
        private static let keyspace = "writer_test"
        private static let partitions = 4
        private static let symbols = (0..<12).map { "SYM\($0)" }

        /// A writer that runs until it is stopped.
        private final class Writer {
            private let process = Process()

            init(_ arguments: [String], data: String) throws {
                process.executableURL = URL(fileURLWithPath: program)
                process.arguments =
                    ["run", "writer", "--store", "cassandra", "--data", data, "--instance", "one"] + arguments
                    + ["--metrics-listen", "127.0.0.1:0", "--log-level", "error"]
                let output = Pipe()
                process.standardOutput = output
                try process.run()
                // The line that says that it works.
                while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0a {}
            }

            deinit { if process.isRunning { end(SIGKILL) } }

            @discardableResult
            func end(_ signal: Int32) -> Int32 {
                kill(process.processIdentifier, signal)
                process.waitUntilExit()
                return process.terminationStatus
            }
        }

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
                let unnamed = encodedTick(symbol: "A|B\(poisonCount)", sequence: 1)
                for (value, code) in [
                    (large, "SEQUENCE_TOO_LARGE"), (noise, "UNDECODABLE"), (unnamed, "NO_INSTRUMENT"),
                ] {
                    poison[value] = code
                    try log.append([rawBlock(place, symbol: "SYM0", [value])], consumed: [])
                }
                try log.sync()
            }
        }

        private static let shortSession = [
            "--kafka-set", "session.timeout.ms=3000", "--kafka-set", "heartbeat.interval.ms=500",
        ]

        private static func tapedeck(_ arguments: [String]) throws {
            try #require(try status(arguments) == 0, "\(arguments)")
        }

        private static func status(_ arguments: [String]) throws -> Int32 {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: program)
            process.arguments = arguments
            process.standardOutput = FileHandle.nullDevice
            process.standardInput = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            return process.terminationStatus
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
                let committed = log.committedOffset(group: "cassandra-writer", place) ?? 0
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
                try Self.tapedeck(["topics", "apply", "--partitions", "\(Self.partitions)"] + cluster)
                try Self.tapedeck(["schema", "apply"] + cassandra)
                var configuration = KafkaConfiguration(brokers: broker.brokers)
                configuration.prefix = "cassandra."
                configuration.topics = [.ticksRaw, .ticksRaw.deadLetter]
                let log = try KafkaLog(configuration, time: RealTime()) { _, _ in }
                defer { try? log.close() }
                let folder = try TemporaryFolder()
                var published = Published()
                try published.wave(log, count: 2000)
                for round in 0..<4 {
                    let writer = try Writer(cluster + cassandra, data: folder.path)
                    for _ in 0..<3 { try published.wave(log, count: 300) }
                    // In the midst of what it has to do, each time elsewhere.
                    RealTime().sleep(ns: 300_000_000 + Int64(round) * 250_000_000)
                    writer.end(SIGKILL)
                    try Self.expectNothingSkipped(log, node.port)
                }
                let writer = try Writer(cluster + cassandra, data: folder.path)
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
                    #expect(log.committedOffset(group: "cassandra-writer", place) == end)
                }
                let store = try Self.store(log, node.port)
                defer { try? store.close() }
                let rows = try Self.stored(store)
                #expect(rows == published.rows, "\(rows.mapValues(\.count))")
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

        // MARK: Other classes

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

        @Test func `Trades, events and positions reach their tables once, over a kill and a replay of the log`()
            async throws
        {
            let node = try await SharedCassandra.shared.node()
            let cassandra = ["--contact-points", "127.0.0.1:\(node.port)", "--keyspace", "classes_test"]
            let topics: [Topic] = [.tradesExecuted, .ordersLifecycle, .positionsUpdates]
            try await apart {
                let broker = try Broker.shared()
                let cluster = ["--brokers", broker.brokers, "--topic-prefix", "classes."]
                try Self.tapedeck(["topics", "apply", "--partitions", "2"] + cluster)
                try Self.tapedeck(["schema", "apply"] + cassandra)
                var configuration = KafkaConfiguration(brokers: broker.brokers)
                configuration.prefix = "classes."
                configuration.topics = topics + topics.map(\.deadLetter)
                let log = try KafkaLog(configuration, time: RealTime()) { _, _ in }
                defer { try? log.close() }
                let folder = try TemporaryFolder()
                func publish(_ numbers: Range<Int>) throws {
                    for number in numbers {
                        let report = Self.execution(number)
                        try Self.append(log, .tradesExecuted, key: report.account, [report.encodedBytes()])
                    }
                    // Twice by their publisher, which the key makes one row of.
                    let again = Self.execution(numbers.lowerBound)
                    try Self.append(log, .tradesExecuted, key: again.account, [again.encodedBytes(), [0xff, 0xff]])
                    for number in numbers where number < 20 {
                        try Self.append(log, .ordersLifecycle, key: "O\(number % 5)", [Self.lifecycle(number)])
                        try Self.append(log, .positionsUpdates, key: "ACC-1|AAPL", [Self.position(UInt64(number) + 1)])
                    }
                }
                try publish(0..<40)
                let first = try Writer(
                    cluster + cassandra + ["--consistency", "events=QUORUM", "--consistency", "ticks=ONE"]
                        + Self.shortSession,
                    data: folder.path)
                RealTime().sleep(ns: 400_000_000)
                first.end(SIGKILL)
                try publish(40..<80)
                let writer = try Writer(cluster + cassandra + Self.shortSession, data: folder.path)
                let isCommitted = holds(within: 60) {
                    topics.allSatisfy { topic in
                        (0..<2).allSatisfy { partition in
                            let place = TopicPartition(topic, UInt16(partition))
                            let end = (try? log.offset(of: .latest, in: place)) ?? .max
                            return end == 0
                                || log.committedOffset(group: "cassandra-writer.\(topic.name)", place) == end
                        }
                    }
                }
                #expect(isCommitted)
                #expect(writer.end(SIGTERM) == 0)
                let letters = try (0..<2).flatMap { partition in
                    try readAll(log, TopicPartition(Topic.tradesExecuted.deadLetter, UInt16(partition)))
                }
                #expect(letters.count == 2)
            }
            let trades = try await Self.rows(
                node,
                "SELECT account_id, execution_id, quantity_micros, trade_id, writetime(quantity_micros) "
                    + "FROM classes_test.trade_executions")
            #expect(trades.count == 80 && Set(trades.map { $0[3] }).count == 80)
            for row in trades {
                let number = try #require(Int(row[1].dropFirst()))
                #expect(row[0] == "ACC-\(number % 3)" && row[2] == "\(number + 1)")
                #expect(row[4] == "\(1_722_000_000_000_000 + number * 500)")
            }
            let events = try await Self.rows(
                node,
                "SELECT sequence, chain_hash, payload FROM classes_test.event_store WHERE entity_type = 'order' "
                    + "AND entity_id = 'O3' AND day = '2024-07-26'")
            #expect(events.count == 4)
            let sequences = events.compactMap { Int($0[0]) }
            #expect(sequences == sequences.sorted() && Set(sequences).count == 4)
            // A chain for each partition of the log, in the order of its offsets.
            let all = try await Self.rows(
                node, "SELECT metadata['partition'], sequence, chain_hash, payload FROM classes_test.event_store")
            #expect(all.count == 20)
            for partition in Set(all.map { $0[0] }) {
                var hash = CassandraClassStore.chainStart
                let chain = all.filter { $0[0] == partition }.sorted { Int($0[1]) ?? 0 < Int($1[1]) ?? 0 }
                for row in chain {
                    hash = CassandraClassStore.link(hash, Self.bytes(row[3]))
                    #expect(Self.bytes(row[2]) == hash)
                }
            }
            #expect(Set(all.map { Self.bytes($0[3]) }) == Set((0..<20).map(Self.lifecycle)))
            let positions = try await Self.rows(
                node, "SELECT account_id, symbol, quantity_micros, sequence FROM classes_test.positions")
            #expect(positions == [["ACC-1", "AAPL", "2000", "20"]])
            // The same records once more from the first: the tables do not change.
            try await node.execute("TRUNCATE classes_test.writer_offsets")
            let before = try await Self.everything(node)
            try await apart {
                let broker = try Broker.shared()
                let cluster = ["--brokers", broker.brokers, "--topic-prefix", "classes."]
                for topic in topics {
                    // A member that keeps its name stays in its group for a session.
                    let isReset = try holds {
                        try Self.status(
                            [
                                "groups", "reset", "cassandra-writer.\(topic.name)", "--by", "-1h", "--topic",
                                topic.name,
                                "--yes",
                            ] + cluster) == 0
                    }
                    #expect(isReset)
                }
                var configuration = KafkaConfiguration(brokers: broker.brokers)
                configuration.prefix = "classes."
                configuration.topics = topics
                let log = try KafkaLog(configuration, time: RealTime()) { _, _ in }
                defer { try? log.close() }
                var rows = CassandraStoreConfiguration(
                    contactPoints: [CQLAddress(host: "127.0.0.1", port: node.port)])
                rows.keyspace = "classes_test"
                rows.log = String(log.identity.id, radix: 16)
                let store = try CassandraClassStore(rows)
                defer { store.close() }
                let folder = try TemporaryFolder()
                let writer = try Writer(cluster + cassandra + Self.shortSession, data: folder.path)
                let isWritten = try holds(within: 60) {
                    try topics.allSatisfy { topic in
                        try (0..<2).allSatisfy { partition in
                            let place = TopicPartition(topic, UInt16(partition))
                            let end = try log.offset(of: .latest, in: place)
                            return try end == 0 || store.nextOffset(place) == end
                        }
                    }
                }
                #expect(isWritten)
                #expect(writer.end(SIGTERM) == 0)
            }
            #expect(try await Self.everything(node) == before)
            #expect(try await Self.rows(node, "SELECT topic FROM classes_test.writer_offsets").count >= 3)
        }

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
            }
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
