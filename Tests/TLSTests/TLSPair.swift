import EventLoop
import Testing

@testable import TLS

/// A client and a server that speak TLS over memory.
final class TLSPair {
    let loop: StepLoop
    let serverContext: TLSServerContext
    let clientContext: TLSClientContext
    let client: TLSStream
    let server: TLSStream
    /// The streams below.
    let clientPipe: MemoryStream
    let serverPipe: MemoryStream
    let clientOwner = Recorder()
    let serverOwner = Recorder()

    static let serverIdentity = TestAuthority.trusted.server()
    static let clientIdentity = TestAuthority.trusted.client("alice")

    static func serverConfiguration(
        _ identity: TestAuthority.Identity = serverIdentity, _ policy: ClientCertificatePolicy = .none
    ) -> TLSServerConfiguration {
        TLSServerConfiguration(
            certificateChainFile: identity.certificateFile, privateKeyFile: identity.keyFile,
            clientAuthorityFile: policy == .none ? nil : TestAuthority.trusted.file, clientCertificates: policy)
    }

    static func clientConfiguration(_ identity: TestAuthority.Identity? = nil) -> TLSClientConfiguration {
        TLSClientConfiguration(
            serverName: "localhost", authorityFile: TestAuthority.trusted.file,
            certificateChainFile: identity?.certificateFile, privateKeyFile: identity?.keyFile)
    }

    convenience init(
        seed: UInt64 = 1, pieceMax: Int = 1 << 20, roomMax: Int = 1 << 20,
        server: TLSServerConfiguration = serverConfiguration(), client: TLSClientConfiguration = clientConfiguration()
    ) throws {
        try self.init(
            StepLoop(seed: seed), TLSServerContext(server, TLSContextHandle(server)), TLSClientContext(client),
            pieceMax: pieceMax, roomMax: roomMax)
    }

    init(
        _ loop: StepLoop, _ serverContext: TLSServerContext, _ clientContext: TLSClientContext,
        pieceMax: Int = 1 << 20, roomMax: Int = 1 << 20
    ) throws {
        self.loop = loop
        self.serverContext = serverContext
        self.clientContext = clientContext
        (clientPipe, serverPipe) = loop.pair(pieceMax: pieceMax, roomMax: roomMax)
        server = try #require(serverContext.wrap(serverPipe) as? TLSStream)
        client = try #require(clientContext.wrap(clientPipe) as? TLSStream)
        server.owner = serverOwner
        client.owner = clientOwner
        server.startReading()
        client.startReading()
    }

    /// Whether everything that can happen without time has happened.
    func run() { #expect(loop.run(), "it never came to rest") }

    /// Both ends are told once, nothing is left open.
    func expectBothEnded(sourceLocation: SourceLocation = #_sourceLocation) {
        loop.advance(milliseconds: 20_000)
        #expect(clientOwner.ends.count == 1, sourceLocation: sourceLocation)
        #expect(serverOwner.ends.count == 1, sourceLocation: sourceLocation)
        #expect(loop.openTimers == 0, sourceLocation: sourceLocation)
        #expect(clientPipe.isClosed && serverPipe.isClosed, sourceLocation: sourceLocation)
    }
}
