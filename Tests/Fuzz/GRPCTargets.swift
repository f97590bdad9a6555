import EventLoop
import HTTP2

@testable import GRPC

/// One call to ``FuzzService`` from a well-formed client, with whatever headers and body.
private final class FuzzCall: HTTP2StreamOwner, HTTP2Body, HTTP2ConnectionOwner {
    private(set) var headers: [HTTP2Header] = []
    private(set) var trailers: [HTTP2Header] = []
    private(set) var data: [UInt8] = []
    /// Error code of each end that was told.
    private(set) var ends: [UInt32] = []
    private var body: [UInt8]
    private let pieceMax: Int

    init(body: [UInt8], pieceMax: Int) {
        self.body = body
        self.pieceMax = max(1, pieceMax)
    }

    func closed(_ connection: HTTP2Connection, reason: String) {}

    func read(into buffer: UnsafeMutableRawBufferPointer, stream: HTTP2Stream) -> HTTP2BodyRead {
        let count = min(buffer.count, body.count, pieceMax)
        guard count > 0 else { return .end(trailers: nil) }
        buffer.copyBytes(from: body[..<count])
        body.removeFirst(count)
        return .bytes(count)
    }

    func received(headers new: [HTTP2Header], endsStream: Bool, _ stream: HTTP2Stream) {
        require(trailers.isEmpty, "headers for a third time")
        if headers.isEmpty { headers = new } else { trailers = new }
    }

    func received(data new: UnsafeRawBufferPointer, _ stream: HTTP2Stream) {
        require(!headers.isEmpty && trailers.isEmpty, "data in the wrong place")
        data += new
        stream.consume(new.count)
    }

    func receivedEnd(_ stream: HTTP2Stream) {}
    func closed(_ stream: HTTP2Stream, code: UInt32) { ends.append(code) }

    func values(_ name: String) -> [String] { (headers + trailers).filter { $0.name == name }.map(\.value) }

    /// Makes the call and sees it to its end.
    static func make(
        _ path: String, _ more: [HTTP2Header], body: [UInt8], pieceMax: Int = .max, contentType: String
    ) -> FuzzCall {
        let service = FuzzService()
        let (near, far) = (FuzzStream(service.loop), FuzzStream(service.loop))
        service.server.accept(far)
        let call = FuzzCall(body: body, pieceMax: pieceMax)
        let client = HTTP2Connection(transport: near, isServer: false, settings: HTTP2Settings(), owner: call)
        var fields = [
            HTTP2Header(":method", "POST"), HTTP2Header(":scheme", "http"), HTTP2Header(":path", path),
            HTTP2Header(":authority", "x"), HTTP2Header("content-type", contentType), HTTP2Header("te", "trailers"),
        ]
        fields += more
        require(client.request(fields, body: call, owner: call) != nil, "the client takes no call")
        service.loop.settle()
        for _ in 0..<10_000 {
            let (out, back) = (near.takeOutput(), far.takeOutput())
            if out.isEmpty, back.isEmpty { break }
            far.feed(out)
            near.feed(back)
            service.loop.settle()
        }
        // A call with a deadline, or one that the service never answers, ends now at the latest.
        near.end()
        far.end()
        service.requireOver()
        require(call.ends.count == 1, "a call ended \(call.ends.count) times")
        call.requireAnswer()
        return call
    }

    /// What a call that ended well brought.
    private func requireAnswer() {
        guard ends == [HTTP2ErrorCode.none], let status = values(":status").first else { return }
        require(values(":status").count == 1, "two HTTP statuses")
        guard status == "200" else { return require(["405", "415", "431", "204", "403"].contains(status), status) }
        if web == nil {
            require(values("grpc-status").count == 1, "\(values("grpc-status").count) gRPC statuses")
            require((0...16).contains(code), "gRPC status \(values("grpc-status"))")
        }
        for message in values("grpc-message") {
            require(PercentCoding.encode(PercentCoding.decode(message)) == message, "grpc-message \(message)")
        }
    }

    private var contentType: String { values("content-type").first ?? "" }

    /// The body of gRPC-Web, from base64 where it is that; nil of plain gRPC.
    private var web: [UInt8]? {
        guard contentType.hasPrefix("application/grpc-web") else { return nil }
        guard contentType.hasPrefix("application/grpc-web-text") else { return data }
        var decoder = Base64Decoder()
        guard let bytes = data.withUnsafeBytes({ decoder.decode($0) }) else {
            require(false, "a text that is no base64")
            return nil
        }
        return bytes
    }

