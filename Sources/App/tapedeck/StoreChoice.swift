import CassandraCQL
import CassandraStore
import EventLog
import MarketModel
import Observability
import RocksStore
import TLS
import TickStore
import TimeSource

/// Which store the options name, and how it is opened.
struct StoreChoice {
    private let options: ResolvedOptions

    init(_ options: ResolvedOptions) { self.options = options }

    /// Opens it. `totalBytes` is the size of the data directory's disk, where the store may take its share of it.
    func open(
        _ directory: DataDirectory, time: any TimeSource, log: any EventLog, totalBytes: UInt64? = nil,
        _ diagnostics: Diagnostics
    ) throws -> any TickStore {
        guard options.string(.store) == "cassandra" else {
            var limits = RocksStoreLimits()
            if let totalBytes {
                limits.diskBytesMax = totalBytes / 100 * UInt64(options.int(.retentionDiskPercent))
            }
            return try RocksStore(directory: directory.store, time: time, limits: limits)
        }
        var configuration = try StoreChoice.cassandra(options)
        configuration.log = String(log.identity.id, radix: 16)
        if let ticks = try ConsistencyOptions(options).ticks { configuration.writeConsistency = ticks }
        return try CassandraStore(
            configuration, time: time,
            report: { event in
                switch event {
                case .node(let node, let isUp, let reason):
                    let why = reason.map { ": \($0)" } ?? ""
                    diagnostics.log(
                        isUp ? .info : .warning, "cassandra", "\(node.address) is \(isUp ? "connected" : "away\(why)")")
                case .warning(let text, let node):
                    diagnostics.log(.warning, "cassandra", "\(node.map { "\($0.address): " } ?? "")\(text)")
                case .topology(let nodes):
                    diagnostics.log(
                        .info, "cassandra", "nodes: \(nodes.map(\.address.description).joined(separator: ", "))")
                case .schema: break
                }
            },
            reportPartition: { partition, isOver in
                let since = "since \(CivilTime.text(ns: partition.sinceNs))"
                diagnostics.log(
                    isOver ? .info : .warning, "cassandra", kind: "cassandra.partition",
                    isOver
                        ? "\(partition.name) is written again; it was not \(since): \(partition.attempts) attempts"
                        : "\(partition.name) cannot be written \(since), the others go on: \(partition.reason)")
            })
    }

    /// How Cassandra is reached. Throws where an option's value cannot be used.
    static func cassandra(_ options: ResolvedOptions) throws -> CassandraStoreConfiguration {
        let texts = options.string(.contactPoints).split(separator: ",")
        let points = try texts.map { text in
            guard let address = CQLAddress(String(text)) else {
                throw CommandError("--contact-points: \"\(text)\" is no HOST or HOST:PORT")
            }
            return address
        }
        guard let first = points.first else { throw CommandError("--contact-points names no host") }
        var configuration = CassandraStoreConfiguration(contactPoints: points)
        configuration.keyspace = options.string(.keyspace)
        configuration.localDataCenter = options.optionalString(.localDC)
        if let user = options.optionalString(.cassandraUser) {
            configuration.credentials = CQLCredentials(
                user: user, password: options.optionalString(.cassandraPassword) ?? "")
        }
        if let authority = options.optionalString(.cassandraCA) {
            var tls = TLSClientConfiguration(
                serverName: first.host, authorityFile: authority,
                certificateChainFile: options.optionalString(.cassandraCert),
                privateKeyFile: options.optionalString(.cassandraKey))
            tls.applicationProtocols = []
            configuration.tls = try TLSClientContext(tls)
        }
        return configuration
    }
}
