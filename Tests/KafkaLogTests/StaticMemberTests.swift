import EventLog
import Foundation
import KafkaTestSupport
import Synchronization
import TestSupport
import Testing

@testable import KafkaLog

extension KafkaTests {
    @Suite(.serialized) struct StaticMemberTests {
        @Test func `A member with a fixed name that was killed and comes back has its partitions, and nobody noticed`()
            async throws
        {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 4)
                let folder = try TemporaryFolder()
                let log = try tape.open(changing: { $0.group.instance = "b" })
                defer { try? log.close() }
                let member = try #require(try log.join(group: GroupTests.group, .ticksRaw) as? KafkaMembership)
                func start() throws -> ServiceProcess {
                    try ServiceProcess([
                        "writer", "--instance", "a", "--data", folder.path + "/rows", "--brokers", tape.broker.brokers,
                        "--topic-prefix", tape.configuration.prefix,
                    ])
                }
                let killed = try start()
                let mine = try GroupTests.partitions(member, count: 2)
                let others = (0..<4).map { TopicPartition(.ticksRaw, $0) }.filter { !mine.contains($0) }
                /// Ten ticks in each partition of the writer, which it stores and commits.
                func stores(from: UInt64) throws -> Bool {
                    for place in others {
                        try log.append([rawTicks(place, from: from, count: 10)], consumed: [])
                    }
                    return try holds(within: 60) {
                        try others.allSatisfy {
                            try log.committedOffset(group: GroupTests.group, $0) == from + 9
                        }
                    }
                }
                #expect(try stores(from: 1))
                // Each rebalance is told to each member, whether it changes its partitions or not.
                let rebalances = Atomic<Int>(0)
                let context = member.handle.context
                let own = context.rebalanced.withLock { $0 }
                context.rebalanced.withLock { rebalanced in
                    rebalanced = { code, list in
                        rebalances.add(1, ordering: .relaxed)
                        own?(code, list)
                    }
                }
                // Nobody says goodbye.
                killed.end(SIGKILL)
                let again = try start()
                #expect(try stores(from: 11))
                #expect(try member.partitions() == mine)
                #expect(rebalances.load(ordering: .relaxed) == 0)
                #expect(again.end() == 0)
                withExtendedLifetime(folder) {}
            }
        }

        /// Ticks of an instrument that lies in this partition because it is put there.
        private func rawTicks(_ place: TopicPartition, from: UInt64, count: Int) -> Block {
            rawBlock(
                place, symbol: "S\(place.partition)",
                (0..<UInt64(count)).map { encodedTick(symbol: "S\(place.partition)", sequence: from + $0) })
        }
    }
}
