import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import Synchronization
import TestSupport
import Testing

extension KafkaTests {
    @Suite(.serialized) struct FailureTests {
        private static let place = TopicPartition(.ticksRaw, 0)

        @Test func `A broker killed under load loses nothing that was taken, and nothing is there twice`() async throws
        {
            try await apart {
                let tape = try Tape(partitions: 2)
                let log = try tape.open(following: [.ticksRaw])
                defer { try? log.close() }
                let symbols = ["AAPL", "MSFT", "TSLA", "NVDA"]
                let isOver = Atomic<Bool>(false)
                let published = Mutex<UInt64>(0)
                let failure = Mutex<String?>(nil)
                Thread.detachNewThread {
                    var next: UInt64 = 1
                    while !isOver.load(ordering: .relaxed) {
                        do {
                            try log.append(
                                symbols.map { tickBlock(log, symbol: $0, from: next, count: 20) }, consumed: [])
                            next += 20
                            published.withLock { $0 = next - 1 }
                        } catch {
                            guard (error as? LogError)?.retryable == true else {
                                return failure.withLock { $0 = "\(error)" }
                            }
                        }
                        RealTime().sleep(ns: 1_000_000)
                    }
                }
                #expect(holds { published.withLock { $0 } > 2000 })
                try tape.broker.command("kill", "1")
                RealTime().sleep(ns: 1_000_000_000)
                try tape.broker.command("restart", "1")
                let atRestart = published.withLock { $0 }
                #expect(holds { published.withLock { $0 } > atRestart + 2000 })
                isOver.store(true, ordering: .relaxed)
                RealTime().sleep(ns: 100_000_000)
                try log.sync()
                #expect(failure.withLock { $0 } == nil)
                let last = published.withLock { $0 }
                let counters = try #require(log.counters.produced[.ticksRaw])
                #expect(counters.failed == 0)
                #expect(counters.acknowledged == last * UInt64(symbols.count))
                let places = [FailureTests.place, TopicPartition(.ticksRaw, 1)]
                let total = Int(last) * symbols.count
                // The follower's tip came through it too.
                #expect(
                    holds {
                        places.reduce(0) { $0 + Int(log.endOffset($1, .written)) } == total
                    })
                let records = try places.flatMap { try readAll(log, $0) }
                for symbol in symbols {
                    #expect(records.filter { $0.symbol == symbol }.map(\.sequence) == Array(1...last), "\(symbol)")
                }
            }
        }

