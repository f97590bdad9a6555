import COpenSSL
import EventLoop
import Glibc

@testable import TLS

extension FuzzTarget {
    /// Records into the TLS room. The first byte chooses: whole records of anybody before the handshake, or a handshake
    /// and a message of which the fuzzer changes bytes, leaves some out, puts some in, or cuts the rest off. What the
    /// server is given is always a beginning of what the client sent; it hears of one end; one that was cut off is no
    /// end in order. (What TLS itself does not protect, as versions in records' heads, may be changed unseen.)
    static let tlsRecords = FuzzTarget(
        name: "tlsrecords", lengthMax: 512,
        seeds: {
            let hello = clientHello()
            return [
                [0, 0] + hello, [0, 7] + hello + hello, [0, 3] + [22, 3, 1, 0, 4, 1, 0, 0, 0],
                [0, 0, 21, 3, 3, 0, 2, 2, 40],
                [1, 0, 0, 10, 1], [1, 0, 2, 200, 0x80], [2, 1, 0, 5], [3, 2, 1, 0, 23, 3, 3, 0, 1, 0], [1, 9, 0, 0, 0],
                [2, 0, 2, 0, 255], [2, 3, 0, 40, 255],
            ]
        },
        run: { bytes in
            guard bytes.count >= 2 else { return }
            let rest = Array(bytes.dropping(2))
            if bytes[0] % 4 == 0 { return feedServer(rest, cuts: bytes[1]) }
            tamper(rest, kind: bytes[0] % 4, cuts: bytes[1])
        })

    /// Plaintext that a server or client was given, and its ends.
    private final class Reader: ByteStreamOwner {
        var bytes: [UInt8] = []
        var ends: [StreamError?] = []

        func received(_ new: UnsafeRawBufferPointer) {
            require(ends.isEmpty, "bytes after the end")
            bytes += new
        }
        func drained() {}
        func closed(_ error: StreamError?) { ends.append(error) }
    }

    private static func wrapServer(_ stream: FuzzStream, _ reader: Reader) -> any ByteStream {
        let server = FuzzIdentity.shared.server.wrap(stream)
        server.owner = reader
        server.startReading()
        return server
    }

    private static func feedServer(_ bytes: [UInt8], cuts: UInt8) {
        let loop = FuzzLoop()
        let stream = FuzzStream(loop)
        let reader = Reader()
        let server = wrapServer(stream, reader)
        loop.settle()
        forEachPiece(bytes, seed: cuts) { stream.feed($0) }
        stream.end()
        loop.advance(milliseconds: 60_000)
        require(reader.bytes.isEmpty, "plaintext without a handshake")
        require(reader.ends.count == 1 && reader.ends[0] != nil, "ended \(reader.ends.count) times")
        require(server.isClosed && server.peerCertificate == nil, "still open")
    }

    /// What a client that speaks first sends.
    private static func clientHello() -> [UInt8] {
        let loop = FuzzLoop()
        let stream = FuzzStream(loop)
        let client = FuzzIdentity.shared.client.wrap(stream)
        loop.settle()
        defer {
            client.close()
            stream.end()
            loop.advance(milliseconds: 60_000)
        }
        return Array(stream.output.prefix(500))
    }

    private static func tamper(_ plan: [UInt8], kind: UInt8, cuts: UInt8) {
        guard plan.count >= 2 else { return }
        let loop = FuzzLoop()
        let (near, far) = (FuzzStream(loop), FuzzStream(loop))
        let (clientReader, serverReader) = (Reader(), Reader())
        let server = wrapServer(far, serverReader)
        let client = FuzzIdentity.shared.client.wrap(near)
        client.owner = clientReader
        client.startReading()
        let sent = (0..<600).map { UInt8(truncatingIfNeeded: $0) }
        sent.withUnsafeBytes { client.write($0) }
        loop.settle()
        // Where in all that the client sends the change is.
        let place = Int(plan[0]) << 8 | Int(plan[1])
        let change = Array(plan.dropFirst(2))
        var passed = 0
        var isChanged = false
        var isCut = false
        for _ in 0..<50 {
            var out = near.takeOutput()
            if out.isEmpty, far.output.isEmpty { break }
            let at = place - passed
            passed += out.count
            if isCut { out = [] }
            if !isChanged, at >= 0, at < out.count {
                isCut = kind == 2 && change.first == 255
                if isCut { out.removeSubrange(at...) } else { isChanged = apply(change, kind, &out, at) }
            }
            forEachPiece(out, seed: cuts) { far.feed($0) }
            near.feed(far.takeOutput())
        }
        client.close()
        loop.settle()
        let last = near.takeOutput()
        if !isCut { forEachPiece(last, seed: cuts) { far.feed($0) } }
        near.feed(far.takeOutput())
        near.end()
        far.end()
        loop.advance(milliseconds: 60_000)
        require(sent.starts(with: serverReader.bytes), "the server was given what the client did not send")
        require(serverReader.ends.count == 1 && clientReader.ends.count == 1, "not one end each")
        if isCut {
            require(serverReader.ends[0] != nil, "a stream that was cut off at \(place) ended in order")
        } else if !isChanged {
            require(
                serverReader.bytes == sent && serverReader.ends[0] == nil, "an unchanged stream did not end in order")
        }
        _ = server
    }