    /// Messages, the frame of trailers left out; and the status, -1 where there is none.
    private var content: (messages: [(isCompressed: Bool, bytes: [UInt8])], code: Int) {
        var messages: [(Bool, [UInt8])] = []
        var code = values("grpc-status").first.flatMap { Int($0) } ?? -1
        let bytes = web ?? data
        var position = 0
        while position < bytes.count {
            require(bytes.count - position >= 5, "half a frame at the end of the body")
            let length = bytes[(position + 1)..<(position + 5)].reduce(0) { $0 << 8 | Int($1) }
            require(bytes.count - position - 5 >= length, "a frame that is cut off")
            let payload = Array(bytes[(position + 5)..<(position + 5 + length)])
            if bytes[position] == 0x80 {
                require(web != nil && position + 5 + length == bytes.count, "trailers in the middle")
                let text = String(decoding: payload, as: UTF8.self)
                code =
                    text.split(separator: "\r\n").first { $0.hasPrefix("grpc-status: ") }.flatMap {
                        Int($0.dropFirst(13))
                    } ?? -1
                require((0...16).contains(code), "trailers \(text)")
            } else {
                require(bytes[position] <= 1, "flags \(bytes[position])")
                messages.append((bytes[position] == 1, payload))
            }
            position += 5 + length
        }
        return (messages, code)
    }

    var code: Int { content.code }

    /// Decompressed as the response says.
    var messages: [[UInt8]] {
        content.messages.map { message in
            guard message.isCompressed else { return message.bytes }
            let name = values("grpc-encoding").first ?? ""
            guard let compression = GRPCCompression(rawValue: name),
                let plain = message.bytes.withUnsafeBytes({ bytes in
                    try? Decompressor(compression).decompress(bytes, lengthMax: FuzzService.messageBytesMax)
                })
            else {
                require(false, "compressed as \(name), and not")
                return []
            }
            return plain
        }
    }

    var endedWell: Bool { ends == [HTTP2ErrorCode.none] && values(":status") == ["200"] }
}

extension FuzzTarget {
    private static let paths = [FuzzService.echo, FuzzService.sum, FuzzService.both, FuzzService.count]

