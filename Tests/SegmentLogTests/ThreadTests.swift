import Disk
import EventLog
import FileDisk
import Foundation
import SegmentLog
import Simulation
import Synchronization
import Testing

struct ThreadTests {
    @Test func `Appenders and readers at once: every record once, in order, and orders durable when acknowledged`()
        throws
    {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) {
            $0.segmentBytes = 256 << 10
            $0.tipBytes = 16 << 10
            $0.partitionCountDefault = 4
        }
        let notified = Atomic<Int>(0)
        let id = log.addListener(.ticks, .durable) { notified.add(1, ordering: .relaxed) }
        let problems = Mutex<[String]>([])
        @Sendable func attempt(_ body: () throws -> Void) {
            do { try body() } catch { problems.withLock { $0.append("\(error)") } }
        }
        let appends = 300
        DispatchQueue.concurrentPerform(iterations: 8) { worker in
            let place = TopicPartition(worker < 4 ? .ticksRaw : .ordersCommands, UInt16(worker % 4))
            let isReader = worker % 2 == 1
            let read = TopicPartition(place.topic, place.partition & ~1)
            attempt {
                if !isReader { return try ThreadTests.appendAll(log, place, appends) }
                var offset: UInt64 = 0
                while offset < UInt64(appends * 7) {
                    if offset % 3 == 0 {  // Some through the reader threads.
                        let done = DispatchSemaphore(value: 0)
                        let loaded = Mutex<Result<ReadResult, LogError>?>(nil)
                        log.load(read, at: offset, .durable) { result in
                            loaded.withLock { $0 = result }
                            done.signal()
                        }
                        done.wait()
                        if case .success(.onDisk)? = loaded.withLock({ $0 }) {
                            throw Unexpected(what: "onDisk from load")
                        }
                    }
                    switch try log.readBlocking(read, at: offset, .durable) {
                    case .block(let block, let index):
                        for record in index..<block.recordCount {
                            let text = String(decoding: block.payload(record).prefix { $0 != 0x2e }, as: UTF8.self)
                            if text != "AAPL:\(offset)" { throw Unexpected(what: "\(text) at \(offset)") }
                            offset += 1
                        }
                    case .atEnd:
                        if !log.wait(read, at: offset, .durable, timeoutNs: 20_000_000_000) {
                            throw Unexpected(what: "nothing came at \(offset)")
                        }
                    default: throw Unexpected(what: "neither block nor end")
                    }
                }
            }
        }
        #expect(problems.withLock { $0 } == [])
        #expect(notified.load(ordering: .relaxed) > 0)
        log.removeListener(id)
        try log.close()
        let again = try openLog(directory.path) { $0.partitionCountDefault = 4 }
        #expect(again.isContinuous && again.damage.isEmpty)
        #expect(try readAll(again, TopicPartition(.ticksRaw, 2)).count == appends * 7)
        try again.close()
    }

    @Test func `A listener is told which blocks can be read now, or that any may have become durable`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) { $0.work = .manual }
        let written = Mutex<[String]>([])
        let durable = Mutex<[String]>([])
        let ids = [
            log.addListener(
                .ticks, .written,
                ofBlocks: { blocks in
                    let seen = blocks?.map { block -> String in
                        guard case .block(let read, _) = log.read(block.topicPartition, at: block.firstOffset, .written)
                        else { return "cannot be read" }
                        return "\(block.topicPartition) \(block.firstOffset) \(read === block)"
                    }
                    written.withLock { $0 += seen ?? ["any"] }
                }),
            log.addListener(
                .ticks, .durable,
                ofBlocks: { blocks in
                    durable.withLock { $0.append(blocks == nil ? "any" : "some") }
                }),
        ]
        func block(_ topic: Topic) -> Block {
            let builder = BlockBuilder(TopicPartition(topic, 0))
            let key = builder.register(BlockBuilder.Key(exchange: "X", symbol: "AAPL", feed: "test"))
            builder.append(key: key, epoch: 1, sequence: 1, payload: UnsafeRawBufferPointer(start: nil, count: 0))
            return builder.build()
        }
        try log.append([block(.ticksRaw), block(.booksDeltas)], consumed: [])
        try log.append([block(.ticksRaw)], consumed: [])
        #expect(written.withLock { $0 } == ["ticks.raw/0 0 true", "books.deltas/0 0 true", "ticks.raw/0 1 true"])
        try log.sync()
        #expect(durable.withLock { $0 } == ["any"])
        for id in ids { log.removeListener(id) }
        try log.append([block(.ticksRaw)], consumed: [])
        #expect(written.withLock { $0.count } == 3)
        try log.close()
    }

    private static func appendAll(_ log: SegmentLog, _ place: TopicPartition, _ appends: Int) throws {
        for number in 0..<appends {
            let from = UInt64(number * 7)
            let receipt = try log.append([makeBlock(place, from: from, count: 7, padding: 50)], consumed: [])
            if receipt.firstOffsets != [from] { throw Unexpected(what: "\(receipt)") }
            if place.topic == .ordersCommands, log.endOffset(place, .durable) < from + 7 {
                throw Unexpected(what: "acknowledged before it is durable")
            }
        }
    }

    @Test func `Ticks are on disk within the interval without anyone asking`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path)
        try log.append([makeBlock(ticks0, from: 0, count: 1)], consumed: [])
        #expect(log.endOffset(ticks0, .written) == 1)
        #expect(log.wait(ticks0, at: 0, .durable, timeoutNs: 10_000_000_000))
        try log.close()
        #expect(!log.wait(ticks0, at: 1, .durable, timeoutNs: 10_000_000_000))
        let error = #expect(throws: LogError.self) {
            try log.append([makeBlock(ticks0, from: 1, count: 1)], consumed: [])
        }
        #expect(error?.code == .closed)
    }

    @Test func `What is too much goes when a segment is begun, however long the interval`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) {
            $0.segmentBytes = 64 << 10
            $0.retentions[.ticksRaw] = .init(timeNs: nil, bytes: 256 << 10)
            $0.retentionIntervalNs = 3_600_000_000_000
        }
        for number in 0..<200 as Range<UInt64> {
            try log.append([makeBlock(ticks0, from: number * 100, count: 100)], consumed: [])
        }
        try log.sync()
        let limit = RealTime().monotonicNs() + 20_000_000_000
        var bytes: UInt64 = .max
        while bytes > 384 << 10, RealTime().monotonicNs() < limit {
            bytes = try log.describeSegments().flatMap(\.places).reduce(0) { $0 + $1.byteCount }
        }
        #expect(bytes <= 384 << 10, "\(bytes) bytes are kept")
        // Retention may still be at work: who reads from a start that has gone meanwhile begins at the new one.
        var start: UInt64
        var texts: [String]?
        repeat {
            start = log.startOffset(ticks0)
            do { texts = try readAll(log, ticks0, from: start) } catch is Unexpected { texts = nil }
        } while texts == nil && log.startOffset(ticks0) != start
        #expect(start > 0)
        #expect(try #require(texts).count == 20_000 - Int(start))
        try log.close()
    }

    @Test func `A log let go without a close ends its threads, and the next start goes on`() throws {
        let directory = TemporaryDirectory()
        for number in 0..<5 as Range<UInt64> {
            let log = try openLog(directory.path)
            #expect(log.isContinuous && log.endOffset(ticks0, .durable) == number)
            try log.append([makeBlock(ticks0, from: number, count: 1)], consumed: [])
        }
    }

    @Test func `A second process on the directory is refused by name, and may have it after a close`() throws {
        let directory = TemporaryDirectory()
        let disk = try FileDisk(directory: directory.path)
        let error = #expect(throws: DiskError.self) { try FileDisk(directory: directory.path) }
        #expect(error?.kind == .locked && error?.description.contains(directory.path) == true)
        disk.close()
        _ = try FileDisk(directory: directory.path)
    }

    @Test func `A directory that cannot be written to is refused by name`() throws {
        let error = #expect(throws: DiskError.self) { try FileDisk(directory: "/sys/kernel/tapedeck") }
        #expect(error?.kind == .readOnly && error?.path.contains("/sys/kernel") == true, "\(String(describing: error))")
        let directory = TemporaryDirectory()
        let reading = try FileDisk(directory: directory.path, access: .readOnly)
        let refused = #expect(throws: DiskError.self) { try reading.open("x", create: true) }
        #expect(refused?.kind == .readOnly)
        #expect(throws: LogError.self) { try SegmentLog(disk: reading, time: RealTime()) }
    }

    @Test func `Paths do not leave the directory`() throws {
        let directory = TemporaryDirectory()
        let disk = try FileDisk(directory: directory.path)
        for path in ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b"] {
            #expect(throws: DiskError.self) { try disk.open(path, create: true) }
        }
        _ = try disk.open("a/b/c", create: true)
        #expect(try disk.list("a/b") == ["c"] && disk.list("absent") == [])
        #expect(try disk.space().totalBytes > 0 && disk.bootID() != nil)
    }

    @Test func `Calls that ask for what cannot be are refused`() throws {
        let directory = TemporaryDirectory()
        let log = try openLog(directory.path) { $0.appendBytesMax = 1000 }
        func code(_ body: () throws -> Void) -> LogError.Code? {
            do { try body() } catch { return (error as? LogError)?.code }
            return nil
        }
        #expect(
            code { try log.append([makeBlock(TopicPartition(.ticksRaw, 1), from: 0, count: 1)], consumed: []) }
                == .invalid)
        #expect(
            code {
                try log.append(
                    [makeBlock(ticks0, from: 0, count: 1), makeBlock(orders0, from: 0, count: 1)], consumed: [])
            } == .invalid)
        #expect(code { try log.append([makeBlock(ticks0, from: 0, count: 500)], consumed: []) } == .tooLarge)
        #expect(code { try log.commit([GroupOffset(group: "", place: ticks0, offset: 0)]) } == .invalid)
        #expect(try log.append([], consumed: []).firstOffsets == [])
        #expect(log.failure == nil && log.endOffset(ticks0, .written) == 0)
        try log.close()
    }
}
