import GRPC
import MarketProto
import Protobuf
import TapedeckClient
import Testing

@Suite(.timeLimit(.minutes(1)))
struct QuoteTests {
    @Test func `A quote is the latest tick and the day's figures`() async throws {
        let world = try EdgeWorld()
        for price in [100, 105, 95, 101] { try world.publish(["X|AAPL"], price: Int64(price)) }
        var quote = Proto.QuoteResponse()
        while quote.latest?.sequence != 4 { quote = (try? await world.client.quote("AAPL", exchange: "X")) ?? quote }
        #expect(quote.openMicros == 100_000_000)
        #expect(quote.dayHighMicros == 105_000_000)
        #expect(quote.dayLowMicros == 95_000_000)
        #expect(quote.latest?.lastMicros == 101_000_000)
        #expect(quote.prevCloseMicros == nil)
        #expect(quote.dayVolume == 4 && quote.dayTradeCount == 4)
        #expect(quote.tradingDay == 20_231_114)
    }

    @Test func `Without an exchange one listing answers, several are named, none is not found`() async throws {
        let world = try EdgeWorld()
        try world.publish(EdgeWorld.instruments)
        while (try? await world.client.quote("MSFT")) == nil { await Task.yield() }
        #expect(try await world.client.quote("AAPL").latest?.exchange == "X")
        await #expect {
            try await world.client.quote("BTC")
        } throws: { error in
            guard let status = error as? GRPCStatus else { return false }
            return status.code == .invalidArgument && status.message.contains("Y, Z")
        }
        for (symbol, exchange, code) in [
            ("NONE", "", GRPCStatus.Code.notFound), ("AAPL", "Y", .notFound), ("", "", .invalidArgument),
            ("A|B", "X", .invalidArgument),
        ] {
            await #expect {
                try await world.client.quote(symbol, exchange: exchange)
            } throws: { ($0 as? GRPCStatus)?.code == code }
        }
    }
}
