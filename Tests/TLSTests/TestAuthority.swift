import COpenSSL
import Foundation

/// An authority of the tests, which signs certificates of any kind, good or not.
final class TestAuthority: @unchecked Sendable {
    /// The one that servers and clients of the tests believe.
    static let trusted = TestAuthority("trusted")
    static let other = TestAuthority("other")

    /// A certificate and its key, as files and as what OpenSSL holds.
    struct Identity {
        let certificateFile: String
        let keyFile: String
    }

    struct Subject {
        var commonName = ""
        var uris: [[UInt8]] = []
        var dnsNames: [[UInt8]] = []
        var addresses: [[UInt8]] = []
        /// Seconds from now.
        var validFrom = -86_400
        var validTo = 86_400
        var isAuthority = false
    }

    let file: String
    private static let root: String = {
        let root = NSTemporaryDirectory() + "tapedeck-tls-\(ProcessInfo.processInfo.processIdentifier)"
        atexit { try? FileManager.default.removeItem(atPath: TestAuthority.root) }
        return root
    }()
    private let folder: String
    private let certificate: OpaquePointer
    private let key: OpaquePointer

    private init(_ name: String) {
        folder = TestAuthority.root + "/" + name
        try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        file = folder + "/authority.pem"
        key = TestAuthority.makeKey()
        certificate = TestAuthority.make(
            Subject(commonName: "authority \(name)", isAuthority: true), key, issuer: nil, signer: key)
        TestAuthority.write(file) { PEM_write_bio_X509($0, certificate) }
    }

    /// `localhost`, 127.0.0.1 and ::1.
    func server(_ change: (inout Subject) -> Void = { _ in }) -> Identity {
        var subject = Subject(commonName: "localhost", dnsNames: [Array("localhost".utf8)])
        subject.addresses = [[127, 0, 0, 1], [UInt8](repeating: 0, count: 15) + [1]]
        change(&subject)
        return issue(subject)
    }

    func client(_ name: String, _ change: (inout Subject) -> Void = { _ in }) -> Identity {
        var subject = Subject(commonName: name, uris: [Array("spiffe://test/\(name)".utf8)])
        subject.dnsNames = [Array("\(name).test".utf8)]
        change(&subject)
        return issue(subject)
    }

    func issue(_ subject: Subject) -> Identity {
        let path = folder + "/" + UUID().uuidString
        let key = TestAuthority.makeKey()
        let made = TestAuthority.make(subject, key, issuer: certificate, signer: self.key)
        defer {
            X509_free(made)
            EVP_PKEY_free(key)
        }
        TestAuthority.write(path + ".pem") { PEM_write_bio_X509($0, made) }
        TestAuthority.write(path + "-key.pem") { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) }
        return Identity(certificateFile: path + ".pem", keyFile: path + "-key.pem")
    }

    /// A key behind a password.
    func lockedKeyFile() -> String {
        let path = folder + "/locked.pem"
        let key = TestAuthority.makeKey()
        defer { EVP_PKEY_free(key) }
        let password = Array("secret".utf8)
        TestAuthority.write(path) {
            PEM_write_bio_PrivateKey($0, key, EVP_aes_128_cbc(), password, Int32(password.count), nil, nil)
        }
        return path
    }

    /// A key of another kind than those of the certificates.
    static func ed25519KeyFile() -> String {
        let path = trusted.folder + "/ed25519.pem"
        let context = EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, nil)
        defer { EVP_PKEY_CTX_free(context) }
        EVP_PKEY_keygen_init(context)
        var key: OpaquePointer?
        EVP_PKEY_keygen(context, &key)
        defer { EVP_PKEY_free(key) }
        write(path) { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) }
        return path
    }

    private static func write(_ path: String, _ body: (OpaquePointer?) -> Int32) {
        let bio = BIO_new_file(path, "w")
        precondition(body(bio) == 1)
        BIO_free(bio)
    }

    private static func makeKey() -> OpaquePointer {
        let context = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nil)
        defer { EVP_PKEY_CTX_free(context) }
        EVP_PKEY_keygen_init(context)
        EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context, NID_X9_62_prime256v1)
        var key: OpaquePointer?
        EVP_PKEY_keygen(context, &key)
        return key!
    }

    private static func make(
        _ subject: Subject, _ key: OpaquePointer, issuer: OpaquePointer?, signer: OpaquePointer
    ) -> OpaquePointer {
        let certificate = X509_new()!
        X509_set_version(certificate, 2)
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), UInt64.random(in: 1...UInt64(Int64.max)))
        X509_gmtime_adj(X509_getm_notBefore(certificate), subject.validFrom)
        X509_gmtime_adj(X509_getm_notAfter(certificate), subject.validTo)
        let name = X509_get_subject_name(certificate)
        let bytes = Array(subject.commonName.utf8)
        X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8, bytes, Int32(bytes.count), -1, 0)
        X509_set_issuer_name(certificate, issuer.map { X509_get_subject_name($0) } ?? name)
        X509_set_pubkey(certificate, key)
        add(certificate, NID_basic_constraints, subject.isAuthority ? [0x30, 3, 1, 1, 0xff] : [0x30, 0])
        let names =
            subject.dnsNames.map { der(0x82, $0) } + subject.uris.map { der(0x86, $0) }
            + subject.addresses.map { der(0x87, $0) }
        if !names.isEmpty { add(certificate, NID_subject_alt_name, der(0x30, names.flatMap { $0 })) }
        X509_sign(certificate, signer, EVP_sha256())
        return certificate
    }

    private static func der(_ tag: UInt8, _ content: [UInt8]) -> [UInt8] {
        precondition(content.count < 65_536)
        if content.count < 128 { return [tag, UInt8(content.count)] + content }
        return [tag, 0x82, UInt8(content.count >> 8), UInt8(content.count & 255)] + content
    }

    private static func add(_ certificate: OpaquePointer, _ kind: Int32, _ content: [UInt8]) {
        let octets = ASN1_STRING_new()
        ASN1_STRING_set(octets, content, Int32(content.count))
        let added = X509_EXTENSION_create_by_NID(nil, kind, 0, octets)
        X509_add_ext(certificate, added, -1)
        X509_EXTENSION_free(added)
        ASN1_STRING_free(octets)
    }
}
