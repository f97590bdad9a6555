import Foundation
import FoundationNetworking
import GRPC
import HTTP2
import MarketProto
import Protobuf
import Synchronization
import TestSupport
import Testing

@testable import TapedeckClient

/// Toxiproxy between a client and a server, by its HTTP interface.
private final class Toxiproxy: Sendable {
    /// Something that it does to connections, both those there are and new ones.
    struct Toxic: Sendable, CustomTestStringConvertible {
        let type: String
        var stream = "downstream"
        var attributes: [String: Int] = [:]
        /// Whether it ends connections, or lets them look dead.
        var breaks = true
        var testDescription: String { "\(type) \(stream) \(attributes)" }
    }

    /// Where clients connect to.
    let port: Int
    private let server: ToolServer

    init(to upstream: Int) async throws {
        server = try await ToolServer.start("toxiproxy-server") { ["-host", "127.0.0.1", "-port", "\($0)"] }
        let proxy: [String: Any] = ["name": "edge", "listen": "127.0.0.1:0", "upstream": "127.0.0.1:\(upstream)"]
        let made = try await Toxiproxy.request(server.port, "POST", "/proxies", proxy)
        let listen = (made["listen"] as? String)?.split(separator: ":").last.flatMap { Int($0) }
        port = try #require(listen)
    }

    func add(_ toxic: Toxic) async throws {
        _ = try await Toxiproxy.request(
            server.port, "POST", "/proxies/edge/toxics",
            ["name": "now", "type": toxic.type, "stream": toxic.stream, "attributes": toxic.attributes])
    }

    func remove() async throws {
        _ = try await Toxiproxy.request(server.port, "DELETE", "/proxies/edge/toxics/now", nil)
    }

    private static func request(
        _ port: Int, _ method: String, _ path: String, _ body: [String: Any]?
    ) async throws -> [String: Any] {
        var request = URLRequest(url: URL(string: "http://127.0.0.1:\(port)\(path)")!)
        request.httpMethod = method
        if let body { request.httpBody = try JSONSerialization.data(withJSONObject: body) }
        let (data, response) = try await URLSession.shared.data(for: request)
        let status = (response as? HTTPURLResponse)?.statusCode ?? 0
        guard (200..<300).contains(status) else {
            throw Refused(description: "\(method) \(path): \(status) \(String(decoding: data, as: UTF8.self))")
        }
        return (try? JSONSerialization.jsonObject(with: data)) as? [String: Any] ?? [:]
    }

    private struct Refused: Error, CustomStringConvertible { let description: String }
}

/// The client and the edge with a bad network between them.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"), .timeLimit(.minutes(1)))
struct ToxiproxyTests {
    private static let toxics: [Toxiproxy.Toxic] = [
        .init(type: "latency", attributes: ["latency": 40, "jitter": 30], breaks: false),
        .init(type: "bandwidth", attributes: ["rate": 40], breaks: false),
        .init(type: "slicer", attributes: ["average_size": 7, "size_variation": 5, "delay": 50], breaks: false),
        .init(type: "latency", stream: "upstream", attributes: ["latency": 60], breaks: false),
        .init(type: "slow_close", attributes: ["delay": 300], breaks: false),
        .init(type: "limit_data", attributes: ["bytes": 3000]), .init(type: "limit_data", attributes: ["bytes": 1]),
        .init(type: "reset_peer", attributes: ["timeout": 0]),
        .init(type: "reset_peer", stream: "upstream", attributes: ["timeout": 100]),
        .init(type: "timeout", attributes: ["timeout": 100]),
        // Half open: nothing comes, and nobody says so.
        .init(type: "timeout", attributes: ["timeout": 0]),
        .init(type: "timeout", stream: "upstream", attributes: ["timeout": 0]),
    ]

    private static func client(port: Int) throws -> TapedeckClient {
        try ClientTests.client(port: port) {
            $0.channel.connection.http2.keepaliveMilliseconds = 500
            $0.channel.connection.http2.keepaliveTimeoutMilliseconds = 300
        }
    }

