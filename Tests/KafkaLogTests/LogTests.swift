import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import Synchronization
import TestSupport
import Testing

/// Everything that needs the broker: one after another, for one of them kills it.
@Suite(.serialized, .enabled(if: Broker.isPresent, Comment(rawValue: Broker.absent))) struct KafkaTests {}

extension KafkaTests {
    @Suite(.serialized) struct LogTests {
        @Test
        func `What was appended is read back with its bytes, names and sequences, from the tip and from behind it`()
            async throws
        {
            try await apart {
                let tape = try Tape(partitions: 4)
                let log = try tape.open()
                defer { try? log.close() }
                for symbol in ["AAPL", "MSFT", "TSLA"] {
                    try log.append([tickBlock(log, symbol: symbol, from: 1, count: 300)], consumed: [])
                }
                try log.sync()
                let follower = try tape.open(following: [.ticksRaw])
                defer { try? follower.close() }
                #expect(follower.waitUntilCaughtUp(timeoutNs: 20_000_000_000))
                for reader in [log, follower] {
                    let records = try (0..<4).flatMap { try readAll(reader, TopicPartition(.ticksRaw, $0)) }
                    #expect(records.count == 900)
                    for symbol in ["AAPL", "MSFT", "TSLA"] {
                        let own = records.filter { $0.symbol == symbol }
                        #expect(own.map(\.sequence) == Array(1...300))
                        #expect(own.allSatisfy { $0.bytes == encodedTick(symbol: symbol, sequence: $0.sequence) })
                        #expect(own.allSatisfy { $0.feed == "sim" && $0.epoch == 1 })
                    }
                }
                #expect(log.counters.produced[.ticksRaw]?.acknowledged == 900)
                #expect(log.counters.produced[.ticksRaw]?.queued == 0)
            }
        }

