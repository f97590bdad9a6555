import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import Simulation
import TestSupport
import Testing

extension ClusterTests {
    /// `dlq`, `replay` of a range, and `groups reset --to-token`, as a user runs them.
    @Suite(.serialized) struct RepairCommandTests {
        private static func run(_ words: [String], _ tape: Tape) throws -> (status: Int32, output: String) {
            try Program.run(
                words + ["--brokers", tape.broker.brokers, "--topic-prefix", tape.configuration.prefix])
        }

        @Test func `Dead letters are listed, shown and redriven`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                #expect(try Self.run(["dlq", "list", "ticks.raw"], tape).output.contains("no letters\n"))
                try putAside(log)
                let list = try Self.run(["dlq", "list", "ticks.raw", "--reason", "UNDECODABLE"], tape)
                #expect(
                    list.status == 0 && list.output.split(separator: "\n").count { $0.contains("waiting") } == 5,
                    "\(list.output)")
                #expect(list.output.contains("0:0  waiting   from 0:100  "), "\(list.output)")
                let show = try Self.run(["dlq", "show", "ticks.raw", "1:2", "--json"], tape)
                #expect(show.status == 0 && show.output.contains("\"source_offset\":102,"), "\(show.output)")
                let bytes = encodedTick(symbol: "P1", sequence: 3).map { String(format: "%02x", $0) }.joined()
                #expect(show.output.contains("\"value\":\"\(bytes)\""))
                #expect(try Self.run(["dlq", "redrive", "ticks.raw"], tape).status == 1)
                let one = try Self.run(["dlq", "redrive", "ticks.raw", "0:4", "1:0"], tape)
                #expect(one.status == 0 && one.output.contains("read 13 = redriven 2 + skipped 11 + failed 0"))
                let all = try Self.run(["dlq", "redrive", "ticks.raw", "--all", "--json"], tape)
                #expect(all.output.contains("\"redriven\":11,\"skipped\":2,"), "\(all.output)")
                #expect(all.output.contains("\"balanced\":true"))
                let sequences = try (0..<2).map { partition in
                    try readAll(log, TopicPartition(.ticksRaw, UInt16(partition))).map(\.sequence).sorted()
                }
                #expect(sequences == [Array(1...10), [1, 2, 3]])
            }
        }

        @Test func `A range is replayed into another topic, and a group goes on where a token stands`() async throws {
            try await apart {
                let tape = try Tape(partitions: 2)
                let lab = try Tape(partitions: 3)
                let log = try tape.open()
                defer { try? log.close() }
                for symbol in ["AAPL", "MSFT", "TSLA"] {
                    try log.append([tickBlock(log, symbol: symbol, from: 1, count: 300)], consumed: [])
                }
                try log.sync()
                // Filing times are nanoseconds after 22:13:20.
                let range = ["--from", "2023-11-14T22:13:20.000000100Z", "--to", "2023-11-14T22:13:20.000000200Z"]
                let into = ["--into", lab.configuration.prefix + "ticks.raw"]
                let replay = try Self.run(["replay"] + range + into, tape)
                #expect(
                    replay.status == 0 && replay.output.contains("300 ticks read, 300 replayed"), "\(replay.output)")
                let target = try lab.open()
                defer { try? target.close() }
                for symbol in ["AAPL", "MSFT", "TSLA"] {
                    let place = TopicPartition(
                        .ticksRaw, target.partition(of: .ticksRaw, exchange: "SIMX", symbol: symbol))
                    let came = try readAll(target, place).filter { $0.symbol == symbol }
                    #expect(came.map(\.sequence) == Array(100..<200))
                    #expect(came.map(\.bytes) == (100..<200).map { encodedTick(symbol: symbol, sequence: $0) })
                }
                let same = try Self.run(
                    ["replay", "--into", tape.configuration.prefix + "ticks.raw"] + range, tape)
                #expect(same.status == 1 && same.output.contains("would be there twice"), "\(same.output)")

                var token = resumeToken(log, [17, 5])
                let ends = (0..<2).map { log.endOffset(TopicPartition(.ticksRaw, UInt16($0)), .durable) }
                let (first, second) = (min(17, ends[0]), min(5, ends[1]))
                let hex = token.map { String(format: "%02x", $0) }.joined()
                let reset = ["groups", "reset", "cassandra-writer", "--yes", "--json", "--to-token"]
                let moved = try Self.run(reset + [hex], tape)
                #expect(moved.status == 0 && moved.output.contains("\"partition\":0,\"from\":null,\"to\":\(first)}"))
                #expect(moved.output.contains("\"partition\":1,\"from\":null,\"to\":\(second)}"), "\(moved.output)")
                #expect(
                    try log.committedOffset(group: "cassandra-writer", TopicPartition(.ticksRaw, 0)) == first)
                let base64 = Data(token).base64EncodedString()
                #expect(try Self.run(reset + [base64], tape).output.contains("\"from\":\(first),\"to\":\(first)}"))
                #expect(try Self.run(reset + [hex], lab).output.contains("of another log"))
                token[5] ^= 1
                let broken = token.map { String(format: "%02x", $0) }.joined()
                #expect(try Self.run(reset + [broken], tape).output.contains("its checksum is wrong"))
            }
        }
    }
}
