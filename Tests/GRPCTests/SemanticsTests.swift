import EventLoop
import HTTP2
import Protobuf
import Testing

@testable import GRPC

/// What gRPC over HTTP/2 owes its clients beyond the patterns.
struct SemanticsTests {
    private static let echo = "/tapedeck.test.Async/Echo"

    private func call(
        _ world: StreamingWorld, _ headers: [HTTP2Header], _ bytes: [UInt8]
    ) async throws -> RawCall.Answer {
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: world.port, headers: headers)
        call.send(bytes, ends: true)
        return await call.end()
    }

    private func value(_ answer: RawCall.Answer, _ name: String) -> String? {
        (answer.headers + answer.trailers).first { $0.name == name }?.value
    }

    private func payload(_ body: [UInt8]) -> [UInt8] { Array(StreamingWorld.frame(body).dropFirst(5)) }

    @Test(arguments: [GRPCCompression.gzip, .deflate])
    func `Requests are decompressed, and responses compressed as the requests were`(_ compression: GRPCCompression)
        async throws
    {
        let world = try StreamingWorld()
        defer { world.stop() }
        let body = payload([UInt8](repeating: 9, count: 100_000))
        let small = try #require(body.withUnsafeBytes { Compressor(compression).compress($0) })
        #expect(small.count < 1000)
        // Compressed, plain and too small to be compressed, on one stream.
        let plain = StreamingWorld.frame([1, 2, 3])
        let answer = try await call(
            world, RawCall.headers(SemanticsTests.echo, [("grpc-encoding", compression.rawValue)]),
            MessageFrame.make(small, isCompressed: true) + plain)
        #expect(answer.status == "0")
        #expect(value(answer, "grpc-encoding") == compression.rawValue)
        #expect(answer.bytes.first == 1)
        let length = answer.bytes[1..<5].reduce(0) { $0 << 8 | Int($1) }
        let decompressed = try answer.bytes[5..<(5 + length)].withUnsafeBytes {
            try Decompressor(compression).decompress($0, lengthMax: 1 << 20)
        }
        #expect(decompressed == body)
        #expect(Array(answer.bytes[(5 + length)...]) == plain)
    }

    @Test func `A message that decompresses to more than the limit is refused, however small it is`() async throws {
        let world = try StreamingWorld { $0.messageBytesMax = 1 << 20 }
        defer { world.stop() }
        let body = [UInt8](repeating: 0, count: (1 << 20) + 1)
        let bomb = try #require(body.withUnsafeBytes { Compressor(.gzip).compress($0) })
        #expect(bomb.count < 2000)
        let answer = try await call(
            world, RawCall.headers(SemanticsTests.echo, [("grpc-encoding", "gzip")]),
            MessageFrame.make(bomb, isCompressed: true))
        #expect(answer.status == "8")
        let small = try #require(Array(body.prefix(1000)).withUnsafeBytes { Compressor(.gzip).compress($0) })
        let cut = try await call(
            world, RawCall.headers(SemanticsTests.echo, [("grpc-encoding", "gzip")]),
            MessageFrame.make(Array(small.dropLast(9)), isCompressed: true))
        #expect(cut.status == "13")
    }

    @Test func `Encodings that are unknown, or missing, are refused as gRPC says`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let unknown = try await call(
            world, RawCall.headers(SemanticsTests.echo, [("grpc-encoding", "snappy")]), StreamingWorld.frame([1]))
        #expect(unknown.status == "12")
        #expect(value(unknown, "grpc-accept-encoding") == "identity,deflate,gzip")
        let missing = try await call(
            world, RawCall.headers(SemanticsTests.echo), MessageFrame.make([1], isCompressed: true))
        #expect(missing.status == "13")
        let accepted = try await call(
            world, RawCall.headers(SemanticsTests.echo, [("grpc-accept-encoding", "identity, gzip")]),
            StreamingWorld.frame([UInt8](repeating: 1, count: 10_000)))
        // A client that merely could is not asked to.
        #expect(value(accepted, "grpc-encoding") == nil)
        #expect(accepted.bytes.first == 0)
    }

    @Test func `A response above the limit is RESOURCE_EXHAUSTED`() async throws {
        let world = try StreamingWorld { $0.messageBytesMax = 1000 }
        defer { world.stop() }
        var request = InteropProto.SimpleRequest()
        request.responseSize = 2000
        let answer = try await call(
            world, RawCall.headers("/grpc.testing.TestService/UnaryCall"), MessageFrame.make(request.encodedBytes()))
        #expect(answer.status == "8")
        #expect(answer.bytes.isEmpty)
    }

    @Test(arguments: [
        ("1000000000S", "13"), ("", "13"), ("5", "13"), ("5x", "13"), ("-5S", "13"), ("99999999H", "0"), ("0n", "4"),
    ])
    func `grpc-timeout is read as the specification says`(_ text: String, _ status: String) async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let method = status == "4" ? "/tapedeck.test.Async/Never" : SemanticsTests.echo
        let answer = try await call(world, RawCall.headers(method, [("grpc-timeout", text)]), StreamingWorld.frame([1]))
        #expect(answer.status == status)
    }

    @Test func `Binary metadata has several values, joined or not, and what is no base64 is refused`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let name = "x-grpc-test-echo-trailing-bin"
        let method = "/grpc.testing.TestService/EmptyCall"
        let good = try await call(
            world, RawCall.headers(method, [(name, "AAE=,AgM"), (name, "BA==")]), MessageFrame.make([]))
        #expect(good.status == "0")
        #expect(good.trailers.filter { $0.name == name }.map(\.value) == ["AAE", "AgM", "BA"])
        let bad = try await call(world, RawCall.headers(method, [(name, "!!")]), MessageFrame.make([]))
        #expect(bad.status == "13")
    }

    @Test func `Details of a status come back as they were`() throws {
        var detail = WellKnown.AnyMessage()
        detail.typeUrl = "type.googleapis.com/google.rpc.ErrorInfo"
        detail.value = [1, 2, 3]
        var trailers = GRPCMetadata()
        trailers.addDetails([detail], of: GRPCStatus(.notFound, "no such thing"))
        #expect(trailers.statusDetails == [detail])
        let status = try GoogleRPC.Status(decoding: trailers.binary("grpc-status-details-bin") ?? [])
        #expect(status.code == 5 && status.message == "no such thing")
        #expect(GRPCMetadata().statusDetails == nil)
    }

    @Test func `What is no gRPC is answered by HTTP's means`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        // An empty value leaves the header out.
        func headers(_ changes: [String: String]) -> [HTTP2Header] {
            RawCall.headers(SemanticsTests.echo).map { HTTP2Header($0.name, changes[$0.name] ?? $0.value) }
                .filter { !$0.value.isEmpty }
        }
        let get = try await call(world, headers([":method": "GET"]), [])
        #expect(get.httpStatus == "405" && value(get, "allow") == "POST")
        let json = try await call(world, headers(["content-type": "application/json"]), [])
        #expect(json.httpStatus == "415")
        let te = try await call(world, headers(["te": ""]), [])
        #expect(te.httpStatus == "200" && te.status == "13")
        let proto = try await call(
            world, headers(["content-type": "application/grpc+proto"]), StreamingWorld.frame([1]))
        #expect(proto.status == "0")
        var large = RawCall.headers(SemanticsTests.echo)
        // Each counts its name and 32 bytes (RFC 9113 section 6.5.2): more than 64 KiB, in a block that a client may
        // send.
        large += (0..<1800).map { HTTP2Header("x-\($0)", "v") }
        let tooLarge = try await call(world, large, StreamingWorld.frame([1]))
        #expect(tooLarge.httpStatus == "431" && tooLarge.status == "8")
    }
}

