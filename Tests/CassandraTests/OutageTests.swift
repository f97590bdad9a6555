import CQLFrames
import EventLoop
import Synchronization
import TLS
import TestSupport
import Testing

@testable import CassandraCQL

/// What the clients of a test have done.
private final class Progress: Sendable {
    let isOver = Atomic<Bool>(false)
    let acknowledged = Mutex<[Int32]>([])
    let failures = Mutex<[CQLRequestError]>([])

    /// Waits for so many more acknowledgements.
    func more(_ count: Int) async {
        let goal = acknowledged.withLock { $0.count } + count
        await until { acknowledged.withLock { $0.count } >= goal }
        #expect(acknowledged.withLock { $0.count } >= goal)
    }
}

/// A node that is killed, paused and started again; and one with TLS and a password. Each has a node of its own.
@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(5)))
struct OutageTests {
    @Test func `A node killed and started again loses nothing that was acknowledged`() async throws {
        // By default a node acknowledges what SIGKILL can still take from it: its commit log is marked every 100 ms.
        let node = try await CassandraNode.start(["--set", "commitlog_sync=batch"])
        let real = try await RealSession.open(node.port) { $0.requestMilliseconds = 3000 }
        let session = real.session
        try await real.keyspace("outage")
        _ = try await session.query("CREATE TABLE outage.t (k int PRIMARY KEY)")
        let insert = try await session.prepare("INSERT INTO outage.t (k) VALUES (?)")
        let progress = Progress()
        var options = CassandraSession.Options()
        options.call.isIdempotent = true
        let callOptions = options
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                group.addTask {
                    var n = Int32(worker)
                    while !progress.isOver.load(ordering: .relaxed) {
                        do {
                            try await session.execute(insert, [.int(n)], options: callOptions)
                            progress.acknowledged.withLock { $0.append(n) }
                        } catch let error as CQLRequestError {
                            progress.failures.withLock { $0.append(error) }
                            await pause(milliseconds: 20)
                        }
                        n += 4
                    }
                }
            }
            group.addTask {
                defer { progress.isOver.store(true, ordering: .relaxed) }
                await progress.more(200)
                try await node.kill()
                try await node.restart()
                // The node comes back without the prepared statement in its cache, or with it: both are used.
                await progress.more(200)
                try await node.pause()
                await pause(milliseconds: 200)
                try await node.resume()
                await progress.more(200)
            }
            try await group.waitForAll()
        }
        let rows = try await session.query("SELECT k FROM outage.t", options: callOptions).values().count
        var stored: Set<Int64> = []
        let select = try await session.prepare("SELECT k FROM outage.t")
        try await session.forEachPage(select) { page in
            stored.formUnion(try page.values().compactMap { $0[0].integer })
            return true
        }
        #expect(rows > 0)
        for n in progress.acknowledged.withLock({ $0 }) { #expect(stored.contains(Int64(n)), "\(n) was acknowledged") }
        for error in progress.failures.withLock({ $0 }) { #expect(error.isRetryable, "\(error)") }
        let counters = await session.counters()
        #expect(counters.connectionsLost > 0)
        await real.close()
        node.stop()
    }

    @Test func `TLS with client certificates and a password, by either version; others are refused`() async throws {
        let folder = try TemporaryFolder()
        _ = try SharedData.output(SharedData.path("engines/make-certs"), [folder.path + "/certs"])
        let certs = folder.path + "/certs"
        let node = try await CassandraNode.start(["--auth", "--tls", certs, "--mtls"])
        func transport(_ name: String?, authority: String = certs + "/ca.pem") throws -> CQLSockets {
            var configuration = TLSClientConfiguration(
                serverName: "localhost", authorityFile: authority,
                certificateChainFile: name.map { "\(certs)/\($0).pem" },
                privateKeyFile: name.map { "\(certs)/\($0)-key.pem" })
            configuration.applicationProtocols = []
            return CQLSockets(tls: try TLSClientContext(configuration))
        }
        let right = CQLCredentials(user: "cassandra", password: "cassandra")
        for version in CQLVersion.allCases {
            let real = try await RealSession.open(node.port, transport: try transport("client-a")) {
                $0.connection.version = version
                $0.connection.credentials = right
                $0.connection.compression = .lz4
            }
            #expect(real.session.version == version)
            let rows = try await real.session.query("SELECT cluster_name FROM system.local")
            #expect(rows.count == 1)
            await real.close()
        }
        func refused(_ transport: CQLSockets, _ credentials: CQLCredentials?) async -> CQLConnectionError? {
            do {
                let real = try await RealSession.open(node.port, transport: transport) {
                    $0.connection.credentials = credentials
                    $0.openMilliseconds = 1500
                }
                await real.close()
                return nil
            } catch {
                return error as? CQLConnectionError
            }
        }
        let wrong = CQLCredentials(user: "cassandra", password: "wrong")
        #expect(await refused(try transport("client-a"), wrong)?.code == .authentication)
        #expect(await refused(try transport("client-a"), nil)?.code == .authentication)
        #expect(await refused(try transport(nil), right) != nil)
        #expect(await refused(try transport("client-wrong"), right) != nil)
        #expect(await refused(try transport("client-a", authority: certs + "/other-ca.pem"), right) != nil)
        #expect(await refused(CQLSockets(), right) != nil)
        node.stop()
    }
}
