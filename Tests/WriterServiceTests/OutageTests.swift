import EventLog
import FileDisk
import Foundation
import MarketModel
import MarketProto
import SegmentLog
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import WriterService

/// A store that is away for a while on the clock of the test, or that refuses some partitions; each attempt while it is
/// away lets the market go on.
private final class AbsentStore: TickStore {
    let rows = SimulatedStore()
    private let time: VirtualTime
    private let awayNs: Range<Int64>
    private let refused: Set<TopicPartition>
    /// When it makes nothing durable that it has taken.
    private let unflushedNs: Range<Int64>
    private let attempted: @Sendable () throws -> Void
    let attempts = Atomic<Int>(0)

    init(
        _ time: VirtualTime, awayNs: Range<Int64>, refused: Set<TopicPartition> = [], unflushedNs: Range<Int64> = 0..<0,
        attempted: @escaping @Sendable () throws -> Void = {}
    ) {
        self.time = time
        self.awayNs = awayNs
        self.refused = refused
        self.unflushedNs = unflushedNs
        self.attempted = attempted
    }

    private func check(_ place: TopicPartition) throws(StoreError) {
        guard awayNs.contains(time.monotonicNs()), refused.isEmpty || refused.contains(place) else { return }
        throw StoreError(.unreachable, "the store is away", retryable: true)
    }

    func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        attempts.add(1, ordering: .relaxed)
        do { try attempted() } catch { throw StoreError(.io, "\(error)") }
        try check(place)
        return try self.rows.apply(rows, through: next, of: place)
    }

    func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try check(place)
        return try rows.sync(place)
    }

    func flush(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        guard !unflushedNs.contains(time.monotonicNs()) else {
            throw StoreError(.unreachable, "the store does not answer", retryable: true)
        }
        return try sync(place)
    }

    func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? { try rows.nextOffset(place) }
    func instruments() throws(StoreError) -> [Instrument] { try rows.instruments() }
    func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick? { try rows.latest(instrument) }
    func scan(_ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool) throws(StoreError) {
        try rows.scan(instrument, from: from, to: to, body)
    }
    func statistics() throws(StoreError) -> StoreStatistics { try rows.statistics() }
    func close() throws(StoreError) { try rows.close() }
}

/// A log of several partitions on a virtual clock, and a market that is published to it.
private final class Market: Sendable {
    let time = VirtualTime()
    let log: SegmentLog
    private let sequence = Atomic<UInt64>(0)

    init(partitions: Int) throws {
        var configuration = SegmentLog.Configuration()
        configuration.work = .manual
        configuration.partitionCounts[.ticksRaw] = partitions
        configuration.segmentBytes = 1 << 20
        configuration.diskSharePercent = 100
        configuration.freeBytesMin = 0
        log = try SegmentLog(disk: SimulatedDisk(seed: 1), time: time, configuration: configuration)
    }

    /// So many trades in each partition.
    func publish(_ count: Int) throws {
        for partition in 0..<log.partitionCount(.ticksRaw) {
            let symbol = "SYM\(partition)"
            let builder = BlockBuilder(TopicPartition(.ticksRaw, UInt16(partition)))
            let key = builder.register(BlockBuilder.Key(exchange: "SIM", symbol: symbol, feed: "test"))
            let encoder = TickEncoder(exchange: "SIM", symbol: symbol, feed: "test")
            for _ in 0..<count {
                let number = sequence.add(1, ordering: .relaxed).newValue
                var tick = Tick(
                    kind: .trade, receivedTimeNs: time.wallNs(), publishTimeNs: time.wallNs(), epoch: 1,
                    sequence: number)
                tick.last = 1_000_000_000
                tick.lastSize = 100_000_000
                builder.append(key: key, epoch: 1, sequence: number, lengthMax: encoder.lengthMax) {
                    encoder.encode(tick, into: $0)
                }
            }
            try log.append([builder.build()], consumed: [])
        }
        try log.sync()
    }

    var published: UInt64 { sequence.load(ordering: .relaxed) }
}

struct OutageTests {
    private static let hourNs: Int64 = 3_600_000_000_000

