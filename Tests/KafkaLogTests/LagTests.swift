import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import TestSupport
import Testing
import TimeSource

extension KafkaTests {
    /// `tapedeck lag`, of groups that are where the test puts them.
    @Suite struct LagTests {
        /// The machine's clocks, with another time of day.
        private final class EarlierTime: TimeSource {
            private let real = RealTime()
            private let byNs: Int64

            init(minutes: Int64) { byNs = minutes * 60_000_000_000 }

            func wallNs() -> Int64 { real.wallNs() - byNs }
            func monotonicNs() -> Int64 { real.monotonicNs() }
            func sleep(ns: Int64) { real.sleep(ns: ns) }
        }

        private struct Line: Decodable {
            let group: String
            let state: String
            let members: Int
            let records: Int
            let seconds: Double
            let trend_records_per_second: Double
            let handled_per_second: Double
            let catch_up_seconds: Double?
        }

        private let places = (0..<2).map { TopicPartition(.ticksRaw, $0) }

        /// What the command says, by group without its prefix.
        private func lag(_ tape: Tape, _ groups: String...) throws -> [String: Line] {
            let ended = try Program.run(
                ["lag", "--json"] + groups
                    + ["--brokers", tape.broker.brokers, "--topic-prefix", tape.configuration.prefix])
            try #require(ended.status == 0, "\(ended.output)")
            let lines = try ended.output.split(separator: "\n").map {
                try JSONDecoder().decode(Line.self, from: Data($0.utf8))
            }
            return Dictionary(
                uniqueKeysWithValues: lines.map { (String($0.group.dropFirst(tape.configuration.prefix.count)), $0) })
        }

        /// Appends to a partition as it would have been so long ago.
        private func append(_ tape: Tape, _ place: TopicPartition, from: UInt64, count: Int, minutesAgo: Int64) throws {
            let log = try KafkaLog(tape.configuration, time: EarlierTime(minutes: minutesAgo)) { _, _ in }
            defer { try? log.close() }
            let symbol = "S\(place.partition)"
            let ticks = (0..<UInt64(count)).map { encodedTick(symbol: symbol, sequence: from + $0) }
            try log.append([rawBlock(place, symbol: symbol, ticks)], consumed: [])
            try log.sync()
        }

        private func expect(_ line: Line?, records: Int, minutes: Double, since startNs: Int64) throws {
            let line = try #require(line)
            #expect(line.records == records, "\(line)")
            // Since the records were appended the clock has gone on.
            let passed = Double(RealTime().wallNs() - startNs) / 1e9
            #expect(line.seconds >= minutes * 60 - 0.1 && line.seconds <= minutes * 60 + passed + 0.1, "\(line)")
            #expect(line.trend_records_per_second == 0 && line.handled_per_second == 0, "\(line)")
            #expect(line.catch_up_seconds == (records == 0 ? 0 : nil) && line.members == 0, "\(line)")
        }

        @Test func `Lag is what lies past the committed offsets, and as old as the first of it`() async throws {
            try await apart {
                let tape = try Tape(partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                let startNs = RealTime().wallNs()
                try append(tape, places[0], from: 1, count: 10, minutesAgo: 180)
                try append(tape, places[0], from: 11, count: 7, minutesAgo: 120)
                try append(tape, places[1], from: 1, count: 5, minutesAgo: 60)
                try append(tape, places[1], from: 6, count: 3, minutesAgo: 30)
                func commit(_ group: String, _ offsets: [UInt64]) throws {
                    try log.commit(
                        zip(places, offsets).map { GroupOffset(group: group, place: $0, offset: $1) })
                }
                try commit("cassandra-writer", [10, 8])
                // Of the second partition it has nothing committed, and all before it.
                try commit("reader", [17])
                // How far dead letters went is no lag.
                try commit("writer.dlq", [1])
                var found = try lag(tape)
                #expect(Set(found.keys) == ["cassandra-writer", "reader"])
                try expect(found["cassandra-writer"], records: 7, minutes: 120, since: startNs)
                try expect(found["reader"], records: 8, minutes: 60, since: startNs)
                try expect(try lag(tape, "writer.dlq")["writer.dlq"], records: 24, minutes: 180, since: startNs)
                try commit("cassandra-writer", [17, 5])
                let admin = try KafkaAdmin(tape.configuration) { _, _ in }
                defer { admin.close() }
                try admin.removeRecords(before: [places[1]: 6])
                found = try lag(tape)
                // Offsets 5 and 0 are gone: what is left begins at 6.
                try expect(found["cassandra-writer"], records: 2, minutes: 30, since: startNs)
                try expect(found["reader"], records: 2, minutes: 30, since: startNs)
                try commit("reader", [17, 8])
                try expect(try lag(tape, "reader")["reader"], records: 0, minutes: 0, since: startNs)
            }
        }
    }
}
