import EventLoop
import Foundation
import HTTP1
import HTTP1Codec
import Synchronization
import TestSupport
import Testing

/// The server over real sockets: against curl, and against peers that do not keep to the rules.
@Suite(.timeLimit(.minutes(1)))
struct HTTP1ServerTests {
    private static func serve(
        _ change: (inout HTTP1ServerConfiguration) -> Void = { _ in },
        _ handler: @escaping @Sendable (HTTP1Request) -> HTTP1Response = { HTTP1Response(200, $0.target) }
    ) throws -> (server: HTTP1Server, port: Int) {
        var configuration = HTTP1ServerConfiguration()
        change(&configuration)
        let server = HTTP1Server(
            group: EventLoopGroup(count: 1, name: "http"), configuration: configuration, handler: handler)
        return (server, try server.listen(host: "127.0.0.1", port: 0).port)
    }

    /// A raw connection, which hears everything until the server closes it.
    private final class Peer: ByteStreamOwner, @unchecked Sendable {
        let received = Mutex<[UInt8]>([])
        private let isClosed = Mutex(false)
        private let loop = EventLoop(name: "peer")
        private var socket: Socket?

        static func connect(_ port: Int) async throws -> Peer {
            let peer = Peer()
            let address = try SocketAddress(host: "127.0.0.1", port: port)
            await withCheckedContinuation { continuation in
                peer.loop.execute {
                    Socket.connect(address, loop: peer.loop) { result in
                        if case .success(let socket) = result {
                            peer.socket = socket
                            socket.owner = peer
                            socket.startReading()
                        }
                        continuation.resume()
                    }
                }
            }
            return peer
        }

        func send(_ text: String) {
            loop.execute { [self] in Array(text.utf8).withUnsafeBytes { socket?.write($0) } }
        }

        func stopReading() { loop.runAndWait { [self] _ in socket?.stopReading() } }
        func startReading() { loop.runAndWait { [self] _ in socket?.startReading() } }
        func close() { loop.execute { [self] in socket?.close() } }

        func received(_ bytes: UnsafeRawBufferPointer) { received.withLock { $0 += bytes } }
        func drained() {}
        func closed(_ error: StreamError?) { isClosed.withLock { $0 = true } }

        var text: String { received.withLock { String(decoding: $0, as: UTF8.self) } }
        /// Returns when the server has closed the connection.
        func end() async -> String {
            while !isClosed.withLock({ $0 }) { await Task.yield() }
            return text
        }
        func until(_ condition: (String) -> Bool) async { while !condition(text) { await Task.yield() } }
    }

    private static func get(_ target: String, _ more: String = "") -> String {
        "GET \(target) HTTP/1.1\r\nHost: h\r\n\(more)\r\n"
    }

