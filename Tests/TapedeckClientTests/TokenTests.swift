import AccessControl
import EdgeService
import GRPC
import MarketProto
import Protobuf
import Synchronization
import Testing

@testable import TapedeckClient

/// The client against an edge that wants a token of each caller.
@Suite(.timeLimit(.minutes(1)))
struct TokenTests {
    private static let old = AccessToken(name: "alice", random: [UInt8](1...32))!
    private static let new = AccessToken(name: "alice", random: [UInt8](2...33))!

    private static func file(_ token: AccessToken) throws -> AccessFile {
        let line = "\(token.name) \(token.proof(salt: [UInt8](0..<16))) methods=* symbols=* accounts=*\n"
        return try AccessFile(parsing: Array(line.utf8))
    }

    /// What the client gives for its token now, and how often it was asked.
    private final class Provider: Sendable {
        let token = Mutex<(text: String?, asked: Int)>((nil, 0))

        func set(_ text: String?) { token.withLock { $0.text = text } }

        func take() -> String? {
            token.withLock {
                $0.asked += 1
                return $0.text
            }
        }
    }

    private struct World {
        let policy = AccessPolicy(anonymous: .nobody)
        let edge: EdgeWorld
        let provider = Provider()
        let client: TapedeckClient

        init(_ change: (inout TapedeckOptions) -> Void = { _ in }) throws {
            policy.use(try TokenTests.file(TokenTests.old))
            var server = GRPCServerConfiguration()
            server.interceptors = { [policy] in [policy.makeInterceptor(loop: $0)] }
            edge = try EdgeWorld(takesOrders: true, server: server)
            try edge.publish(3)
            let provider = provider
            client = try ClientTests.client(port: edge.port) {
                $0.token = { provider.take() }
                $0.quoteHedgeMilliseconds = nil
                change(&$0)
            }
        }

        func stop() {
            client.close()
            edge.stop()
        }
    }

    /// Each kind of call, and what the server says to it; nil: it is let in.
    private func calls(_ client: TapedeckClient) async -> [String: GRPCStatus.Code?] {
        var order = Proto.OrderRequest()
        order.orderId = "1"
        func code(_ body: () async throws -> Void) async -> GRPCStatus.Code? {
            do {
                try await body()
                return nil
            } catch {
                return (error as? TapedeckError)?.code ?? .unknown
            }
        }
        return [
            "quote": await code { _ = try await client.quote("A") },
            "prices": await code {
                var events = client.prices(["A"]).makeAsyncIterator()
                _ = try await events.next()
            },
            "submitOrder": await code { _ = try await client.submitOrder(order) },
            "submitOrders": await code { _ = try await client.submitOrders([order]) },
            "liveTrading": await code {
                let session = client.liveTrading()
                try await session.send(order)
                var messages = session.makeAsyncIterator()
                _ = try await messages.next()
                session.cancel()
            },
        ]
    }

    @Test func `Every call carries the token, as it is when the call begins`() async throws {
        let world = try World()
        defer { world.stop() }
        let nobody = await calls(world.client)
        #expect(nobody.count == 5 && nobody.values.allSatisfy { $0 == .unauthenticated }, "\(nobody)")
        world.provider.set(TokenTests.old.text)
        let alice = await calls(world.client)
        #expect(alice.values.allSatisfy { $0 == nil }, "\(alice)")
        world.policy.use(try TokenTests.file(TokenTests.new))
        // The server's loop hears of it when it gets to it.
        while (try? await world.client.quote("A")) != nil { await Task.yield() }
        let late = await calls(world.client)
        #expect(late.values.allSatisfy { $0 == .unauthenticated }, "\(late)")
        world.provider.set(TokenTests.new.text)
        let renewed = await calls(world.client)
        #expect(renewed.values.allSatisfy { $0 == nil }, "\(renewed)")
    }

    @Test func `A stream whose token is renewed goes on where it was`() async throws {
        let world = try World()
        defer { world.stop() }
        world.provider.set(TokenTests.old.text)
        let log = ClientTests.Log()
        let task = ClientTests.read(world.client.prices(["A"], exchange: "X"), into: log)
        await ClientTests.wait { log.now.sequences == [3] }
        world.provider.set(TokenTests.new.text)
        world.policy.use(try TokenTests.file(TokenTests.new))
        await ClientTests.wait { !log.now.interruptions.isEmpty }
        #expect(log.now.interruptions.map(\.reason) == [.rightsChanged])
        try world.edge.publish(5)
        await ClientTests.wait { log.now.sequences.count == 6 }
        #expect(log.now.sequences == [3, 4, 5, 6, 7, 8] && log.now.gaps.isEmpty && log.now.resumed == 1)
        // Revoked for good: it is not tried for ever.
        world.provider.set(TokenTests.old.text)
        world.policy.use(try TokenTests.file(AccessToken(name: "bob", random: [UInt8](3...34))!))
        await ClientTests.wait { log.now.isEnded }
        #expect(log.now.end?.code == .unauthenticated)
        task.cancel()
        await task.value
    }

    @Test func `Metadata for all calls reaches those that the client has options of its own for`() async throws {
        let world = try World {
            $0.token = nil
            $0.channel.calls.metadata.add("authorization", "Bearer \(TokenTests.old.text)")
        }
        defer { world.stop() }
        let answers = await calls(world.client)
        #expect(answers.values.allSatisfy { $0 == nil }, "\(answers)")
        // A method's own counts, where it has the same name.
        var options = TapedeckOptions()
        options.channel.calls.metadata.add("x-desk", "all")
        var own = GRPCCallOptions()
        own.metadata.add("x-desk", "own")
        let path = Proto.MarketDataService.getQuote.path
        options.channel.methods[path] = own
        options.channel.calls.metadata.add("x-more", "more")
        let client = try TapedeckClient("127.0.0.1:1", options: options)
        defer { client.close() }
        let quote = client.channel.options.call(path).metadata
        #expect(quote.values("x-desk") == ["own"] && quote.values("x-more") == ["more"])
        let prices = client.channel.options.call(Proto.MarketDataService.streamPrices.path).metadata
        #expect(prices.values("x-desk") == ["all"] && prices.values("x-more") == ["more"])
    }

    @Test func `A token goes without TLS to this machine only`() throws {
        var options = TapedeckOptions()
        options.token = { "token" }
        for target in ["tapedeck.example:50051", "dns:///10.0.0.1:50051", "ipv4:127.0.0.1:1,10.0.0.1:1"] {
            let error = #expect(throws: TapedeckError.self) { try TapedeckClient(target, options: options) }
            #expect(error?.code == .invalidArgument, "\(target)")
        }
        for target in ["localhost:50051", "127.0.0.1:50051", "ipv6:[::1]:1"] {
            try TapedeckClient(target, options: options).close()
        }
    }
}
