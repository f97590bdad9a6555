import EventLog
import EventLoop
import FileDisk
import Foundation
import GRPC
import MarketModel
import MarketProto
import Protobuf
import Repair
import RocksStore
import Simulation
import Synchronization
import TestSupport
import Testing
import TickCodec
import TickStore

@testable import WriterService

/// `TickWriterService` on a store, and a client of it.
private final class DirectWorld: Sendable {
    let writer: DirectWriter
    let port: Int
    private let channel: GRPCChannel
    let client: Proto.TickWriterServiceClient<GRPCChannel>

    init(_ store: any TickStore, limits: DirectWriterLimits = DirectWriterLimits()) throws {
        let writer = DirectWriter(
            store: store, time: RealTime(), loops: EventLoopGroup(count: 1, name: "direct"), limits: limits)
        self.writer = writer
        let socket = try ListeningSocket(host: "127.0.0.1", port: 0)
        port = socket.port
        writer.listen(on: socket)
        channel = try GRPCChannel(target: "127.0.0.1:\(socket.port)")
        client = Proto.TickWriterServiceClient(channel)
        // What it throws its callers are told.
        Thread.detachNewThread { try? writer.run() }
    }

    func stop() async throws {
        channel.close()
        let writer = writer
        await withCheckedContinuation { (done: CheckedContinuation<Void, Never>) in
            Thread.detachNewThread {
                writer.stop(withinMilliseconds: 1000)
                done.resume()
            }
        }
    }

    /// How a call ended.
    func status(_ call: () async throws -> Proto.WriteAck) async -> GRPCStatus.Code {
        do {
            let ack = try await call()
            #expect(ack.success && ack.error.isEmpty && ack.writeLatencyUs > 0)
            return .ok
        } catch let status as GRPCStatus {
            return status.code
        } catch {
            Issue.record("\(error)")
            return .unknown
        }
    }
}

/// A store whose flushes fail while it is told so.
private final class UnsureStore: TickStore {
    let rows = SimulatedStore()
    let failure = Mutex<StoreError?>(nil)

    private func check() throws(StoreError) { if let error = failure.withLock({ $0 }) { throw error } }
    func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        try self.rows.apply(rows, through: next, of: place)
    }
    func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try check()
        return try rows.sync(place)
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

struct DirectWriterTests {
    private static func tick(_ sequence: UInt64 = 0, price: Int64 = 100_000_000) -> Proto.PriceUpdate {
        var update = Proto.PriceUpdate()
        update.exchange = "XNAS"
        update.symbol = "AAPL"
        update.kind = .trade
        update.lastMicros = price
        update.volume = 7
        update.sequence = sequence
        update.eventTime = Timestamp(ns: 1_722_000_000_000_000_000)
        return update
    }

