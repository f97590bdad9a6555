import COpenSSL

/// OpenSSL's context of one load of the files. Connections made from it keep it; it is not changed once made.
final class TLSContextHandle: @unchecked Sendable {
    let pointer: OpaquePointer
    /// The own certificate; without names and time where there is none.
    private(set) var certificate = TLSOwnCertificate()
    /// Protocols as the wire has them (RFC 7301, 3.1), where the callback finds them.
    private let protocols: UnsafeMutableBufferPointer<UInt8>

    /// The library does not clean up at the process's exit, under loops that still end their connections.
    private static let isReady = copenssl_begin() == 1

    deinit {
        SSL_CTX_free(pointer)
        protocols.deallocate()
    }

    private init(
        _ method: OpaquePointer?, _ versions: ClosedRange<TLSVersion>, _ applicationProtocols: [String]
    ) throws(TLSError) {
        let wire = try TLSContextHandle.wire(applicationProtocols)
        ERR_clear_error()
        guard TLSContextHandle.isReady, let pointer = SSL_CTX_new(method) else {
            throw TLSError("TLS cannot begin: \(TLSFailure.lastText())")
        }
        self.pointer = pointer
        protocols = .allocate(capacity: wire.count)
        _ = protocols.initialize(from: wire)
        copenssl_set_defaults(pointer)
        // A question for a password on the terminal would hang a service.
        SSL_CTX_set_default_passwd_cb(pointer) { _, _, _, _ in -1 }
        guard copenssl_set_versions(pointer, versions.lowerBound.rawValue, versions.upperBound.rawValue) == 1,
            // What HTTP/2 does not forbid for 1.2 (RFC 9113, appendix A).
            SSL_CTX_set_cipher_list(pointer, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1
        else { throw TLSError("TLS cannot begin: \(TLSFailure.lastText())") }
    }

    private static func wire(_ applicationProtocols: [String]) throws(TLSError) -> [UInt8] {
        var wire: [UInt8] = []
        for name in applicationProtocols {
            guard (1...255).contains(name.utf8.count) else {
                throw TLSError("a protocol's name has 1 to 255 bytes, and \"\(name)\" has \(name.utf8.count)")
            }
            wire.append(UInt8(name.utf8.count))
            wire += Array(name.utf8)
        }
        return wire
    }

    /// Throws where the own certificate, which is in `file`, is not valid now.
    func checkCertificateIsValid(_ file: String) throws(TLSError) {
        if let certificate = SSL_CTX_get0_certificate(pointer) {
            try TLSOwnCertificate.check(certificate, isValidNow: file)
        }
    }

    /// Throws where a file cannot be read, or key and certificate do not belong together.
    convenience init(_ configuration: TLSServerConfiguration) throws(TLSError) {
        try self.init(TLS_server_method(), configuration.versions, configuration.applicationProtocols)
        try load(chain: configuration.certificateChainFile, key: configuration.privateKeyFile)
        selectProtocol()
        guard configuration.clientCertificates != .none else { return }
        guard let authorities = configuration.clientAuthorityFile else {
            throw TLSError("client certificates are asked for, and no file of authorities is given")
        }
        try loadAuthorities(authorities)
        SSL_CTX_set_client_CA_list(pointer, SSL_load_client_CA_file(authorities))
        let mustHave = configuration.clientCertificates == .required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0
        SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER | mustHave, nil)
        // A resumed session would not be verified again: a client whose authority was removed could come back by it.
        copenssl_refuse_resumption(pointer)
    }

    /// Throws where a file cannot be read, or key and certificate do not belong together.
    convenience init(_ configuration: TLSClientConfiguration) throws(TLSError) {
        try self.init(TLS_client_method(), configuration.versions, configuration.applicationProtocols)
        SSL_CTX_set_verify(pointer, SSL_VERIFY_PEER, nil)
        if let authorities = configuration.authorityFile {
            try loadAuthorities(authorities)
        } else if SSL_CTX_set_default_verify_paths(pointer) != 1 {
            throw TLSError("the system's authorities cannot be read: \(TLSFailure.lastText())")
        }
        switch (configuration.certificateChainFile, configuration.privateKeyFile) {
        case (nil, nil): break
        case (let chain?, let key?): try load(chain: chain, key: key)
        default: throw TLSError("a client certificate needs its key, and a key its certificate")
        }
        guard protocols.isEmpty || SSL_CTX_set_alpn_protos(pointer, protocols.baseAddress, UInt32(protocols.count)) == 0
        else { throw TLSError("TLS cannot begin: \(TLSFailure.lastText())") }
    }

    private func load(chain: String, key: String) throws(TLSError) {
        ERR_clear_error()
        guard SSL_CTX_use_certificate_chain_file(pointer, chain) == 1 else {
            throw TLSError("cannot use the certificate chain in \(chain): \(TLSFailure.lastText())")
        }
        certificate = TLSOwnCertificate(SSL_CTX_get0_certificate(pointer))
        guard SSL_CTX_use_PrivateKey_file(pointer, key, SSL_FILETYPE_PEM) == 1,
            SSL_CTX_check_private_key(pointer) == 1
        else {
            let isOfAnother = TLSContextHandle.isOfAnotherCertificate(ERR_peek_error())
            let text = TLSFailure.lastText()
            if isOfAnother {
                throw TLSError("the private key in \(key) is not that of the certificate in \(chain): \(text)")
            }
            throw TLSError("cannot use the private key in \(key): \(text)")
        }
    }

    /// What OpenSSL says where a key, good in itself, is not that of the certificate.
    private static func isOfAnotherCertificate(_ code: UInt) -> Bool {
        switch (ERR_GET_LIB(code), ERR_GET_REASON(code)) {
        case (ERR_LIB_X509, X509_R_KEY_VALUES_MISMATCH), (ERR_LIB_X509, X509_R_KEY_TYPE_MISMATCH),
            (ERR_LIB_SSL, SSL_R_NO_CERTIFICATE_ASSIGNED):
            true
        default: false
        }
    }

    private func loadAuthorities(_ file: String) throws(TLSError) {
        ERR_clear_error()
        guard SSL_CTX_load_verify_file(pointer, file) == 1 else {
            throw TLSError("cannot use the authorities in \(file): \(TLSFailure.lastText())")
        }
    }

    /// A server's choice among what a client offers: its own first one; none in common, or no offer at all, is refused.
    private func selectProtocol() {
        guard !protocols.isEmpty else { return }
        SSL_CTX_set_client_hello_cb(
            pointer,
            { ssl, alert, _ in
                if copenssl_has_alpn(ssl) == 1 { return SSL_CLIENT_HELLO_SUCCESS }
                alert?.pointee = TLS1_AD_NO_APPLICATION_PROTOCOL
                return SSL_CLIENT_HELLO_ERROR
            }, nil)
        SSL_CTX_set_alpn_select_cb(
            pointer,
            { _, chosen, chosenCount, offered, offeredCount, argument in
                guard let argument else { return SSL_TLSEXT_ERR_ALERT_FATAL }
                let handle = Unmanaged<TLSContextHandle>.fromOpaque(argument).takeUnretainedValue()
                var name: UnsafeMutablePointer<UInt8>?
                let result = SSL_select_next_proto(
                    &name, chosenCount, handle.protocols.baseAddress, UInt32(handle.protocols.count), offered,
                    offeredCount)
                chosen?.pointee = UnsafePointer(name)
                return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL
            }, Unmanaged.passUnretained(self).toOpaque())
    }
}
