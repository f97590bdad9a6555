import CQLFrames
import EventLog
import EventLoop
import Foundation
import MarketModel
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import CassandraCQL
@testable import CassandraStore

/// Passes frames of protocol v4 between a store and a node, and answers batches that name an instrument with an error.
private final class RefusingProxy: Sendable {
    /// On the proxy's loop, but for the counter.
    fileprivate final class State: Sendable {
        nonisolated(unsafe) var refused: [UInt8]?
        let made = Atomic<Int>(0)
    }

    private let proxy: ConnectionProxy
    private let state = State()
    var port: Int { proxy.port }

    init(to port: Int) throws {
        proxy = try ConnectionProxy(to: port) { [state] in RefusingPair($0, $1, state) }
    }

    var made: Int { state.made.load(ordering: .relaxed) }

    /// Batches with this text in them are refused from now on; nil: none.
    func refuse(_ text: String?) {
        proxy.execute { [state] in state.refused = text.map { Array($0.utf8) } }
    }

    func stop() { proxy.stop() }
}

private final class RefusingPair: ProxiedConnection {
    private let state: RefusingProxy.State
    private let decoder = CQLFrameDecoder(.frames(.none))

    init(_ client: Socket, _ server: Socket, _ state: RefusingProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard !isFromServer else { return client.write(bytes) }
        decoder.feed(bytes)
        defer { decoder.endFeed() }
        while let frame = try? decoder.next() {
            let buffer = CQLBuffer()
            let start = frame.header.begin(buffer)
            buffer.append(frame.body)
            CQLFrameHeader.end(buffer, start)
            guard frame.header.opcode == .batch, let refused = state.refused,
                Array(frame.body).firstRange(of: refused) != nil
            else {
                server.write(buffer.bytes)
                continue
            }
            state.made.add(1, ordering: .relaxed)
            // Overloaded, by v4.
            let message = Array("not this one".utf8)
            let sent = Array(buffer.bytes)
            let error: [UInt8] =
                [0x84, 0, sent[2], sent[3], CQLOpcode.error.rawValue, 0, 0, 0, UInt8(6 + message.count)]
                + [0, 0, 0x10, 0x01, 0, UInt8(message.count)] + message
            error.withUnsafeBytes { client.write($0) }
        }
    }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(2)))
struct PartitionFailureTests {
    /// Trades of one instrument at one partition of the log, some of them long ago.
    private static func rows(_ place: TopicPartition, from: UInt64, count: Int, nowNs: Int64) -> TickRows {
        let symbol = "SYM\(place.partition)"
        let builder = BlockBuilder(place)
        let key = builder.register(BlockBuilder.Key(exchange: "XNAS", symbol: symbol, feed: "main"))
        let encoder = TickEncoder(exchange: "XNAS", symbol: symbol, feed: "main")
        var result = TickRows()
        for index in 0..<count {
            let sequence = from + UInt64(index) + 1
            var tick = Tick(
                kind: .trade, receivedTimeNs: nowNs + Int64(sequence), publishTimeNs: nowNs, epoch: 1,
                sequence: sequence)
            tick.last = 1_000_000_000
            tick.lastSize = 100_000_000
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
            result.rows.append(
                TickRows.Row(
                    block: 0, record: Int32(index), filingTimeNs: tick.receivedTimeNs, tradePrice: tick.last,
                    tradeSize: 100_000_000))
        }
        let block = builder.build()
        block.stamp(firstOffset: from, appendTimeNs: nowNs) { _ in Block.noOffset }
        result.blocks = [block]
        return result
    }