        @Test func `A block knows where the instrument's record before it is`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(following: [.ticksRaw])
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                for round in 0..<3 {
                    try log.append([tickBlock(log, from: UInt64(round * 10 + 1), count: 10)], consumed: [])
                    try log.sync()
                    let end = UInt64(round * 10 + 10)
                    #expect(holds { log.endOffset(place, .written) == end })
                }
                // An append may be several batches of the broker's, and so several blocks, each of which knows.
                var at: UInt64 = 0
                while at < 30 {
                    guard case .block(let block, 0) = log.read(place, at: at, .written) else {
                        throw Unexpected(what: "\(log.read(place, at: at, .written))")
                    }
                    #expect(block.firstOffset == at)
                    #expect(block.previousOffset(track: 0) == (at == 0 ? .max : at - 1))
                    at += UInt64(block.recordCount)
                }
                guard case .block(let block, let index) = log.read(place, at: 25, .written) else {
                    throw Unexpected(what: "\(log.read(place, at: 25, .written))")
                }
                #expect(block.firstOffset + UInt64(index) == 25)
                let last = log.lastPlace(.ticksRaw, feed: "sim", exchange: "SIMX", symbol: "AAPL")
                #expect(last?.offset == 29)
                #expect(last?.sequence == 30)
                #expect(log.lastPlaces(.ticksRaw).count == 1)
            }
        }

        @Test func `A listener hears of what comes, and a reader that waits wakes up`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(following: [.ticksRaw])
                defer { try? log.close() }
                let heard = Atomic<Int>(0)
                let id = log.addListener(.ticks, .written) { heard.add(1, ordering: .relaxed) }
                let place = TopicPartition(.ticksRaw, 0)
                #expect(!log.wait(place, at: 0, .durable, timeoutNs: 1_000_000))
                try log.append([tickBlock(log, from: 1, count: 1)], consumed: [])
                #expect(log.wait(place, at: 0, .durable, timeoutNs: 20_000_000_000))
                #expect(holds { heard.load(ordering: .relaxed) > 0 })
                log.removeListener(id)
            }
        }

        @Test func `The ring lets the oldest go, and load brings them back`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(following: [.ticksRaw], changing: { $0.tipBytes = 64 << 10 })
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                for round in 0..<20 {
                    try log.append([tickBlock(log, from: UInt64(round * 500 + 1), count: 500)], consumed: [])
                    try log.sync()
                }
                #expect(holds { log.endOffset(place, .written) == 10_000 })
                guard case .onDisk = log.read(place, at: 0, .written) else { throw Unexpected(what: "still there") }
                let loaded = Mutex<Result<ReadResult, LogError>?>(nil)
                log.load(place, at: 0, .written) { result in loaded.withLock { $0 = result } }
                #expect(holds { loaded.withLock { $0 != nil } })
                guard case .success(.block(let block, 0))? = loaded.withLock({ $0 }) else {
                    throw Unexpected(what: "\(loaded.withLock { "\(String(describing: $0))" })")
                }
                #expect(block.firstOffset == 0)
                #expect(try readAll(log, place).map(\.sequence) == Array(1...10_000))
            }
        }

        @Test func `Records that are none stand in their place with their bytes, and stop nothing`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open()
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                let garbage: [[UInt8]] = [[0xff, 0xff, 0xff], [], Array(repeating: 0x80, count: 100)]
                try log.append([tickBlock(log, from: 1, count: 2)], consumed: [])
                try log.append([rawBlock(place, garbage)], consumed: [])
                try log.append([tickBlock(log, from: 3, count: 2)], consumed: [])
                try log.sync()
                let records = try readAll(log, place)
                #expect(records.map(\.offset) == Array(0..<7))
                #expect(records[2...4].map(\.bytes) == garbage)
                #expect(records[2...4].allSatisfy { $0.symbol.isEmpty })
                #expect((records[..<2] + records[5...]).map(\.sequence) == [1, 2, 3, 4])
                #expect(log.counters.recordsMalformed == 3)
            }
        }

        @Test func `An append with what it consumed is one transaction, and readers step over the gap that it leaves`()
            async throws
        {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter])
                let log = try tape.open()
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                let letters = TopicPartition(.ticksRaw.deadLetter, 0)
                for round in 0..<3 {
                    let consumed = GroupOffset(group: "writer.dlq", place: place, offset: UInt64(round + 1))
                    try log.append(
                        [rawBlock(letters, symbol: "x", [[UInt8(round)], [UInt8(round)]])], consumed: [consumed])
                }
                #expect(try log.committedOffset(group: "writer.dlq", place) == 3)
                #expect(try log.committedOffset(group: "other", place) == nil)
                // Each transaction leaves a mark that takes an offset.
                let records = try readAll(log, letters)
                #expect(records.map(\.offset) == [0, 1, 3, 4, 6, 7])
                #expect(records.map(\.bytes) == [[0], [0], [1], [1], [2], [2]])
                guard case .block(let block, 0) = try log.readBlocking(letters, at: 2, .durable) else {
                    throw Unexpected(what: "the gap")
                }
                #expect(block.firstOffset == 3)
            }
        }

        /// Begins a transaction under the name of a log's own, with a letter and an offset, and is gone before it ends.
        private static let unfinished = """
            import os, sys
            from confluent_kafka import Consumer, Producer, TopicPartition
            brokers, prefix = sys.argv[1:]
            consumer = Consumer({"bootstrap.servers": brokers, "group.id": prefix + "writer.dlq"})
            producer = Producer({"bootstrap.servers": brokers, "transactional.id": prefix + "tapedeck-one"})
            producer.init_transactions(20)
            producer.begin_transaction()
            producer.produce(prefix + "ticks.raw.dlq", b"unfinished", partition=0)
            offset = TopicPartition(prefix + "ticks.raw", 0, 7)
            producer.send_offsets_to_transaction([offset], consumer.consumer_group_metadata(), 20)
            producer.flush(20)
            os._exit(0)
            """

        @Test(.enabled(if: Checkout.hasPython, "no .venv"))
        func `What a killed process left in a transaction is ended before anyone asks how far it went`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter])
                let first = try tape.open()
                let place = TopicPartition(.ticksRaw, 0)
                let letters = TopicPartition(.ticksRaw.deadLetter, 0)
                try first.append(
                    [rawBlock(letters, symbol: "x", [[1]])],
                    consumed: [GroupOffset(group: "writer.dlq", place: place, offset: 3)])
                try first.close()
                let killed = ChildProcess()
                killed.executableURL = URL(fileURLWithPath: Checkout.python)
                killed.arguments = ["-c", Self.unfinished, tape.broker.brokers, tape.configuration.prefix]
                try killed.run()
                killed.waitUntilExit()
                try #require(killed.terminationStatus == 0)
                // Whether it went to 3 or to 7 nobody can say yet; least of all that it went nowhere.
                let asking = try tape.open(changing: { $0.requestTimeoutNs = 1_000_000_000 })
                defer { try? asking.close() }
                #expect { try asking.committedOffset(group: "writer.dlq", place) } throws: { error in
                    (error as? LogError)?.retryable == true
                }
                let next = try tape.open(changing: { $0.group.instance = "one" })
                defer { try? next.close() }
                try next.fence()
                #expect(try next.committedOffset(group: "writer.dlq", place) == 3)
                #expect(try readAll(next, letters).map(\.bytes) == [[1]])
            }
        }

        @Test func `A reader begins at a time`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open()
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                try log.append([tickBlock(log, from: 1, count: 5)], consumed: [])
                try log.sync()
                RealTime().sleep(ns: 20_000_000)
                let middleNs = RealTime().wallNs()
                RealTime().sleep(ns: 20_000_000)
                try log.append([tickBlock(log, from: 6, count: 5)], consumed: [])
                try log.sync()
                #expect(try log.offset(of: .time(0), in: place) == 0)
                #expect(try log.offset(of: .time(middleNs), in: place) == 5)
                #expect(try log.offset(of: .time(RealTime().wallNs() + 60_000_000_000), in: place) == 10)
                #expect(try log.offset(of: .earliest, in: place) == 0)
                #expect(try log.offset(of: .latest, in: place) == 10)
            }
        }

        @Test func `An offset that retention took is answered with the oldest there is, one past the end is an error`()
            async throws
        {
            try await apart {
                let tape = try Tape(settings: ["retention.ms": "1000", "segment.ms": "500", "segment.bytes": "1048576"])
                let log = try tape.open()
                defer { try? log.close() }
                let place = TopicPartition(.ticksRaw, 0)
                try log.append([tickBlock(log, from: 1, count: 10)], consumed: [])
                try log.sync()
                var sequence: UInt64 = 11
                // The newest segment stays: something has to follow.
                #expect(
                    try holds(within: 60) {
                        try log.append([tickBlock(log, from: sequence, count: 1)], consumed: [])
                        try log.sync()
                        sequence += 1
                        RealTime().sleep(ns: 100_000_000)
                        return try log.offset(of: .earliest, in: place) >= 10
                    })
                guard case .expired(let oldest) = try log.readBlocking(place, at: 0, .durable) else {
                    throw Unexpected(what: "not expired")
                }
                #expect(oldest >= 10)
                #expect { try log.readBlocking(place, at: 1_000_000, .durable) } throws: { error in
                    (error as? LogError)?.code == .lost && "\(error)".contains("groups reset")
                }
            }
        }
    }
}
