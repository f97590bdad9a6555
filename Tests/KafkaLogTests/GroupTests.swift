import EventLog
import Foundation
import KafkaTestSupport
import MarketModel
import Simulation
import Synchronization
import TestSupport
import Testing
import TickStore
import WriterService

@testable import KafkaLog

extension KafkaTests {
    @Suite(.serialized) struct GroupTests {
        static let group = "cassandra-writer"
        private static let place = TopicPartition(.ticksRaw, 0)

        static func partitions(_ member: any GroupMembership, within seconds: Int = 30, count: Int) throws
            -> [TopicPartition]
        {
            var found: [TopicPartition] = []
            _ = try holds(within: seconds) {
                found = try member.partitions()
                return found.count == count
            }
            return found
        }

        @Test func `Partitions go to a second member when no batch is out, and come back when it leaves`() async throws
        {
            try await Self.handsOver { _ in }
        }

        /// `change` has both take part in another way.
        static func handsOver(_ change: @escaping @Sendable (inout KafkaConfiguration) -> Void) async throws {
            try await apart {
                let tape = try Tape(partitions: 4)
                let reports = Reports()
                let first = try tape.open(report: reports.add, changing: change)
                defer { try? first.close() }
                try first.append(
                    ["AAPL", "MSFT", "TSLA", "NVDA", "AMZN"].map { tickBlock(first, symbol: $0, from: 1, count: 10) },
                    consumed: [])
                try first.sync()
                let a = try first.join(group: GroupTests.group, .ticksRaw)
                let mine = try GroupTests.partitions(a, count: 4)
                #expect(mine.map(\.partition) == [0, 1, 2, 3])
                // A batch of every partition is out now.
                for place in mine { a.begin(place, at: 0) }
                let second = try tape.open(changing: change)
                defer { try? second.close() }
                let b = try second.join(group: GroupTests.group, .ticksRaw)
                #expect(!(try holds(within: 3) { try !b.partitions().isEmpty }))
                for place in mine {
                    #expect(first.endOffset(place, .durable) == second.endOffset(place, .durable))
                    a.finish(0..<first.endOffset(place, .durable), of: place)
                }
                let ofB = Mutex<[TopicPartition]>([])
                #expect(
                    try holds {
                        let left = try a.partitions()
                        let got = try b.partitions()
                        ofB.withLock { $0 = got }
                        return left.count == 2 && got.count == 2 && Set(left).isDisjoint(with: got)
                    })
                // What was finished before the partition went is committed, and is where its new owner goes on.
                for place in ofB.withLock({ $0 }) {
                    let end = second.endOffset(place, .durable)
                    let committed = try second.committedOffset(group: GroupTests.group, place)
                    // Before 2.10 the library's generation may pass a member that keeps its partitions waiting: its
                    // commit is refused, which is said, and the new owner reads again what was finished.
                    let isRefused =
                        KafkaLog.libraryVersion < 0x020a_00ff && reports.contains("generation id is not valid")
                    #expect(isRefused || committed == (end > 0 ? end : nil), "\(place): \(reports.all)")
                }
                b.leave()
                #expect(try GroupTests.partitions(a, count: 4).count == 4)
                a.leave()
            }
        }

        @Test func `A batch that stays out is reported, and keeps its partition no longer than the bound`() async throws
        {
            try await Self.bounds { _ in }
        }