    @Test func `A partition that fails waits alone, is told by name, and its log partition's offset with it`()
        async throws
    {
        let node = try await SharedCassandra.shared.node()
        let proxy = try RefusingProxy(to: node.port)
        let told = Mutex<[(name: String, isOver: Bool)]>([])
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread { done.resume(with: Result { try Self.run(node.port, proxy, told) }) }
        }
        proxy.stop()
        #expect(told.withLock { $0.map(\.isOver) } == [false, true])
        #expect(told.withLock { $0.allSatisfy { $0.name.hasPrefix("XNAS SYM2 20") } })
    }

    private static func run(
        _ port: Int, _ proxy: RefusingProxy, _ told: borrowing Mutex<[(name: String, isOver: Bool)]>
    ) throws {
        let configuration = try configuration(port, proxy)
        let time = SystemClock()
        let reports = Reports()
        let store = try CassandraStore(
            configuration, time: time,
            reportPartition: { partition, isOver in reports.add(partition.name, isOver) })
        let places = (0..<4).map { TopicPartition(.ticksRaw, UInt16($0)) }
        for place in places { _ = try store.nextOffset(place) }
        // An hour that does not end under the test.
        let nowNs = floorDivide(time.wallNs(), by: 3_600_000_000_000) * 3_600_000_000_000
        proxy.refuse("SYM2")
        var next = [UInt64](repeating: 0, count: 4)
        var refusals: [StoreError] = []
        for _ in 0..<40 {
            for (index, place) in places.enumerated() {
                let rows = rows(place, from: next[index], count: 50, nowNs: nowNs)
                do throws(StoreError) {
                    _ = try store.apply(rows, through: next[index] + 50, of: place)
                    next[index] += 50
                } catch {
                    refusals.append(error)
                    #expect(index == 2 && error.retryable, "\(place): \(error)")
                }
            }
            time.sleep(ns: 5_000_000)
        }
        // The others are stored, and their offsets are; of the one that fails neither.
        for (index, place) in places.enumerated() where index != 2 {
            #expect(next[index] == 2000)
            #expect(try store.flush(place) == 2000)
        }
        #expect(next[2] > 0 && next[2] < 2000)
        #expect(throws: StoreError.self) { try store.flush(places[2]) }
        #expect(try store.sync(places[2]) == 0)
        let failing = try #require(store.failingPartitions.first)
        #expect(store.failingPartitions.count == 1 && failing.name.hasPrefix("XNAS SYM2 20"))
        #expect(failing.reason.contains("not this one") && failing.attempts > 0)
        #expect(failing.sinceNs > time.wallNs() - 120_000_000_000 && failing.sinceNs <= time.wallNs())
        let refusal = try #require(refusals.first)
        #expect(refusal.message.contains("ticks.raw/2") && refusal.message.contains(failing.name), "\(refusal)")
        let other = try CassandraStore(configuration, time: time)
        #expect(try places.map { try other.nextOffset($0) } == [2000, 2000, nil, 2000])
        try other.close()
        #expect(store.writeCounters.errors > 0 && store.writeCounters.batchRowsMax < configuration.limits.batchRowsMax)
        // It comes back: everything is written, and said once.
        proxy.refuse(nil)
        while next[2] < 2000 {
            let rows = rows(places[2], from: next[2], count: 50, nowNs: nowNs)
            do throws(StoreError) {
                _ = try store.apply(rows, through: next[2] + 50, of: places[2])
                next[2] += 50
            } catch {
                time.sleep(ns: 20_000_000)
            }
        }
        try store.close()
        #expect(store.failingPartitions.isEmpty)
        told.withLock { $0 = reports.all }
        try expectAll(configuration, places, 2000)
    }

    @Test func `Small batches go together; one that is refused fails alone`() async throws {
        let node = try await SharedCassandra.shared.node()
        let proxy = try RefusingProxy(to: node.port)
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread { done.resume(with: Result { try Self.mix(node.port, proxy) }) }
        }
        proxy.stop()
    }

    private static func mix(_ port: Int, _ proxy: RefusingProxy) throws {
        var configuration = try configuration(port, proxy, keyspace: "mixed")
        configuration.limits.mixedInFlight = 1
        let time = SystemClock()
        let reports = Reports()
        let store = try CassandraStore(
            configuration, time: time,
            reportPartition: { partition, isOver in reports.add(partition.name, isOver) })
        let places = (0..<6).map { TopicPartition(.ticksRaw, UInt16($0)) }
        for place in places { _ = try store.nextOffset(place) }
        let nowNs = floorDivide(time.wallNs(), by: 3_600_000_000_000) * 3_600_000_000_000
        func apply(_ numbers: Range<UInt64>) throws {
            for offset in numbers {
                for place in places {
                    _ = try store.apply(
                        rows(place, from: offset, count: 1, nowNs: nowNs), through: offset + 1, of: place)
                }
            }
        }
        try apply(0..<100)
        for place in places { #expect(try store.flush(place) == 100) }
        let counters = store.writeCounters
        // Together with the six rows that name the partitions.
        let requests = counters.rowCounts.reduce(0, +)
        #expect(counters.rowsSum == 606 && requests < 400 && counters.errors == 0, "\(requests) requests")
        proxy.refuse("SYM2")
        try apply(100..<140)
        for (index, place) in places.enumerated() where index != 2 { #expect(try store.flush(place) == 140) }
        #expect(throws: StoreError.self) { try store.flush(places[2]) }
        #expect(store.failingPartitions.map { $0.name.prefix(10) } == ["XNAS SYM2 "])
        proxy.refuse(nil)
        try store.close()
        #expect(reports.all.map(\.isOver) == [false, true] && reports.all.allSatisfy { $0.name.contains(" SYM2 ") })
        try expectAll(configuration, places, 140)
    }

    private static func configuration(
        _ port: Int, _ proxy: RefusingProxy, keyspace: String = "alone"
    ) throws -> CassandraStoreConfiguration {
        var configuration = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
        configuration.keyspace = keyspace
        configuration.limits.openMilliseconds = 30_000
        _ = try SchemaTool(configuration, replication: nil).apply()
        configuration.transport = ProxyTransport(port: proxy.port)
        configuration.version = .v4
        configuration.limits.flushIntervalNs = 50_000_000
        configuration.limits.retryMillisecondsMax = 400
        configuration.limits.failingBytesMax = 60_000
        return configuration
    }

    /// Everything is there, by another session.
    private static func expectAll(
        _ configuration: CassandraStoreConfiguration, _ places: [TopicPartition], _ rows: Int
    ) throws {
        let reader = try CassandraStore(configuration, time: SystemClock())
        for (index, place) in places.enumerated() {
            #expect(try reader.nextOffset(place) == UInt64(rows))
            var count = 0
            try reader.scan(try Instrument(exchange: "XNAS", symbol: "SYM\(index)"), from: .min, to: .max) {
                count += $0.count
                return true
            }
            #expect(count == rows)
        }
        try reader.close()
    }

    private final class Reports: Sendable {
        private let list = Mutex<[(name: String, isOver: Bool)]>([])
        var all: [(name: String, isOver: Bool)] { list.withLock { $0 } }
        func add(_ name: String, _ isOver: Bool) { list.withLock { $0.append((name, isOver)) } }
    }
}