        @Test
        func
            `While the broker does not answer the queue fills to its bound, and an append beyond can be tried again`()
            async throws
        {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(changing: {
                    $0.producer.ticksQueuedMax = 1000
                    $0.producer.fullWaitNs = 50_000_000
                })
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 10)], consumed: [])
                try log.sync()
                #expect(throws: LogError.self) { try log.append([tickBlock(log, from: 1, count: 1001)], consumed: []) }
                try tape.broker.pause()
                var next: UInt64 = 11
                var refusal: LogError?
                do {
                    while refusal == nil, next < 5000 {
                        do throws(LogError) {
                            try log.append([tickBlock(log, from: next, count: 100)], consumed: [])
                            next += 100
                        } catch {
                            refusal = error
                        }
                    }
                }
                try tape.broker.command("resume", "1")
                #expect(refusal?.retryable == true)
                #expect(refusal?.message.contains("ticks.raw is full") == true)
                // A broker that is slow to stop has acknowledged some more.
                #expect(next >= 1011)
                try log.append([tickBlock(log, from: next, count: 100)], consumed: [])
                try log.sync()
                #expect(log.counters.produced[.ticksRaw]?.queuedMost == 1000)
                #expect(log.counters.produced[.ticksRaw]?.full == 1)
                #expect(try readAll(log, FailureTests.place).map(\.sequence) == Array(1...(next + 99)))
            }
        }

        @Test func `What is not acknowledged within its deadline is counted and named, and its caller hears of it`()
            async throws
        {
            try await apart {
                let tape = try Tape([.ticksRaw, .ordersCommands])
                let reports = Reports()
                let log = try tape.open(
                    report: reports.add,
                    changing: {
                        $0.producer.ticksDeadlineNs = 1_000_000_000
                        $0.producer.othersDeadlineNs = 1_000_000_000
                    })
                defer { try? log.close() }
                let orders = TopicPartition(.ordersCommands, 0)
                try log.append([rawBlock(orders, symbol: "o1", [[1]])], consumed: [])
                try log.append([tickBlock(log, from: 1, count: 10)], consumed: [])
                try log.sync()
                try tape.broker.pause()
                defer { try? tape.broker.command("resume", "1") }
                try log.append([tickBlock(log, from: 11, count: 10)], consumed: [])
                #expect { try log.append([rawBlock(orders, symbol: "o2", [[2]])], consumed: []) } throws: { error in
                    // The broker had the bytes, and may yet write them.
                    (error as? LogError)?.code == .uncertain
                }
                #expect(holds { log.counters.produced[.ticksRaw]?.failed == 10 })
                #expect(
                    reports.contains(
                        "10 of 10 records of ticks.raw/0 may be in the log or not, from SIMX|AAPL 11 to AAPL 20"))
                #expect(log.counters.produced[.ordersCommands]?.failed == 1)
                #expect(log.counters.produced[.ticksRaw]?.queued == 0)
            }
        }

        @Test func `Blocks that wait together go together, in order, and what the broker refuses is named`()
            async throws
        {
            try await apart {
                let tape = try Tape(partitions: 2)
                let reports = Reports()
                let log = try tape.open(report: reports.add)
                defer { try? log.close() }
                let symbols = ["AAPL", "MSFT", "TSLA", "NVDA"]
                func blocks(_ from: UInt64, _ count: Int) -> [Block] {
                    (0..<count).flatMap { number in
                        symbols.map { tickBlock(log, symbol: $0, from: from + UInt64(number * 7), count: 7) }
                    }
                }
                func check(_ last: UInt64) throws {
                    let records = try (0..<2).flatMap { try readAll(log, TopicPartition(.ticksRaw, $0)) }
                    for symbol in symbols {
                        let sequences = records.filter { $0.symbol == symbol }.map(\.sequence)
                        #expect(sequences == Array(1...last), "\(symbol)")
                    }
                }
                // In 40 blocks of four instruments and two partitions; then 1400 at once, which are several batches.
                try log.append(blocks(1, 10), consumed: [])
                try log.sync()
                try log.append(blocks(71, 50), consumed: [])
                try log.sync()
                try check(420)
                // One record that is longer than the topic takes: it is lost by name, and what follows is not.
                let place = TopicPartition(.ticksRaw, log.partition(of: .ticksRaw, exchange: "SIMX", symbol: "AAPL"))
                var random = SeededRandom(seed: 1)
                let long = (0..<1_200_000).map { _ in UInt8.random(in: 0...255, using: &random) }
                try log.append([rawBlock(place, symbol: "AAPL", [long])], consumed: [])
                try log.append(blocks(421, 10), consumed: [])
                try log.sync()
                let figures = try #require(log.counters.produced[.ticksRaw])
                #expect(figures.acknowledged == 4 * 490 && figures.failed == 1 && figures.queued == 0)
                #expect(reports.contains("1 of 1 records of \(place) are not in the log"))
                #expect(reports.contains("raise the topic's max.message.bytes"))
                try check(490)
            }
        }

        @Test func `Records that another client compressed are read, whatever it compressed them by`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ordersCommands])
                let topic = tape.configuration.name(of: .ordersCommands)
                let codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
                func value(_ codec: String) -> String { String(repeating: "\(codec) ", count: 300) }
                for codec in codecs { try tape.broker.produce(topic, headers: "a:b", value(codec), compression: codec) }
                let log = try tape.open(changing: { $0.topics = [.ticksRaw, .ordersCommands] })
                defer { try? log.close() }
                let records = try readAll(log, TopicPartition(.ordersCommands, 0))
                #expect(records.map { String(decoding: $0.bytes, as: UTF8.self) } == codecs.map(value))
            }
        }

        @Test func `A record of an unknown major version stops its partition by name`() async throws {
            try await apart {
                let tape = try Tape(partitions: 1)
                let log = try tape.open()
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 3)], consumed: [])
                try log.sync()
                try tape.produce(.ticksRaw, headers: "schema:2", "later")
                let follower = try tape.open(following: [.ticksRaw])
                defer { try? follower.close() }
                for reader in [log, follower] {
                    #expect(
                        holds {
                            do {
                                _ = try readAll(reader, FailureTests.place)
                                return false
                            } catch {
                                return (error as? LogError)?.code == .unknownFormat
                                    && "\(error)".contains("ticks.raw/0 stops at offset 3")
                            }
                        })
                    guard case .block(let block, 0) = try reader.readBlocking(FailureTests.place, at: 0, .durable)
                    else {
                        throw Unexpected(what: "what came before")
                    }
                    #expect(block.readRecords(from: 0).map(\.sequence) == [1, 2, 3])
                }
            }
        }
    }
}
