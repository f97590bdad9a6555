/// Where a client sends a request: an http or https address (RFC 9110, section 4.2) without a user or a fragment.
public struct HTTP1URL: Hashable, Sendable, CustomStringConvertible {
    public let isSecure: Bool
    /// A name or a numeric address, IPv6 without its brackets.
    public let host: String
    public let port: Int
    /// Path and query.
    public let target: String
    /// What the header `host` says.
    public let authority: String

    public init(_ text: String) throws(HTTP1URLError) {
        guard text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            throw HTTP1URLError("an address has no spaces and no letters beyond ASCII")
        }
        let lower = text.lowercased()
        guard lower.hasPrefix("https://") || lower.hasPrefix("http://") else {
            throw HTTP1URLError("an address begins with https:// or http://")
        }
        isSecure = lower.hasPrefix("https://")
        let rest = text.dropFirst(isSecure ? 8 : 7)
        guard !rest.contains("#") else { throw HTTP1URLError("an address that is asked has no #") }
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        guard !authority.contains("@") else { throw HTTP1URLError("who asks does not stand in the address") }
        self.authority = String(authority)
        let path = rest[authority.endIndex...]
        target = path.hasPrefix("/") ? String(path) : "/" + path
        (host, port) = try HTTP1URL.place(authority, defaultPort: isSecure ? 443 : 80)
    }

    private static func place(
        _ authority: Substring, defaultPort: Int
    ) throws(HTTP1URLError) -> (host: String, port: Int) {
        let host: Substring
        let isHost: Bool
        if authority.hasPrefix("[") {
            host = authority.dropFirst().prefix { $0 != "]" }
            isHost =
                host.endIndex < authority.endIndex
                && host.utf8.allSatisfy { ":.0123456789abcdefABCDEF".utf8.contains($0) }
        } else {
            host = authority.prefix { $0 != ":" }
            isHost = host.utf8.allSatisfy { $0 != 0x2c && HTTP1Header.isToken($0) }
        }
        guard isHost, !host.isEmpty else { throw HTTP1URLError("an address has a host after its //") }
        var tail = authority[host.endIndex...]
        if tail.hasPrefix("]") { tail = tail.dropFirst() }
        guard !tail.isEmpty else { return (String(host), defaultPort) }
        let digits = tail.dropFirst()
        guard tail.hasPrefix(":"), digits.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let port = Int(digits),
            (1...65535).contains(port)
        else { throw HTTP1URLError("the port of an address is 1 to 65535") }
        return (String(host), port)
    }

    /// Without the query, which may have what is not for logs.
    public var description: String {
        (isSecure ? "https://" : "http://") + authority + target.prefix { $0 != "?" }
    }

    /// Whether its host is this machine by its name or number.
    public var isLoopback: Bool {
        host.lowercased() == "localhost" || host == "::1"
            || host.hasPrefix("127.") && host.utf8.allSatisfy { $0 == 0x2e || $0 >= 0x30 && $0 <= 0x39 }
    }
}

/// Why text is no address that can be asked.
public struct HTTP1URLError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
