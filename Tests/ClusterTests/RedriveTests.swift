import EventLog
import Foundation
import KafkaLog
import KafkaTestSupport
import MarketProto
import Protobuf
import Repair
import SegmentLog
import Simulation
import TestSupport
import Testing

/// A dead letter as the writer makes one.
private func letter(_ source: TopicPartition, _ offset: UInt64, _ code: String, _ value: [UInt8]) -> [UInt8] {
    var letter = Proto.DeadLetter()
    letter.sourceTopic = source.topic.name
    letter.sourcePartition = Int32(source.partition)
    letter.sourceOffset = offset
    letter.reasonCode = code
    letter.reason = "for a test"
    letter.value = value
    letter.failedTime = Timestamp(ns: 1_700_000_000_000_000_000)
    letter.consumer = "writer"
    return letter.encodedBytes()
}

/// Ten letters in partition 0 and three in partition 1, of two reasons; what they hold is readable by now.
func putAside(_ log: any EventLog) throws {
    for (partition, count) in [(UInt16(0), 10), (1, 3)] {
        let source = TopicPartition(.ticksRaw, partition)
        var values: [[UInt8]] = []
        for index in 0..<UInt64(count) {
            let code = index % 3 == 0 ? "UNDECODABLE" : "INVALID_VALUE"
            values.append(letter(source, 100 + index, code, encodedTick(symbol: "P\(partition)", sequence: 1 + index)))
        }
        try log.append(
            [rawBlock(TopicPartition(.ticksRaw.deadLetter, partition), symbol: source.description, values)],
            consumed: [])
    }
    try log.sync()
}

/// Sequences that the source topic has of each partition.
private func published(_ log: any EventLog) throws -> [[UInt64]] {
    try (0..<2).map { partition in
        try readAll(log, TopicPartition(.ticksRaw, UInt16(partition))).map { record in
            #expect(record.symbol == "P\(partition)" && record.epoch == 1)
            return record.sequence
        }
    }
}

private func entries(_ letters: DeadLetters) throws -> [DeadLetterEntry] {
    var entries: [DeadLetterEntry] = []
    try letters.forEach { letter in
        entries.append(letter)
        return true
    }
    return entries
}

/// What holds on any log.
private func expectRedrives(_ log: any EventLog) throws {
    try putAside(log)
    let letters = try #require(DeadLetters(log, topic: .ticksRaw.deadLetter, time: RealTime()))
    let all = try entries(letters)
    #expect(all.count == 13 && all.allSatisfy { !$0.isRedriven })
    #expect(all[0].sourceOffset == 100 && all[0].reasonCode == "UNDECODABLE" && all[0].consumer == "writer")
    #expect(all[0].value == encodedTick(symbol: "P0", sequence: 1))

    var count = try letters.redrive { $0.reasonCode == "INVALID_VALUE" }
    #expect(count.isBalanced && count.read == 13 && count.redriven == 8 && count.failed == 0, "\(count)")
    #expect(count.skippedOthers == 5 && count.skippedBefore == 0)
    #expect(try published(log) == [[2, 3, 5, 6, 8, 9], [2, 3]])
    #expect(try entries(letters).filter(\.isRedriven).count == 8)

    // Again, with another choice: what went is not sent twice.
    count = try letters.redrive { $0.place.partition == 0 }
    #expect(count.isBalanced && count.read == 13 && count.redriven == 4 && count.skippedBefore == 8, "\(count)")
    count = try letters.redrive { _ in true }
    #expect(count.isBalanced && count.redriven == 1 && count.skippedBefore == 12, "\(count)")
    count = try letters.redrive { _ in true }
    #expect(count.isBalanced && count.redriven == 0 && count.skipped == 13, "\(count)")
    let sequences = try published(log).map { $0.sorted() }
    #expect(sequences == [Array(1...10), [1, 2, 3]])

    // One that came from a partition which is not there.
    let place = TopicPartition(.ticksRaw.deadLetter, 0)
    let lost = letter(TopicPartition(.ticksRaw, 900), 5, "UNDECODABLE", [1, 2, 3])
    try log.append([rawBlock(place, symbol: "lost", [lost])], consumed: [])
    try log.sync()
    count = try letters.redrive { _ in true }
    #expect(count.isBalanced && count.read == 14 && count.failed == 1 && count.failure?.contains("900") == true)
}

extension ClusterTests {
    @Suite(.serialized) struct RedriveTests {
        @Test func `Letters go back to their topic once, whatever is chosen how often`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                try expectRedrives(log)
            }
        }

        @Test func `The same on the embedded log`() throws {
            let time = RealTime()
            let disk = SimulatedDisk(seed: 7)
            var configuration = SegmentLog.Configuration()
            for topic in [Topic.ticksRaw, .ticksRaw.deadLetter] { configuration.partitionCounts[topic] = 2 }
            let log = try SegmentLog(disk: disk, time: time, configuration: configuration)
            defer { try? log.close() }
            try expectRedrives(log)
        }

        @Test func `The later of two redrives ends the earlier, and nothing goes twice`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .ticksRaw.deadLetter], partitions: 2)
                let log = try tape.open()
                defer { try? log.close() }
                try putAside(log)
                func open() throws -> (KafkaLog, DeadLetters) {
                    let log = try tape.open(changing: {
                        $0.clientID = "tapedeck-dlq"
                        $0.group.instance = "ticks.raw"
                    })
                    return (log, try #require(DeadLetters(log, topic: .ticksRaw, time: RealTime())))
                }
                let (first, earlier) = try open()
                let (second, later) = try open()
                defer {
                    try? first.close()
                    try? second.close()
                }
                var inner: RedriveCount?
                // While the earlier one chooses, the later one runs from beginning to end.
                let outer = try earlier.redrive { _ in
                    if inner == nil {
                        inner = RedriveCount()
                        inner = try? later.redrive { _ in true }
                    }
                    return true
                }
                #expect(inner?.redriven == 13, "\(String(describing: inner))")
                #expect(outer.isBalanced && outer.redriven == 0 && outer.failed > 0, "\(outer)")
                let sequences = try published(log).map { $0.sorted() }
                #expect(sequences == [Array(1...10), [1, 2, 3]])
            }
        }
    }
}
