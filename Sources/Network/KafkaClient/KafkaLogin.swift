import COpenSSL

/// Who a client is to the brokers (SASL).
public enum KafkaLogin: Sendable {
    case plain(user: String, password: String)
    case scram(SCRAMHash, user: String, password: String)
    /// OAUTHBEARER: asked for a token for each connection, on the loop, which it must not hold up; `done` is called
    /// once, from any thread.
    case token(@Sendable (_ done: @escaping @Sendable (Result<KafkaBearer, KafkaFailure>) -> Void) -> Void)

    /// The hash of SCRAM.
    public enum SCRAMHash: Sendable {
        case sha256, sha512

        var digest: OpaquePointer? { self == .sha256 ? EVP_sha256() : EVP_sha512() }
        var count: Int { self == .sha256 ? 32 : 64 }
    }

    var mechanism: String {
        switch self {
        case .plain: "PLAIN"
        case .scram(.sha256, _, _): "SCRAM-SHA-256"
        case .scram(.sha512, _, _): "SCRAM-SHA-512"
        case .token: "OAUTHBEARER"
        }
    }
}

/// What is said by OAUTHBEARER (RFC 7628).
public struct KafkaBearer: Sendable {
    public let token: String
    /// Further words to the broker: names of letters, values without control characters.
    public let extensions: [(name: String, value: String)]

    public init(token: String, extensions: [(name: String, value: String)] = []) {
        self.token = token
        self.extensions = extensions
    }

    var first: [UInt8] {
        let more = extensions.map { "\($0.name)=\($0.value)\u{1}" }.joined()
        return Array("n,,\u{1}auth=Bearer \(token)\u{1}\(more)\u{1}".utf8)
    }

    /// What answers a broker that says why it refuses the token: it waits for it (section 3.2.3).
    static let last: [UInt8] = [1]
}

/// The client's side of SCRAM (RFC 5802), without channel binding.
struct SCRAMExchange {
    private let hash: KafkaLogin.SCRAMHash
    private let password: String
    private let nonce: String
    private let bare: String
    private var serverSignature: [UInt8] = []

    /// `nonce`: printable text that nobody can guess, without a comma.
    init(_ hash: KafkaLogin.SCRAMHash, user: String, password: String, nonce: String) {
        self.hash = hash
        self.password = password
        self.nonce = nonce
        // A name's `=` and `,` have names of their own.
        let name = user.flatMap { $0 == "=" ? "=3D" : $0 == "," ? "=2C" : String($0) }
        bare = "n=\(String(name)),r=\(nonce)"
    }

    var first: [UInt8] { Array("n,,\(bare)".utf8) }

    /// What answers the server's first message.
    mutating func final(answering bytes: [UInt8]) throws(KafkaFailure) -> [UInt8] {
        let message = String(decoding: bytes, as: UTF8.self)
        let fields = SCRAMExchange.fields(message)
        guard let combined = fields["r"], combined.hasPrefix(nonce), combined.count > nonce.count,
            let salt = fields["s"].flatMap(Base64.decode), let rounds = fields["i"].flatMap({ Int32($0) }),
            (1...10_000_000).contains(rounds)
        else { throw KafkaFailure(.protocol, "the broker's first message of SCRAM is none") }
        let salted = derive(salt, rounds)
        let clientKey = hmac(salted, "Client Key")
        let withoutProof = "c=biws,r=\(combined)"
        let signed = "\(bare),\(message),\(withoutProof)"
        let signature = hmac(digest(clientKey), signed)
        serverSignature = hmac(hmac(salted, "Server Key"), signed)
        let proof = zip(clientKey, signature).map { $0 ^ $1 }
        return Array("\(withoutProof),p=\(Base64.encode(proof))".utf8)
    }

    /// Throws where the server does not know the password either.
    func check(_ bytes: [UInt8]) throws(KafkaFailure) {
        let fields = SCRAMExchange.fields(String(decoding: bytes, as: UTF8.self))
        if let error = fields["e"] { throw KafkaFailure(.refused, "Authentication failed: \(error)") }
        guard fields["v"].flatMap(Base64.decode) == serverSignature else {
            throw KafkaFailure(.refused, "Authentication failed: the broker does not prove that it knows the password")
        }
    }

    private static func fields(_ message: String) -> [String: String] {
        var fields: [String: String] = [:]
        for part in message.split(separator: ",") {
            guard let mark = part.firstIndex(of: "=") else { continue }
            fields[String(part[..<mark])] = String(part[part.index(after: mark)...])
        }
        return fields
    }

    private func derive(_ salt: [UInt8], _ rounds: Int32) -> [UInt8] {
        var key = [UInt8](repeating: 0, count: hash.count)
        let password = Array(self.password.utf8)
        let done = password.withUnsafeBufferPointer { bytes in
            bytes.withMemoryRebound(to: CChar.self) { bytes in
                PKCS5_PBKDF2_HMAC(
                    bytes.baseAddress, Int32(bytes.count), salt, Int32(salt.count), rounds, hash.digest,
                    Int32(hash.count), &key)
            }
        }
        return done == 1 ? key : []
    }

    private func hmac(_ key: [UInt8], _ text: String) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: hash.count)
        var count: UInt32 = 0
        let bytes = Array(text.utf8)
        _ = HMAC(hash.digest, key, Int32(key.count), bytes, bytes.count, &result, &count)
        return result
    }

    private func digest(_ bytes: [UInt8]) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: hash.count)
        var count: UInt32 = 0
        _ = EVP_Digest(bytes, bytes.count, &result, &count, hash.digest, nil)
        return result
    }
}

/// RFC 4648, with padding.
public enum Base64 {
    /// On one line.
    public static func encode(_ bytes: [UInt8]) -> String {
        var text = [UInt8](repeating: 0, count: (bytes.count + 2) / 3 * 4 + 1)
        let count = EVP_EncodeBlock(&text, bytes, Int32(bytes.count))
        return String(decoding: text[..<Int(count)], as: UTF8.self)
    }

    static func decode(_ text: String) -> [UInt8]? {
        let source = Array(text.utf8)
        guard !source.isEmpty, source.count % 4 == 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: source.count / 4 * 3)
        let count = EVP_DecodeBlock(&bytes, source, Int32(source.count))
        guard count == bytes.count else { return nil }
        return Array(bytes.dropLast(source.suffix(2).count { $0 == UInt8(ascii: "=") }))
    }
}
