import EventLog
import EventLoop
import GRPC
import MarketProto
import Protobuf
import TickStore
import TimeSource

/// Limits of ``DirectWriter``.
public struct DirectWriterLimits: Sendable {
    /// Updates of one call.
    public var batchTicksMax = 10_000
    /// Bytes of updates that wait for the store; further calls are refused.
    public var waitingBytesMax = 8 << 20
    /// Updates of one write to the store: calls that wait go together.
    public var writeTicksMax = 10_000

    public init() {}
}

/// What callers wrote past the log since the start.
public struct DirectWriterCounters: Sendable, Hashable {
    public var ticks: UInt64 = 0
    public var writes: UInt64 = 0
    /// Calls that were refused for what they asked, and for lack of room; and that the store did not take.
    public var refused: UInt64 = 0
    public var overloaded: UInt64 = 0
    public var failed: UInt64 = 0
}

/// `TickWriterService`: writes updates to the store without the log, and answers when the store has them for good. For
/// callers of low volume; on a listener of its own, never the public one.
///
/// Calls come on loops; one thread, which calls ``run()``, has the store.
public final class DirectWriter: Sendable {
    /// Where the rows stand in the store's account of the log: a partition that no topic has.
    public static let place = TopicPartition(.ticksRaw, .max)

    private let store: any TickStore
    private let time: any TimeSource
    private let limits: DirectWriterLimits
    private let server: GRPCServer
    private let health = GRPCHealth()
    private let inbox: DirectInbox

    /// Serves on the loops of the group once it listens.
    public init(
        store: any TickStore, time: any TimeSource, loops: EventLoopGroup,
        limits: DirectWriterLimits = DirectWriterLimits(),
        server configuration: GRPCServerConfiguration = GRPCServerConfiguration()
    ) {
        self.store = store
        self.time = time
        self.limits = limits
        let inbox = DirectInbox(limits: limits)
        self.inbox = inbox
        let health = health
        health.set(.serving, service: Proto.TickWriterService.protoName)
        health.set(.serving, service: "")
        server = GRPCServer(group: loops, configuration: configuration) { loop in
            var table = GRPCServiceTable()
            func register(_ path: String, _ decode: @escaping (UnsafeRawBufferPointer) throws -> [Proto.PriceUpdate]) {
                table.register(path: path, unary: { DirectWriter.take($0, loop, time, inbox, $1, decode) })
            }
            register(Proto.TickWriterService.writeTick.path) { [try Proto.PriceUpdate(decoding: $0)] }
            register(Proto.TickWriterService.writeBatch.path) { try Proto.TickBatch(decoding: $0).ticks }
            health.register(on: &table)
            do {
                try table.registerReflection(files: [Proto.marketDataFile])
            } catch {
                preconditionFailure("the program's own schema cannot be read: \(error)")
            }
            return table
        }
    }

    /// Every method that is served.
    public var methods: [GRPCMethod] { server.methods }
    public var counters: DirectWriterCounters { inbox.counters }

    /// Serves the connections of a socket, which is the writer's from now on.
    public func listen(on socket: ListeningSocket, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil) {
        server.listen(on: socket, secure: secure)
    }

    /// Takes no more calls, answers those that were taken, and has ``run()`` return. Waits; never on a loop.
    public func stop(withinMilliseconds milliseconds: Int) {
        health.set(.notServing, service: Proto.TickWriterService.protoName)
        health.set(.notServing, service: "")
        server.shutdown(withinMilliseconds: milliseconds)
        inbox.stop()
    }

    // MARK: Calls, on their loops

