import COpenSSL

/// Handshake and records of one connection, without a socket and without time: bytes go in by ``feed(_:)`` and come out
/// of ``output``. Confined to one loop.
final class TLSEngine {
    /// The most plaintext that a record carries.
    static let recordBytesMax = 16 << 10

    enum HandshakeStep {
        case done
        case needsInput
        case failed(TLSFailure)
    }

    enum ReadStep {
        case bytes(Int)
        case needsInput
        /// The peer said that it sends no more.
        case end
        case failed(TLSFailure)
    }

    let isServer: Bool
    private let ssl: OpaquePointer
    /// What the callbacks of `ssl` point into.
    private let handle: TLSContextHandle
    private let memory: UnsafeMutablePointer<TLSMemory>

    /// `serverName` is for a client, and was checked.
    init(_ handle: TLSContextHandle, isServer: Bool, serverName: String = "") {
        self.handle = handle
        self.isServer = isServer
        memory = .allocate(capacity: 1)
        memory.initialize(to: TLSMemory())
        guard let ssl = SSL_new(handle.pointer), let bio = TLSMemory.makeBIO(memory) else {
            preconditionFailure("no memory for a TLS connection")
        }
        self.ssl = ssl
        SSL_set_bio(ssl, bio, bio)
        if isServer {
            SSL_set_accept_state(ssl)
        } else {
            SSL_set_connect_state(ssl)
            // A numeric address is compared as one, and is not sent as a name (RFC 6066, 3).
            if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), serverName) != 1 {
                SSL_set_hostflags(ssl, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
                let isSet = SSL_set1_host(ssl, serverName) == 1 && copenssl_set_server_name(ssl, serverName) == 1
                precondition(isSet, "no memory for a TLS connection")
            }
        }
    }

    deinit {
        SSL_free(ssl)
        memory.pointee.releaseOutput()
        memory.deallocate()
    }
}

// MARK: Encrypted bytes

extension TLSEngine {
    /// Bytes of the peer; they must stay until ``endInput()``.
    func feed(_ bytes: UnsafeRawBufferPointer) { memory.pointee.setInput(bytes) }

    /// What was not read of the bytes fed.
    func endInput() -> UnsafeRawBufferPointer { memory.pointee.endInput() }

    /// Bytes for the peer, valid until the next call.
    var output: UnsafeRawBufferPointer { memory.pointee.outputBytes }

    var outputCount: Int { memory.pointee.outputCount }

    func releaseOutput() { memory.pointee.releaseOutput() }
}

// MARK: Steps

extension TLSEngine {
    func handshake() -> HandshakeStep {
        ERR_clear_error()
        let result = SSL_do_handshake(ssl)
        if result == 1 { return .done }
        if SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ { return .needsInput }
        return .failed(TLSFailure(lastCallOn: ssl))
    }

    /// Plaintext of at most one record; `target` has room for one.
    func read(into target: UnsafeMutableRawBufferPointer) -> ReadStep {
        ERR_clear_error()
        var count = 0
        let result = SSL_read_ex(ssl, target.baseAddress, target.count, &count)
        if result == 1 { return .bytes(count) }
        switch SSL_get_error(ssl, result) {
        case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return .needsInput
        case SSL_ERROR_ZERO_RETURN: return .end
        default: return .failed(TLSFailure(lastCallOn: ssl))
        }
    }

    /// Encrypts plaintext; how much of it. Less than all where a message of the peer must come first.
    func seal(_ bytes: UnsafeRawBufferPointer) throws(TLSFailure) -> Int {
        var sealed = 0
        while sealed < bytes.count {
            ERR_clear_error()
            var count = 0
            let part = min(bytes.count - sealed, TLSEngine.recordBytesMax)
            let result = SSL_write_ex(ssl, bytes.baseAddress.map { $0 + sealed }, part, &count)
            if result != 1 {
                if SSL_get_error(ssl, result) == SSL_ERROR_WANT_READ { return sealed }
                throw TLSFailure(lastCallOn: ssl)
            }
            sealed += count
        }
        return sealed
    }

    /// Tells the peer that no more follows. Only after the handshake.
    func sealEnd() {
        ERR_clear_error()
        if SSL_shutdown(ssl) < 0 { ERR_clear_error() }
    }
}

// MARK: What was agreed

extension TLSEngine {
    var version: TLSVersion? { TLSVersion(rawValue: SSL_version(ssl)) }

    /// The application's protocol; nil where none was agreed.
    var applicationProtocol: String? {
        var bytes: UnsafePointer<UInt8>?
        var count: UInt32 = 0
        SSL_get0_alpn_selected(ssl, &bytes, &count)
        guard let bytes, count > 0 else { return nil }
        return String(decoding: UnsafeBufferPointer(start: bytes, count: Int(count)), as: UTF8.self)
    }

    /// The names of the peer's verified certificate; nil where it has shown none, or none was asked for.
    func peerCertificate() throws(TLSFailure) -> PeerNames? {
        guard let certificate = SSL_get1_peer_certificate(ssl) else { return nil }
        defer { X509_free(certificate) }
        guard SSL_get_verify_result(ssl) == X509_V_OK else { return nil }
        return try PeerNames(certificate)
    }
}