    private func curl(_ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/curl")
        process.arguments = ["-sS", "--max-time", "20"] + arguments
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, text)
    }

    @Test func `curl: GET, HEAD, one connection for several, HTTP 1.0, a body`() throws {
        let (server, port) = try HTTP1ServerTests.serve()
        defer { server.close() }
        let base = "http://127.0.0.1:\(port)"
        #expect(try curl([base + "/a?b=c"]).output == "/a?b=c\n")
        #expect(try curl(["-I", base + "/a"]).output.hasPrefix("HTTP/1.1 200 OK\r\n"))
        let several = try curl(["-w", "%{num_connects} ", base + "/1", base + "/2", base + "/3"])
        #expect(several.output == "/1\n1 /2\n0 /3\n0 ", "\(several.output)")
        #expect(try curl(["-0", base + "/old"]).output == "/old\n")
        #expect(try curl(["-d", "hello", base + "/post"]).output == "/post\n")
        let large = String(repeating: "x", count: 100_000)
        let refused = try curl(["-w", "%{http_code}", "-H", "Expect:", "-d", large, base + "/post"])
        #expect(refused.output.hasSuffix("413"), "\(refused)")
    }

    @Test func `Requests in one piece are answered in order, and a byte at a time too`() async throws {
        let (server, port) = try HTTP1ServerTests.serve()
        defer { server.close() }
        let peer = try await Peer.connect(port)
        peer.send((0..<50).map { HTTP1ServerTests.get("/\($0)") }.joined())
        for byte in HTTP1ServerTests.get("/slow", "Connection: close\r\n") { peer.send(String(byte)) }
        let text = await peer.end()
        let bodies = text.split(separator: "\r\n\r\n").dropFirst().map { $0.prefix { $0 != "\n" } }
        #expect(bodies.map(String.init) == (0..<50).map { "/\($0)" } + ["/slow"], "\(text)")
    }

    @Test func `Nonsense gets one answer and the end`() async throws {
        let (server, port) = try HTTP1ServerTests.serve()
        defer { server.close() }
        let peer = try await Peer.connect(port)
        peer.send("\u{16}\u{3}\u{1} not http\r\n\r\n" + HTTP1ServerTests.get("/never"))
        let text = await peer.end()
        #expect(text.hasPrefix("HTTP/1.1 400 Bad Request\r\n") && !text.contains("/never"), "\(text)")
    }

    @Test func `A head that never ends, and a connection that says nothing, are over after their time`() async throws {
        let (idleServer, idlePort) = try HTTP1ServerTests.serve { $0.idleMilliseconds = 50 }
        defer { idleServer.close() }
        let silent = try await Peer.connect(idlePort)
        #expect(await silent.end().isEmpty)
        let (server, port) = try HTTP1ServerTests.serve { $0.requestMilliseconds = 50 }
        defer { server.close() }
        let slow = try await Peer.connect(port)
        slow.send("GET / HTTP/1.1\r\nHo")
        #expect(await slow.end().hasPrefix("HTTP/1.1 408 Request Timeout\r\n"))
    }

    @Test func `More connections than the limit are closed, and room comes back`() async throws {
        let (server, port) = try HTTP1ServerTests.serve { $0.connectionsMax = 2 }
        defer { server.close() }
        let peers = [try await Peer.connect(port), try await Peer.connect(port)]
        for peer in peers {
            peer.send(HTTP1ServerTests.get("/in"))
            await peer.until { $0.contains("/in") }
        }
        let third = try await Peer.connect(port)
        third.send(HTTP1ServerTests.get("/third"))
        #expect(await third.end().isEmpty)
        peers[0].close()
        // The server hears of the close when its loop gets there: until then a new connection is refused too.
        while true {
            let peer = try await Peer.connect(port)
            peer.send(HTTP1ServerTests.get("/room", "Connection: close\r\n"))
            if await peer.end().contains("/room") { break }
        }
    }

    @Test func `A peer that asks and does not read is not answered without bound`() async throws {
        let handled = Mutex(0)
        let body = [UInt8](repeating: UInt8(ascii: "x"), count: 1 << 20)
        let (server, port) = try HTTP1ServerTests.serve({ $0.requestMilliseconds = 60_000 }) { _ in
            handled.withLock { $0 += 1 }
            return HTTP1Response(200, contentType: "text/plain", body: body)
        }
        defer { server.close() }
        let peer = try await Peer.connect(port)
        peer.stopReading()
        peer.send((0..<100).map { HTTP1ServerTests.get("/\($0)") }.joined())
        while handled.withLock({ $0 }) == 0 { await Task.yield() }
        // What the kernel takes of a loopback connection is a few MiB.
        let after = try await Peer.connect(port)
        after.send(HTTP1ServerTests.get("/other"))
        await after.until { $0.utf8.count > 1 << 20 }
        #expect(handled.withLock { $0 } < 30)
        peer.startReading()
        await peer.until { $0.utf8.count > 100 << 20 }
        #expect(handled.withLock { $0 } == 101)
    }
}
