import EventLog
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import Synchronization
import Testing
import TickStore
import TimeSource

@testable import WriterService

/// Keeps classes in memory, as a store with keys does: by key, the last write wins.
private final class ClassRows: ClassStore {
    struct Contents {
        var executions: [String: StoredExecution] = [:]
        var events: [String: [UInt64: StoredEvent]] = [:]
        var positions: [String: StoredPosition] = [:]
        var books: [StoredBook] = []
        var next: [TopicPartition: UInt64] = [:]
        var failures = 0
        var writes = 0
    }

    let contents = Mutex(Contents())

    func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? { contents.withLock { $0.next[place] } }
    func release(_ place: TopicPartition) {}
    func close() {}

    func write(_ records: [ClassRecord], through next: UInt64, of place: TopicPartition) throws(StoreError) {
        try contents.withLock { contents throws(StoreError) in
            contents.writes += 1
            for record in records {
                switch record.body {
                case .execution(let row): contents.executions[row.account + row.executionID] = row
                case .book(let row): contents.books.append(row)
                case .event(let row): contents.events[row.entityID, default: [:]][record.offset] = row
                case .position(let row):
                    let key = [row.account, row.exchange, row.symbol].joined(separator: "|")
                    if row.sequence >= contents.positions[key]?.sequence ?? 0 { contents.positions[key] = row }
                }
            }
            // Some of it is there, and the caller does not know.
            if contents.failures > 0 {
                contents.failures -= 1
                throw StoreError(.unreachable, "away", retryable: true)
            }
            contents.next[place] = next
        }
    }
}

struct ClassWriterTests {
    private let time = VirtualTime()

    private func log() throws -> SegmentLog {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        return try SegmentLog(disk: SimulatedDisk(seed: 1), time: time, configuration: configuration)
    }

    private func append(_ log: SegmentLog, _ topic: Topic, key: String, _ values: [[UInt8]]) throws {
        let builder = BlockBuilder(TopicPartition(topic, 0))
        let number = builder.register(BlockBuilder.Key(exchange: "", symbol: key, feed: ""))
        for (index, value) in values.enumerated() {
            value.withUnsafeBytes { builder.append(key: number, epoch: 0, sequence: UInt64(index), payload: $0) }
        }
        try log.append([builder.build()], consumed: [])
        try log.sync()
    }

    /// Runs a writer until it has moved past everything.
    private func write(_ log: any EventLog, _ topic: Topic, _ rows: ClassRows) throws -> WriterCounters {
        let holder = Mutex<ClassWriter?>(nil)
        let place = TopicPartition(topic, 0)
        let end = log.endOffset(place, .durable)
        let clock = StoppingTime(time) {
            if rows.contents.withLock({ $0.next[place] ?? 0 }) >= end { holder.withLock { $0 }?.stop() }
        }
        let writer = ClassWriter(topic, log: log, store: rows, time: clock, stopsAtLostRecords: true) { _ in }
        holder.withLock { $0 = writer }
        try writer.run()
        holder.withLock { $0 = nil }
        return writer.counters
    }

    /// Looks at each reading of the clock whether it is time to stop.
    private final class StoppingTime: TimeSource {
        private let time: VirtualTime
        private let look: @Sendable () -> Void

        init(_ time: VirtualTime, _ look: @escaping @Sendable () -> Void) {
            self.time = time
            self.look = look
        }

        func wallNs() -> Int64 { time.wallNs() }
        func monotonicNs() -> Int64 {
            look()
            return time.monotonicNs()
        }
        func sleep(ns: Int64) { time.sleep(ns: ns) }
    }

    static func execution(_ number: Int, account: String = "ACC-1") -> Proto.ExecutionReport {
        var report = Proto.ExecutionReport()
        report.executionId = "E\(number)"
        report.orderId = "O\(number)"
        report.account = account
        report.symbol = "AAPL"
        report.exchange = "XNAS"
        report.side = number % 2 == 0 ? "BUY" : "SELL"
        report.venue = "SIMX"
        report.fillQuantityMicros = 1_000_000 * Int64(number + 1)
        report.fillPriceMicros = 187_500_000
        report.feeMicros = 25_000
        report.executionTime = Timestamp(ns: 1_722_000_000_000_000_000 + Int64(number) * 1_000_000)
        return report
    }

