/// An answer, whole.
public struct HTTP1Response: Hashable, Sendable {
    public let status: Int
    public let contentType: String
    public let body: [UInt8]
    /// Beyond those that ``encoded(for:closes:)`` writes itself.
    public let headers: [HTTP1Header]

    /// `headers` are the program's own: names and values without control characters.
    public init(_ status: Int, contentType: String, headers: [HTTP1Header] = [], body: [UInt8]) {
        self.status = status
        self.contentType = contentType
        self.headers = headers
        self.body = body
    }

    /// A line of plain text.
    public init(_ status: Int, _ text: String, headers: [HTTP1Header] = []) {
        self.init(
            status, contentType: "text/plain; charset=utf-8", headers: headers, body: Array((text + "\n").utf8))
    }

    /// The first value of a header; `name` is in lower case.
    public func value(_ name: String) -> String? { headers.first { $0.name == name }?.value }

    /// The answer to bytes that are no request.
    public init(_ problem: HTTP1Problem) { self.init(problem.status, problem.description) }

    /// On the wire. HEAD gets the head that GET would get (RFC 9110, section 9.3.2). `closes` says that the connection
    /// ends with it.
    public func encoded(for method: String, closes: Bool) -> [UInt8] {
        var head = "HTTP/1.1 \(status) \(HTTP1Response.reason(status))\r\n"
        head += "content-type: \(contentType)\r\ncontent-length: \(body.count)\r\n"
        for header in headers { head += "\(header.name): \(header.value)\r\n" }
        // What a browser fetches from here is never stored, nor taken for a page.
        head += "cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
        head += closes ? "connection: close\r\n\r\n" : "connection: keep-alive\r\n\r\n"
        return method == "HEAD" ? Array(head.utf8) : Array(head.utf8) + body
    }

    private static func reason(_ status: Int) -> String {
        switch status {
        case 200: "OK"
        case 400: "Bad Request"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 413: "Content Too Large"
        case 431: "Request Header Fields Too Large"
        case 501: "Not Implemented"
        case 503: "Service Unavailable"
        case 505: "HTTP Version Not Supported"
        default: ""
        }
    }
}
