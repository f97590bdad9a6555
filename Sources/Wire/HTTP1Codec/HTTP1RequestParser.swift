/// Requests out of a connection's bytes, cut anywhere. Strict where leniency has been used to smuggle requests: lines
/// end in CR LF, no folded lines, no space before a colon, one length at most, no transfer codings.
///
/// Keeps at most one request's bytes and what was appended with them.
public struct HTTP1RequestParser {
    private let limits: HTTP1Limits
    private var bytes: [UInt8] = []
    /// Bytes before it belong to earlier requests.
    private var start = 0
    /// Where the search for the head's end goes on.
    private var searched = 0
    private var head: Head?
    private var problem: HTTP1Problem?

    private struct Head {
        let method: String
        let target: String
        let minorVersion: Int
        let headers: [HTTP1Header]
        let bodyLength: Int
        /// Bytes of the head itself.
        let length: Int
    }

    public init(limits: HTTP1Limits = HTTP1Limits()) { self.limits = limits }

    /// Bytes that no request was made of yet.
    public var pendingByteCount: Int { bytes.count - start }

    /// Takes what arrived. ``next()`` reads it; call it until it answers nil before more is appended.
    public mutating func append(_ more: UnsafeRawBufferPointer) {
        guard problem == nil else { return }
        if start > 0 {
            bytes.removeFirst(start)
            searched = max(0, searched - start)
            start = 0
        }
        bytes.append(contentsOf: more)
    }

    /// The next whole request; nil when more bytes are needed. After it threw it throws the same for ever.
    public mutating func next() throws(HTTP1Problem) -> HTTP1Request? {
        if let problem { throw problem }
        do {
            return try parse()
        } catch {
            problem = error
            bytes = []
            start = 0
            throw error
        }
    }

    private mutating func parse() throws(HTTP1Problem) -> HTTP1Request? {
        if head == nil {
            skipEmptyLines()
            guard let end = try findHeadEnd() else { return nil }
            head = try parseHead(bytes[start..<end])
        }
        guard let head, bytes.count - start - head.length >= head.bodyLength else { return nil }
        let bodyStart = start + head.length
        let end = bodyStart + head.bodyLength
        let request = HTTP1Request(
            method: head.method, target: head.target, minorVersion: head.minorVersion, headers: head.headers,
            body: Array(bytes[bodyStart..<end]))
        self.head = nil
        start = end
        searched = end
        return request
    }

    /// Empty lines before a request are left out (RFC 9112, section 2.2).
    private mutating func skipEmptyLines() {
        while bytes.count - start >= 2, bytes[start] == 0x0d, bytes[start + 1] == 0x0a { start += 2 }
        searched = max(searched, start)
    }

    /// One past the empty line.
    private mutating func findHeadEnd() throws(HTTP1Problem) -> Int? {
        var position = max(searched, start)
        while position < bytes.count {
            if bytes[position] == 0x0a, position - start >= 3, bytes[position - 1] == 0x0d, bytes[position - 2] == 0x0a,
                bytes[position - 3] == 0x0d
            {
                guard position + 1 - start <= limits.headBytesMax else { break }
                return position + 1
            }
            // Told before the head is complete: a client of plain line feeds would wait for ever.
            if bytes[position] == 0x0a, position == start || bytes[position - 1] != 0x0d {
                throw HTTP1Problem(400, "a line ends without a carriage return")
            }
            position += 1
        }
        searched = position
        guard bytes.count - start <= limits.headBytesMax else {
            throw HTTP1Problem(431, "the head is larger than \(limits.headBytesMax) bytes")
        }
        return nil
    }

    private func parseHead(_ head: ArraySlice<UInt8>) throws(HTTP1Problem) -> Head {
        // Every line feed follows a carriage return: the search refused others.
        var lines = head.dropLast(4).split(separator: 0x0a, omittingEmptySubsequences: false).map {
            $0.last == 0x0d ? $0.dropLast() : $0
        }
        let request = try parseRequestLine(lines.removeFirst())
        guard lines.count <= limits.headersMax else {
            throw HTTP1Problem(431, "more than \(limits.headersMax) headers")
        }
        var headers: [HTTP1Header] = []
        for line in lines { headers.append(try parseHeader(line)) }
        if request.minorVersion == 1, headers.count(where: { $0.name == "host" }) != 1 {
            throw HTTP1Problem(400, "an HTTP/1.1 request has one host")
        }
        return Head(
            method: request.method, target: request.target, minorVersion: request.minorVersion, headers: headers,
            bodyLength: try bodyLength(headers), length: head.count)
    }

    private func parseRequestLine(
        _ line: ArraySlice<UInt8>
    ) throws(HTTP1Problem) -> (method: String, target: String, minorVersion: Int) {
        let parts = line.split(separator: 0x20, omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[0].isEmpty, parts[0].allSatisfy(HTTP1Header.isToken), !parts[1].isEmpty,
            parts[1].allSatisfy({ $0 > 0x20 && $0 < 0x7f })
        else { throw HTTP1Problem(400, "the request line is not METHOD TARGET VERSION") }
        let version = String(decoding: parts[2], as: UTF8.self)
        guard version == "HTTP/1.1" || version == "HTTP/1.0" else {
            throw version.hasPrefix("HTTP/")
                ? HTTP1Problem(505, "only HTTP/1.0 and HTTP/1.1 are served")
                : HTTP1Problem(400, "the request line is not METHOD TARGET VERSION")
        }
        return (
            String(decoding: parts[0], as: UTF8.self), String(decoding: parts[1], as: UTF8.self),
            version == "HTTP/1.1" ? 1 : 0
        )
    }

    private func parseHeader(_ line: ArraySlice<UInt8>) throws(HTTP1Problem) -> HTTP1Header {
        do throws(HTTP1FieldError) {
            return try HTTP1Header(line: line)
        } catch {
            throw HTTP1Problem(400, error.description)
        }
    }

    private func bodyLength(_ headers: [HTTP1Header]) throws(HTTP1Problem) -> Int {
        guard !headers.contains(where: { $0.name == "transfer-encoding" }) else {
            throw HTTP1Problem(501, "transfer codings are not served")
        }
        let lengths = headers.filter { $0.name == "content-length" }
        guard let text = lengths.first?.value else { return 0 }
        guard lengths.count == 1, !text.isEmpty, text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else {
            throw HTTP1Problem(400, "the content-length is not one number")
        }
        guard let length = Int(text), length <= limits.bodyBytesMax else {
            throw HTTP1Problem(413, "the body is larger than \(limits.bodyBytesMax) bytes")
        }
        return length
    }
}
