// HTTP/1.1 as far as a small server and a small client need it (RFC 9112, RFC 9110): bytes to requests and responses,
// and back. Pure; fed by Network/HTTP1.

/// A request whose head and body have arrived.
public struct HTTP1Request: Hashable, Sendable {
    /// Case-sensitive, as sent.
    public let method: String
    /// As sent: a path with or without a query.
    public let target: String
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    public let minorVersion: Int
    /// Names in lower case, in the order sent.
    public let headers: [HTTP1Header]
    /// Empty without one.
    public let body: [UInt8]

    /// `method`, `target` and `headers` are the program's own, without control characters.
    public init(_ method: String, _ target: String, headers: [HTTP1Header] = [], body: [UInt8] = []) {
        self.init(method: method, target: target, minorVersion: 1, headers: headers, body: body)
    }

    init(method: String, target: String, minorVersion: Int, headers: [HTTP1Header], body: [UInt8]) {
        self.method = method
        self.target = target
        self.minorVersion = minorVersion
        self.headers = headers
        self.body = body
    }

    /// On the wire, with its length.
    public func encoded() -> [UInt8] {
        var head = "\(method) \(target) HTTP/1.1\r\n"
        for header in headers { head += "\(header.name): \(header.value)\r\n" }
        head += "content-length: \(body.count)\r\n\r\n"
        return Array(head.utf8) + body
    }

    /// The target up to the query.
    public var path: String { String(target.prefix { $0 != "?" }) }

    /// The first value of a header; `name` is in lower case.
    public func value(_ name: String) -> String? { headers.first { $0.name == name }?.value }

    /// Whether the connection may carry another request after this one (RFC 9112, section 9.3).
    public var keepsAlive: Bool {
        var options: [String] = []
        for header in headers where header.name == "connection" {
            options += header.value.lowercased().split(separator: ",").map { $0.filter { $0 != " " && $0 != "\t" } }
        }
        if options.contains("close") { return false }
        return minorVersion == 1 || options.contains("keep-alive")
    }
}

/// What a parser takes at most; what is larger is refused.
public struct HTTP1Limits: Sendable {
    /// First line and headers with their line ends.
    public var headBytesMax = 16 << 10
    public var headersMax = 100
    public var bodyBytesMax = 64 << 10

    public init() {}
}

/// Why bytes are no request that is served. The connection ends after the answer: where the next request would begin
/// is unknown.
public struct HTTP1Problem: Error, Hashable, Sendable, CustomStringConvertible {
    /// The status of the answer.
    public let status: Int
    public let description: String

    init(_ status: Int, _ description: String) {
        self.status = status
        self.description = description
    }
}
