import EventLoop
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import TLS

/// A server on real sockets that sends back what it receives.
final class EchoServer: Sendable {
    let context: TLSServerContext
    let port: Int
    let group = EventLoopGroup(count: 1)
    private let listener: Mutex<Listener?>
    private let open = Mutex<[ObjectIdentifier: LoopConfined<Echo>]>([:])

    final class Echo: ByteStreamOwner {
        let stream: any ByteStream
        private let ended: (Echo) -> Void
        init(_ stream: any ByteStream, _ ended: @escaping (Echo) -> Void) {
            self.stream = stream
            self.ended = ended
            stream.owner = self
            stream.startReading()
        }
        func received(_ bytes: UnsafeRawBufferPointer) {
            stream.write(bytes)
            if stream.waitingBytes > 1 << 20 { stream.stopReading() }
        }
        func drained() { stream.startReading() }
        func closed(_ error: StreamError?) { ended(self) }
    }

    init(_ configuration: TLSServerConfiguration) throws {
        let context = try TLSServerContext(configuration)
        self.context = context
        listener = Mutex(nil)
        let hands = Hands()
        let made = try Listener(host: "127.0.0.1", port: 0, group: group) { socket in
            hands.server.withLock { $0.value }?.accept(socket)
        }
        port = made.port
        listener.withLock { $0 = made }
        hands.server.withLock { $0 = Weak(value: self) }
    }

    private struct Weak { weak var value: EchoServer? }
    private final class Hands: Sendable { let server = Mutex(Weak(value: nil)) }

    private func accept(_ socket: Socket) {
        let echo = Echo(context.wrap(socket)) { [self] echo in
            open.withLock { $0[ObjectIdentifier(echo)] = nil }
        }
        open.withLock { $0[ObjectIdentifier(echo)] = LoopConfined(echo) }
    }

    var openCount: Int { open.withLock { $0.count } }

    func stop() { listener.withLock { $0?.close() } }
}

/// A client that sends bytes and waits until as many have come back.
final class EchoClient: ByteStreamOwner {
    private let stream: any ByteStream
    private var wanted: [UInt8] = []
    private var sent = 0
    private var got: [UInt8] = []
    private var isClosed = false
    private var done: ((Result<[UInt8], StreamError>) -> Void)?

    private init(_ stream: any ByteStream) {
        self.stream = stream
        stream.owner = self
        stream.startReading()
    }

    static func connect(_ context: TLSClientContext, port: Int, _ loop: EventLoop) async throws -> LoopConfined<
        EchoClient
    > {
        let address = try SocketAddress(host: "127.0.0.1", port: port)
        return try await withCheckedThrowingContinuation { continuation in
            loop.execute {
                Socket.connect(address, loop: loop) { result in
                    continuation.resume(with: result.map { LoopConfined(EchoClient(context.wrap($0))) })
                }
            }
        }
    }

    var agreed: TLSStream? { stream as? TLSStream }

    func echo(_ bytes: [UInt8], _ done: @escaping (Result<[UInt8], StreamError>) -> Void) {
        guard !isClosed else { return done(.failure(StreamError("closed before"))) }
        (wanted, sent, got, self.done) = (bytes, 0, [], done)
        send()
    }

    private func send() {
        while sent < wanted.count, stream.waitingBytes < 256 << 10 {
            let count = min(100_000, wanted.count - sent)
            stream.write(Array(wanted[sent..<(sent + count)]))
            sent += count
        }
    }

    func close() { stream.close() }

    func received(_ bytes: UnsafeRawBufferPointer) {
        got += bytes
        if got.count >= wanted.count { finish(.success(got)) }
    }
    func drained() { send() }
    func closed(_ error: StreamError?) {
        isClosed = true
        finish(.failure(error ?? StreamError("closed in order")))
    }
    private func finish(_ result: Result<[UInt8], StreamError>) {
        let done = done
        self.done = nil
        done?(result)
    }
}