    @Test func `A stream of prices goes on without gap or repeat through all that is done to its connections`()
        async throws
    {
        let world = try EdgeWorld()
        let proxy = try await Toxiproxy(to: world.port)
        let client = try Self.client(port: proxy.port)
        defer {
            client.close()
            world.stop()
        }
        let log = ClientTests.Log()
        try world.publish(1)
        var published = 1
        var subscription = Proto.PriceSubscription()
        subscription.symbols = ["A"]
        subscription.exchange = "X"
        subscription.tokenIntervalMs = 100
        let task = ClientTests.read(client.prices(subscription), into: log)
        await ClientTests.wait { log.now.sequences.count == 1 }
        for toxic in Self.toxics {
            let interruptions = log.now.interruptions.count
            try await proxy.add(toxic)
            for _ in 0..<4 {
                try world.publish(50)
                published += 50
                await Task.yield()
            }
            if toxic.type == "slow_close" {
                world.stop()
                try world.start()
            }
            // What breaks connections is felt, what only slows them is lived through.
            await ClientTests.wait {
                let now = log.now
                return toxic.breaks ? now.interruptions.count > interruptions : now.sequences.count == published
            }
            #expect(toxic.breaks == false || log.now.interruptions.count > interruptions, "\(toxic)")
            try await proxy.remove()
            try world.publish(10)
            published += 10
            await ClientTests.wait { log.now.sequences.count >= published }
            #expect(log.now.sequences.count == published, "\(toxic)")
        }
        #expect(log.now.sequences == Array(1...UInt64(published)))
        #expect(log.now.gaps == [])
        task.cancel()
        await task.value
    }

    /// Counts how a call ended.
    private final class Ends: GRPCCallOwner, Sendable {
        let codes = Mutex<[GRPCStatus.Code]>([])
        func received(metadata: GRPCMetadata) {}
        func received(frames: UnsafeRawBufferPointer) {}
        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { codes.withLock { $0.append(status.code) } }
    }

    @Test func `Unary calls end in exactly one status whatever is done to their connections`() async throws {
        let world = try EdgeWorld()
        let proxy = try await Toxiproxy(to: world.port)
        let client = try Self.client(port: proxy.port)
        defer {
            client.close()
            world.stop()
        }
        try world.publish(1)
        var request = Proto.QuoteRequest()
        request.symbol = "A"
        request.exchange = "X"
        let bytes = request.encodedBytes()
        var all: [Ends] = []
        for toxic in Self.toxics {
            var calls: [Ends] = []
            func call(_ count: Int, _ options: GRPCCallOptions) {
                for _ in 0..<count {
                    let ends = Ends()
                    calls.append(ends)
                    client.channel.call(path: Proto.MarketDataService.getQuote.path, options: options, owner: ends) {
                        $0.send(bytes)
                        $0.halfClose()
                    }
                }
            }
            var plain = GRPCCallOptions(timeoutMilliseconds: 900)
            plain.waitsForReady = true
            var hedged = plain
            hedged.hedging = GRPCHedgingPolicy(delayMilliseconds: 50)
            var retried = plain
            retried.retry = GRPCRetryPolicy()
            call(10, plain)
            try await proxy.add(toxic)
            for options in [plain, hedged, retried] { call(10, options) }
            await ClientTests.wait { calls.allSatisfy { $0.codes.withLock { $0.count > 0 } } }
            try await proxy.remove()
            for ends in calls {
                let code = ends.codes.withLock { $0.first }
                #expect([.ok, .unavailable, .deadlineExceeded].contains(code), "\(toxic): \(String(describing: code))")
            }
            if !toxic.breaks { #expect(calls.contains { $0.codes.withLock { $0 == [.ok] } }, "\(toxic)") }
            all += calls
        }
        // The network is well again, and so are calls, once the client has found out which of its connections are dead.
        var answer: Proto.QuoteResponse?
        for _ in 0..<20 where answer == nil {
            do {
                answer = try await client.quote("A", exchange: "X")
            } catch {
                #expect(error.status.code == .unavailable)
            }
        }
        #expect(answer?.latest?.sequence == 1)
        client.close()
        #expect(all.allSatisfy { $0.codes.withLock { $0.count == 1 } })
    }
}
