import COpenSSL
import EventLoop

/// Why TLS ended a connection.
struct TLSFailure: Error {
    let refusal: TLSRefusal
    let text: String

    init(_ refusal: TLSRefusal, _ text: String) {
        self.refusal = refusal
        self.text = text
    }

    var streamError: StreamError { StreamError(text) }

    /// What OpenSSL says of its last call on `ssl`. Empties the thread's queue of errors.
    init(lastCallOn ssl: OpaquePointer) {
        let code = ERR_get_error()
        ERR_clear_error()
        let isOfTLS = ERR_GET_LIB(code) == ERR_LIB_SSL
        let reason = isOfTLS ? ERR_GET_REASON(code) : 0
        let verified = SSL_get_verify_result(ssl)
        if reason == SSL_R_CERTIFICATE_VERIFY_FAILED, verified != X509_V_OK {
            let problem = String(cString: X509_verify_cert_error_string(verified))
            self.init(TLSFailure.refusal(verified), "the peer's certificate is refused: \(problem)")
        } else if reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE {
            self.init(.noCertificate, "the peer has no certificate, and must have one")
        } else if reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST {
            self.init(.other, "the peer does not speak TLS: \(TLSFailure.text(code))")
        } else if reason > SSL_AD_REASON_OFFSET, reason <= SSL_AD_REASON_OFFSET + 255 {
            self.init(.other, "the peer ended TLS: \(TLSFailure.text(code))")
        } else {
            self.init(.other, "TLS failed: \(code == 0 ? "the peer broke the protocol" : TLSFailure.text(code))")
        }
    }

    private static func refusal(_ verified: Int) -> TLSRefusal {
        switch Int32(truncatingIfNeeded: verified) {
        case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID: .expired
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED, X509_V_ERR_CERT_SIGNATURE_FAILURE:
            .unknownAuthority
        default: .other
        }
    }

    /// What an error of OpenSSL says.
    static func text(_ code: UInt) -> String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            guard let start = buffer.baseAddress else { return "" }
            copenssl_error_text(code, start, buffer.count)
            return String(cString: start)
        }
    }

    /// The oldest error of this thread's queue, which is emptied.
    static func lastText() -> String {
        let code = ERR_get_error()
        ERR_clear_error()
        return code == 0 ? "unknown error" : text(code)
    }
}
