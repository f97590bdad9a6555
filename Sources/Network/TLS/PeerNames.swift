import COpenSSL
import EventLoop

/// The names in a certificate. A name that two readers could take for different ones (a NUL inside, no UTF-8) makes the
/// certificate unusable.
struct PeerNames {
    private(set) var uris: [String] = []
    private(set) var dnsNames: [String] = []
    private(set) var commonName = ""

    init(_ certificate: OpaquePointer) throws(TLSFailure) {
        try readAlternativeNames(certificate)
        try readCommonName(certificate)
    }

    var peerCertificate: PeerCertificate { PeerCertificate(uris: uris, dnsNames: dnsNames, commonName: commonName) }

    private mutating func readAlternativeNames(_ certificate: OpaquePointer) throws(TLSFailure) {
        var isAbsent: Int32 = 0
        guard let names = copenssl_alternative_names(certificate, &isAbsent) else {
            if isAbsent != 0 { return }
            throw TLSFailure(.other, "the peer's certificate has alternative names that cannot be read")
        }
        defer { GENERAL_NAMES_free(names) }
        for index in 0..<copenssl_name_count(names) {
            var kind: Int32 = 0
            guard let name = copenssl_name(names, index, &kind) else { continue }
            let text = try PeerNames.text(
                ASN1_STRING_get0_data(name), Int(ASN1_STRING_length(name)), "alternative name")
            if kind == GEN_URI { uris.append(text) } else { dnsNames.append(text) }
        }
    }

    /// The most specific one: the last.
    private mutating func readCommonName(_ certificate: OpaquePointer) throws(TLSFailure) {
        let subject = X509_get_subject_name(certificate)
        var last: Int32 = -1
        while case let next = X509_NAME_get_index_by_NID(subject, NID_commonName, last), next >= 0 { last = next }
        guard last >= 0 else { return }
        var bytes: UnsafeMutablePointer<UInt8>?
        let count = ASN1_STRING_to_UTF8(&bytes, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last)))
        defer { copenssl_free(bytes) }
        guard count >= 0 else { throw TLSFailure(.other, "the peer's certificate has a common name that is no text") }
        commonName = try PeerNames.text(bytes, Int(count), "common name")
    }

    /// Text of a certificate's name.
    static func text(_ start: UnsafePointer<UInt8>?, _ count: Int, _ what: String) throws(TLSFailure) -> String {
        let bytes = UnsafeBufferPointer(start: start, count: start == nil ? 0 : count)
        guard !bytes.contains(0) else { throw TLSFailure(.other, "the peer's certificate has a NUL in its \(what)") }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw TLSFailure(.other, "the peer's certificate has a \(what) that is not UTF-8")
        }
        return text
    }
}
