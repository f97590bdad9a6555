/// The one answer of a connection that carries one request, out of its bytes, cut anywhere (RFC 9112). Not of HEAD.
/// Interim answers (1xx) are left out; bodies come by length, in chunks, or up to the connection's end.
public struct HTTP1ResponseParser {
    private enum State {
        case statusLine, headers
        case body(left: Int)
        case bodyUntilEnd
        case chunkSize
        case chunk(left: Int)
        case chunkEnd, trailers, done
    }

    private let limits: HTTP1Limits
    private var state = State.statusLine
    private var bytes: [UInt8] = []
    private var start = 0
    /// Where the search for a line's end goes on.
    private var searched = 0
    /// Of first lines, headers and trailers.
    private var headByteCount = 0
    private var status = 0
    private var headers: [HTTP1Header] = []
    private var body: [UInt8] = []
    private var problem: HTTP1ResponseProblem?

    /// The longest line with the size of a chunk.
    private static let chunkLineBytesMax = 256

    public init(limits: HTTP1Limits = HTTP1Limits()) { self.limits = limits }

    /// Takes what arrived; ``next()`` reads it.
    public mutating func append(_ more: UnsafeRawBufferPointer) {
        guard problem == nil else { return }
        bytes.removeFirst(start)
        searched = max(0, searched - start)
        start = 0
        bytes.append(contentsOf: more)
    }

    /// The answer, once it is whole; nil when more bytes are needed. After it threw it throws the same for ever.
    public mutating func next() throws(HTTP1ResponseProblem) -> HTTP1Response? {
        if let problem { throw problem }
        do {
            while try step() {}
        } catch {
            problem = error
            bytes = []
            start = 0
            throw error
        }
        guard case .done = state else { return nil }
        return response
    }

    /// The answer of a connection that its peer ended in order.
    public mutating func finish() throws(HTTP1ResponseProblem) -> HTTP1Response {
        if let whole = try next() { return whole }
        switch state {
        case .bodyUntilEnd: return response
        case .statusLine where headByteCount == 0 && bytes.isEmpty:
            throw HTTP1ResponseProblem("the connection ended without an answer")
        default: throw HTTP1ResponseProblem("the connection ended before the answer was whole")
        }
    }

    private var response: HTTP1Response {
        HTTP1Response(
            status, contentType: headers.first { $0.name == "content-type" }?.value ?? "",
            headers: headers.filter { $0.name != "content-type" }, body: body)
    }

    /// False when more bytes are needed, or none any more.
    private mutating func step() throws(HTTP1ResponseProblem) -> Bool {
        switch state {
        case .statusLine:
            guard let line = try headLine() else { return false }
            try parseStatusLine(line)
            state = .headers
        case .headers:
            guard let line = try headLine() else { return false }
            if line.isEmpty {
                try beginBody()
            } else {
                headers.append(try parseHeader(line))
                guard headers.count <= limits.headersMax else {
                    throw HTTP1ResponseProblem("the answer has more than \(limits.headersMax) headers")
                }
            }
        case .body(let left):
            let taken = try takeBody(left)
            state = taken == left ? .done : .body(left: left - taken)
            return taken == left
        case .bodyUntilEnd:
            _ = try takeBody(.max)
            return false
        case .chunkSize:
            guard let line = try line(HTTP1ResponseParser.chunkLineBytesMax, "the size of a chunk") else {
                return false
            }
            let size = try parseChunkSize(line)
            state = size == 0 ? .trailers : .chunk(left: size)
        case .chunk(let left):
            let taken = try takeBody(left)
            state = taken == left ? .chunkEnd : .chunk(left: left - taken)
            return taken == left
        case .chunkEnd:
            guard bytes.count - start >= 2 else { return false }
            guard bytes[start] == 0x0d, bytes[start + 1] == 0x0a else {
                throw HTTP1ResponseProblem("a chunk is longer than it says")
            }
            start += 2
            state = .chunkSize
        case .trailers:
            guard let line = try headLine() else { return false }
            if line.isEmpty { state = .done } else { _ = try parseHeader(line) }
        case .done: return false
        }
        return true
    }