    private static func rows(_ store: any TickStore) throws -> [Proto.PriceUpdate] {
        var found: [Proto.PriceUpdate] = []
        try store.scan(try Instrument(exchange: "XNAS", symbol: "AAPL"), from: .min, to: .max) { batch in
            var position = 0
            while position + 5 <= batch.frames.count {
                let length = Int(
                    UInt32(bigEndian: batch.frames.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self)))
                let bytes = UnsafeRawBufferPointer(rebasing: batch.frames[(position + 5)..<(position + 5 + length)])
                if let update = try? Proto.PriceUpdate(decoding: bytes) { found.append(update) }
                position += 5 + length
            }
            return true
        }
        return found
    }

    @Test func `A call is answered when its row is there for good, and the same call makes no second row`()
        async throws
    {
        let folder = try TemporaryFolder()
        let store = try RocksStore(directory: folder.path + "/store", time: RealTime())
        let world = try DirectWorld(store)
        for _ in 0..<3 {
            #expect(await world.status { try await world.client.writeTick(Self.tick()) } == .ok)
            #expect(await world.status { try await world.client.writeTick(Self.tick(9)) } == .ok)
        }
        // Another price is another record, and so is another sequence of the caller's.
        #expect(await world.status { try await world.client.writeTick(Self.tick(price: 101_000_000)) } == .ok)
        var batch = Proto.TickBatch()
        batch.ticks = (1...500).map { Self.tick($0) }
        for _ in 0..<2 { #expect(await world.status { try await world.client.writeBatch(batch) } == .ok) }
        #expect(world.writer.counters.ticks == 1007)
        // What was answered is durable, not only applied.
        let next = try store.nextOffset(DirectWriter.place)
        #expect(try next == store.sync(DirectWriter.place))
        let rows = try Self.rows(store)
        #expect(rows.count == 502)
        #expect(rows.allSatisfy { $0.feedHandlerId == "direct" && $0.receivedTime == $0.eventTime })
        let hashed = rows.filter { $0.sequence > 500 }
        #expect(hashed.count == 2 && hashed.allSatisfy { $0.sequence >= 1 << 39 && $0.sequence < 1 << 40 })
        // They are no feed's: no last tick and no day is made of them.
        #expect(try store.latest(try Instrument(exchange: "XNAS", symbol: "AAPL")) == nil)
        try await world.stop()
        try store.close()
    }

    @Test func `What cannot be a row is refused by name, whole`() async throws {
        let store = SimulatedStore()
        var limits = DirectWriterLimits()
        limits.batchTicksMax = 3
        let world = try DirectWorld(store, limits: limits)
        func changed(_ change: (inout Proto.PriceUpdate) -> Void) -> Proto.PriceUpdate {
            var update = Self.tick(1)
            change(&update)
            return update
        }
        let bad: [Proto.PriceUpdate] = [
            changed { $0.exchange = "" }, changed { $0.symbol = "A|B" }, changed { $0.symbol = "A\nB" },
            changed { $0.sequence = 1 << 40 }, changed { $0.feedHandlerId = "sim" }, changed { $0.eventTime = nil },
            changed { $0.volume = -1 }, changed { $0.lastNanoRemainder = 1000 },
            changed { $0.kind = .unrecognized(99) },
            changed { $0.conflated = Proto.Conflation() }, changed { $0.eventTime?.nanos = -1 },
            changed { $0.eventTime?.seconds = .max }, changed { $0.lastMicros = .max },
        ]
        for update in bad {
            let code = await world.status { try await world.client.writeTick(update) }
            #expect(code == .invalidArgument, "\(update)")
        }
        var batch = Proto.TickBatch()
        #expect(await world.status { try await world.client.writeBatch(batch) } == .invalidArgument)
        batch.ticks = [Self.tick(1), bad[0]]
        do {
            _ = try await world.client.writeBatch(batch)
            Issue.record("taken")
        } catch let status as GRPCStatus {
            #expect(status.code == .invalidArgument && status.message.hasPrefix("ticks[1]: the exchange is empty"))
        }
        batch.ticks = (1...4).map { Self.tick($0) }
        #expect(await world.status { try await world.client.writeBatch(batch) } == .invalidArgument)
        #expect(try Self.rows(store).isEmpty)
        #expect(world.writer.counters.refused == UInt64(bad.count) + 3 && world.writer.counters.ticks == 0)
        try await world.stop()
    }

    @Test func `Where the store is away callers are told to call again, and that makes no second row`() async throws {
        let store = UnsureStore()
        let world = try DirectWorld(store)
        store.failure.withLock { $0 = StoreError(.unreachable, "away", retryable: true) }
        for _ in 0..<3 {
            #expect(await world.status { try await world.client.writeTick(Self.tick()) } == .unavailable)
        }
        store.failure.withLock { $0 = nil }
        #expect(await world.status { try await world.client.writeTick(Self.tick()) } == .ok)
        #expect(try Self.rows(store).count == 1)
        #expect(world.writer.counters.failed == 3)
        store.failure.withLock { $0 = StoreError(.io, "broken") }
        #expect(await world.status { try await world.client.writeTick(Self.tick()) } == .internalError)
        // It has stopped: nothing waits for ever.
        #expect(await world.status { try await world.client.writeTick(Self.tick()) } == .unavailable)
        try await world.stop()
    }

    @Test func `Rows past the log are counted apart by verify, and lead no instrument of a feed`() async throws {
        let world = WriterWorld(seed: 11)
        try world.start()
        for _ in 0..<5 { try world.feed() }
        #expect(try world.differences().isEmpty)
        let instrument = try Instrument(exchange: "SIM", symbol: "AAPL")
        let before = try #require(try world.store.latest(instrument))
        let direct = try DirectWorld(world.store)
        var update = Self.tick(1)
        update.exchange = "SIM"
        // Newer than whatever the feed has, and of its day.
        update.eventTime = Timestamp(ns: world.time.wallNs() + 60_000_000_000)
        let newer = update
        #expect(await direct.status { try await direct.client.writeTick(newer) } == .ok)
        #expect(try world.store.latest(instrument) == before)
        let log = try #require(world.log)
        let result = try Verifier.compare(log: log, store: world.store)
        #expect(result.isClean && result.lines.map(\.direct).reduce(0, +) == 1)
        #expect(VerifyText.table(result).contains { $0.contains("1 rows written past the log") })
        try await direct.stop()
    }

    @Test func `Calls that find no room are refused, those that were taken are answered`() async throws {
        let store = UnsureStore()
        var limits = DirectWriterLimits()
        limits.waitingBytesMax = 2000
        limits.writeTicksMax = 1
        let world = try DirectWorld(store, limits: limits)
        let codes = await withTaskGroup(of: GRPCStatus.Code.self) { group in
            for number in 1...400 {
                group.addTask {
                    do {
                        return try await world.client.writeTick(Self.tick(UInt64(number))).success ? .ok : .unknown
                    } catch {
                        return (error as? GRPCStatus)?.code ?? .unknown
                    }
                }
            }
            return await group.reduce(into: [GRPCStatus.Code]()) { $0.append($1) }
        }
        #expect(codes.allSatisfy { $0 == .ok || $0 == .resourceExhausted })
        let taken = codes.filter { $0 == .ok }.count
        #expect(try taken > 0 && Self.rows(store).count == taken)
        #expect(world.writer.counters.overloaded == UInt64(400 - taken))
        try await world.stop()
    }
}