extension LoopConfined<EchoClient> {
    func echo(_ bytes: [UInt8], on loop: EventLoop) async throws -> [UInt8] {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute { value.echo(bytes) { continuation.resume(with: $0) } }
        }
    }
}

struct SocketTests {
    @Test func `Megabytes come back over real sockets`() async throws {
        let server = try EchoServer(TLSPair.serverConfiguration(TLSPair.serverIdentity, .required))
        defer { server.stop() }
        let loop = EventLoop(name: "client")
        let context = try TLSClientContext(TLSPair.clientConfiguration(TLSPair.clientIdentity))
        let client = try await EchoClient.connect(context, port: server.port, loop)
        let bytes = (0..<(8 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7 ^ $0 >> 9) }
        #expect(try await client.echo(bytes, on: loop) == bytes)
        loop.execute { client.value.close() }
        while server.openCount > 0 { await Task.yield() }
        #expect(server.context.counters.versions == [.tls13: 1])
        #expect(server.context.counters.refused.isEmpty)
    }

    @Test func `A reload leaves open connections alone, and new ones see the new files`() async throws {
        let folder = NSTemporaryDirectory() + "tapedeck-reload-\(ProcessInfo.processInfo.processIdentifier)"
        try? FileManager.default.removeItem(atPath: folder)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        func install(_ identity: TestAuthority.Identity, _ authority: TestAuthority) throws {
            for (from, to) in [
                (identity.certificateFile, "chain"), (identity.keyFile, "key"), (authority.file, "authority"),
            ] {
                try Data(contentsOf: URL(fileURLWithPath: from)).write(to: URL(fileURLWithPath: "\(folder)/\(to).pem"))
            }
        }
        try install(TestAuthority.trusted.server { $0.commonName = "first" }, .trusted)
        let server = try EchoServer(
            TLSServerConfiguration(
                certificateChainFile: folder + "/chain.pem", privateKeyFile: folder + "/key.pem",
                clientAuthorityFile: folder + "/authority.pem", clientCertificates: .required))
        defer { server.stop() }
        let loop = EventLoop(name: "client")
        let context = try TLSClientContext(TLSPair.clientConfiguration(TLSPair.clientIdentity))
        func name(_ client: LoopConfined<EchoClient>) -> String? {
            loop.runAndWait { _ in client.value.agreed?.peerCertificate?.commonName }
        }

        let old = try await EchoClient.connect(context, port: server.port, loop)
        #expect(try await old.echo([1], on: loop) == [1])
        #expect(name(old) == "first")

        // Files that do not belong together change nothing.
        try Data("no certificate".utf8).write(to: URL(fileURLWithPath: folder + "/chain.pem"))
        #expect(throws: TLSError.self) { try server.context.reload() }
        try Data(contentsOf: URL(fileURLWithPath: TestAuthority.trusted.server().certificateFile)).write(
            to: URL(fileURLWithPath: folder + "/chain.pem"))
        #expect(throws: TLSError.self) { try server.context.reload() }
        let between = try await EchoClient.connect(context, port: server.port, loop)
        #expect(try await between.echo([2], on: loop) == [2])
        #expect(name(between) == "first")

        // A new certificate, while connections begin on another thread.
        try install(TestAuthority.trusted.server { $0.commonName = "second" }, .trusted)
        try server.context.reload()
        let new = try await EchoClient.connect(context, port: server.port, loop)
        #expect(try await new.echo([3], on: loop) == [3])
        #expect(name(new) == "second")

        // An authority that is no longer believed: its clients stay, and cannot come again.
        try install(TestAuthority.trusted.server { $0.commonName = "third" }, .other)
        try server.context.reload()
        let late = try await EchoClient.connect(context, port: server.port, loop)
        await #expect(throws: StreamError.self) { try await late.echo([4], on: loop) }
        #expect(server.context.counters.refused == [.unknownAuthority: 1])
        for client in [old, between, new] {
            let bytes = [UInt8](repeating: 9, count: 100_000)
            #expect(try await client.echo(bytes, on: loop) == bytes)
            loop.execute { client.value.close() }
        }
        #expect(server.context.counters.handshakes == 3)
        while server.openCount > 0 { await Task.yield() }
    }