    private mutating func headLine() throws(HTTP1ResponseProblem) -> ArraySlice<UInt8>? {
        let line = try line(limits.headBytesMax - headByteCount, "the head of the answer")
        if let line { headByteCount += line.count + 2 }
        return line
    }

    /// The next line without its end; nil where it is not there yet.
    private mutating func line(_ bytesMax: Int, _ what: String) throws(HTTP1ResponseProblem) -> ArraySlice<UInt8>? {
        var position = max(searched, start)
        while position < bytes.count {
            guard position - start < bytesMax else { throw HTTP1ResponseProblem("\(what) is too large") }
            if bytes[position] == 0x0a {
                guard position > start, bytes[position - 1] == 0x0d else {
                    throw HTTP1ResponseProblem("a line ends without a carriage return")
                }
                defer {
                    start = position + 1
                    searched = start
                }
                return bytes[start..<(position - 1)]
            }
            position += 1
        }
        searched = position
        return nil
    }

    private mutating func parseStatusLine(_ line: ArraySlice<UInt8>) throws(HTTP1ResponseProblem) {
        let text = Array(line)
        let isVersion = text.starts(with: "HTTP/1.0 ".utf8) || text.starts(with: "HTTP/1.1 ".utf8)
        guard isVersion, text.count >= 12, text[9..<12].allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }),
            text.count == 12 || text[12] == 0x20, HTTP1Header.isText(line)
        else { throw HTTP1ResponseProblem("what answers does not speak HTTP/1.1") }
        status = text[9..<12].reduce(0) { $0 * 10 + Int($1 - 0x30) }
        guard status >= 100, status != 101 else { throw HTTP1ResponseProblem("\(status) is no answer to a request") }
        headers = []
    }

    private func parseHeader(_ line: ArraySlice<UInt8>) throws(HTTP1ResponseProblem) -> HTTP1Header {
        do throws(HTTP1FieldError) {
            return try HTTP1Header(line: line)
        } catch {
            throw HTTP1ResponseProblem(error.description)
        }
    }

    /// RFC 9112, section 6.3.
    private mutating func beginBody() throws(HTTP1ResponseProblem) {
        if status < 200 { return state = .statusLine }
        let lengths = headers.filter { $0.name == "content-length" }
        let codings = headers.filter { $0.name == "transfer-encoding" }
        if status == 204 || status == 304 { return state = .done }
        if let coding = codings.first {
            guard codings.count == 1, lengths.isEmpty, coding.value.lowercased() == "chunked" else {
                throw HTTP1ResponseProblem("the answer's length can be read in two ways, or its coding is not known")
            }
            return state = .chunkSize
        }
        guard let text = lengths.first?.value else { return state = .bodyUntilEnd }
        guard lengths.allSatisfy({ $0.value == text }), !text.isEmpty,
            text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 })
        else { throw HTTP1ResponseProblem("the content-length is not one number") }
        guard let length = Int(text), length <= limits.bodyBytesMax else { throw tooLarge }
        state = length == 0 ? .done : .body(left: length)
    }

    private func parseChunkSize(_ line: ArraySlice<UInt8>) throws(HTTP1ResponseProblem) -> Int {
        let digits = line.prefix { $0 != UInt8(ascii: ";") && $0 != 0x20 && $0 != 0x09 }
        var size = 0
        guard !digits.isEmpty, HTTP1Header.isText(line) else { throw HTTP1ResponseProblem("a chunk has no size") }
        for digit in digits {
            guard let value = Character(UnicodeScalar(digit)).hexDigitValue else {
                throw HTTP1ResponseProblem("a chunk has no size")
            }
            size = size * 16 + value
            guard size <= limits.bodyBytesMax - body.count else { throw tooLarge }
        }
        return size
    }

    private mutating func takeBody(_ most: Int) throws(HTTP1ResponseProblem) -> Int {
        let count = min(most, bytes.count - start)
        guard count <= limits.bodyBytesMax - body.count else { throw tooLarge }
        body += bytes[start..<(start + count)]
        start += count
        searched = start
        return count
    }

    private var tooLarge: HTTP1ResponseProblem {
        HTTP1ResponseProblem("the answer is larger than \(limits.bodyBytesMax) bytes")
    }
}

/// Why bytes are no answer that is read.
public struct HTTP1ResponseProblem: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    init(_ description: String) { self.description = description }
}
