import GRPC
import MarketProto
import Protobuf
import Simulation
import TapedeckClient
import TestSupport
import Testing

@Suite(.timeLimit(.minutes(1)))
struct RestartTests {
    private static let dayNs: Int64 = 86_400_000_000_000

    @Test(arguments: 1...4 as ClosedRange<UInt64>)
    func `Day figures across restarts of the edge are those without one`(_ seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        let world = try RestartWorld(seed: seed, partitions: 2)
        var open: Int64?
        var high: Int64 = 0
        var low = Int64.max
        var close: Int64?
        var last: Int64 = 0
        var count: UInt64 = 0
        for step in 0..<24 {
            if step % 8 == 7 {
                world.time.advance(ns: RestartTests.dayNs)
                (close, open, high, low, count) = (last, nil, 0, .max, 0)
            }
            last = Int64.random(in: 50...150, using: &random)
            (open, high, low, count) = (open ?? last, max(high, last), min(low, last), count + 1)
            try world.publish(["A", "B"], price: last)
            // The store is somewhere behind the log when the edge starts again.
            if random.once(in: 3) { try world.write() }
            if random.once(in: 4) { try world.restartEdge() }
            for symbol in ["A", "B"] {
                let quote = await quote(world, symbol, volume: Int64(count), price: last)
                #expect(quote.latest?.lastMicros == last * 1_000_000, "seed \(seed) step \(step)")
                #expect(quote.openMicros == open.map { $0 * 1_000_000 }, "seed \(seed) step \(step)")
                #expect(quote.dayHighMicros == high * 1_000_000, "seed \(seed) step \(step)")
                #expect(quote.dayLowMicros == low * 1_000_000, "seed \(seed) step \(step)")
                #expect(quote.prevCloseMicros == close.map { $0 * 1_000_000 }, "seed \(seed) step \(step)")
                #expect(quote.dayVolume == Int64(count) && quote.dayTradeCount == count, "seed \(seed) step \(step)")
            }
        }
    }

    /// The quote once the edge has what was published.
    private func quote(_ world: RestartWorld, _ symbol: String, volume: Int64, price: Int64) async
        -> Proto.QuoteResponse
    {
        for _ in 0..<10_000 {
            if let quote = try? await world.client.quote(symbol), quote.dayVolume == volume,
                quote.latest?.lastMicros == price * 1_000_000
            {
                return quote
            }
            await Task.yield()
        }
        return (try? await world.client.quote(symbol)) ?? Proto.QuoteResponse()
    }

    @Test func `Quotes come from memory and, after a restart, from the store; refusals are the same`() async throws {
        let world = try RestartWorld()
        try world.publish(["A"], exchange: "X", price: 7)
        try world.publish(["BTC"], exchange: "Y", price: 8)
        try world.publish(["BTC"], exchange: "Z", price: 9)
        while (try? await world.client.quote("BTC", exchange: "Z")) == nil { await Task.yield() }
        let before = try await world.client.quote("A")
        try await checkRefusals(world)
        try world.write()
        try world.restartAll()
        // Everything in the log was stored before: the store alone answers.
        #expect(try await world.client.quote("A") == before)
        #expect(try await world.client.quote("BTC", exchange: "Y").latest?.lastMicros == 8_000_000)
        try await checkRefusals(world)
    }

    private func checkRefusals(_ world: RestartWorld) async throws {
        for (symbol, exchange, code, text) in [
            ("BTC", "", GRPCStatus.Code.invalidArgument, "Y, Z"), ("NONE", "", .notFound, "NONE"),
            ("A", "Y", .notFound, "A on Y"), ("", "X", .invalidArgument, "symbol"),
        ] {
            await #expect {
                try await world.client.quote(symbol, exchange: exchange)
            } throws: { error in
                guard let status = error as? GRPCStatus else { return false }
                return status.code == code && status.message.contains(text)
            }
        }
    }
}