    @Test func `Files that are missing, locked by a password or no PEM are refused with their names`() throws {
        var configuration = TLSPair.serverConfiguration()
        configuration.privateKeyFile = "/nowhere/key.pem"
        #expect(message(configuration).contains("/nowhere/key.pem: No such file or directory"))
        configuration = TLSPair.serverConfiguration()
        configuration.certificateChainFile = configuration.privateKeyFile
        #expect(message(configuration).contains("no start line"))
        configuration = TLSPair.serverConfiguration()
        configuration.privateKeyFile = TestAuthority.trusted.server().keyFile
        #expect(message(configuration).contains("is not that of the certificate in"))
        configuration = TLSPair.serverConfiguration()
        configuration.clientCertificates = .required
        #expect(message(configuration).contains("no file of authorities"))
        configuration.clientAuthorityFile = configuration.privateKeyFile
        #expect(message(configuration).contains("authorities"))
        configuration = TLSPair.serverConfiguration()
        configuration.privateKeyFile = TestAuthority.trusted.lockedKeyFile()
        #expect(message(configuration).contains("cannot use the private key"))
        configuration = TLSPair.serverConfiguration()
        configuration.applicationProtocols = [""]
        #expect(message(configuration).contains("1 to 255 bytes"))
        var client = TLSPair.clientConfiguration()
        client.privateKeyFile = TLSPair.clientIdentity.keyFile
        #expect(throws: TLSError.self) { try TLSClientContext(client) }
    }

    @Test func `A certificate that is over, or not valid yet, is none to begin or go on with`() throws {
        let now = Int64(Date().timeIntervalSince1970)
        let good = TestAuthority.trusted.server { $0.commonName = "good" }
        let context = try TLSServerContext(TLSPair.serverConfiguration(good))
        #expect(context.certificate.subject == "/CN=good")
        #expect(abs(context.certificate.validTo - now - 86_400) < 600)
        #expect(TLSOwnCertificate.text(1_709_251_200) == "2024-03-01 00:00:00 UTC")
        let over = TestAuthority.trusted.server {
            $0.validFrom = -7200
            $0.validTo = -3600
        }
        #expect(message(TLSPair.serverConfiguration(over)).contains("\(over.certificateFile) is over since 20"))
        let early = TestAuthority.trusted.server { $0.validFrom = 3600 }
        #expect(message(TLSPair.serverConfiguration(early)).contains("is not valid before 20"))
        // A key of another kind than the certificate's.
        var mixed = TLSPair.serverConfiguration(good)
        mixed.privateKeyFile = TestAuthority.ed25519KeyFile()
        #expect(message(mixed).contains("is not that of the certificate in"), "\(message(mixed))")
        // What is put in place later is looked at as closely.
        let folder = try TemporaryFolder()
        let file = folder.path + "/chain.pem"
        func install(_ identity: TestAuthority.Identity) throws {
            for (from, to) in [(identity.certificateFile, file), (identity.keyFile, folder.path + "/key.pem")] {
                try Data(contentsOf: URL(fileURLWithPath: from)).write(to: URL(fileURLWithPath: to))
            }
        }
        try install(good)
        let reloaded = try TLSServerContext(
            TLSServerConfiguration(certificateChainFile: file, privateKeyFile: folder.path + "/key.pem"))
        try install(over)
        #expect(throws: TLSError.self) { try reloaded.reload() }
        #expect(reloaded.certificate.subject == "/CN=good")
    }

    private func message(_ configuration: TLSServerConfiguration) -> String {
        do {
            _ = try TLSServerContext(configuration)
            return "no error"
        } catch {
            return error.description
        }
    }
}