    /// Headers of a call: `-bin` values, timeouts, encodings and text, with a body that is right. Two bytes choose,
    /// then comes the header's text up to a zero, then the message. What is right is answered, and comes back as it was
    /// sent.
    static let grpcMetadata = FuzzTarget(
        name: "grpcmetadata", lengthMax: 256,
        seeds: {
            [
                [0, 0] + Array("AAEC".utf8) + [0, 1, 2], [0, 1] + Array("10m".utf8) + [0, 5],
                [1, 1] + Array("0n".utf8) + [0], [0, 2] + Array("gzip".utf8) + [0, 9, 9],
                [2, 3] + Array("caf%C3%A9 =".utf8) + [0, 7], [0, 0] + Array("AA==,AQ,".utf8) + [0],
                [3, 4] + Array("identity, gzip".utf8) + [0, 3],
            ]
        },
        run: { bytes in
            guard bytes.count >= 2 else { return }
            let rest = bytes.dropping(2)
            let end = rest.firstIndex(of: 0) ?? rest.count
            let value = String(decoding: rest[..<end], as: UTF8.self)
            let message = Array(rest.dropping(end + 1))
            let name = ["x-echo-bin", "grpc-timeout", "grpc-encoding", "x-text", "grpc-accept-encoding"][
                Int(bytes[1]) % 5]
            let path = paths[Int(bytes[0]) % paths.count]
            let call = FuzzCall.make(
                path, [HTTP2Header(name, value)], body: MessageFrame.make(message), contentType: "application/grpc")
            // What HTTP/2 does not let through: the text was no field value (RFC 9113, 8.2.1).
            let isField =
                value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f || $0 == 9 } && value.utf8.first != 0x20
                && value.utf8.last != 0x20 && value.utf8.first != 9 && value.utf8.last != 9
            guard isField else { return }
            require(call.endedWell, "ended with \(call.ends) \(call.values(":status"))")
            switch name {
            case "x-echo-bin": requireEcho(call, value, path, message)
            case "grpc-timeout":
                let isRight = Array(value.utf8).withUnsafeBytes { Timeout.milliseconds($0) } != nil
                require(isRight || call.code == 13, "the timeout \(value) was answered with \(call.code)")
            case "grpc-encoding":
                let isKnown = ["gzip", "deflate", "identity"].contains(value)
                require(isKnown == (call.code != 12), "the encoding \(value) was answered with \(call.code)")
            default: require(call.code == 0, "\(name): \(value) was answered with \(call.code)")
            }
        })

    private static func requireEcho(_ call: FuzzCall, _ value: String, _ path: String, _ message: [UInt8]) {
        let parts = value.utf8.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        let decoded = parts.map { Base64.decode($0) }
        guard decoded.allSatisfy({ $0 != nil }) else {
            return require(call.code == 13, "\(value) is no base64 and was answered with \(call.code)")
        }
        require(call.code == 0, "\(value) was answered with \(call.code)")
        guard path == FuzzService.echo else { return }
        require(call.messages == [message], "the message came back as \(call.messages)")
        let came = call.values("x-echo-bin").flatMap { value in
            value.utf8.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).map { Base64.decode($0) }
        }
        require(came == decoded, "\(value) came back as \(came)")
    }

    /// The same body as gRPC, as gRPC-Web and as its text, cut by the first byte: the same messages, the same status.
    /// With the second byte odd the body is as fuzzed, else it is one message.
    static let grpcWeb = FuzzTarget(
        name: "grpcweb", lengthMax: 512,
        seeds: {
            let two = MessageFrame.make([1, 2] as [UInt8]) + MessageFrame.make([] as [UInt8])
            return [
                [0, 0, 1, 2, 3], [3, 1] + two, [9, 3] + two, [1, 5] + two + two, [2, 7, 0, 0, 0, 0, 1, 4],
                [5, 1, 1, 0, 0, 0, 1, 4], [6, 1, 0, 0xff, 0, 0, 0],
            ]
        },
        run: { bytes in
            guard bytes.count >= 2 else { return }
            let rest = Array(bytes.dropping(2))
            let body = bytes[1] & 1 == 0 ? MessageFrame.make(rest) : rest
            let path = paths[Int(bytes[1] >> 1) % paths.count]
            let pieceMax = bytes[0] == 0 ? Int.max : Int(bytes[0])
            let plain = FuzzCall.make(path, [], body: body, pieceMax: pieceMax, contentType: "application/grpc")
            let web = FuzzCall.make(path, [], body: body, pieceMax: pieceMax, contentType: "application/grpc-web+proto")
            let text = FuzzCall.make(
                path, [], body: Array(Base64.encode(body, isPadded: true).utf8), pieceMax: pieceMax,
                contentType: "application/grpc-web-text")
            require(plain.endedWell && web.endedWell && text.endedWell, "\(plain.ends) \(web.ends) \(text.ends)")
            require(plain.code == web.code && web.code == text.code, "\(plain.code), \(web.code) and \(text.code)")
            require(plain.messages == web.messages && web.messages == text.messages, "other messages")
            if bytes[1] & 1 == 0, path == FuzzService.echo { require(plain.messages == [rest], "no echo") }
        })

    /// Compressed messages. What zlib made is read again, by the message and through a whole call; whatever else comes
    /// is refused or becomes a message within the limit.
    static let grpcCompression = FuzzTarget(
        name: "grpccompression", lengthMax: 1024,
        seeds: {
            let text = Array("the same again and again, the same again and again".utf8)
            let gzip = text.withUnsafeBytes { Compressor(.gzip).compress($0) } ?? []
            let deflate = text.withUnsafeBytes { Compressor(.deflate).compress($0) } ?? []
            let zeros = [UInt8](repeating: 0, count: 500_000)
            let bomb = zeros.withUnsafeBytes { Compressor(.gzip).compress($0) } ?? []
            return [[0] + gzip, [1] + deflate, [0] + bomb, [2] + text, [3] + text, [0]]
        },
        run: { bytes in
            guard let choice = bytes.first else { return }
            let compression: GRPCCompression = choice & 1 == 0 ? .gzip : .deflate
            let rest = Array(bytes.dropping(1))
            guard choice & 2 == 0 else { return requireCompressed(rest, compression) }
            let limit = 4096
            let read = rest.withUnsafeBytes { bytes in
                Result { () throws(GRPCStatus) in
                    try Decompressor(compression).decompress(bytes, lengthMax: limit)
                }
            }
            switch read {
            case .success(let message):
                require(message.count <= limit, "\(message.count) bytes of at most \(limit)")
                requireCompressed(message, compression)
            case .failure(let status):
                require([.internalError, .resourceExhausted].contains(status.code), "\(status)")
            }
        })

    private static func requireCompressed(_ message: [UInt8], _ compression: GRPCCompression) {
        guard let small = message.withUnsafeBytes({ Compressor(compression).compress($0) }) else {
            return require(false, "not compressed")
        }
        let back = small.withUnsafeBytes { bytes in
            try? Decompressor(compression).decompress(bytes, lengthMax: message.count)
        }
        require(back == message, "\(message.count) bytes became \(back?.count ?? -1)")
        if message.count > 0 {
            let tooMuch = small.withUnsafeBytes { bytes in
                try? Decompressor(compression).decompress(bytes, lengthMax: message.count - 1)
            }
            require(tooMuch == nil, "more than the limit was made")
        }
        let call = FuzzCall.make(
            FuzzService.echo, [HTTP2Header("grpc-encoding", compression.rawValue)],
            body: MessageFrame.make(small, isCompressed: true), contentType: "application/grpc")
        require(call.endedWell && call.code == 0, "ended with \(call.ends), \(call.code)")
        require(call.messages == [message], "\(message.count) bytes came back as \(call.messages.map(\.count))")
    }
}
