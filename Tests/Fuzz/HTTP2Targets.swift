import EventLoop
import HTTP2

@testable import GRPC

extension FuzzTarget {
    /// Frames of a client through nghttp2 into the gRPC server. The first byte seeds the cuts. However they are cut,
    /// handlers see the same messages; what the server writes is HTTP/2; when the connection is gone, nothing is left.
    static let http2Server = FuzzTarget(
        name: "http2server", lengthMax: 1024, seeds: { serverSeeds },
        run: { bytes in
            guard let seed = bytes.first else { return }
            let frames = Array(bytes.dropping(1))
            let whole = serve(frames, seed: 0)
            guard seed > 0 else { return }
            let cut = serve(frames, seed: seed)
            for (one, other) in zip(whole, cut) {
                require(one.path == other.path, "\(one.path) became \(other.path) when cut")
                let common = min(one.messages.count, other.messages.count)
                require(one.messages.prefix(common) == other.messages.prefix(common), "other messages when cut")
            }
        })

    private static var serverSeeds: [[UInt8]] {
        let frame = { (message: [UInt8]) in MessageFrame.make(message) }
        let call = { (path: String, stream: UInt32, body: [UInt8]) in
            RawHTTP2.frame(1, flags: 4, stream: stream, RawHTTP2.request(path))
                + RawHTTP2.frame(0, flags: 1, stream: stream, body)
        }
        let long = RawHTTP2.request(FuzzService.echo, [("grpc-timeout", "10m"), ("x-echo-bin", "AAEC")])
        return [
            [0] + call(FuzzService.echo, 1, frame([1, 2, 3])),
            [7] + call(FuzzService.sum, 1, frame([1]) + frame([]) + frame([2, 2]))
                + call(FuzzService.count, 3, frame([9])),
            [3] + RawHTTP2.frame(1, flags: 4, stream: 1, RawHTTP2.request(FuzzService.both))
                + RawHTTP2.frame(0, stream: 1, frame([5])) + RawHTTP2.frame(6, [1, 2, 3, 4, 5, 6, 7, 8])
                + RawHTTP2.frame(0, stream: 1, frame([6])) + RawHTTP2.frame(3, stream: 1, [0, 0, 0, 8]),
            [1] + RawHTTP2.frame(1, stream: 1, Array(long[..<20]))
                + RawHTTP2.frame(9, flags: 4, stream: 1, Array(long[20...]))
                + RawHTTP2.frame(0, flags: 9, stream: 1, [3] + frame([1]) + [0, 0, 0]),
            [5] + RawHTTP2.frame(4, [0, 4, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]) + RawHTTP2.frame(8, [0, 1, 0, 0])
                + call(FuzzService.count, 1, frame([200])) + RawHTTP2.frame(8, stream: 1, [0, 0, 0, 9])
                + RawHTTP2.frame(2, stream: 1, [0, 0, 0, 0, 1]) + RawHTTP2.frame(7, [0, 0, 0, 0, 0, 0, 0, 0]),
        ]
    }

    private static func serve(_ frames: [UInt8], seed: UInt8) -> [SeenCall] {
        let service = FuzzService()
        let stream = FuzzStream(service.loop)
        service.server.accept(stream)
        service.loop.settle()
        stream.feed(RawHTTP2.preface + RawHTTP2.frame(4))
        forEachPiece(frames, seed: seed) { stream.feed($0) }
        RawHTTP2.requireFrames(stream.output)
        stream.end()
        service.requireOver()
        return service.calls
    }

    /// Frames of a server into the client: each of its calls ends once, whatever comes, with whole messages before.
    static let http2Client = FuzzTarget(
        name: "http2client", lengthMax: 1024, seeds: { clientSeeds },
        run: { bytes in
            guard let seed = bytes.first else { return }
            let frames = Array(bytes.dropping(1))
            let whole = ask(frames, seed: 0)
            guard seed > 0 else { return }
            let cut = ask(frames, seed: seed)
            for (one, other) in zip(whole, cut) {
                let common = min(one.messages.count, other.messages.count)
                require(one.messages.prefix(common) == other.messages.prefix(common), "other messages when cut")
            }
        })

    private static var clientSeeds: [[UInt8]] {
        let headers = RawHTTP2.block([(":status", "200"), ("content-type", "application/grpc")])
        let trailers = RawHTTP2.block([("grpc-status", "0")])
        let failed = RawHTTP2.block([
            (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "8"),
            ("grpc-message", "too%20much"), ("grpc-retry-pushback-ms", "100"),
        ])
        let message = MessageFrame.make([1, 2, 3] as [UInt8])
        return [
            [0] + RawHTTP2.frame(1, flags: 4, stream: 1, headers) + RawHTTP2.frame(0, stream: 1, message)
                + RawHTTP2.frame(1, flags: 5, stream: 1, trailers),
            [9] + RawHTTP2.frame(1, flags: 5, stream: 3, failed) + RawHTTP2.frame(1, flags: 4, stream: 5, headers)
                + RawHTTP2.frame(0, stream: 5, message + message) + RawHTTP2.frame(0, stream: 5, Array(message[..<4])),
            [2] + RawHTTP2.frame(3, stream: 1, [0, 0, 0, 7]) + RawHTTP2.frame(7, [0, 0, 0, 3, 0, 0, 0, 11, 0x78]),
            [4] + RawHTTP2.frame(1, flags: 4, stream: 1, RawHTTP2.block([(":status", "503")]))
                + RawHTTP2.frame(0, flags: 1, stream: 1, Array("busy".utf8)),
        ]
    }

    /// What a call of the client brought.
    private final class Answer: GRPCCallOwner {
        var messages: [[UInt8]] = []
        var metadataCount = 0
        var ends: [GRPCStatus] = []

        func received(metadata: GRPCMetadata) {
            metadataCount += 1
            require(ends.isEmpty, "headers after the end")
        }

        func received(frames: UnsafeRawBufferPointer) {
            require(ends.isEmpty, "messages after the end")
            var length = 0
            for message in MessageSequence(frames: frames) {
                messages.append(Array(message))
                length += 5 + message.count
            }
            require(length == frames.count, "frames that are not whole")
        }

        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { ends.append(status) }
    }

    private static func ask(_ frames: [UInt8], seed: UInt8) -> [Answer] {
        let loop = FuzzLoop()
        let stream = FuzzStream(loop)
        var closed = 0
        var options = GRPCConnectionOptions()
        options.http2 = HTTP2Settings()
        options.messageBytesMax = FuzzService.messageBytesMax
        let connection = GRPCClientConnection(over: stream, authority: "x", isSecure: false, options: options) {
            event in
            if case .closed = event { closed += 1 }
        }
        stream.feed(RawHTTP2.frame(4) + RawHTTP2.frame(4, flags: 1))
        let answers = (0..<3).map { _ in Answer() }
        for (index, answer) in answers.enumerated() {
            _ = connection.call(
                path: FuzzService.echo, request: [UInt8(index)], timeoutMilliseconds: index == 2 ? 1000 : nil,
                owner: answer)
        }
        loop.settle()
        forEachPiece(frames, seed: seed) { stream.feed($0) }
        stream.end()
        loop.advance(milliseconds: 10_000)
        for answer in answers {
            require(answer.ends.count == 1, "a call ended \(answer.ends.count) times")
            require(answer.metadataCount <= 1, "headers came \(answer.metadataCount) times")
        }
        require(closed == 1, "the connection ended \(closed) times")
        return answers
    }
}
