import EventLog
import FeedService
import Foundation
import MarketProto
import Protobuf
import SegmentLog
import SimulatedVenue
import Simulation
import TapedeckClient
import TestSupport
import Testing

@testable import tapedeck

/// `tapedeck simulate-edge`.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct SimulateEdgeTests {
    /// The first records of a simulated market on seeded time.
    private func market(seed: UInt64, count: UInt64) async throws -> [[UInt8]] {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        let log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: VirtualTime(), configuration: configuration)
        var venue = SimulatedVenue.Configuration()
        venue.seed = seed
        let feed = FeedService(
            log: log, time: SeededTime(pacedBy: VirtualTime()), source: .simulated(venue)
        ) { _, _ in }
        let thread = ServiceThread(name: "feed", ended: { _ in }) { try feed.run() }
        let place = TopicPartition(.ticksRaw, 0)
        while log.endOffset(place, .written) < count, !thread.isDone { await Task.yield() }
        feed.stop()
        while !thread.isDone { await Task.yield() }
        var records: [[UInt8]] = []
        var next: UInt64 = 0
        while records.count < count {
            guard case .block(let block, let index) = try log.readBlocking(place, at: next, .written) else { break }
            for record in index..<block.recordCount { records.append(Array(block.payload(record))) }
            next = block.endOffset
        }
        return Array(records.prefix(Int(count)))
    }

    @Test func `The same seed makes the same market, times included; another seed another`() async throws {
        let one = try await market(seed: 7, count: 5000)
        #expect(one.count == 5000)
        #expect(one == (try await market(seed: 7, count: 5000)))
        #expect(one != (try await market(seed: 8, count: 5000)))
        let first = try Proto.PriceUpdate(decoding: one[0])
        #expect(first.receivedTime?.seconds == SeededTime.startNs / 1_000_000_000)
    }

    @Test func `The printed schedule is that of the seed, one line of JSON for each fault`() throws {
        struct Line: Decodable {
            let stream: Int
            let message: Int
            let fault: String
        }
        let arguments = ["simulate-edge", "--print-schedule", "20000", "--seed"]
        let one = try BinaryTests.run(arguments + ["7"])
        #expect(one.status == 0)
        let lines = try one.output.split(separator: "\n").map {
            try JSONDecoder().decode(Line.self, from: Data($0.utf8))
        }
        #expect(Set(lines.map(\.stream)) == Set(1...8) && lines.allSatisfy { (1...20_000).contains($0.message) })
        #expect(Set(lines.map(\.fault)).isSuperset(of: ["drop", "duplicate", "reorder", "crossed"]))
        #expect(try BinaryTests.run(arguments + ["7"]).output == one.output)
        #expect(try BinaryTests.run(arguments + ["8"]).output != one.output)
    }

    @Test func `It serves a client, and every fault that it makes is one of the schedule`() async throws {
        let folder = NSTemporaryDirectory() + "tapedeck-simulate-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let file = folder + "/output"
        _ = FileManager.default.createFile(atPath: file, contents: nil)
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: BinaryTests.program)
        let rates = ["--seed", "7", "--drops", "5000", "--resets", "500"]
        process.arguments = ["simulate-edge", "--listen", "127.0.0.1:0"] + rates
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: file))
        process.standardError = FileHandle.nullDevice
        process.environment = ProcessInfo.processInfo.environment.merging(["TMPDIR": folder]) { $1 }
        try process.run()
        defer { process.terminate() }
        func lines() -> [String] {
            let text = (try? String(contentsOfFile: file, encoding: .utf8)) ?? ""
            // What has its end of line.
            return text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
        }
        struct Ready: Decodable { let address: String }
        while lines().isEmpty, process.isRunning { await Task.yield() }
        let ready = try JSONDecoder().decode(Ready.self, from: Data(try #require(lines().first).utf8))
        let client = try TapedeckClient(ready.address)
        defer { client.close() }
        var ticks = 0
        var gaps = 0
        reading: for try await event in client.prices() {
            switch event {
            case .ticks(let batch): ticks += batch.count
            case .gap: gaps += 1
            default: break
            }
            let made = lines()
            if gaps > 2, made.contains(where: { $0.contains("\"reset\"") }) { break reading }
        }
        #expect(ticks > 0)
        process.terminate()
        while process.isRunning { await Task.yield() }
        #expect(process.terminationStatus == 0)
        let printed = try BinaryTests.run(["simulate-edge", "--print-schedule", "1000000"] + rates).output
        let schedule = Set(printed.split(separator: "\n").map { $0.dropLast() })
        let faults = lines().dropFirst()
        #expect(faults.count > 3)
        for fault in faults {
            let place = try #require(fault.range(of: ",\"method\""))
            #expect(schedule.contains(fault[..<place.lowerBound]), "\(fault)")
        }
        // Its data are gone with it.
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["output"])
    }
}
