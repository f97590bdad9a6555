import Synchronization
import TestSupport
import Testing

@testable import EventLoop

/// What a peer does not take at once waits, and comes whole.
struct PiecesTests {
    private final class Sink: ByteStreamOwner {
        var bytes: [UInt8] = []
        /// In each call.
        var counts: [Int] = []
        var drainedCount = 0
        var isClosed = false
        func received(_ bytes: UnsafeRawBufferPointer) {
            self.bytes.append(contentsOf: bytes)
            counts.append(bytes.count)
        }
        func drained() { drainedCount += 1 }
        func closed(_ error: StreamError?) { isClosed = true }
    }

    /// Both ends of a connection, on one loop.
    private static func connect(
        _ loop: EventLoop, _ group: EventLoopGroup
    ) async throws -> (client: LoopConfined<Socket>, server: LoopConfined<Socket>) {
        let accepted = Mutex<LoopConfined<Socket>?>(nil)
        let listener = try Listener(host: "127.0.0.1", port: 0, group: group) { socket in
            let box = LoopConfined(socket)
            accepted.withLock { $0 = box }
        }
        defer { listener.close() }
        let address = try SocketAddress(host: "127.0.0.1", port: listener.port)
        let client: LoopConfined<Socket> = try await withCheckedThrowingContinuation { continuation in
            loop.execute {
                Socket.connect(address, loop: loop) { continuation.resume(with: $0.map { LoopConfined($0) }) }
            }
        }
        while accepted.withLock({ $0 == nil }) { await Task.yield() }
        return (client, try #require(accepted.withLock { $0 }))
    }

    @Test func `Bytes that are not enough are heard of when the rest has come, or the stream has ended`() async throws {
        let group = EventLoopGroup(count: 1)
        let loop = group.loops[0]
        let (client, server) = try await PiecesTests.connect(loop, group)
        let (other, otherServer) = try await PiecesTests.connect(loop, group)
        let (sink, later) = (LoopConfined(Sink()), LoopConfined(Sink()))
        func write(_ count: Int) async throws {
            // What another connection brings is written after it, so this one's bytes are there by then.
            let known = loop.runAndWait { _ in
                [UInt8](repeating: 1, count: count).withUnsafeBytes { server.value.write($0) }
                [1 as UInt8].withUnsafeBytes { otherServer.value.write($0) }
                return later.value.bytes.count
            }
            while loop.runAndWait({ _ in later.value.bytes.count == known }) { await Task.yield() }
        }
        loop.runAndWait { _ in
            client.value.owner = sink.value
            other.value.owner = later.value
            client.value.needs(bytes: 100)
            client.value.startReading()
            other.value.startReading()
        }
        for _ in 0..<3 { try await write(33) }
        #expect(loop.runAndWait { _ in sink.value.counts } == [])
        try await write(1)
        #expect(loop.runAndWait { _ in sink.value.counts } == [100])
        loop.runAndWait { _ in client.value.needs(bytes: 1) }
        try await write(2)
        #expect(loop.runAndWait { _ in sink.value.counts } == [100, 2])
        // What is there when more is asked for than that, or less.
        loop.runAndWait { _ in client.value.needs(bytes: 1 << 20) }
        try await write(40)
        #expect(loop.runAndWait { _ in sink.value.counts } == [100, 2])
        loop.runAndWait { _ in client.value.needs(bytes: 40) }
        while loop.runAndWait({ _ in sink.value.counts.count == 2 }) { await Task.yield() }
        loop.runAndWait { _ in client.value.needs(bytes: 50) }
        try await write(7)
        loop.runAndWait { _ in server.value.close() }
        while loop.runAndWait({ _ in !sink.value.isClosed }) { await Task.yield() }
        #expect(loop.runAndWait { _ in sink.value.counts } == [100, 2, 40, 7])
        loop.runAndWait { _ in
            other.value.close()
            otherServer.value.close()
        }
    }

    @Test func `Pieces that a slow peer takes in parts come in order, each once, and those that wait are one write`()
        async throws
    {
        let group = EventLoopGroup(count: 1)
        let loop = group.loops[0]
        let (client, server) = try await PiecesTests.connect(loop, group)
        let (sender, sink) = (LoopConfined(Sink()), LoopConfined(Sink()))
        var random = SeededNumbers(seed: 1)
        // Small ones, as headers are, large ones, and some of no bytes; more than the system keeps for a peer.
        let pieces = (0..<3000).map { index in
            [UInt8](
                repeating: UInt8(truncatingIfNeeded: index &* 31),
                count: index % 3 == 0 ? 9 : index % 17 == 1 ? 0 : Int.random(in: 1...16_384, using: &random))
        }
        let (waiting, requests) = loop.runAndWait { _ in
            client.value.owner = sender.value
            server.value.owner = sink.value
            for start in stride(from: 0, to: pieces.count, by: 100) {
                let some = pieces[start..<(start + 100)].map { UnsafeRawBufferPointer.copying($0) }
                some.withUnsafeBufferPointer { client.value.write(pieces: $0) }
                for piece in some { piece.deallocate() }
            }
            return (client.value.waitingBytes, client.value.waitingWrites)
        }
        #expect(waiting > 0)
        #expect((1...30).contains(requests))
        loop.runAndWait { _ in server.value.startReading() }
        let total = pieces.reduce(0) { $0 + $1.count }
        while loop.runAndWait({ _ in sink.value.bytes.count < total }) { await Task.yield() }
        #expect(loop.runAndWait { _ in sink.value.bytes } == pieces.flatMap { $0 })
        #expect(loop.runAndWait { _ in client.value.waitingBytes } == 0)
        #expect(loop.runAndWait { _ in sender.value.drainedCount } == 1)
        loop.runAndWait { _ in
            client.value.close()
            server.value.close()
        }
    }
}

extension UnsafeRawBufferPointer {
    fileprivate static func copying(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: Swift.max(bytes.count, 1), alignment: 1)
        copy.copyBytes(from: bytes)
        return UnsafeRawBufferPointer(start: copy.baseAddress, count: bytes.count)
    }
}