    /// A log that is fetched from elsewhere does not have at once what is read again.
    @Test(arguments: [false, true])
    func `Trades are stored once, however often they come; what is none goes to the dead letters`(
        isFetched: Bool
    ) throws {
        let log = try log()
        let fetched = FetchedReads(log, time)
        let source: any EventLog = isFetched ? InterposedLog(log, fetched: fetched) : log
        let rows = ClassRows()
        var unsided = Self.execution(1)
        unsided.side = "HOLD"
        var unnamed = Self.execution(2)
        unnamed.account = ""
        var empty = Self.execution(3)
        empty.fillQuantityMicros = 0
        var timeless = Self.execution(4)
        timeless.executionTime = nil
        let bad: [[UInt8]] = [
            [0xff, 0xff, 0xff], unsided.encodedBytes(), unnamed.encodedBytes(), empty.encodedBytes(),
            timeless.encodedBytes(),
        ]
        let good = (0..<1500).map { Self.execution($0).encodedBytes() }
        try append(log, .tradesExecuted, key: "ACC-1", good + bad + good)
        rows.contents.withLock { $0.failures = 3 }
        let counters = try write(source, .tradesExecuted, rows)
        if isFetched { #expect((3...100).contains(fetched.emptyReads), "\(fetched.emptyReads)") }
        #expect(counters.deadLetters == 5 && counters.retries == 3 && counters.failure == nil)
        let stored = rows.contents.withLock { $0.executions }
        #expect(stored.count == 1500)
        let row = try #require(stored["ACC-1E7"])
        #expect(row.side == "SELL" && row.quantityMicros == 8_000_000 && row.feeMicros == 25_000)
        #expect(row.executionTimeNs == 1_722_000_000_007_000_000 && row.orderID == "O7" && row.venue == "SIMX")
        var letters: [Proto.DeadLetter] = []
        let place = TopicPartition(Topic.tradesExecuted.deadLetter, 0)
        var next: UInt64 = 0
        while case .block(let block, let index) = try log.readBlocking(place, at: next, .durable) {
            for record in index..<block.recordCount {
                letters.append(try Proto.DeadLetter(decoding: block.payload(record)))
            }
            next = block.endOffset
        }
        #expect(letters.map(\.value) == bad && letters.map(\.sourceOffset) == [1500, 1501, 1502, 1503, 1504])
        #expect(letters.map(\.reasonCode) == ["UNDECODABLE"] + [String](repeating: "INVALID_VALUE", count: 4))
        #expect(letters.allSatisfy { $0.sourceTopic == "trades.executed" })
        // From the first record again: nothing changes, and no letter is written twice.
        let before = rows.contents.withLock { contents in
            contents.next = [:]
            return contents.executions
        }
        #expect(try write(source, .tradesExecuted, rows).deadLetters == 0)
        #expect(rows.contents.withLock { $0.executions } == before)
    }

    @Test func `Events keep their bytes and order, positions their latest`() throws {
        let log = try log()
        let rows = ClassRows()
        var updates: [[UInt8]] = []
        for (index, status) in ["NEW", "PARTIAL", "FILLED"].enumerated() {
            var update = Proto.OrderStatusUpdate()
            update.orderId = "O1"
            update.status = status
            update.account = "ACC-1"
            update.statusTime = Timestamp(ns: 1_722_000_000_000_000_000 + Int64(index))
            updates.append(update.encodedBytes())
        }
        var unknown = Proto.OrderStatusUpdate()
        unknown.orderId = "O1"
        unknown.status = "LOST"
        try append(log, .ordersLifecycle, key: "O1", updates + [unknown.encodedBytes()])
        #expect(try write(log, .ordersLifecycle, rows).deadLetters == 1)
        let events = try #require(rows.contents.withLock { $0.events["O1"] })
        #expect([0, 1, 2].map { events[$0]?.payload } == updates)
        #expect(events[2]?.eventType == "FILLED" && events[2]?.metadata.first?.value == "ACC-1")
        func position(_ sequence: UInt64) -> [UInt8] {
            var update = Proto.PositionUpdate()
            update.account = "ACC-1"
            update.exchange = "XNAS"
            update.symbol = "AAPL"
            update.quantityMicros = -Int64(sequence) * 1_000_000
            update.sequence = sequence
            update.executionTime = Timestamp(ns: 1)
            update.updateTime = Timestamp(ns: 2)
            return update.encodedBytes()
        }
        try append(log, .positionsUpdates, key: "ACC-1|AAPL", [1, 2, 5, 3, 0].map(position))
        #expect(try write(log, .positionsUpdates, rows).deadLetters == 1)
        #expect(rows.contents.withLock { $0.positions["ACC-1|XNAS|AAPL"]?.quantityMicros } == -5_000_000)
    }

    @Test func `Audit events are events of what they name; what says not who, what or when is a dead letter`() throws {
        let log = try log()
        let rows = ClassRows()
        func audit(_ sequence: UInt64, _ change: (inout Proto.AuditEvent) -> Void = { _ in }) -> [UInt8] {
            var event = Proto.AuditEvent()
            event.shard = 3
            event.sequence = sequence
            event.eventTime = Timestamp(ns: 1_722_000_000_000_000_000)
            event.actor = "alice"
            event.entityType = "order"
            event.entityId = "O1"
            event.action = "SUBMITTED"
            event.requestId = "key-7"
            event.after = [8, 1]
            change(&event)
            return event.encodedBytes()
        }
        let good = [audit(1), audit(2) { $0.action = "REJECTED" }]
        let bad = [
            [0xff, 0xff, 0xff], audit(0), audit(3) { $0.actor = "" }, audit(4) { $0.action = "" },
            audit(5) { $0.entityId = "" }, audit(6) { $0.entityType = String(repeating: "x", count: 257) },
            audit(7) { $0.eventTime = nil },
        ]
        try append(log, .auditEvents, key: "3", good + bad)
        #expect(try write(log, .auditEvents, rows).deadLetters == UInt64(bad.count))
        let events = try #require(rows.contents.withLock { $0.events["O1"] })
        #expect(events.count == 2 && [0, 1].map { events[$0]?.payload } == good)
        let first = try #require(events[0])
        #expect(first.entityType == "order" && first.eventType == "SUBMITTED")
        let wanted = ["actor=alice", "request_id=key-7", "shard=3", "shard_sequence=1"]
        #expect(first.metadata.map { "\($0.key)=\($0.value)" } == wanted)
    }

    @Test func `Of a book the first whole one of each hour and epoch is kept`() throws {
        let log = try log()
        let rows = ClassRows()
        let builder = BlockBuilder(TopicPartition(.booksDeltas, 0))
        let keys = ["AAPL", "MSFT"].map {
            builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: $0, feed: "sim"))
        }
        func add(_ key: Int, epoch: UInt64, _ sequence: UInt64, minute: Int64, snapshot: Bool, stale: Bool = false) {
            var delta = Proto.BookDelta()
            delta.exchange = "XNAS"
            delta.symbol = key == 0 ? "AAPL" : "MSFT"
            delta.feedHandlerId = "sim"
            delta.epoch = epoch
            delta.sequence = sequence
            delta.snapshot = snapshot
            delta.state = stale ? .stale : .live
            delta.receivedTime = Timestamp(ns: 1_722_002_400_000_000_000 + minute * 60_000_000_000)
            var level = Proto.BookLevel()
            level.priceMicros = Int64(sequence) * 1_000_000
            level.sizeMicros = 5
            delta.bids = [level]
            let bytes = delta.encodedBytes()
            bytes.withUnsafeBytes { builder.append(key: keys[key], epoch: epoch, sequence: sequence, payload: $0) }
        }
        add(0, epoch: 1, 1, minute: 1, snapshot: true)
        add(0, epoch: 1, 2, minute: 2, snapshot: false)
        add(0, epoch: 1, 3, minute: 3, snapshot: true)
        add(1, epoch: 1, 1, minute: 3, snapshot: true)
        add(0, epoch: 1, 4, minute: 61, snapshot: false)
        add(0, epoch: 1, 5, minute: 62, snapshot: true, stale: true)
        add(0, epoch: 1, 6, minute: 63, snapshot: true)
        add(0, epoch: 2, 1, minute: 64, snapshot: true)
        add(0, epoch: 2, 2, minute: 65, snapshot: true)
        add(0, epoch: 2, 3, minute: 121, snapshot: true)
        [UInt8](repeating: 0xff, count: 3).withUnsafeBytes {
            builder.append(key: keys[0], epoch: 2, sequence: 4, payload: $0)
        }
        try log.append([builder.build()], consumed: [])
        try log.sync()
        // A batch that was not taken is read again: what it had marked is not.
        rows.contents.withLock { $0.failures = 1 }
        #expect(try write(log, .booksDeltas, rows).deadLetters == 1)
        let kept = rows.contents.withLock { $0.books }
        let wanted: [[UInt64]] = [[1, 1], [1, 1], [1, 6], [2, 1], [2, 3]]
        #expect(kept.map { [$0.epoch, $0.sequence] } == wanted + wanted)
        #expect(kept[1].symbol == "MSFT" && kept[2].bids == [PriceLevel(price: 6_000_000_000, size: 500)])
    }
}
