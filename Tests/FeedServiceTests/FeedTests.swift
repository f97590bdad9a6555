import EventLog
import FeedService
import Foundation
import MarketModel
import SegmentLog
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec

/// A log on a simulated disk, and what was published to it.
final class FeedWorld {
    let disk = SimulatedDisk(seed: 1)
    let time = VirtualTime()
    let reports = Reports()

    final class Reports: Sendable {
        let lines = Mutex<[String]>([])
    }

    func open() throws -> SegmentLog {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        return try SegmentLog(disk: disk, time: time, configuration: configuration)
    }

    func play(_ path: String, into log: SegmentLog) throws -> FeedCounters {
        let reports = reports
        let feed = FeedService(log: log, time: time, source: .recording(path: path, speed: .maximum)) { kind, what in
            let line = kind + ": " + what()
            reports.lines.withLock { $0.append(line) }
        }
        try feed.run()
        return feed.counters
    }

    /// All ticks, as encoded.
    static func records(_ log: SegmentLog) throws -> [[UInt8]] {
        var records: [[UInt8]] = []
        var next: UInt64 = 0
        while case .block(let block, let index) = try log.readBlocking(TopicPartition(.ticksRaw, 0), at: next, .written)
        {
            for record in index..<block.recordCount { records.append(Array(block.payload(record))) }
            next = block.endOffset
        }
        return records
    }

    /// Every instrument's sequences are contiguous from 1 within each epoch, and every tick is valid.
    static func check(_ records: [[UInt8]]) {
        var last: [String: (epoch: UInt64, sequence: UInt64)] = [:]
        for record in records {
            record.withUnsafeBytes { bytes in
                guard let reader = try? TickReader(bytes), (try? reader.check()) != nil else {
                    Issue.record("a tick that is none")
                    return
                }
                let name =
                    String(decoding: reader.exchange, as: UTF8.self) + "|"
                    + String(decoding: reader.symbol, as: UTF8.self)
                let before = last[name]
                let expected = before?.epoch == reader.epoch ? before!.sequence + 1 : 1
                if reader.sequence != expected { Issue.record("\(name): \(reader.sequence), not \(expected)") }
                #expect(reader.publishTimeNs == reader.receivedTimeNs || reader.epoch < 1 << 48)
                last[name] = (reader.epoch, reader.sequence)
            }
        }
    }
}

@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"))
struct RecordingFeedTests {
    private static let binance = SharedData.path("data/binance/spot_btcusdt_20240808.jsonl.gz")

    private func temporary(_ name: String, _ bytes: [UInt8]) throws -> String {
        let path = NSTemporaryDirectory() + "tapedeck-feed-\(ProcessInfo.processInfo.processIdentifier)-\(name)"
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        return path
    }

