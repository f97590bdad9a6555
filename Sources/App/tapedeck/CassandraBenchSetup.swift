import Bench
import CQLFrames
import CassandraCQL
import CassandraStore
import EventLoop
import TickStore

/// The session and the stores that the bench `cassandra` measures. Its keyspaces begin with `tapedeck_bench` and stay.
struct CassandraBenchSetup {
    private let options: ResolvedOptions
    private let time: SystemTime

    init(_ options: ResolvedOptions, _ time: SystemTime) {
        self.options = options
        self.time = time
    }

    func bench() throws -> Bench {
        let time = time
        let configuration = try StoreChoice.cassandra(options)
        return CassandraBench.bench(
            time: time,
            open: { try CassandraBenchSetup.open(configuration) },
            makeStore: { run, version in
                var configuration = configuration
                configuration.version = version
                configuration.keyspace = "tapedeck_bench_\(time.wallNs() / 1_000_000_000)_\(run)_v\(version.rawValue)"
                _ = try SchemaTool(configuration, replication: nil).apply()
                return try CassandraStore(configuration, time: time)
            })
    }

    /// A session on a loop of its own, and what ends both.
    static func open(
        _ configuration: CassandraStoreConfiguration
    ) throws -> (session: CassandraSession, close: @Sendable () -> Void) {
        var sessionOptions = CQLSessionOptions(contactPoints: configuration.contactPoints)
        sessionOptions.localDataCenter = configuration.localDataCenter
        sessionOptions.connection.credentials = configuration.credentials
        sessionOptions.connection.version = configuration.version
        let loop = EventLoop(name: "cql")
        let opened = Blocking.wait { [sessionOptions] () async -> Result<CassandraSession, any Error> in
            do {
                return .success(
                    try await CassandraSession.open(
                        sessionOptions, on: loop, transport: CQLSockets(tls: configuration.tls)))
            } catch {
                return .failure(error)
            }
        }
        let session = try opened.get()
        return (
            session,
            {
                loop.runAndWait { _ in session.closeOnLoop() }
                loop.stop()
            }
        )
    }
}
