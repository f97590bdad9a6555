import CQLFrames
import CassandraCQL
import EventLoop
import Simulation
import Synchronization
import TestSupport
import Testing

@testable import CassandraStore

/// Passes frames of protocol v4 between a tool and a node. Of two changes of tables that the node has made, it keeps
/// the answer to one back: its connection ends, or an error of the server takes the answer's place.
private final class ForgetfulProxy: Sendable {
    fileprivate final class State: Sendable {
        let changes = Atomic<Int>(0)
    }

    private let proxy: ConnectionProxy
    private let state = State()
    var port: Int { proxy.port }

    init(to port: Int) throws {
        proxy = try ConnectionProxy(to: port) { [state] in ForgetfulPair($0, $1, state) }
    }

    var kept: Int { (state.changes.load(ordering: .relaxed) + 1) / 2 }

    func stop() { proxy.stop() }
}

private final class ForgetfulPair: ProxiedConnection {
    private let state: ForgetfulProxy.State
    private let frames = ProxiedFrames()

    init(_ client: Socket, _ server: Socket, _ state: ForgetfulProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard isFromServer else { return server.write(bytes) }
        frames.read(bytes) { opcode, frame in
            // A result of kind 5 is a change of the schema.
            guard opcode == .result, frame.dropFirst(9).starts(with: [0, 0, 0, 5]) else { return client.write(frame) }
            switch state.changes.add(1, ordering: .relaxed).oldValue % 4 {
            case 0: client.write(ProxiedFrames.error(0x0000, "Unknown CF", to: frame))
            case 2: close()
            default: client.write(frame)
            }
        }
    }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(4)))
struct SchemaFaultTests {
    @Test func `A change whose answer is lost is not sent again, and what is left is carried out`() async throws {
        let port = try await SharedCassandra.shared.node().port
        let proxy = try ForgetfulProxy(to: port)
        defer { proxy.stop() }
        let direct = configuration(port, "forgotten")
        var changed = direct
        changed.version = .v4
        changed.transport = ProxyTransport(port: proxy.port)
        let configuration = changed
        try await onThread {
            let tool = try SchemaTool(configuration, replication: nil)
            let plain = try SchemaTool(direct, replication: nil)
            func apply() throws -> [String] {
                var sent: [String] = []
                let planned = try plain.plan().statements
                let kept = proxy.kept
                #expect(try tool.apply { if !$0.hasPrefix("--") { sent.append($0) } }.statements == planned)
                #expect(try plain.plan().isUpToDate && sent == planned)
                #expect(proxy.kept > kept)
                return sent
            }
            #expect(try apply().count == CassandraSchema.tables(release: "5.0").count + 3)
            // Columns and fields that are there already cannot be added again.
            let session = try BlockingSession(direct)
            defer { session.close() }
            for _ in 0..<2 {
                try session.changeSchema {
                    [
                        "ALTER TABLE forgotten.tick_data DROP volume", "ALTER TABLE forgotten.limits DROP definition",
                        "ALTER TABLE forgotten.writer_offsets DROP chain_hash",
                    ]
                }
                #expect(try apply().count == 3)
            }
            // The second finds nothing to remove.
            for _ in 0..<2 {
                try tool.removeKeyspace()
                #expect(try plain.plan().statements.first?.hasPrefix("CREATE KEYSPACE") == true)
            }
        }
    }
}
