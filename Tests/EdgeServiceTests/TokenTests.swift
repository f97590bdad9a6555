import GRPC
import MarketProto
import Protobuf
import TapedeckClient
import TestSupport
import Testing

@testable import EdgeService

/// Updates of StreamPrices that bring a resume token.
@Suite(.timeLimit(.minutes(1)))
struct TokenTests {
    static let subscriptions: [(symbols: [String], policy: Proto.DeliveryPolicy)] = [
        ([], .all), (["AAPL"], .all), ([], .latest), (["AAPL"], .interval), (["AAPL"], .maxStaleness),
    ]

    private static func fill(_ subscription: inout Proto.PriceSubscription, _ number: Int) {
        subscription.symbols = subscriptions[number].symbols
        subscription.policy = subscriptions[number].policy
        if subscription.policy == .interval { subscription.throttleMs = 1 }
        if subscription.policy == .maxStaleness { subscription.maxStalenessMs = 1000 }
    }

    /// The updates without tokens, repeats left out, and after how many of them each token came.
    private static func split(_ updates: [Proto.PriceUpdate]) -> (plain: [Proto.PriceUpdate], tokens: [(Int, [UInt8])])
    {
        var plain: [Proto.PriceUpdate] = []
        var tokens: [(Int, [UInt8])] = []
        var last: [String: UInt64] = [:]
        for var update in updates {
            let token = update.resumeToken
            update.resumeToken = []
            let key = update.exchange + update.symbol
            if update.sequence > last[key, default: 0] { plain.append(update) }
            last[key] = max(last[key, default: 0], update.sequence)
            if !token.isEmpty { tokens.append((plain.count, token)) }
        }
        return (plain, tokens)
    }

    @Test(arguments: subscriptions.indices)
    func `From every token that an update brings the stream goes on without gap or repeat`(_ number: Int) async throws {
        let world = try EdgeWorld()
        try world.publish(["X|AAPL", "X|MSFT"])
        while (try? await world.client.quote("MSFT")) == nil { await Task.yield() }
        let (stream, got) = world.stream {
            Self.fill(&$0, number)
            $0.skipSnapshot = false
            $0.tokenIntervalMs = 100
        }
        await world.waitForStart(stream)
        while Self.split(try got.updates).tokens.count < 4 {
            let count = got.all.count
            try world.publish(["X|AAPL", "X|MSFT", "X|AAPL"])
            while got.all.count == count { await Task.yield() }
        }
        // The last update of all of them came, and a token after it: the stream is silent.
        let last = try #require(world.published.last.map { try Proto.PriceUpdate(decoding: $0) })
        var split = Self.split(try got.updates)
        while split.plain.last?.sequence != last.sequence || split.tokens.last?.0 != split.plain.count {
            await Task.yield()
            split = Self.split(try got.updates)
        }
        stream.cancel()
        #expect(split.tokens.count >= 4, "\(split.tokens.count)")
        // The snapshot is whole before the first.
        #expect(split.tokens[0].0 >= (Self.subscriptions[number].symbols.isEmpty ? 2 : 1))
        for (count, token) in split.tokens {
            let (again, rest) = world.stream {
                Self.fill(&$0, number)
                $0.policy = .all
                $0.throttleMs = 0
                $0.maxStalenessMs = 0
                $0.resumeToken = token
            }
            await world.waitForStart(again)
            let wanted = try world.published.map { try Proto.PriceUpdate(decoding: $0) }.filter {
                Self.subscriptions[number].symbols.isEmpty || $0.symbol == "AAPL"
            }
            // Under ALL exactly the rest; where updates wait for others, nothing less.
            let before = split.plain[..<count]
            let delivered = Dictionary(grouping: before, by: \.symbol).mapValues { $0.map(\.sequence).max() ?? 0 }
            let missing = wanted.filter { $0.sequence > delivered[$0.symbol, default: 0] }
            await rest.wait(for: missing.count)
            let came = try rest.updates
            if Self.subscriptions[number].policy == .all {
                #expect(came == missing)
            } else {
                #expect(came.filter { $0.sequence > delivered[$0.symbol, default: 0] } == missing)
            }
            again.cancel()
        }
    }

    @Test(arguments: subscriptions.indices)
    func `Whoever does not ask gets no token`(_ number: Int) async throws {
        let world = try EdgeWorld()
        let (stream, got) = world.stream { Self.fill(&$0, number) }
        await world.waitForStart(stream)
        try world.publish(["X|AAPL", "X|MSFT", "X|AAPL"])
        await got.wait(for: 1)
        #expect(try got.updates.allSatisfy { $0.resumeToken.isEmpty })
        stream.cancel()
    }