/// gRPC-Web, as browsers send it over HTTP/2.
struct WebTests {
    private func call(_ world: StreamingWorld, _ changes: [String: String], _ bytes: [UInt8]) async throws
        -> RawCall.Answer
    {
        var headers = [
            HTTP2Header(":method", changes[":method"] ?? "POST"), HTTP2Header(":scheme", "http"),
            HTTP2Header(":path", changes[":path"] ?? "/tapedeck.test.Async/Echo"), HTTP2Header(":authority", "x"),
        ]
        for (name, value) in changes.sorted(by: { $0.key < $1.key }) where !name.hasPrefix(":") {
            headers.append(HTTP2Header(name, value))
        }
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: world.port, headers: headers)
        call.send(bytes, ends: true)
        return await call.end()
    }

    private static let trailerText = "grpc-status: 0\r\n"

    @Test func `Messages come as they are, trailers as the last frame`() async throws {
        let world = try StreamingWorld { $0.webOrigins = ["https://desk.example"] }
        defer { world.stop() }
        let frame = StreamingWorld.frame([UInt8](repeating: 5, count: 50_000))
        let answer = try await call(
            world, ["content-type": "application/grpc-web+proto", "origin": "https://desk.example"], frame)
        #expect(answer.httpStatus == "200")
        #expect(answer.headers.contains(HTTP2Header("content-type", "application/grpc-web+proto")))
        #expect(answer.headers.contains(HTTP2Header("access-control-allow-origin", "https://desk.example")))
        #expect(answer.trailers.isEmpty)
        let trailer = Array(WebTests.trailerText.utf8)
        #expect(answer.bytes == frame + [0x80, 0, 0, 0, UInt8(trailer.count)] + trailer)
    }

    @Test func `Text is base64 both ways, and a failure has its status in the body`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        let frame = StreamingWorld.frame([UInt8](repeating: 5, count: 50_001))
        let request = Base64.encode(frame[..<7], isPadded: true) + Base64.encode(frame[7...], isPadded: true)
        let answer = try await call(world, ["content-type": "application/grpc-web-text"], Array(request.utf8))
        var decoder = Base64Decoder()
        let bytes = try #require(answer.bytes.withUnsafeBytes { decoder.decode($0) })
        #expect(Array(bytes.prefix(frame.count)) == frame)
        #expect(String(decoding: bytes.dropFirst(frame.count + 5), as: UTF8.self) == WebTests.trailerText)
        #expect(answer.headers.allSatisfy { $0.name != "access-control-allow-origin" })
        let unknown = try await call(
            world, ["content-type": "application/grpc-web", ":path": "/tapedeck.test.Async/Nothing"], [])
        #expect(String(decoding: unknown.bytes.dropFirst(5), as: UTF8.self).hasPrefix("grpc-status: 12\r\n"))
        let broken = try await call(world, ["content-type": "application/grpc-web-text"], Array("????".utf8))
        var other = Base64Decoder()
        let text = try #require(broken.bytes.withUnsafeBytes { other.decode($0) })
        #expect(String(decoding: text.dropFirst(5), as: UTF8.self).hasPrefix("grpc-status: 13\r\n"))
    }

    @Test func `A browser that asks first is told whether its page may call`() async throws {
        let world = try StreamingWorld { $0.webOrigins = ["https://desk.example"] }
        defer { world.stop() }
        let fields = [":method": "OPTIONS", "access-control-request-headers": "content-type,x-grpc-web"]
        let allowed = try await call(world, fields.merging(["origin": "https://desk.example"]) { $1 }, [])
        #expect(allowed.httpStatus == "204")
        #expect(allowed.headers.contains(HTTP2Header("access-control-allow-headers", "content-type,x-grpc-web")))
        let refused = try await call(world, fields.merging(["origin": "https://other.example"]) { $1 }, [])
        #expect(refused.httpStatus == "403")
    }
}
