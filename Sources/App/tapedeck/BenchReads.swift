import Bench
import CassandraCQL
import EventLoop

/// `tapedeck bench-reads`: ticks out of Cassandra, for `make bench-cluster`.
struct BenchReads {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    func run(_ kind: String) throws -> ExitCode {
        guard let kind = CassandraReads.Kind(rawValue: kind) else {
            throw CommandError("`\(kind)` cannot be read; quotes and history can")
        }
        let (session, close) = try CassandraBenchSetup.open(try StoreChoice.cassandra(options))
        defer { close() }
        var reads = CassandraReads(keyspace: options.string(.keyspace))
        reads.kind = kind
        reads.reads = options.int(.records)
        reads.inFlight = options.int(.inFlight)
        let load = reads
        let report = Blocking.wait { () async -> Result<CassandraReads.Report, any Error> in
            do { return .success(try await load.run(session)) } catch { return .failure(error) }
        }
        print(try report.get().json)
        return .success
    }
}
