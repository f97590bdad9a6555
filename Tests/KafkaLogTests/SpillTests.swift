import EventLog
import FileDisk
import Foundation
import KafkaLog
import KafkaTestSupport
import SegmentLog
import Simulation
import TestSupport
import Testing

extension KafkaTests {
    @Suite(.serialized) struct SpillTests {
        private static let place = TopicPartition(.ticksRaw, 0)

        private static func segments(_ folder: TemporaryFolder) throws -> SegmentLog {
            var configuration = SegmentLog.Configuration()
            configuration.diskSharePercent = 100
            configuration.freeBytesMin = 0
            return try SegmentLog(
                disk: try FileDisk(directory: folder.path), time: RealTime(), configuration: configuration)
        }

        private static func open(_ tape: Tape, _ reports: Reports, bytes: Int = 1 << 30) throws -> KafkaLog {
            try tape.open(
                report: reports.add,
                changing: {
                    $0.producer.ticksQueuedMax = 1000
                    $0.producer.fullWaitNs = 100_000_000
                    $0.producer.ticksDeadlineNs = 0
                    $0.spillAfterNs = 300_000_000
                    $0.spillBytesMax = bytes
                })
        }

        /// Appends ticks one hundred at a time, as a feed does: what is refused is tried again.
        private static func publish(_ log: KafkaLog, _ sequences: ClosedRange<UInt64>) throws {
            var next = sequences.lowerBound
            while next <= sequences.upperBound {
                do throws(LogError) {
                    try log.append([tickBlock(log, from: next, count: 100)], consumed: [])
                    next += 100
                } catch {
                    guard error.retryable else { throw error }
                }
            }
        }

        /// What a reader that drops repeats sees.
        private static func news(_ log: KafkaLog) throws -> [UInt64] {
            var news: [UInt64] = []
            for record in try readAll(log, place) where record.sequence > news.last ?? 0 {
                news.append(record.sequence)
            }
            return news
        }

        @Test func `While the brokers are away ticks go to the disk, and after it to the brokers, in order`()
            async throws
        {
            try await apart {
                let tape = try Tape([.ticksRaw, .booksDeltas])
                let folder = try TemporaryFolder()
                let segments = try SpillTests.segments(folder)
                let reports = Reports()
                let log = try SpillTests.open(tape, reports)
                try log.spill(into: segments)
                try SpillTests.publish(log, 1...500)
                try log.sync()
                try tape.broker.pause()
                do {
                    defer { try? tape.broker.command("resume", "1") }
                    try SpillTests.publish(log, 501...6000)
                    #expect(log.counters.isSpilling)
                    #expect(log.counters.spilled >= 5000)
                }
                try SpillTests.publish(log, 6001...7000)
                try log.sync()
                try SpillTests.publish(log, 7001...7500)
                try log.sync()
                #expect(!log.counters.isSpilling)
                #expect(log.counters.drained == log.counters.spilled)
                #expect(log.counters.spillLost == 0)
                #expect(log.counters.produced[.ticksRaw]?.failed == 0)
                #expect(try SpillTests.news(log) == Array(1...7500))
                #expect(reports.contains("do not take ticks") && reports.contains("have what was spilled"))
                try log.close()
                try segments.close()
            }
        }

        @Test func `What is in the spill when the process ends is sent by the next one, before what is new`()
            async throws
        {
            try await apart {
                let tape = try Tape([.ticksRaw, .booksDeltas])
                let folder = try TemporaryFolder()
                let reports = Reports()
                var segments = try SpillTests.segments(folder)
                let first = try SpillTests.open(tape, reports)
                try first.spill(into: segments)
                try SpillTests.publish(first, 1...100)
                try first.sync()
                try tape.broker.pause()
                do {
                    defer { try? tape.broker.command("resume", "1") }
                    // Not so many that the queue is full: the end of the process is what sends them there.
                    try SpillTests.publish(first, 101...800)
                    try? first.close()
                    try segments.close()
                }
                segments = try SpillTests.segments(folder)
                let second = try SpillTests.open(tape, reports)
                try second.spill(into: segments)
                try SpillTests.publish(second, 801...1000)
                try second.sync()
                #expect(try SpillTests.news(second) == Array(1...1000))
                #expect(reports.contains("an earlier process could not send"))
                try second.close()
                try segments.close()
            }
        }

        @Test func `Past its bound the spill loses ticks, counted and by name`() async throws {
            try await apart {
                let tape = try Tape([.ticksRaw, .booksDeltas])
                let folder = try TemporaryFolder()
                let segments = try SpillTests.segments(folder)
                let reports = Reports()
                let log = try SpillTests.open(tape, reports, bytes: 256 << 10)
                try log.spill(into: segments)
                try SpillTests.publish(log, 1...100)
                try log.sync()
                try tape.broker.pause()
                do {
                    defer { try? tape.broker.command("resume", "1") }
                    try SpillTests.publish(log, 101...20_000)
                }
                try log.sync()
                let lost = log.counters.spillLost
                #expect(lost > 0)
                #expect(try SpillTests.news(log).count == 20_000 - Int(lost))
                #expect(reports.contains("the spill is full (0 MiB)"))
                #expect(reports.contains("100 records of ticks.raw/0 are lost, from SIMX|AAPL"))
                try log.close()
                try segments.close()
            }
        }
    }
}
