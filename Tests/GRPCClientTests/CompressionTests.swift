import EventLoop
import Synchronization
import TestSupport
import Testing

@testable import GRPC

/// Counts the bytes of connections.
private final class ByteCounts: Sendable {
    let sent = Atomic<Int>(0)
    let received = Atomic<Int>(0)

    var values: [Int] { [sent.load(ordering: .relaxed), received.load(ordering: .relaxed)] }
}

/// Passes everything on, and counts it.
private final class CountedStream: ByteStream, ByteStreamOwner {
    private let inner: any ByteStream
    private let counts: ByteCounts
    weak var owner: (any ByteStreamOwner)?

    init(_ inner: any ByteStream, _ counts: ByteCounts) {
        self.inner = inner
        self.counts = counts
        inner.owner = self
    }

    var loop: any Loop { inner.loop }
    var isClosed: Bool { inner.isClosed }
    var waitingBytes: Int { inner.waitingBytes }
    var peerAddress: String { inner.peerAddress }
    func startReading() { inner.startReading() }
    func stopReading() { inner.stopReading() }
    func write(_ bytes: UnsafeRawBufferPointer) {
        counts.sent.add(bytes.count, ordering: .relaxed)
        inner.write(bytes)
    }
    func close(_ error: StreamError?) { inner.close(error) }
    func received(_ bytes: UnsafeRawBufferPointer) {
        counts.received.add(bytes.count, ordering: .relaxed)
        owner?.received(bytes)
    }
    func drained() { owner?.drained() }
    func closed(_ error: StreamError?) { owner?.closed(error) }
}

/// Messages that go compressed, both ways.
@Suite(.timeLimit(.minutes(1)))
struct CompressionTests {
    private static let text = (0..<20_000).flatMap { Array("price \($0) ".utf8) }

    @Test(arguments: [GRPCCompression?.none, .gzip, .deflate])
    func `Requests are compressed when asked for, and the answer with them`(_ compression: GRPCCompression?)
        async throws
    {
        let server = try EchoServer()
        defer { server.stop() }
        let counts = ByteCounts()
        let options = ChannelTests.quick {
            $0.secure = { stream, _ in CountedStream(stream, counts) }
            $0.calls.compression = compression
        }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
        defer { channel.close() }
        let answer = await channel.unary(path: EchoServer.service + "Echo", request: Self.text)
        #expect(answer.status == .ok && answer.message == Self.text)
        #expect(answer.metadata.value("grpc-encoding") == compression?.rawValue)
        let isSmall = counts.values.map { $0 < Self.text.count / 3 }
        #expect(isSmall == (compression == nil ? [false, false] : [true, true]))
        // What does not get smaller goes as it is.
        var random = SystemRandomNumberGenerator()
        let noise = (0..<5000).map { _ in UInt8.random(in: 0...255, using: &random) }
        #expect(await channel.unary(path: EchoServer.service + "Echo", request: noise).message == noise)
        #expect(await channel.unary(path: EchoServer.service + "Echo", request: [1]).message == [1])
        // Frames of a server that sends them as they are, on a stream that asked for compression.
        let stream = channel.stream(path: EchoServer.service + "Count")
        await stream.send(Array("500".utf8))
        stream.halfClose()
        var next = 0
        while let frames = try await stream.nextFrames() {
            frames.withUnsafeBytes { bytes in
                for message in MessageSequence(frames: bytes) {
                    #expect(NumberSource.number(message) == next)
                    next += 1
                }
            }
        }
        #expect(next == 500)
    }

    @Test func `A small answer that decompresses to more than the limit is refused`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let options = ChannelTests.quick { $0.connection.messageBytesMax = 1 << 20 }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
        defer { channel.close() }
        for (count, code) in [
            (1 << 20, GRPCStatus.Code.ok), (1 << 20 + 1, .resourceExhausted), (15 << 20, .resourceExhausted),
        ] {
            let answer = await channel.unary(path: EchoServer.service + "Zeros", request: Array("\(count)".utf8))
            #expect(answer.status.code == code, "\(count): \(answer.status)")
            #expect(answer.message?.count == (code == .ok ? count : nil))
        }
    }

    /// gRPC for Python: it compresses each answer, and takes what is compressed.
    private static let script = """
        import sys, grpc
        from concurrent import futures

        class Echo(grpc.GenericRpcHandler):
            def service(self, details):
                if details.method.endswith("Stream"):
                    return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
                return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

        server = grpc.server(
            futures.ThreadPoolExecutor(4), handlers=[Echo()],
            compression=grpc.Compression.Gzip if sys.argv[2] == "gzip" else grpc.Compression.Deflate)
        server.add_insecure_port("127.0.0.1:" + sys.argv[1])
        server.start()
        server.wait_for_termination()
        """

    @Test(.enabled(if: Checkout.hasPython, "no .venv"), arguments: ["gzip", "deflate"])
    func `A server of gRPC for Python takes compressed requests and its answers are read`(_ encoding: String)
        async throws
    {
        let folder = try TemporaryFolder()
        let script = try folder.write("echo.py", Array(Self.script.utf8))
        let server = try await ToolServer.python { [script, "\($0)", encoding] }
        defer { server.stop() }
        let counts = ByteCounts()
        let options = ChannelTests.quick {
            $0.calls.waitsForReady = true
            $0.secure = { stream, _ in CountedStream(stream, counts) }
            $0.calls.compression = GRPCCompression(rawValue: encoding)
        }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
        defer { channel.close() }
        let answer = await channel.unary(path: "/test.Echo/Unary", request: Self.text)
        #expect(answer.status == .ok && answer.message == Self.text)
        #expect(answer.metadata.value("grpc-encoding") == encoding)
        let stream = channel.stream(path: "/test.Echo/Stream")
        for count in [0, 1, 1000, Self.text.count] {
            let message = Array(Self.text.prefix(count))
            await stream.send(message)
            let frames = try await stream.nextFrames() ?? []
            #expect(frames.count == 5 + count && Array(frames.dropFirst(5)) == message)
        }
        stream.halfClose()
        #expect(try await stream.nextFrames() == nil)
        let bytes = counts.values
        #expect(bytes.allSatisfy { $0 < Self.text.count }, "\(bytes)")
    }
}
