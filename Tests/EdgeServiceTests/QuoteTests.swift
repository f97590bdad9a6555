import DayFigures
import GRPC
import MarketModel
import MarketProto
import Protobuf
import TapedeckClient
import Testing

@testable import EdgeService

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

    @Test func `A quote is as new as the log where no stream has the loop woken`() async throws {
        let world = try EdgeWorld()
        for sequence in UInt64(1)...200 {
            try world.publish(["X|AAPL"], price: Int64(sequence))
            #expect(try await world.client.quote("AAPL", exchange: "X").latest?.sequence == sequence)
        }
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

    @Test func `Who asks again is answered by what is there now`() async throws {
        let world = try EdgeWorld()
        try world.publish(["Y|BTC"], price: 100)
        while (try? await world.client.quote("BTC"))?.latest?.sequence != 1 { await Task.yield() }
        try world.publish(["Y|BTC"], price: 101)
        while try await world.client.quote("BTC").latest?.sequence != 2 { await Task.yield() }
        #expect(try await world.client.quote("BTC").dayHighMicros == 101_000_000)
        // Another exchange begins to list it.
        try world.publish(["Z|BTC"])
        while (try? await world.client.quote("BTC", exchange: "Z")) == nil { await Task.yield() }
        await #expect {
            try await world.client.quote("BTC")
        } throws: { ($0 as? GRPCStatus)?.code == .invalidArgument }
        #expect(try await world.client.quote("BTC", exchange: "Y").latest?.exchange == "Y")
    }

    @Test func `An answer is the bytes that the generated type writes`() throws {
        var update = Proto.PriceUpdate()
        update.symbol = "AAPL"
        update.sequence = 300
        var expected = Proto.QuoteResponse()
        expected.latest = update
        var frame = FrameBuffer()
        update.withEncodedBytes { frame.set(payload: $0) }
        var day = DayFigures()
        expected.tradingDay = TradingDay.yyyymmdd(day.day)
        Quote.withBytes(frame, day) { #expect(Array($0) == expected.encodedBytes()) }
        let place = DayFigures.Place(filingTimeNs: 1, epoch: 1, sequence: 1)
        day.open = DayFigures.Mark(place: place, price: 100_000_000_123)
        day.previous = DayFigures.Mark(place: place, price: -7)
        day.high = .max
        day.low = .min
        day.volume = 300_000_001
        day.tradeCount = .max
        day.day = 19_675
        let (open, close) = (PriceMicros.split(100_000_000_123), PriceMicros.split(-7))
        let (high, low) = (PriceMicros.split(.max), PriceMicros.split(.min))
        let volume = VolumeUnits.split(day.volume)
        (expected.openMicros, expected.openNanoRemainder) = (open.micros, open.remainder)
        (expected.prevCloseMicros, expected.prevCloseNanoRemainder) = (close.micros, close.remainder)
        (expected.dayHighMicros, expected.dayHighNanoRemainder) = (high.micros, high.remainder)
        (expected.dayLowMicros, expected.dayLowNanoRemainder) = (low.micros, low.remainder)
        (expected.dayVolume, expected.dayVolumeNanoRemainder) = (volume.units, volume.remainder)
        expected.dayTradeCount = day.tradeCount
        expected.tradingDay = TradingDay.yyyymmdd(day.day)
        Quote.withBytes(frame, day) { #expect(Array($0) == expected.encodedBytes()) }
    }

    @Test func `A question's line is known until a line is added, and only to the same question`() {
        var questions = QuoteQuestions()
        var asked: [[UInt8]] = []
        for number in 0..<500 { asked.append(Array("question \(number)".utf8)) }
        for (line, bytes) in asked.enumerated() {
            bytes.withUnsafeBytes { questions.keep($0, line: line, lineCount: 500) }
        }
        var known = 0
        for (line, bytes) in asked.enumerated() {
            let found = bytes.withUnsafeBytes { questions.line($0, lineCount: 500) }
            #expect(found == nil || found == line)
            if found != nil { known += 1 }
            #expect(bytes.withUnsafeBytes { questions.line($0, lineCount: 501) } == nil)
            #expect((bytes + [0]).withUnsafeBytes { questions.line($0, lineCount: 500) } == nil)
        }
        #expect(known > 250)
        let long = [UInt8](repeating: 7, count: 33)
        long.withUnsafeBytes { questions.keep($0, line: 1, lineCount: 500) }
        #expect(long.withUnsafeBytes { questions.line($0, lineCount: 500) } == nil)
    }
}