    @Test func `A stream whose symbols are silent hears where the log is by an update that it has`() async throws {
        let world = try EdgeWorld()
        let (stream, got) = world.stream {
            $0.symbols = ["AAPL"]
            $0.tokenIntervalMs = 100
        }
        await world.waitForStart(stream)
        try world.publish(["X|AAPL"])
        await got.wait(for: 1)
        let first = try #require(try got.updates.first)
        #expect(!first.resumeToken.isEmpty)
        for round in 1...3 {
            for _ in 0..<50 { try world.publish(["X|MSFT"]) }
            await got.wait(for: 1 + round)
            var update = try got.updates[round]
            let token = try ResumeToken(decoding: update.resumeToken)
            #expect(token.offsets.map(\.offset) == [UInt64(1 + round * 50)])
            update.resumeToken = first.resumeToken
            #expect(update == first)
        }
        stream.cancel()
    }

    @Test func `Where the log stands still a silent stream stays silent`() throws {
        let world = try SubscribeWorld(partitions: 1)
        let tokens = TokenTimer(loop: world.loop, everyMilliseconds: 100)
        let subscriber = PriceSubscriber(
            tape: world.tape, limits: world.limits, filter: InstrumentFilter(exchange: "", symbols: ["A"]),
            policy: .all, backlog: Backlog(bytesMax: 1 << 20), followsLog: false, tokens: tokens
        ) {}
        subscriber.start(from: nil, snapshot: Tape.Snapshot())
        defer { subscriber.stop() }
        var buffer = [UInt8](repeating: 0, count: 1000)
        func read() -> Int { buffer.withUnsafeMutableBytes { subscriber.take(into: $0) } }
        world.loop.advance(milliseconds: 1000)
        #expect(read() == 0)
        try world.publish(["A"])
        let first = read()
        #expect(first > 0)
        world.loop.advance(milliseconds: 1000)
        #expect(read() == 0)
        try world.publish(["B"])
        #expect(read() == 0)
        world.loop.advance(milliseconds: 100)
        #expect(read() == first)
        #expect(subscriber.waitingBytes == 0)
        world.loop.advance(milliseconds: 1000)
        #expect(read() == 0)
    }

    @Test(arguments: [[], ["AAPL", "MSFT", "BTC"]])
    func `With a token, the snapshot is of what has no update after it`(_ symbols: [String]) async throws {
        let world = try EdgeWorld()
        try world.publish(["X|AAPL", "X|MSFT", "Y|BTC"])
        while (try? await world.client.quote("BTC")) == nil { await Task.yield() }
        let (first, _) = world.stream { $0.symbols = symbols }
        await world.waitForStart(first)
        let token = try #require(first.startToken)
        try world.publish(["X|MSFT", "Z|BTC"])
        let (stream, got) = world.stream {
            $0.symbols = symbols
            $0.skipSnapshot = false
            $0.resumeToken = token
            $0.resumeSnapshot = true
        }
        await got.wait(for: 4)
        try world.publish(["X|AAPL"])
        await got.wait(for: 5)
        let came = try got.updates.map { "\($0.exchange)|\($0.symbol) \($0.sequence)" }
        #expect(came == ["X|AAPL 1", "Y|BTC 1", "X|MSFT 2", "Z|BTC 1", "X|AAPL 2"])
        first.cancel()
        stream.cancel()
    }

    @Test func `What a request for tokens cannot say is refused by name`() async throws {
        let world = try EdgeWorld()
        let changes: [(String, @Sendable (inout Proto.PriceSubscription) -> Void)] = [
            ("token_interval_ms is 99", { $0.tokenIntervalMs = 99 }),
            ("token_interval_ms is 60001", { $0.tokenIntervalMs = 60_001 }),
            ("resume_snapshot goes with", { $0.resumeSnapshot = true }),
        ]
        for (text, change) in changes {
            let (stream, _) = world.stream(change)
            while stream.end == nil { await Task.yield() }
            #expect(stream.end?.status.code == .invalidArgument)
            #expect(stream.end?.status.message.contains(text) == true)
        }
        let subscribe = try SubscribeWorld()
        let result = subscribe.open().add(1) { $0.tokenIntervalMs = 1000 }
        #expect(result?.error == .invalidArgument)
        #expect(result?.message.contains("heartbeats") == true)
    }
}
