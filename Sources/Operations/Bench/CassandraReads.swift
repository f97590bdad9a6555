import CQLFrames
import CassandraCQL
import Glibc

/// Quotes or hours of ticks read from `tick_data`, as a reader without memory has to; closed loop.
public struct CassandraReads: Sendable {
    /// What one read brings.
    public enum Kind: String, CaseIterable, Sendable {
        /// The newest row of an instrument's hour.
        case quotes
        /// All rows of an instrument's hour, page by page.
        case history
    }

    public var kind = Kind.quotes
    public var keyspace: String
    /// Hours come in one shuffled order, again and again.
    public var reads = 20_000
    public var inFlight = 1
    public var pageSize: Int32 = 2000

    public init(keyspace: String) { self.keyspace = keyspace }

    /// What was read, from the first request to the last answer.
    public struct Report: Sendable {
        public let reads: Int
        public let rows: Int
        public let seconds: Double
        public let cpuSeconds: Double
        /// Of each read, with all its pages, ascending.
        let latenciesNs: [Int64]

        private func milliseconds(_ share: Double) -> String {
            Figure.digits(Double(latenciesNs[min(Int(Double(reads) * share), reads - 1)]) / 1e6)
        }

        /// One line of JSON.
        public var json: String {
            "{\"reads\":\(reads),\"rows\":\(rows),\"seconds\":\(Figure.digits(seconds)),\"reads_per_s\":"
                + "\(Figure.digits(Double(reads) / seconds)),\"rows_per_s\":\(Figure.digits(Double(rows) / seconds)),"
                + "\"cpu_us_per_read\":\(Figure.digits(cpuSeconds * 1e6 / Double(reads))),"
                + "\"best_ms\":\(milliseconds(0.01)),\"p50_ms\":\(milliseconds(0.5)),\"p99_ms\":\(milliseconds(0.99))}"
        }
    }

    /// Why there is nothing to say.
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    private static let columns = "bid_micros, ask_micros, last_micros, volume, detail, update_bytes"

    /// Throws what the cluster answers with, and where there is nothing to read.
    public func run(_ session: CassandraSession) async throws -> Report {
        var options = CassandraSession.Options()
        options.consistency = .localQuorum
        options.call.isIdempotent = true
        var hours: [[CQLValue]] = []
        let partitions = try await session.prepare(
            "SELECT exchange, symbol, trade_date, bucket FROM \(keyspace).tick_partitions")
        try await session.forEachPage(partitions, options: options) { rows in
            hours += try rows.values()
            return true
        }
        guard !hours.isEmpty else { throw Failure(description: "\(keyspace) has no ticks") }
        hours.shuffle()
        let select = try await session.prepare(
            "SELECT \(Self.columns) FROM \(keyspace).tick_data WHERE exchange = ? AND symbol = ? AND trade_date = ? "
                + "AND bucket = ?" + (kind == .quotes ? " LIMIT 1" : " ORDER BY tick_time ASC"))
        options.pageSize = pageSize
        let (found, asked) = (hours, options)
        let (startNs, startCPU) = (PlatformBench.monotonicNs(), CassandraBench.cpuNs())
        let readers = min(inFlight, reads)
        let parts = try await withThrowingTaskGroup(of: (rows: Int, latenciesNs: [Int64]).self) { group in
            for reader in 0..<readers {
                // On the session's loop: an answer is read where it comes in.
                group.addTask(executorPreference: session.loop) {
                    var (rows, latenciesNs) = (0, [Int64]())
                    for read in stride(from: reader, to: reads, by: readers) {
                        let sentNs = PlatformBench.monotonicNs()
                        try await session.forEachPage(select, found[read % found.count], options: asked) { page in
                            rows += page.count
                            return true
                        }
                        latenciesNs.append(PlatformBench.monotonicNs() - sentNs)
                    }
                    return (rows, latenciesNs)
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        let endNs = PlatformBench.monotonicNs()
        let rows = parts.reduce(0) { $0 + $1.rows }
        guard rows >= reads else { throw Failure(description: "\(reads) reads brought \(rows) rows") }
        return Report(
            reads: reads, rows: rows, seconds: Double(endNs - startNs) / 1e9,
            cpuSeconds: Double(CassandraBench.cpuNs() - startCPU) / 1e9,
            latenciesNs: parts.flatMap(\.latenciesNs).sorted())
    }
}
