import HTTP1Codec
import Testing

struct ResponseParserTests {
    private static let fixed =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\nX: y \r\n\r\nhello"
    private static let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\nhel\r\n2 \r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
    private static let untilEnd = "HTTP/1.0 200\r\n\r\nhello"
    private static let interim = "HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"

    /// What a parser makes of bytes in pieces of this size, and of the end behind them.
    private func parse(
        _ bytes: [UInt8], piece: Int = .max, limits: HTTP1Limits = HTTP1Limits(), ends: Bool = true
    ) -> Result<HTTP1Response, HTTP1ResponseProblem>? {
        var parser = HTTP1ResponseParser(limits: limits)
        var position = 0
        do throws(HTTP1ResponseProblem) {
            while position < bytes.count {
                let end = position + min(piece, bytes.count - position)
                bytes[position..<end].withUnsafeBytes { parser.append($0) }
                position = end
                if let response = try parser.next() { return .success(response) }
            }
            return ends ? .success(try parser.finish()) : nil
        } catch {
            return .failure(error)
        }
    }

    private func parse(_ text: String, piece: Int = .max, limits: HTTP1Limits = HTTP1Limits()) -> Result<
        HTTP1Response, HTTP1ResponseProblem
    >? { parse(Array(text.utf8), piece: piece, limits: limits) }

    @Test func `An answer is its status, its headers and its body, however it is cut and framed`() throws {
        for text in [ResponseParserTests.fixed, ResponseParserTests.chunked, ResponseParserTests.untilEnd] {
            let whole = ResponseParserTests.interim + text
            for piece in 1...whole.utf8.count {
                let response = try #require(try parse(whole, piece: piece)?.get())
                #expect(response.status == 200 && response.body == Array("hello".utf8), "\(piece): \(response)")
            }
        }
        let response = try #require(try parse(ResponseParserTests.fixed)?.get())
        #expect(response.contentType == "application/json" && response.value("x") == "y")
    }

    @Test func `An answer without a body is over with its head`() throws {
        for head in [
            "204 No Content\r\n", "304 Not Modified\r\nContent-Length: 7\r\n", "200 OK\r\nContent-Length: 0\r\n",
        ] {
            let bytes = Array("HTTP/1.1 \(head)\r\n".utf8)
            #expect(try parse(bytes, ends: false)?.get().body == [])
        }
    }

    @Test(arguments: [fixed, chunked])
    func `An answer that is cut off is never taken for a whole one`(_ text: String) {
        let bytes = Array(text.utf8)
        for count in 0..<bytes.count {
            guard case .failure(let found)? = parse(Array(bytes[..<count])) else {
                Issue.record("\(count) bytes of \(text) were taken")
                continue
            }
            #expect(found.description.contains(count == 0 ? "without an answer" : "ended before"))
        }
    }

    @Test(arguments: [
        "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 A\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/1.1 200 O\u{1}K\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + String(repeating: "x", count: 300) + "\r\na\r\n",
    ])
    func `What is no answer, or could be read in two ways, is refused`(_ text: String) {
        for piece in [1, 7, Int.max] {
            guard case .failure? = parse(text, piece: piece) else {
                Issue.record("taken: \(text)")
                continue
            }
        }
    }

    @Test func `Heads, headers and bodies have their limits, whatever the framing`() {
        var limits = HTTP1Limits()
        limits.headBytesMax = 100
        limits.headersMax = 3
        limits.bodyBytesMax = 10
        let head = "HTTP/1.1 200 OK\r\n"
        for text in [
            head + "a: " + String(repeating: "x", count: 200), head + "a: \r\nb: \r\nc: \r\nd: \r\n\r\n",
            head + "content-length: 11\r\n\r\nhello world", head + "\r\nhello world",
            head + "transfer-encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
            String(repeating: "HTTP/1.1 100 Continue\r\n\r\n", count: 100),
        ] {
            for piece in [1, 3, Int.max] {
                guard case .failure(let problem)? = parse(text, piece: piece, limits: limits) else {
                    Issue.record("taken: \(text)")
                    continue
                }
                #expect("\(problem)".contains("large") || "\(problem)".contains("more than"), "\(problem)")
            }
        }
        #expect((try? parse(head + "content-length: 10\r\n\r\n0123456789", limits: limits)?.get()) != nil)
    }

    @Test func `Mutated answers are read or refused, and how they are cut changes nothing`() {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % bound
        }
        let good = [ResponseParserTests.fixed, ResponseParserTests.chunked, ResponseParserTests.untilEnd].map {
            Array((ResponseParserTests.interim + $0).utf8)
        }
        for round in 0..<6000 {
            var bytes = good[round % 3]
            for _ in 0..<(1 + random(4)) {
                switch random(3) {
                case 0: bytes[random(bytes.count)] = UInt8(random(256))
                case 1: bytes.remove(at: random(bytes.count))
                default: bytes.insert([0x0d, 0x0a, 0x20, 0x3a, 0x30][random(5)], at: random(bytes.count))
                }
            }
            let (whole, cut) = (parse(bytes), parse(bytes, piece: 1 + random(40)))
            #expect(whole == cut, "\(String(decoding: bytes, as: UTF8.self))")
        }
    }

    @Test func `A request on the wire is what the server's parser reads`() throws {
        let request = HTTP1Request(
            "POST", "/token?x=1", headers: [HTTP1Header("host", "a:1"), HTTP1Header("connection", "close")],
            body: Array("k=v".utf8))
        var parser = HTTP1RequestParser()
        request.encoded().withUnsafeBytes { parser.append($0) }
        let read = try #require(try parser.next())
        #expect(read.method == "POST" && read.target == "/token?x=1" && read.body == request.body && !read.keepsAlive)
    }

    @Test func `An address has a scheme, a host, a port and a target`() throws {
        for (text, isSecure, host, port, target, authority) in [
            ("https://a.example/token", true, "a.example", 443, "/token", "a.example"),
            ("HTTP://a:8080", false, "a", 8080, "/", "a:8080"), ("https://a?x=/", true, "a", 443, "/?x=/", "a"),
            ("https://[::1]:9/p?q", true, "::1", 9, "/p?q", "[::1]:9"),
            ("http://127.0.0.1/", false, "127.0.0.1", 80, "/", "127.0.0.1"),
        ] {
            let url = try HTTP1URL(text)
            #expect(
                url.isSecure == isSecure && url.host == host && url.port == port && url.target == target
                    && url.authority == authority, "\(url)")
        }
        #expect(try HTTP1URL("https://a/b?secret=1").description == "https://a/b")
        for text in ["http://localhost:1", "http://127.0.0.1:1/x", "http://[::1]/"] {
            #expect(try HTTP1URL(text).isLoopback)
        }
        for text in ["http://127.evil.example/", "http://a/", "http://localhost.example/"] {
            #expect(try !HTTP1URL(text).isLoopback)
        }
    }

    @Test(arguments: [
        "", "a.example/token", "ftp://a/", "https://", "https:///token", "https://a:0/", "https://a:65536/",
        "https://a:/",
        "https://a:x/", "https://user:word@a/", "https://a/#part", "https://a/ b", "https://a\u{e9}/", "https://[::1/",
        "https://[::1]x/", "https://[]/", "https://a\r\nhost: b/", "https://a,b/", "https://a:1:2/",
    ])
    func `What is no address that can be asked is refused`(_ text: String) {
        #expect(throws: HTTP1URLError.self) { try HTTP1URL(text) }
    }
}
