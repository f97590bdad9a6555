import CassandraStore
import EventLoop
import GRPC
import Observability
import TickStore
import TimeSource
import WriterService

/// `TickWriterService` of this process, on the listener that the options name.
final class DirectWrites {
    private let writer: DirectWriter
    private let thread: ServiceThread
    /// One of its own; nil where the process's store is used.
    private let store: (any TickStore)?
    let address: Address

    /// nil where the options name no listener. `store` is the one that the log's writer fills: used as it is where this
    /// process has it alone. Rows for Cassandra go by a store of their own, opened by `open`, so that a backlog of the
    /// log holds up no caller.
    static func make(
        _ options: ResolvedOptions, _ store: any TickStore, _ time: any TimeSource, _ operations: PlatformOperations,
        open: () throws -> any TickStore
    ) throws -> DirectWrites? {
        guard options.isSet(.tickWriterListen) else { return nil }
        let own = store is CassandraStore ? try open() : nil
        do {
            return try DirectWrites(options, own ?? store, own, time, operations)
        } catch {
            try? own?.close()
            throw error
        }
    }

    private init(
        _ options: ResolvedOptions, _ store: any TickStore, _ own: (any TickStore)?, _ time: any TimeSource,
        _ operations: PlatformOperations
    ) throws {
        let address = options.address(.tickWriterListen)
        let socket = try ListeningSocket(host: address.host, port: Int(address.port))
        self.address = Address(socket)
        self.store = own
        let writer = DirectWriter(
            store: store, time: time, loops: EventLoopGroup(count: 1, name: "direct"), server: operations.server)
        self.writer = writer
        thread = ServiceThread(name: "direct", ended: { _ in }) { try writer.run() }
        operations.declare(writer.methods)
        operations.metrics.register { DirectWrites.families(writer.counters) }
        writer.listen(on: socket, secure: operations.secure)
    }

    /// What no retry mends.
    var failure: String? { thread.failure }

    /// Answers what was taken, and ends.
    func stop(drainSeconds: Int) throws {
        writer.stop(withinMilliseconds: drainSeconds * 1000)
        _ = thread.join(milliseconds: 10_000)
        try store?.close()
    }

    private static func families(_ counters: DirectWriterCounters) -> [MetricFamily] {
        let results: [(String, UInt64)] = [
            ("refused", counters.refused), ("overloaded", counters.overloaded), ("failed", counters.failed),
        ]
        return [
            MetricFamily(
                "tapedeck_direct_ticks_total", .counter, "Ticks written past the log.",
                [.init(.whole(counters.ticks))]),
            MetricFamily(
                "tapedeck_direct_writes_total", .counter, "Writes of them to the store.",
                [.init(.whole(counters.writes))]),
            MetricFamily(
                "tapedeck_direct_failed_calls_total", .counter, "Calls that wrote nothing, by why.", labels: ["why"],
                results.map { .init([$0.0], .whole($0.1)) }),
        ]
    }
}
