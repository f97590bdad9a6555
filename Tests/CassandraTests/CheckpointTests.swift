import CQLFrames
import EventLog
import Foundation
import MarketModel
import Simulation
import Synchronization
import TestSupport
import Testing
import TickStore

@testable import CassandraCQL
@testable import CassandraStore

/// Rows go on while what follows them is written, and an offset is told of only what its rows and records have.
@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(2)))
struct CheckpointTests {
    private static let place = TopicPartition(.ticksRaw, 3)
    private static let symbol = "SYM3"

    @Test(arguments: [true, false])
    func `While a checkpoint waits rows are written; its offset is durable only after it`(
        _ rowsAreHeld: Bool
    ) async throws {
        let node = try await SharedCassandra.shared.node()
        let proxy = try RefusingProxy(to: node.port)
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread { done.resume(with: Result { try Self.run(node.port, proxy, rowsAreHeld) }) }
        }
        proxy.stop()
    }

    private static func run(_ port: Int, _ proxy: RefusingProxy, _ rowsAreHeld: Bool) throws {
        let time = SystemClock()
        var direct = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
        direct.keyspace = rowsAreHeld ? "checkpoint_rows" : "checkpoint_log"
        direct.log = "held-log"
        direct.limits.openMilliseconds = 30_000
        _ = try SchemaTool(direct, replication: nil).apply()
        var configuration = direct
        configuration.transport = ProxyTransport(port: proxy.port)
        configuration.version = .v4
        configuration.limits.flushIntervalNs = 0
        // Nothing is given up while it is held.
        configuration.limits.requestMilliseconds = 60_000
        configuration.limits.stallMilliseconds = 60_000
        let store = try CassandraStore(configuration, time: time)
        #expect(try store.nextOffset(place) == nil)
        let nowNs = floorDivide(time.wallNs(), by: 3_600_000_000_000) * 3_600_000_000_000
        func apply(_ batch: UInt64) throws -> UInt64 {
            let rows = placeRows(place, from: batch * 50, count: 50, nowNs: nowNs)
            return try store.apply(rows, through: (batch + 1) * 50, of: place)
        }
        // Batches name the symbol, in rows and in last ticks; what is written of an offset names the log.
        proxy.hold(rowsAreHeld ? (.batch, symbol) : (.execute, direct.log))
        for batch: UInt64 in 0..<21 { #expect(try apply(batch) == 0) }
        if !rowsAreHeld {
            // All rows, and the one that names their partition.
            for _ in 0..<15_000 where store.writeCounters.rowsSum < 21 * 50 + 1 { time.sleep(ns: 2_000_000) }
            #expect(store.writeCounters.rowsSum == 21 * 50 + 1)
        }
        #expect(try store.sync(place) == 0)
        let before = try CassandraStore(direct, time: time)
        #expect(try before.nextOffset(place) == nil)
        try before.close()
        proxy.hold(nil)
        var durable: UInt64 = 0
        for _ in 0..<15_000 where durable < 1050 {
            let told = try store.sync(place)
            #expect(told >= durable)
            durable = told
            time.sleep(ns: 2_000_000)
        }
        // As after a kill: another process goes on, with every row, and the last tick and figures as of that offset.
        let after = try CassandraStore(direct, time: time)
        #expect(try after.nextOffset(place) == 1050)
        let instrument = try Instrument(exchange: "XNAS", symbol: symbol)
        let latest = try #require(try after.latest(instrument))
        #expect(latest.nextOffset == 1050 && latest.day.tradeCount == 1050)
        var count = 0
        try after.scan(instrument, from: .min, to: .max) {
            count += $0.count
            return true
        }
        #expect(count == 1050)
        try after.close()
        try store.close()
    }

    @Test func `Rows and last ticks of many instruments go together, as much as Cassandra takes without a warning`()
        async throws
    {
        let node = try await SharedCassandra.shared.node()
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            Thread.detachNewThread { done.resume(with: Result { try Self.fill(node.port) }) }
        }
    }

    private static func fill(_ port: Int) throws {
        let time = SystemClock()
        var configuration = CassandraStoreConfiguration(contactPoints: [CQLAddress(host: "127.0.0.1", port: port)])
        configuration.keyspace = "checkpoint_sizes"
        configuration.limits.openMilliseconds = 30_000
        configuration.limits.flushIntervalNs = .max / 2
        _ = try SchemaTool(configuration, replication: nil).apply()
        let warnings = Mutex<[String]>([])
        let store = try CassandraStore(
            configuration, time: time,
            report: { event in
                if case .warning(let text, _) = event { warnings.withLock { $0.append(text) } }
            })
        let places = (0..<40).map { TopicPartition(.ticksRaw, UInt16($0)) }
        let nowNs = floorDivide(time.wallNs(), by: 3_600_000_000_000) * 3_600_000_000_000
        for place in places {
            #expect(try store.nextOffset(place) == nil)
            _ = try store.apply(placeRows(place, from: 0, count: 3, nowNs: nowNs), through: 3, of: place)
        }
        func requests() -> UInt64 {
            let answer = Mutex<UInt64>(0)
            let isThere = DispatchSemaphore(value: 0)
            Task {
                let counters = await store.session.session.counters()
                answer.withLock { $0 = counters.requests }
                isThere.signal()
            }
            isThere.wait()
            return answer.withLock { $0 }
        }
        for _ in 0..<15_000 where store.writeCounters.rowsSum < 40 * 4 { time.sleep(ns: 2_000_000) }
        let before = requests()
        #expect(try store.flush(places[0]) == 3)
        // The first place had its checkpoint with its first rows. Of the others what is filed, through where without a
        // gap, and an offset; and all their records in a few requests.
        let count = requests() - before
        #expect((39 * 3 + 4...39 * 3 + 8).contains(Int(count)), "\(count) requests")
        #expect(warnings.withLock { $0 } == [])
        try store.close()
    }
}
