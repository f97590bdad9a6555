import COpenSSL
import EventLoop
import Synchronization

/// Certificates, keys and authorities of a server, for any number of connections on any loops. From any thread.
public final class TLSServerContext: Sendable {
    private let configuration: TLSServerConfiguration
    private let current: Mutex<TLSContextHandle>
    let tally = TLSTally()

    /// Reads the files. Throws where one cannot be read, key and certificate do not belong together, or the certificate
    /// is not valid now: no client would take it.
    public convenience init(_ configuration: TLSServerConfiguration) throws(TLSError) {
        let handle = try TLSContextHandle(configuration)
        try handle.checkCertificateIsValid(configuration.certificateChainFile)
        self.init(configuration, handle)
    }

    /// Whatever the certificate's time.
    init(_ configuration: TLSServerConfiguration, _ handle: TLSContextHandle) {
        self.configuration = configuration
        current = Mutex(handle)
    }

    /// Reads the files again. Connections that begin from now on use them, the others go on. Where they cannot be used,
    /// an error is thrown and everything stays as it was.
    public func reload() throws(TLSError) {
        let handle = try TLSContextHandle(configuration)
        try handle.checkCertificateIsValid(configuration.certificateChainFile)
        current.withLock { $0 = handle }
    }

    /// What the server shows its clients now.
    public var certificate: TLSOwnCertificate { current.withLock { $0.certificate } }

    /// Handshakes done and refused, over all loads of the files.
    public var counters: TLSCounters { tally.counters.withLock { $0 } }

    /// Speaks TLS over a stream that a client opened. The handshake begins; what is written waits for it. On the
    /// stream's loop. The stream's owner is this context's from now on.
    public func wrap(_ stream: any ByteStream) -> any ByteStream {
        TLSStream(
            stream, TLSEngine(current.withLock { $0 }, isServer: true), limits: configuration.limits,
            applicationProtocols: configuration.applicationProtocols, tally: tally)
    }
}

/// Authorities that a client believes, and its own certificate, for any number of connections on any loops. From any
/// thread.
public final class TLSClientContext: Sendable {
    private let configuration: TLSClientConfiguration
    private let current: Mutex<TLSContextHandle>
    private let tally = TLSTally()

    /// Reads the files. Throws where one cannot be read, key and certificate do not belong together, or the name is
    /// none.
    public init(_ configuration: TLSClientConfiguration) throws(TLSError) {
        try TLSClientContext.check(configuration.serverName)
        self.configuration = configuration
        current = Mutex(try TLSContextHandle(configuration))
    }

    private static func check(_ serverName: String) throws(TLSError) {
        let isName = serverName.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f }
        guard isName, (1...253).contains(serverName.utf8.count) else {
            throw TLSError("\"\(serverName)\" is no name of a server")
        }
    }

    /// Reads the files again. Connections that begin from now on use them, the others go on. Where they cannot be used,
    /// an error is thrown and everything stays as it was.
    public func reload() throws(TLSError) {
        let handle = try TLSContextHandle(configuration)
        current.withLock { $0 = handle }
    }

    /// Handshakes done and failed, over all loads of the files.
    public var counters: TLSCounters { tally.counters.withLock { $0 } }

    /// Speaks TLS over a stream to the configured server. The handshake begins; what is written waits for it. On the
    /// stream's loop. The stream's owner is this context's from now on.
    public func wrap(_ stream: any ByteStream) -> any ByteStream { wrap(stream, configuration.serverName) }

    /// As ``wrap(_:)``, to a server with another name. Throws where it is no name.
    public func wrap(_ stream: any ByteStream, serverName: String) throws(TLSError) -> any ByteStream {
        try TLSClientContext.check(serverName)
        return wrap(stream, serverName)
    }

    private func wrap(_ stream: any ByteStream, _ serverName: String) -> any ByteStream {
        TLSStream(
            stream, TLSEngine(current.withLock { $0 }, isServer: false, serverName: serverName),
            limits: configuration.limits, applicationProtocols: configuration.applicationProtocols, tally: tally)
    }
}

/// Counts what the connections of a context do. From any thread.
final class TLSTally: Sendable {
    let counters = Mutex(TLSCounters())

    func handshakeDone(_ version: TLSVersion) { counters.withLock { $0.versions[version, default: 0] += 1 } }

    func refused(_ failure: TLSFailure, peer: String) {
        counters.withLock { counters in
            counters.refused[failure.refusal, default: 0] += 1
            counters.lastRefused[failure.refusal] = TLSRefusedHandshake(peer: peer, reason: failure.text)
        }
    }
}
