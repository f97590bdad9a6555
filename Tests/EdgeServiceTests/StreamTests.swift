import EdgeService
import EventLog
import GRPC
import HTTP2
import MarketProto
import Protobuf
import Synchronization
import TapedeckClient
import Testing

@Suite(.timeLimit(.minutes(1)))
struct StreamTests {
    @Test func `A subscriber of everything gets the log's bytes, in order`() async throws {
        let world = try EdgeWorld()
        let (stream, received) = world.stream()
        await world.waitForStart(stream)
        for _ in 0..<200 { try world.publish(EdgeWorld.instruments) }
        await received.wait(for: 800)
        #expect(received.all == world.published)
        stream.cancel()
    }

    @Test func `The last value of each instrument comes first`() async throws {
        let world = try EdgeWorld()
        for price in 1...10 { try world.publish(EdgeWorld.instruments, price: Int64(price)) }
        let (warm, seen) = world.stream { $0.skipSnapshot = false }
        await seen.wait(for: 4)
        let (stream, received) = world.stream { $0.skipSnapshot = false }
        await received.wait(for: 4)
        try world.publish(["X|AAPL"], price: 11)
        await received.wait(for: 5)
        let updates = try received.updates
        #expect(updates.count == 5)
        #expect(updates.prefix(4).allSatisfy { $0.lastMicros == 10_000_000 && $0.sequence == 10 })
        #expect(updates[4].symbol == "AAPL" && updates[4].sequence == 11)
        warm.cancel()
        stream.cancel()
    }

    @Test func `Interceptors hear of every message of a stream once, however its bytes are cut`() async throws {
        let heard = HeardMessages()
        var server = GRPCServerConfiguration()
        server.interceptors = { _ in [heard.interceptor()] }
        let world = try EdgeWorld(server: server)
        try world.publish(EdgeWorld.instruments)
        let (first, seen) = world.stream { $0.skipSnapshot = false }
        await seen.wait(for: 4)
        let (second, received) = world.stream { $0.skipSnapshot = false }
        await received.wait(for: 4)
        for round in 0..<500 {
            try world.publish(EdgeWorld.instruments)
            // What is no news is left out, and is no message.
            if round % 7 == 0 { try world.repeatLast("X|AAPL") }
        }
        await seen.wait(for: 2004)
        await received.wait(for: 2004)
        let all = seen.all + received.all
        #expect(heard.messages == all.count && all.count == 4008)
        #expect(heard.bytes == all.reduce(0) { $0 + $1.count + 5 })
        first.cancel()
        second.cancel()
    }

    @Test func `A filter brings its instruments alone, those that appear later too`() async throws {
        let world = try EdgeWorld()
        try world.publish(["X|AAPL", "Y|BTC"])
        let (byName, names) = world.stream { $0.symbols = ["BTC"] }
        let (byExchange, exchanges) = world.stream { $0.exchange = "X" }
        await world.waitForStart(byName)
        await world.waitForStart(byExchange)
        for _ in 0..<50 { try world.publish(["X|MSFT", "Z|BTC", "X|AAPL", "Y|BTC"]) }
        await names.wait(for: 100)
        await exchanges.wait(for: 100)
        #expect(try names.updates.allSatisfy { $0.symbol == "BTC" })
        #expect(try exchanges.updates.allSatisfy { $0.exchange == "X" })
        #expect(names.all == Array(world.published.filter { names.all.contains($0) }))
        byName.cancel()
        byExchange.cancel()
    }

    /// Every sequence was delivered, or is in exactly one conflated range.
    private func account(_ updates: [Proto.PriceUpdate], through last: UInt64) {
        var next: UInt64 = 1
        for update in updates {
            if let range = update.conflated {
                #expect(range.firstSequence == next && range.lastSequence + 1 == update.sequence)
                #expect(range.count == range.lastSequence - range.firstSequence + 1)
                #expect(range.tradeCount == range.count && range.tradeVolume == Int64(range.count))
            } else {
                #expect(update.sequence == next)
            }
            next = update.sequence + 1
        }
        #expect(next == last + 1)
    }

    @Test func `INTERVAL sends one update a window, and says what each stands for`() async throws {
        let world = try EdgeWorld()
        let (stream, received) = world.stream {
            $0.symbols = ["AAPL"]
            $0.throttleMs = 50
        }
        await world.waitForStart(stream)
        for _ in 0..<500 { try world.publish(["X|AAPL", "X|MSFT"]) }
        while try received.updates.last?.sequence != 500 { await Task.yield() }
        let updates = try received.updates
        #expect(updates.count < 500)
        account(updates, through: 500)
        stream.cancel()
    }

    @Test func `LATEST conflates only what a slow reader leaves, and accounts for it`() async throws {
        var limits = EdgeLimits()
        limits.pressureBytes = 300
        let world = try EdgeWorld(limits: limits)
        let (stream, received) = world.stream {
            $0.symbols = ["AAPL"]
            $0.policy = .latest
        }
        await world.waitForStart(stream)
        // One large block is handled in one turn: more than may wait.
        try world.publish([String](repeating: "X|AAPL", count: 1000))
        while try received.updates.last?.sequence != 1000 { await Task.yield() }
        let updates = try received.updates
        #expect(updates.count < 1000 && updates.count > 1)
        account(updates, through: 1000)
        let leftOut = UInt64(1000 - updates.count)
        #expect(world.edge.counters.conflated == ["LATEST": leftOut, "INTERVAL": 0, "MAX_STALENESS": 0])
        stream.cancel()
    }

