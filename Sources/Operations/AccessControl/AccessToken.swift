/// A bearer token: `tapedeck.NAME.SECRET`, the secret 256 random bits as 64 hexadecimal digits. Whoever has it is NAME;
/// the access file has only a proof of it, from which it cannot be found.
public struct AccessToken: Sendable {
    /// 1 to 64 letters, digits, `-` and `_`.
    public let name: String
    let secret: [UInt8]

    static let prefix = "tapedeck."
    private static let secretLength = 32

    /// A new one from 32 bytes that nobody can guess. nil for a name that no token may have.
    public init?(name: String, random: [UInt8]) {
        guard AccessToken.isName(name), random.count == AccessToken.secretLength else { return nil }
        self.name = name
        secret = Hex.digits(random)
    }

    /// As a client sends it; nil for what is no token.
    init?(text: String) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "tapedeck", AccessToken.isName(parts[1]),
            parts[2].utf8.count == 2 * AccessToken.secretLength
        else { return nil }
        name = String(parts[1])
        secret = Array(parts[2].utf8)
    }

    /// What the client sends, after `Bearer `. Shown once and kept nowhere.
    public var text: String { "\(AccessToken.prefix)\(name).\(String(decoding: secret, as: UTF8.self))" }

    /// For the access file. `salt` is 16 random bytes.
    public func proof(salt: [UInt8]) -> TokenProof { TokenProof(salt: salt, digest: SHA256.hmac(key: salt, secret)) }

    static func isName(_ name: some StringProtocol) -> Bool {
        (1...64).contains(name.utf8.count)
            && name.utf8.allSatisfy {
                switch $0 {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
    }
}

/// What proves a token without telling it: HMAC-SHA-256 of the secret under a salt. The secret is random and long, so a
/// slow hash would protect nothing more.
public struct TokenProof: Hashable, Sendable, CustomStringConvertible {
    let salt: [UInt8]
    let digest: [UInt8]

    init(salt: [UInt8], digest: [UInt8]) {
        self.salt = salt
        self.digest = digest
    }

    /// `hmac-sha256:SALT:DIGEST` in hexadecimal digits.
    init?(text: some StringProtocol) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "hmac-sha256", let salt = Hex.bytes(parts[1].utf8), salt.count >= 8,
            let digest = Hex.bytes(parts[2].utf8), digest.count == 32
        else { return nil }
        self.salt = salt
        self.digest = digest
    }

    public var description: String {
        "hmac-sha256:" + String(decoding: Hex.digits(salt), as: UTF8.self) + ":"
            + String(decoding: Hex.digits(digest), as: UTF8.self)
    }

    func verifies(_ token: AccessToken) -> Bool { SHA256.areEqual(SHA256.hmac(key: salt, token.secret), digest) }
}

enum Hex {
    private static let alphabet = Array("0123456789abcdef".utf8)

    static func digits(_ bytes: [UInt8]) -> [UInt8] {
        bytes.flatMap { [alphabet[Int($0 >> 4)], alphabet[Int($0 & 15)]] }
    }

    /// nil for an odd number of digits and for what is none.
    static func bytes(_ text: some Sequence<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        var high: UInt8?
        for character in text {
            let digit: UInt8
            switch character {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = character - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = character - UInt8(ascii: "a") + 10
            default: return nil
            }
            if let first = high {
                bytes.append(first << 4 | digit)
                high = nil
            } else {
                high = digit
            }
        }
        return high == nil ? bytes : nil
    }
}
