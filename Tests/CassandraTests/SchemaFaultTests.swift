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
    fileprivate let changes = Atomic<Int>(0)
    private let proxy: Mutex<ConnectionProxy?> = Mutex(nil)

    init(to port: Int) throws {
        let made = try ConnectionProxy(to: port) { [unowned self] in ForgetfulPair($0, $1, self) }
        proxy.withLock { $0 = made }
    }

    var port: Int { proxy.withLock { $0?.port ?? 0 } }
    var kept: Int { (changes.load(ordering: .relaxed) + 1) / 2 }
    func stop() { proxy.withLock { $0?.stop() } }
}

private final class ForgetfulPair: ProxiedConnection {
    private let owner: ForgetfulProxy
    private let decoder = CQLFrameDecoder(.frames(.none))

    init(_ client: Socket, _ server: Socket, _ owner: ForgetfulProxy) {
        self.owner = owner
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard isFromServer else { return server.write(bytes) }
        decoder.feed(bytes)
        defer { decoder.endFeed() }
        while let frame = try? decoder.next() {
            let body = Array(frame.body)
            let buffer = CQLBuffer()
            let start = frame.header.begin(buffer)
            buffer.append(frame.body)
            CQLFrameHeader.end(buffer, start)
            // A result of kind 5 is a change of the schema.
            guard frame.header.opcode == .result, body.starts(with: [0, 0, 0, 5]),
                case let number = owner.changes.add(1, ordering: .relaxed).oldValue, number % 2 == 0
            else {
                client.write(buffer.bytes)
                continue
            }
            guard number % 4 == 0 else { return close() }
            let message = Array("Unknown CF".utf8)
            let header = Array(buffer.bytes[..<4])
            let error =
                [header[0], 0, header[2], header[3], CQLOpcode.error.rawValue, 0, 0, 0, UInt8(6 + message.count)]
                + [0, 0, 0, 0, 0, UInt8(message.count)] + message
            error.withUnsafeBytes { client.write($0) }
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