    @Test func `ALL ends with a token when too much waits, and the token goes on without loss`() async throws {
        var limits = EdgeLimits()
        limits.queueBytesMax = 2000
        let world = try EdgeWorld(limits: limits)
        let (stream, received) = world.stream { $0.exchange = "X" }
        await world.waitForStart(stream)
        try world.publish([String](repeating: "X|AAPL", count: 1000))
        while stream.end == nil { await Task.yield() }
        let end = try #require(stream.end)
        #expect(end.status.code == .resourceExhausted && end.reason == "READER_TOO_SLOW")
        #expect(world.edge.counters.ended["READER_TOO_SLOW"] == 1)
        let before = received.all
        #expect(before.count < 1000)
        let token = try #require(end.resumeToken)
        let (resumed, rest) = world.stream {
            $0.exchange = "X"
            $0.resumeToken = token
        }
        await rest.wait(for: 1000 - before.count)
        #expect(before + rest.all == world.published)
        resumed.cancel()
    }

    @Test func `A stop ends streams with everything and a token`() async throws {
        let world = try EdgeWorld()
        let (full, all) = world.stream()
        let (filtered, some) = world.stream { $0.symbols = ["MSFT"] }
        await world.waitForStart(full)
        await world.waitForStart(filtered)
        for _ in 0..<100 { try world.publish(EdgeWorld.instruments) }
        world.edge.stop(withinMilliseconds: 5000)
        while full.end == nil || filtered.end == nil { await Task.yield() }
        #expect(all.all == world.published)
        #expect(some.all.count == 100)
        for stream in [full, filtered] {
            #expect(stream.end?.status.code == .unavailable)
            #expect(stream.end?.reason == "SERVER_STOPPING")
            #expect(stream.end?.resumeToken != nil)
        }
        #expect(world.edge.counters.ended["SERVER_STOPPING"] == 2)
    }

    @Test func `A connection that reaches its age ends its streams with a token before it cuts them`() async throws {
        var server = GRPCServerConfiguration()
        server.http2.ageMilliseconds = 300
        server.http2.graceMilliseconds = 60_000
        let world = try EdgeWorld(server: server)
        for change in [{ _ in }, { $0.symbols = ["AAPL"] }] as [@Sendable (inout Proto.PriceSubscription) -> Void] {
            let (stream, received) = world.stream(change)
            await world.waitForStart(stream)
            try world.publish(["X|AAPL"])
            while stream.end == nil { await Task.yield() }
            #expect(stream.end?.reason == "SERVER_STOPPING" && stream.end?.status.code == .unavailable)
            let token = try #require(stream.end?.resumeToken)
            try world.publish(["X|AAPL"])
            let (resumed, rest) = world.stream {
                change(&$0)
                $0.resumeToken = token
            }
            await rest.wait(for: 1)
            #expect(received.all + rest.all == world.published.suffix(2))
            resumed.cancel()
        }
    }

    @Test func `A repeated record is dropped for every subscriber`() async throws {
        let world = try EdgeWorld()
        let (full, all) = world.stream()
        let (filtered, some) = world.stream { $0.symbols = ["AAPL"] }
        await world.waitForStart(full)
        await world.waitForStart(filtered)
        try world.publish(["X|AAPL"])
        try world.repeatLast("X|AAPL")
        try world.publish(["X|AAPL"])
        await all.wait(for: 2)
        await some.wait(for: 2)
        #expect(all.all == world.published)
        #expect(some.all == world.published)
        full.cancel()
        filtered.cancel()
    }

    @Test func `A token of another log, a malformed one and one past the end are refused`() async throws {
        let world = try EdgeWorld()
        let other = try EdgeWorld()
        let (foreign, _) = other.stream()
        await other.waitForStart(foreign)
        let (own, _) = world.stream()
        await world.waitForStart(own)
        let good = try #require(own.startToken)
        var damaged = good
        damaged[5] ^= 1
        for (token, code) in [
            (try #require(foreign.startToken), GRPCStatus.Code.invalidArgument), (damaged, .invalidArgument),
            ([], .ok), ([1], .invalidArgument), (Array(good.dropLast()), .invalidArgument),
        ] where !token.isEmpty {
            let (stream, _) = world.stream { $0.resumeToken = token }
            while stream.end == nil { await Task.yield() }
            #expect(stream.end?.status.code == code)
        }
        foreign.cancel()
        own.cancel()
    }

    @Test func `Requests that cannot be are refused by name`() async throws {
        let world = try EdgeWorld()
        let changes: [@Sendable (inout Proto.PriceSubscription) -> Void] = [
            { $0.throttleMs = -1 }, { $0.throttleMs = 1_000_000 }, { $0.policy = .unrecognized(77) },
            { $0.policy = .interval }, { $0.symbols = ["A|B"] }, { $0.symbols = [""] },
            {
                $0.policy = .all
                $0.throttleMs = 5
            },
        ]
        for change in changes {
            let (stream, _) = world.stream(change)
            while stream.end == nil { await Task.yield() }
            #expect(stream.end?.status.code == .invalidArgument)
            #expect(stream.end?.status.message.isEmpty == false)
        }
        let (many, _) = world.stream { $0.symbols = (0...10_000).map { "S\($0)" } }
        while many.end == nil { await Task.yield() }
        #expect(many.end?.status.code == .resourceExhausted)
    }
}

/// What interceptors heard of the response messages of price streams.
private final class HeardMessages: Sendable {
    private let state = Mutex((messages: 0, bytes: 0))

    var messages: Int { state.withLock { $0.messages } }
    var bytes: Int { state.withLock { $0.bytes } }

    func interceptor() -> any ServerInterceptor { Interceptor(self) }

    private final class Interceptor: ServerInterceptor {
        private let heard: HeardMessages

        init(_ heard: HeardMessages) { self.heard = heard }

        func sent(_ call: ServerCall, messages: Int, bytes: Int) {
            heard.state.withLock {
                $0.messages += messages
                $0.bytes += bytes
            }
        }
    }
}
