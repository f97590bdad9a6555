import HTTP1Codec
import Testing

struct RequestParserTests {
    private static let get = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept:  text/plain \r\n\r\n"

    /// Everything that a parser makes of bytes that arrive in pieces of this size.
    private func parse(
        _ text: String, piece: Int = .max, limits: HTTP1Limits = HTTP1Limits()
    ) -> (requests: [HTTP1Request], problem: HTTP1Problem?) {
        parse(Array(text.utf8), piece: piece, limits: limits)
    }

    private func parse(
        _ bytes: [UInt8], piece: Int, limits: HTTP1Limits = HTTP1Limits()
    ) -> (requests: [HTTP1Request], problem: HTTP1Problem?) {
        var parser = HTTP1RequestParser(limits: limits)
        var requests: [HTTP1Request] = []
        var position = 0
        do {
            while position < bytes.count {
                let end = min(bytes.count, position + min(piece, bytes.count))
                bytes[position..<end].withUnsafeBytes { parser.append($0) }
                position = end
                while let request = try parser.next() { requests.append(request) }
            }
        } catch {
            return (requests, error)
        }
        return (requests, nil)
    }

    @Test func `A request is its line, its headers and its body, however it is cut`() throws {
        let post = "POST /x HTTP/1.0\r\ncontent-LENGTH: 5\r\n\r\nab\r\nc"
        let text = "\r\n" + RequestParserTests.get + post + RequestParserTests.get
        for piece in 1...text.utf8.count {
            let (requests, problem) = parse(text, piece: piece)
            try #require(requests.count == 3 && problem == nil, "\(piece): \(requests) \(String(describing: problem))")
            #expect(requests[0] == requests[2])
            #expect(requests[0].method == "GET" && requests[0].path == "/metrics" && requests[0].minorVersion == 1)
            #expect(requests[0].headers == [HTTP1Header("host", "a"), HTTP1Header("accept", "text/plain")])
            #expect(requests[0].keepsAlive && !requests[1].keepsAlive)
            #expect(requests[1].body == Array("ab\r\nc".utf8) && requests[1].minorVersion == 0)
        }
    }

    @Test(arguments: [
        ("GET /\r\n\r\n", 400), ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400), ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400), ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400), ("GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\u{0}b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400), ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nx", 400),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nx", 413),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\nx", 413),
    ])
    func `What could be read in two ways, or is too much, is refused`(_ text: String, _ status: Int) {
        for piece in [1, 7, Int.max] {
            let (requests, problem) = parse(text, piece: piece)
            #expect(requests.isEmpty && problem?.status == status, "\(requests) \(String(describing: problem))")
        }
    }

    @Test func `A problem stays: what follows it is never read`() {
        var parser = HTTP1RequestParser()
        Array("nonsense\r\n\r\n".utf8).withUnsafeBytes { parser.append($0) }
        let first = Result { try parser.next() }
        Array(RequestParserTests.get.utf8).withUnsafeBytes { parser.append($0) }
        let second = Result { try parser.next() }
        for result in [first, second] { #expect(throws: HTTP1Problem.self) { try result.get() } }
        #expect(parser.pendingByteCount == 0)
    }

    @Test func `Heads have their limits, told before the head is over`() {
        var limits = HTTP1Limits()
        limits.headBytesMax = 100
        limits.headersMax = 3
        let endless = "GET / HTTP/1.1\r\nHost: " + String(repeating: "a", count: 200)
        #expect(parse(endless, piece: 1, limits: limits).problem?.status == 431)
        #expect(parse("GET / HTTP/1.1\r\nHost: a\r\na: \r\nb: \r\nc: \r\n\r\n", limits: limits).problem?.status == 431)
        let line = "GET / HTTP/1.1\r\nHost: "
        let exact = line + String(repeating: "a", count: 100 - line.utf8.count - 4) + "\r\n\r\n"
        #expect(parse(exact, limits: limits).requests.count == 1)
        #expect(parse(exact.replacing("Host: ", with: "Host: a"), limits: limits).problem?.status == 431)
    }

    @Test func `Mutated requests are read or refused, and how they are cut changes nothing`() {
        let post = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close, x\r\n\r\nabc"
        let good = Array((RequestParserTests.get + post + RequestParserTests.get).utf8)
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        for _ in 0..<5000 {
            var bytes = good
            for _ in 0..<(1 + random(4)) {
                switch random(3) {
                case 0: bytes[random(bytes.count)] = UInt8(random(256))
                case 1: bytes.remove(at: random(bytes.count))
                default: bytes.insert([0x0d, 0x0a, 0x20, 0x3a, 0][random(5)], at: random(bytes.count))
                }
            }
            let whole = parse(bytes, piece: .max)
            let cut = parse(bytes, piece: 1 + random(40))
            #expect(whole.requests == cut.requests && whole.problem == cut.problem)
        }
    }

    @Test func `An answer says its length; HEAD gets the head alone`() {
        let response = HTTP1Response(200, "hello")
        let text = String(decoding: response.encoded(for: "GET", closes: false), as: UTF8.self)
        #expect(text.hasPrefix("HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 6\r\n"))
        #expect(text.hasSuffix("connection: keep-alive\r\n\r\nhello\n"))
        let head = String(decoding: response.encoded(for: "HEAD", closes: true), as: UTF8.self)
        #expect(head.contains("content-length: 6\r\n") && head.hasSuffix("connection: close\r\n\r\n"))
    }
}