    /// Whether anything became different.
    private static func apply(_ change: [UInt8], _ kind: UInt8, _ bytes: inout [UInt8], _ at: Int) -> Bool {
        let before = bytes
        switch kind {
        case 1: for (index, byte) in change.enumerated() where at + index < bytes.count { bytes[at + index] ^= byte }
        case 2: bytes.removeSubrange(at..<min(bytes.count, at + 1 + Int(change.first ?? 0)))
        default: bytes.insert(contentsOf: change, at: at)
        }
        return bytes != before
    }
}

/// A server with a certificate of its own making, and a client that believes it.
private final class FuzzIdentity: Sendable {
    static let shared = FuzzIdentity()

    let server: TLSServerContext
    let client: TLSClientContext

    private init() {
        var template = Array("/tmp/fuzz-tls-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { fatalError("no folder for a certificate") }
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let (certificate, key) = (folder + "/certificate.pem", folder + "/key.pem")
        defer {
            unlink(certificate)
            unlink(key)
            rmdir(folder)
        }
        FuzzIdentity.write(certificate, key)
        do {
            server = try TLSServerContext(
                TLSServerConfiguration(certificateChainFile: certificate, privateKeyFile: key))
            client = try TLSClientContext(TLSClientConfiguration(serverName: "localhost", authorityFile: certificate))
        } catch {
            fatalError("\(error)")
        }
    }

    private static func write(_ certificateFile: String, _ keyFile: String) {
        let context = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, nil)
        EVP_PKEY_keygen_init(context)
        EVP_PKEY_CTX_set_ec_paramgen_curve_nid(context, NID_X9_62_prime256v1)
        var key: OpaquePointer?
        EVP_PKEY_keygen(context, &key)
        EVP_PKEY_CTX_free(context)
        let certificate = X509_new()
        X509_set_version(certificate, 2)
        ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), 1)
        X509_gmtime_adj(X509_getm_notBefore(certificate), -86_400)
        X509_gmtime_adj(X509_getm_notAfter(certificate), 864_000)
        let name = X509_get_subject_name(certificate)
        X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8, Array("localhost".utf8), 9, -1, 0)
        X509_set_issuer_name(certificate, name)
        X509_set_pubkey(certificate, key)
        // The name among the alternative ones: SEQUENCE { [2] "localhost" }.
        let octets = ASN1_STRING_new()
        let names: [UInt8] = [0x30, 11, 0x82, 9] + Array("localhost".utf8)
        ASN1_STRING_set(octets, names, Int32(names.count))
        let added = X509_EXTENSION_create_by_NID(nil, NID_subject_alt_name, 0, octets)
        X509_add_ext(certificate, added, -1)
        X509_EXTENSION_free(added)
        ASN1_STRING_free(octets)
        X509_sign(certificate, key, EVP_sha256())
        write(certificateFile) { PEM_write_bio_X509($0, certificate) }
        write(keyFile) { PEM_write_bio_PrivateKey($0, key, nil, nil, 0, nil, nil) }
        X509_free(certificate)
        EVP_PKEY_free(key)
    }

    private static func write(_ path: String, _ body: (OpaquePointer?) -> Int32) {
        let bio = BIO_new_file(path, "w")
        guard body(bio) == 1 else { fatalError("cannot write \(path)") }
        BIO_free(bio)
    }
}