    private static func take(
        _ call: ServerCall, _ loop: any Loop, _ time: any TimeSource, _ inbox: DirectInbox,
        _ request: UnsafeRawBufferPointer, _ decode: (UnsafeRawBufferPointer) throws -> [Proto.PriceUpdate]
    ) {
        let updates: [Proto.PriceUpdate]
        do {
            updates = try decode(request)
        } catch {
            inbox.countRefusal()
            return call.fail(GRPCStatus(.invalidArgument, "the request cannot be read: \(error)"))
        }
        let decodedNs = time.monotonicNs()
        guard !updates.isEmpty, updates.count <= inbox.limits.batchTicksMax else {
            inbox.countRefusal()
            return call.fail(
                GRPCStatus(
                    .invalidArgument, "\(updates.count) ticks; a call has from 1 to \(inbox.limits.batchTicksMax)"))
        }
        var ticks: [DirectTick] = []
        ticks.reserveCapacity(updates.count)
        for (index, update) in updates.enumerated() {
            do throws(DirectTick.Refusal) {
                ticks.append(try DirectTick(update))
            } catch {
                inbox.countRefusal()
                // All of a call or nothing.
                let which = updates.count > 1 ? "ticks[\(index)]: " : ""
                return call.fail(GRPCStatus(.invalidArgument, which + error.reason))
            }
        }
        if let permissions = call.permissions,
            let denied = ticks.first(where: { !permissions.allows(exchange: $0.exchange, symbol: $0.symbol) })
        {
            inbox.countRefusal()
            return call.fail(
                GRPCStatus(.permissionDenied, "you may not write \(denied.symbol) of \(denied.exchange)"))
        }
        let box = LoopConfined(call)
        let job = DirectJob(ticks: ticks) { outcome in
            let latencyNs = time.monotonicNs() - decodedNs
            loop.execute { answer(box.value, outcome, latencyNs) }
        }
        if let refusal = inbox.add(job) { call.fail(refusal) }
    }

    private static func answer(_ call: ServerCall, _ outcome: StoreError?, _ latencyNs: Int64) {
        if let error = outcome {
            // The same call makes the same rows: whoever is told so may call again.
            let code: GRPCStatus.Code = error.retryable ? .unavailable : .internalError
            return call.fail(GRPCStatus(code, error.message))
        }
        var ack = Proto.WriteAck()
        ack.success = true
        ack.writeLatencyUs = latencyNs / 1000
        call.respond(ack)
    }

    // MARK: The thread

    /// Runs until ``stop(withinMilliseconds:)``; blocks the calling thread. Throws what the store fails with for good.
    public func run() throws {
        while let jobs = inbox.next() {
            let failure = write(jobs)
            for job in jobs { job.done(failure) }
            if let failure, !failure.retryable {
                inbox.stop()
                for job in inbox.next() ?? [] { job.done(failure) }
                throw failure
            }
        }
    }

    private func write(_ jobs: [DirectJob]) -> StoreError? {
        do throws(StoreError) {
            let from = try store.nextOffset(DirectWriter.place) ?? 0
            let rows = DirectWriter.rows(jobs, from: from, appendTimeNs: time.wallNs())
            let next = from + UInt64(rows.rows.count)
            _ = try store.apply(rows, through: next, of: DirectWriter.place)
            let durable = try store.flush(DirectWriter.place)
            guard durable >= next else {
                throw StoreError(.unreachable, "the store has not said that the rows are there", retryable: true)
            }
            inbox.countWrite(ticks: rows.rows.count)
            return nil
        } catch {
            inbox.countFailure(calls: jobs.count)
            return error
        }
    }

    /// One block of them all.
    private static func rows(_ jobs: [DirectJob], from: UInt64, appendTimeNs: Int64) -> TickRows {
        let builder = BlockBuilder(place)
        var keys: [String: Int] = [:]
        var rows = TickRows()
        for tick in jobs.lazy.flatMap(\.ticks) {
            let name = tick.exchange + "|" + tick.symbol
            let key =
                keys[name]
                ?? builder.register(
                    BlockBuilder.Key(exchange: tick.exchange, symbol: tick.symbol, feed: DirectTick.feed))
            keys[name] = key
            rows.rows.append(
                TickRows.Row(
                    block: 0, record: Int32(rows.rows.count), filingTimeNs: tick.filingTimeNs,
                    tradePrice: tick.tradePrice, tradeSize: tick.tradeSize))
            tick.bytes.withUnsafeBytes {
                builder.append(key: key, epoch: tick.epoch, sequence: tick.sequence, payload: $0)
            }
        }
        let block = builder.build()
        block.stamp(firstOffset: from, appendTimeNs: appendTimeNs) { _ in Block.noOffset }
        rows.blocks = [block]
        return rows
    }
}