    /// A log that is fetched from elsewhere does not have at once what is read again: nearly everything, where little
    /// may be kept.
    @Test(arguments: [false, true])
    func `An hour without the store costs no row, a bounded memory, and is told by partition`(isFetched: Bool) throws {
        let market = try Market(partitions: 8)
        let time = market.time
        let fetched = FetchedReads(market.log, time)
        let log: any EventLog = isFetched ? InterposedLog(market.log, fetched: fetched) : market.log
        let seen = Mutex<[WaitingPartition]>([])
        let holder = Mutex<WriterService?>(nil)
        let store = AbsentStore(time, awayNs: 1_000_000_000..<OutageTests.hourNs) {
            // 8 partitions of 100 trades, each few seconds.
            let nowNs = time.monotonicNs()
            if nowNs < 2 * OutageTests.hourNs, market.published < 200_000 { try market.publish(100) }
            guard let writer = holder.withLock({ $0 }) else { return }
            let waiting = writer.counters.waiting
            seen.withLock { if waiting.count > $0.count { $0 = waiting } }
            if nowNs > OutageTests.hourNs, market.published >= 200_000 { writer.stop() }
        }
        var configuration = WriterConfiguration()
        configuration.heldBytesMax = 1 << 20
        configuration.waitingBytesMax = isFetched ? 4 << 10 : 64 << 10
        let lines = Mutex<[String]>([])
        let writer = WriterService(log: log, store: store, time: time, configuration: configuration) { line in
            lines.withLock { $0.append(line) }
        }
        holder.withLock { $0 = writer }
        try market.publish(300)
        time.advance(ns: 2_000_000_000)
        try writer.run()
        #expect(writer.counters.rows == market.published)
        #expect(try store.rows.statistics().rowCount == market.published)
        // What was read and not stored: the bound, and the block that passed it.
        #expect(writer.counters.heldBytesMost < 2 << 20, "\(writer.counters.heldBytesMost)")
        #expect(isFetched || writer.counters.heldBytesMost > 100_000)
        #expect(seen.withLock { $0.map(\.place.partition) } == Array(0..<8))
        let first = try #require(seen.withLock { $0.first })
        #expect(first.reason == "the store is away" && first.sinceNs < time.wallNs() - OutageTests.hourNs / 2)
        // Said once when it begins and once when it is over, not at each of the attempts.
        let told = lines.withLock { $0 }
        #expect(told.filter { $0.contains("ticks.raw/3 waits") }.count == 1, "\(told.prefix(20))")
        #expect(told.filter { $0.contains("ticks.raw/3 goes on after") }.count == 1)
        #expect(writer.counters.retries > 1000 && writer.counters.retries < 20_000)
        #expect(writer.counters.failure == nil)
        if isFetched { #expect((1000...20_000).contains(fetched.emptyReads), "\(fetched.emptyReads)") }
        holder.withLock { $0 = nil }
    }

    @Test func `A partition that fails waits alone, and stopping stores what the others have`() throws {
        let market = try Market(partitions: 4)
        let failing = TopicPartition(.ticksRaw, 2)
        let holder = Mutex<WriterService?>(nil)
        let store = AbsentStore(market.time, awayNs: 0..<(.max), refused: [failing]) {
            if market.published < 40_000 { try market.publish(250) } else { holder.withLock { $0 }?.stop() }
        }
        var configuration = WriterConfiguration()
        // The clock stands: no batch becomes ripe by waiting.
        configuration.batchRowsMax = 200
        let writer = WriterService(
            log: market.log, store: store, time: market.time, configuration: configuration
        ) { _ in }
        holder.withLock { $0 = writer }
        try market.publish(250)
        let error = #expect(throws: WriterError.self) { try writer.run() }
        #expect(error?.description.contains("ticks.raw/2 is not stored from 0 on: the store is away") == true)
        for partition in 0..<4 {
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            let wanted = place == failing ? nil : market.log.endOffset(place, .durable)
            #expect(try store.nextOffset(place) == wanted)
            if let wanted { #expect(try store.sync(place) == wanted) }
        }
        #expect(writer.counters.failure?.contains("ticks.raw/2") == true)
        holder.withLock { $0 = nil }
    }

    @Test func `A writer that leaves the rest to others stores what it has read, and no more`() throws {
        let market = try Market(partitions: 2)
        var configuration = WriterConfiguration()
        configuration.drainsLog = false
        configuration.batchRowsMax = 200
        let holder = Mutex<WriterService?>(nil)
        let store = AbsentStore(market.time, awayNs: 0..<0) { holder.withLock { $0 }?.stop() }
        let writer = WriterService(
            log: market.log, store: store, time: market.time, configuration: configuration
        ) { _ in }
        holder.withLock { $0 = writer }
        for _ in 0..<50 { try market.publish(150) }
        try writer.run()
        let stored = try #require(try store.rows.statistics().rowCount)
        #expect(stored > 0 && stored < market.published)
        for partition in 0..<2 {
            let place = TopicPartition(.ticksRaw, UInt16(partition))
            // What was applied is durable: nothing waits for a later sync.
            #expect(try store.nextOffset(place) == store.rows.durableOffset(place))
        }
        holder.withLock { $0 = nil }
    }

    @Test(arguments: [false, true])
    func `A store that does not answer when the writer ends is asked again, within a bound`(isGone: Bool) throws {
        let market = try Market(partitions: 2)
        let store = AbsentStore(
            market.time, awayNs: 0..<0, unflushedNs: 0..<(isGone ? .max : 5_000_000_000))
        let writer = WriterService(log: market.log, store: store, time: market.time) { _ in }
        try market.publish(100)
        writer.stop()
        if isGone {
            let error = #expect(throws: WriterError.self) { try writer.run() }
            #expect(error?.description.contains("ticks.raw/0 is not stored up to 100: the store does not") == true)
            // Not as long again for each partition.
            #expect((20_000_000_000..<25_000_000_000).contains(market.time.monotonicNs()))
        } else {
            try writer.run()
            for partition in 0..<2 {
                #expect(store.rows.durableOffset(TopicPartition(.ticksRaw, UInt16(partition))) == 100)
            }
        }
    }

    @Test func `Records that no row can hold are dead-lettered by name, and stop nothing`() throws {
        let market = try Market(partitions: 1)
        let place = TopicPartition(.ticksRaw, 0)
        let builder = BlockBuilder(place)
        func add(_ exchange: [UInt8], _ feed: [UInt8], sequence: UInt64) throws {
            let key = builder.register(
                BlockBuilder.Key(keyHash: 1, exchange: exchange, symbol: Array("AAPL".utf8), feed: feed))
            var tick = Tick(kind: .quote, receivedTimeNs: 1, publishTimeNs: 1, epoch: 1, sequence: sequence)
            tick.bid = 1
            // Encoded with names of the same length, then the names put in.
            let encoder = TickEncoder(
                exchange: String(repeating: "x", count: exchange.count), symbol: "AAPL",
                feed: String(repeating: "y", count: feed.count))
            var bytes = [UInt8](repeating: 0, count: encoder.lengthMax)
            bytes.removeLast(bytes.count - bytes.withUnsafeMutableBytes { encoder.encode(tick, into: $0) })
            for (from, to) in [(UInt8(ascii: "x"), exchange), (UInt8(ascii: "y"), feed)] {
                guard let start = bytes.firstRange(of: [UInt8](repeating: from, count: to.count)) else { continue }
                bytes.replaceSubrange(start, with: to)
            }
            bytes.withUnsafeBytes { builder.append(key: key, epoch: 1, sequence: sequence, payload: $0) }
        }
        let (good, feed) = (Array("SIM".utf8), Array("test".utf8))
        try add(good, feed, sequence: 1)
        try add(good, feed, sequence: 1 << 40)
        try add(good, feed, sequence: .max)
        try add(Array("S|M".utf8), feed, sequence: 2)
        try add([0x53, 0xff, 0x4d], feed, sequence: 3)
        try add(good, [0x74, 0xc3, 0x28, 0x74], sequence: 4)
        try add(good, [UInt8](repeating: 0x66, count: 65), sequence: 5)
        try add(good, Array("te\nst".utf8), sequence: 6)
        try add(good, [UInt8](repeating: 0x66, count: 64), sequence: 7)
        try add(good, feed, sequence: (1 << 40) - 1)
        try market.log.append([builder.build()], consumed: [])
        try market.log.sync()
        let store = SimulatedStore()
        let writer = WriterService(log: market.log, store: store, time: market.time) { _ in }
        writer.stop()
        try writer.run()
        #expect(writer.counters.rows == 3 && writer.counters.deadLetters == 7)
        let letters = try DeadLetters.read(market.log)
        #expect(letters.map(\.sourceOffset) == [1, 2, 3, 4, 5, 6, 7])
        let codes = ["SEQUENCE_TOO_LARGE", "SEQUENCE_TOO_LARGE", "NO_INSTRUMENT", "NO_INSTRUMENT"]
        #expect(letters.map(\.reasonCode) == codes + ["NO_FEED", "NO_FEED", "NO_FEED"])
        #expect(letters[2].reason.contains("0x7c") && letters[4].reason.contains("UTF-8"))
        #expect(letters[5].reason.contains("65 bytes") && letters[6].reason.contains("control character"))
        #expect(try store.nextOffset(place) == 10)
    }
}
