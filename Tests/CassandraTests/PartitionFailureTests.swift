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

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(2)))
struct PartitionFailureTests {
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
                let rows = placeRows(place, from: next[index], count: 50, nowNs: nowNs)
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
            let rows = placeRows(places[2], from: next[2], count: 50, nowNs: nowNs)
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

    /// Of several partitions in one request, or of each those that wait for a slow node as one batch.
    @Test(arguments: [true, false])
    func `Small batches go together; one that is refused fails alone`(ofSeveral: Bool) async throws {
        let node = try await SharedCassandra.shared.node()
        let proxy = try RefusingProxy(to: node.port)
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread { done.resume(with: Result { try Self.mix(node.port, proxy, ofSeveral) }) }
        }
        proxy.stop()
    }

    private static func mix(_ port: Int, _ proxy: RefusingProxy, _ ofSeveral: Bool) throws {
        var configuration = try configuration(port, proxy, keyspace: ofSeveral ? "mixed" : "joined")
        configuration.limits.mixedInFlight = 1
        if ofSeveral {
            // Each row is a batch of its own: how many of a partition are on their way is not what is looked at.
            configuration.limits.partitionBatchesMax = 100
        } else {
            configuration.limits.mixedPartitionsMax = 1
        }
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
                        placeRows(place, from: offset, count: 1, nowNs: nowNs), through: offset + 1, of: place)
                }
            }
        }
        // While the first are on their way the others wait, and then go together.
        proxy.hold((.batch, "SYM"))
        try apply(0..<100)
        proxy.hold(nil)
        for place in places { #expect(try store.flush(place) == 100) }
        let counters = store.writeCounters
        // Together with the six rows that name the partitions.
        let requests = counters.rowCounts.reduce(0, +)
        let requestsMax = ofSeveral ? 200 : 40
        #expect(counters.rowsSum == 606 && requests < requestsMax && counters.errors == 0, "\(requests) requests")
        #expect(counters.openBytes == 0)
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