    /// Unpacked, as text.
    private func binanceLines() throws -> [String] {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: "/bin/gzip")
        process.arguments = ["-dc", RecordingFeedTests.binance]
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        let bytes = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    @Test func `Channels that are not read are named, where there is nothing else and where there is`() throws {
        for (name, channel) in [("KRAKEN.ws.48.0.gz", "kraken trade"), ("KRAKEN.ws.49.0.gz", "kraken ticker")] {
            let world = FeedWorld()
            let path = SharedData.path("data/cryptofeed/" + name)
            let error = #expect(throws: FeedError.self) { try world.play(path, into: try world.open()) }
            #expect(
                error?.description.contains("has no message to take: it has \(channel), which is not read") == true,
                "\(error!)")
            #expect(
                error?.description.contains("What is read: binance depth, bookTicker and trade; kraken book") == true)
        }
        let lines = [
            #"1618678132.1: [1,{"a":["2","1","1"],"b":["1","1","1"]},"ticker","A/B"]"#,
            #"1618678132.2: [2,{"as":[["2.0","1.0","1.1"]],"bs":[["1.0","1.0","1.1"]]},"book-10","A/B"]"#,
            #"1618678132.3: [3,[["1","1","1618678132.2","b","l",""]],"trade","A/B"]"#,
            #"1618678132.4: [3,[["1","1","1618678132.2","b","l",""]],"trade","A/B"]"#,
        ]
        let path = try temporary("unread", Array(lines.joined(separator: "\n").utf8))
        let world = FeedWorld()
        let counters = try world.play(path, into: try world.open())
        #expect(counters.unread == ["kraken ticker": 1, "kraken trade": 2] && counters.ticks == 1)
        #expect(counters.badLines == 0)
        let other = [
            #"1618678132.1: {"stream":"btcusdt@kline_1m","data":{"e":"kline","s":"BTCUSDT"}}"#,
            #"1618678132.2: {"e":"aggTrade","s":"BTCUSDT"}"#,
        ]
        let binance = try temporary("unread-binance", Array(other.joined(separator: "\n").utf8))
        let none = #expect(throws: FeedError.self) { try world.play(binance, into: try world.open()) }
        #expect(none?.description.contains("binance aggTrade, binance kline") == true, "\(none!)")
    }

    @Test func `A recording played twice makes the same ticks once`() throws {
        let world = FeedWorld()
        let log = try world.open()
        let first = try world.play(RecordingFeedTests.binance, into: log)
        let records = try FeedWorld.records(log)
        #expect(first.ticks == 37_797 && first.violations.isEmpty && first.badLines == 0)
        FeedWorld.check(records)
        let second = try world.play(RecordingFeedTests.binance, into: log)
        #expect(second.ticks == 0 && second.ticksKnown == first.ticks)
        #expect(try FeedWorld.records(log).count == records.count)
    }

    @Test func `A feed that is killed and started again ends with the same ticks`() throws {
        let whole = FeedWorld()
        let log = try whole.open()
        _ = try whole.play(RecordingFeedTests.binance, into: log)
        let expected = try FeedWorld.records(log)
        let world = FeedWorld()
        for operation in [3, 20, 11, 15] {
            let log = try world.open()
            world.disk.crash(.kill, atOperation: operation)
            #expect(throws: FeedError.self) { try world.play(RecordingFeedTests.binance, into: log) }
            world.disk.restart()
        }
        let last = try world.open()
        _ = try world.play(RecordingFeedTests.binance, into: last)
        #expect(try FeedWorld.records(last) == expected)
    }

    @Test func `A lost diff makes the instrument stale, is counted, and reported once`() throws {
        var lines = try binanceLines()
        let index = try #require(lines.indices.filter { lines[$0].contains("depthUpdate") }.dropFirst(500).first)
        lines.remove(at: index)
        let path = try temporary("gap.jsonl", Array(lines.joined(separator: "\n").utf8))
        defer { try? FileManager.default.removeItem(atPath: path) }
        let world = FeedWorld()
        let log = try world.open()
        let counters = try world.play(path, into: log)
        #expect(counters.violations.values.reduce(0, +) >= 1)
        #expect(counters.staleInstruments == 1)
        let records = try FeedWorld.records(log)
        let stale = records.filter { record in
            record.withUnsafeBytes { (try? TickReader($0))?.state == .stale }
        }
        #expect(!stale.isEmpty)
        FeedWorld.check(records)
        #expect(world.reports.lines.withLock { $0.count } >= 1)
    }

    @Test func `Garbage lines are counted and lose nothing else`() throws {
        var lines = Array(try binanceLines().prefix(3000))
        for index in stride(from: 100, to: 2900, by: 100) {
            lines.insert(
                ["garbage", "1723161253937085768 {", "{}", "1723161253937085768 {\"e\":\"trade\"}"][index / 100 % 4],
                at: index)
        }
        let path = try temporary("garbage.jsonl", Array(lines.joined(separator: "\n").utf8))
        defer { try? FileManager.default.removeItem(atPath: path) }
        let world = FeedWorld()
        let log = try world.open()
        let counters = try world.play(path, into: log)
        #expect(counters.badLines == 28)
        #expect(counters.violations.isEmpty)
        FeedWorld.check(try FeedWorld.records(log))
    }

    @Test func `What is no recording is refused with a reason`() throws {
        let gzip = try [UInt8](Data(contentsOf: URL(fileURLWithPath: RecordingFeedTests.binance)))
        let cases: [(String, [UInt8])] = [
            ("empty", []), ("text", Array("hello\nworld\n".utf8)),
            ("binary", (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 37) }),
            ("cut.gz", Array(gzip.prefix(gzip.count / 2))),
        ]
        for (name, bytes) in cases {
            let path = try temporary(name, bytes)
            defer { try? FileManager.default.removeItem(atPath: path) }
            let world = FeedWorld()
            let log = try world.open()
            let error = #expect(throws: FeedError.self) { try world.play(path, into: log) }
            #expect(error?.description.contains(path) == true)
        }
        let world = FeedWorld()
        let log = try world.open()
        #expect(throws: FeedError.self) { try world.play("/no/such/file", into: log) }
    }

    @Test(arguments: ["KRAKEN.ws.50.0.gz", "COINBASE.ws.28.0.gz"])
    func `The other venues' recordings play without a violation`(_ name: String) throws {
        let world = FeedWorld()
        let log = try world.open()
        let counters = try world.play(SharedData.path("data/cryptofeed/" + name), into: log)
        #expect(counters.violations.isEmpty && counters.badLines == 0)
        #expect(counters.ticks > 100)
        FeedWorld.check(try FeedWorld.records(log))
    }
}