        static func bounds(_ change: @escaping @Sendable (inout KafkaConfiguration) -> Void) async throws {
            try await apart {
                let tape = try Tape(partitions: 2)
                let reports = Reports()
                let first = try tape.open(
                    report: reports.add,
                    changing: {
                        change(&$0)
                        $0.group.revokeWaitNs = 1_000_000_000
                        $0.group.heldReportNs = 200_000_000
                    })
                defer { try? first.close() }
                for symbol in ["AAPL", "MSFT", "TSLA", "NVDA"] {
                    try first.append([tickBlock(first, symbol: symbol, from: 1, count: 10)], consumed: [])
                }
                try first.sync()
                let a = try first.join(group: GroupTests.group, .ticksRaw)
                let mine = try GroupTests.partitions(a, count: 2)
                for place in mine {
                    a.begin(place, at: 0)
                    #expect(
                        try holds {
                            if case .block = try first.readBlocking(place, at: 0, .durable) { return true }
                            return false
                        })
                }
                #expect(holds { mine.allSatisfy { reports.contains("a batch of \($0) is out since") } })
                let second = try tape.open(changing: change)
                defer { try? second.close() }
                let b = try second.join(group: GroupTests.group, .ticksRaw)
                let taken = try GroupTests.partitions(b, count: 1)
                #expect(taken.count == 1)
                #expect(reports.contains("\(taken[0]) goes to another member although a batch of it is still out"))
                // Finished too late: it is another's to commit.
                a.finish(0..<10, of: taken[0])
                #expect(try a.partitions().count == 1)
                a.leave()
                b.leave()
                #expect(try second.committedOffset(group: GroupTests.group, taken[0]) == nil)
            }
        }

        @Test func `Offsets are committed as far as what is finished is contiguous`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(changing: { $0.group.commitIntervalNs = 50_000_000 })
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 30)], consumed: [])
                try log.sync()
                let member = try log.join(group: GroupTests.group, .ticksRaw)
                _ = try GroupTests.partitions(member, count: 1)
                member.begin(GroupTests.place, at: 0)
                member.finish(0..<10, of: GroupTests.place)
                member.finish(20..<30, of: GroupTests.place)
                #expect(try holds { try log.committedOffset(group: GroupTests.group, GroupTests.place) == 10 })
                member.finish(10..<20, of: GroupTests.place)
                member.leave()
                #expect(try log.committedOffset(group: GroupTests.group, GroupTests.place) == 30)
            }
        }

        @Test func `A group learns what the store holds already, though nothing more comes`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(changing: { $0.group.commitIntervalNs = 50_000_000 })
                defer { try? log.close() }
                try log.append([tickBlock(log, from: 1, count: 30)], consumed: [])
                try log.sync()
                // Killed after its rows were written and before it committed: the store says 30, the group nothing.
                let member = try log.join(group: GroupTests.group, .ticksRaw)
                _ = try GroupTests.partitions(member, count: 1)
                member.begin(GroupTests.place, at: 30)
                #expect(try holds { try log.committedOffset(group: GroupTests.group, GroupTests.place) == 30 })
                member.leave()
            }
        }

        @Test func `A writer lets go of what the store knows of partitions that another writer gets`() async throws {
            try await apart {
                let tape = try Tape(partitions: 4)
                let (storeA, storeB) = (SimulatedStore(syncEvery: 1), SimulatedStore(syncEvery: 1))
                let a = try RunningWriter(tape, storeA)
                // One for each partition, so that whichever go to the second writer have ticks.
                let symbols = try (0..<4).map { partition in
                    try #require(
                        (0..<1000).lazy.map { "S\($0)" }
                            .first { a.log.partition(of: .ticksRaw, exchange: "SIMX", symbol: $0) == partition })
                }
                try a.log.append(symbols.map { tickBlock(a.log, symbol: $0, from: 1, count: 10) }, consumed: [])
                #expect(try holds { try GroupTests.sequences(storeA).values.map(\.count).reduce(0, +) == 40 })
                #expect(storeA.released.isEmpty)
                let b = try RunningWriter(tape, storeB)
                #expect(holds { storeA.released.count >= 2 })
                // What comes now is stored by one of the two: by the second only what the first has let go of.
                try a.log.append(symbols.map { tickBlock(a.log, symbol: $0, from: 11, count: 10) }, consumed: [])
                var ofB: [String: [UInt64]] = [:]
                #expect(
                    try holds {
                        let ofA = try GroupTests.sequences(storeA)
                        ofB = try GroupTests.sequences(storeB)
                        return symbols.allSatisfy { (ofA[$0] ?? []).last == 20 || (ofB[$0] ?? []).last == 20 }
                    })
                let released = Set(storeA.released.map(\.partition))
                #expect(!ofB.isEmpty)
                for symbol in ofB.keys {
                    #expect(
                        released.contains(a.log.partition(of: .ticksRaw, exchange: "SIMX", symbol: symbol)), "\(symbol)"
                    )
                }
                #expect(a.failure == nil && b.failure == nil)
                try b.stop()
                try a.stop()
            }
        }

        @Test func `A member with a fixed name that comes back has its partitions, and nobody else noticed`()
            async throws
        {
            try await apart {
                let tape = try Tape(partitions: 4)
                func open(_ name: String) throws -> KafkaLog {
                    try tape.open(changing: { $0.group.instance = name })
                }
                let first = try open("a")
                let second = try open("b")
                defer { try? second.close() }
                let a = try first.join(group: GroupTests.group, .ticksRaw)
                let b = try second.join(group: GroupTests.group, .ticksRaw)
                #expect(
                    try holds {
                        try a.partitions().count == 2 && b.partitions().count == 2
                    })
                let ofA = try a.partitions()
                let ofB = try b.partitions()
                try first.close()
                let again = try open("a")
                defer { try? again.close() }
                let back = try again.join(group: GroupTests.group, .ticksRaw)
                #expect(try holds { try back.partitions() == ofA })
                #expect(try b.partitions() == ofB)
            }
        }

        static func sequences(_ store: SimulatedStore) throws -> [String: [UInt64]] {
            var sequences: [String: [UInt64]] = [:]
            for instrument in try store.instruments() {
                var own: [UInt64] = []
                try store.scan(instrument, from: .min, to: .max) { batch in
                    own += frames(batch.frames).map { sequence(of: $0) }
                    return true
                }
                sequences[instrument.symbol] = own.sorted()
            }
            return sequences
        }

        @Test func `Writers that come and go store every tick once, and dead-letter what is none once`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 4)
                let feed = try tape.open()
                defer { try? feed.close() }
                let store = SimulatedStore()
                let symbols = ["AAPL", "MSFT", "TSLA", "NVDA", "AMZN", "META"]
                var next: UInt64 = 1
                func publish() throws {
                    for _ in 0..<20 {
                        for symbol in symbols {
                            try feed.append([tickBlock(feed, symbol: symbol, from: next, count: 10)], consumed: [])
                        }
                        next += 10
                    }
                    try feed.append([rawBlock(GroupTests.place, [[0xff, 0xff]])], consumed: [])
                    try feed.sync()
                }
                try publish()
                let first = try RunningWriter(tape, store)
                try publish()
                let second = try RunningWriter(tape, store)
                try publish()
                #expect(holds { second.writer.counters.rows > 0 || first.writer.counters.rows >= 3600 })
                try first.stop()
                try publish()
                let all = Array(1..<next)
                #expect(
                    try holds(within: 60) {
                        try GroupTests.sequences(store).values.filter { $0 == all }.count == symbols.count
                    })
                #expect(holds { feed.endOffset(TopicPartition(.ticksRaw.deadLetter, 0), .durable) > 0 })
                try second.stop()
                #expect(first.failure == nil && second.failure == nil)
                for partition in 0..<UInt16(4) {
                    let place = TopicPartition(.ticksRaw, partition)
                    let end = try feed.offset(of: .latest, in: place)
                    #expect(try end == 0 || feed.committedOffset(group: GroupTests.group, place) == end)
                }
                let letters = try readAll(feed, TopicPartition(.ticksRaw.deadLetter, 0))
                #expect(letters.count == 4)
                #expect(Set(letters.map(\.bytes)).count == 4)
            }
        }

        @Test func `A writer whose records retention took stops and says which`() async throws {
            try await apart {
                let tape = try Tape(
                    [.ticksRaw, .ticksRaw.deadLetter],
                    settings: ["retention.ms": "1000", "segment.ms": "500", "segment.bytes": "1048576"])
                let feed = try tape.open()
                defer { try? feed.close() }
                try feed.commit([GroupOffset(group: GroupTests.group, place: GroupTests.place, offset: 0)])
                var sequence: UInt64 = 1
                #expect(
                    try holds(within: 60) {
                        try feed.append([tickBlock(feed, from: sequence, count: 1)], consumed: [])
                        try feed.sync()
                        sequence += 1
                        RealTime().sleep(ns: 100_000_000)
                        return try feed.offset(of: .earliest, in: GroupTests.place) > 0
                    })
                var configuration = WriterConfiguration()
                configuration.stopsAtLostRecords = true
                let writer = try RunningWriter(tape, SimulatedStore(), configuration)
                #expect(holds { writer.failure != nil })
                #expect(writer.failure?.contains("records 0..<") == true)
                #expect(writer.failure?.contains("Somebody must decide") == true)
                try writer.log.close()
                let going = try RunningWriter(tape, SimulatedStore())
                // Retention goes on: something new has to be there for the writer to go on with.
                #expect(
                    try holds {
                        try feed.append([tickBlock(feed, from: sequence, count: 1)], consumed: [])
                        try feed.sync()
                        sequence += 1
                        RealTime().sleep(ns: 100_000_000)
                        return going.writer.counters.recordsLost > 0 && going.writer.counters.rows > 0
                    })
                try going.stop()
            }
        }

        @Test func `Reads elsewhere in a partition leave its member the one place that it has`() async throws {
            try await apart {
                let tape = try Tape()
                let log = try tape.open(changing: { $0.cacheBytes = 1 })
                defer { try? log.close() }
                for round in 0..<20 {
                    try log.append([tickBlock(log, from: UInt64(round * 500 + 1), count: 500)], consumed: [])
                    try log.sync()
                }
                let isOver = Atomic<Bool>(false)
                let loaded = Atomic<UInt64>(0)
                let wrong = Mutex<[String]>([])
                Thread.detachNewThread {
                    while !isOver.load(ordering: .relaxed) {
                        let count = loaded.load(ordering: .relaxed)
                        let offset = count * 3001 % 10_000
                        log.load(GroupTests.place, at: offset, .durable) { result in
                            if case .success(.block(let block, let index)) = result,
                                block.firstOffset + UInt64(index) == offset,
                                block.sequence(of: index) == offset + 1
                            {
                            } else {
                                wrong.withLock { $0.append("\(offset): \(result)") }
                            }
                            loaded.add(1, ordering: .relaxed)
                        }
                        _ = holds { loaded.load(ordering: .relaxed) > count }
                    }
                }
                let member = try log.join(group: GroupTests.group, .ticksRaw)
                let mine = try GroupTests.partitions(member, count: 1)
                #expect(mine == [GroupTests.place])
                member.begin(GroupTests.place, at: 0)
                var seen: [UInt64] = []
                #expect(
                    try holds {
                        guard
                            case .block(let block, let index) = try log.readBlocking(
                                GroupTests.place, at: UInt64(seen.count), .durable)
                        else { return false }
                        seen += block.readRecords(from: index).map(\.sequence)
                        return seen.count >= 10_000
                    })
                #expect(seen == Array(1...10_000))
                #expect(log.state.withLock { $0.cursors.count } == 1)
                member.leave()
                #expect(log.state.withLock { $0.cursors.count } == 0)
                let before = loaded.load(ordering: .relaxed)
                #expect(holds { loaded.load(ordering: .relaxed) > before + 10 })
                isOver.store(true, ordering: .relaxed)
                #expect(wrong.withLock { $0 } == [])
            }
        }
    }
}
