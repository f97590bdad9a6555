import EventLog
import KafkaTestSupport
import Simulation
import TestSupport
import Testing
import WriterService

@testable import KafkaLog

extension KafkaTests {
    /// Groups whose partitions the brokers give out and not a member (KIP-848), as `group.protocol=consumer` asks for.
    @Suite(.serialized) struct ConsumerProtocolTests {
        private static let consumer: @Sendable (inout KafkaConfiguration) -> Void = {
            $0.properties.append((name: "group.protocol", value: "consumer"))
        }

        /// The library of Debian 12 has no such setting, and must say so: whether this one has it. NewerLibraryTests
        /// run these again on one that has.
        private static func isKnown() async throws -> Bool {
            if KafkaLog.libraryVersion >= 0x0206_00ff { return true }
            try await apart {
                let tape = try Tape()
                let error = #expect(throws: LogError.self) { _ = try tape.open(changing: consumer) }
                #expect(error?.message.contains("Kafka setting group.protocol") == true, "\(String(describing: error))")
            }
            return false
        }

        @Test func `Partitions go to a second member when no batch is out, and come back when it leaves`() async throws
        {
            guard try await Self.isKnown() else { return }
            try await GroupTests.handsOver(Self.consumer)
        }

        @Test func `A batch that stays out is reported, and keeps its partition no longer than the bound`() async throws
        {
            guard try await Self.isKnown() else { return }
            try await GroupTests.bounds(Self.consumer)
        }

        @Test func `Two writers share the partitions, one leaves, and each tick is read by one of them once`()
            async throws
        {
            guard try await Self.isKnown() else { return }
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 4)
                let store = SimulatedStore(syncEvery: 1)
                let a = try RunningWriter(tape, store, changing: Self.consumer)
                let symbols = try Self.symbols(a.log, partitions: 4)
                func publish(_ from: UInt64) throws {
                    try a.log.append(
                        symbols.map { tickBlock(a.log, symbol: $0, from: from, count: 10) }, consumed: [])
                    try a.log.sync()
                }
                func isCommitted(_ offset: UInt64) throws -> Bool {
                    try (0..<4).allSatisfy {
                        try a.log.committedOffset(group: GroupTests.group, TopicPartition(.ticksRaw, $0)) == offset
                    }
                }
                try publish(1)
                #expect(try holds { try isCommitted(10) })
                let b = try RunningWriter(tape, store, changing: Self.consumer)
                #expect(holds { store.released.count == 2 })
                try publish(11)
                #expect(try holds { try isCommitted(20) })
                #expect(a.writer.counters.rows == 60 && b.writer.counters.rows == 20)
                try b.stop()
                try publish(21)
                #expect(try holds { try isCommitted(30) })
                // Rows are counted when they are read again, too.
                #expect(a.writer.counters.rows == 100 && b.writer.counters.rows == 20)
                let stored = try GroupTests.sequences(store)
                #expect(symbols.allSatisfy { stored[$0] == Array(1...30) }, "\(stored)")
                #expect(a.failure == nil && b.failure == nil)
                try a.stop()
            }
        }

        /// One for each partition.
        private static func symbols(_ log: KafkaLog, partitions: Int) throws -> [String] {
            try (0..<partitions).map { partition in
                try #require(
                    (0..<1000).lazy.map { "S\($0)" }
                        .first { log.partition(of: .ticksRaw, exchange: "SIMX", symbol: $0) == partition })
            }
        }
    }
}
