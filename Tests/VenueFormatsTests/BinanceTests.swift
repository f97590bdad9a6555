import MarketModel
import Testing
import VenueFormats

/// What each field of Binance's messages becomes. (binance-spot-api-docs, web-socket-streams.md)
struct BinanceTests {
    private let binance = FormatReading(format: .binance)
    private static let depth =
        #"{"e":"depthUpdate","E":1723161255408,"s":"BTCUSDT","U":157,"u":160,"#
        + #""b":[["0.0024","10"]],"a":[["0.0026","0"]]}"#
    private static let ticker =
        #"{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}"#
    private static let trade =
        #"{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782130,"m":true}"#
    private static let snapshot = #"{"lastUpdateId":1027024,"bids":[["4.0","431"]],"asks":[["4.2","12"],["5","1"]]}"#

    @Test func `Each field of a diff, alone and in an envelope`() throws {
        var expected = VenueMessage(.delta, exchange: "BINANCE", symbol: "BTCUSDT")
        expected.eventTimeNs = 1_723_161_255_408_000_000
        expected.firstSequence = 157
        expected.lastSequence = 160
        expected.bids = [PriceLevel(price: 2_400_000, size: 1_000_000_000)]
        expected.asks = [PriceLevel(price: 2_600_000, size: 0)]
        #expect(try binance.read(BinanceTests.depth) == [expected])
        #expect(try binance.read(#"{"stream":"btcusdt@depth","data":\#(BinanceTests.depth)}"#) == [expected])
    }

    @Test func `Each field of a ticker, a trade and a snapshot`() throws {
        var ticker = VenueMessage(.ticker, exchange: "BINANCE", symbol: "BNBUSDT")
        ticker.firstSequence = 400_900_217
        ticker.lastSequence = 400_900_217
        ticker.bids = [PriceLevel(price: 25_351_900_000, size: 3_121_000_000)]
        ticker.asks = [PriceLevel(price: 25_365_200_000, size: 4_066_000_000)]
        #expect(try binance.read(BinanceTests.ticker) == [ticker])

        var trade = VenueMessage(.trade, exchange: "BINANCE", symbol: "BNBBTC")
        trade.eventTimeNs = 1_672_515_782_130_000_000
        trade.firstSequence = 12345
        trade.lastSequence = 12345
        trade.trade = VenueMessage.Trade(price: 1_000_000, size: 10_000_000_000, id: 12345, aggressorSide: .sell)
        #expect(try binance.read(BinanceTests.trade) == [trade])
        trade.trade?.aggressorSide = .buy
        let taken = BinanceTests.trade.replacing("true", with: "false")
        #expect(try binance.read(taken) == [trade])

        var snapshot = VenueMessage(.snapshot, exchange: "BINANCE", symbol: "X")
        snapshot.firstSequence = 1_027_024
        snapshot.lastSequence = 1_027_024
        snapshot.bids = [PriceLevel(price: 4_000_000_000, size: 43_100_000_000)]
        snapshot.asks = [
            PriceLevel(price: 4_200_000_000, size: 1_200_000_000), PriceLevel(price: 5_000_000_000, size: 100_000_000),
        ]
        #expect(try binance.read(BinanceTests.snapshot, symbol: "X") == [snapshot])
        #expect(binance.refusal(BinanceTests.snapshot) == .field("symbol"))
    }

    @Test(arguments: [
        #"{"result":null,"id":1}"#, #"{"e":"aggTrade","s":"X"}"#, #"{"e":"kline"}"#, #"{"e":"24hrTicker"}"#,
        #"{"stream":"x@miniTicker","data":{"e":"24hrMiniTicker"}}"#,
    ])
    func `Answers and other streams are read as nothing`(_ text: String) throws {
        #expect(try binance.read(text).isEmpty)
    }

    /// A text of a good message, what stands there instead, and the error.
    @Test(arguments: [
        // Missing.
        (#""s":"BTCUSDT","#, "", FormatError.field("s")), (#""U":157,"#, "", .field("U")),
        (#""u":160,"#, "", .field("u")), (#""E":1723161255408,"#, "", .field("E")),
        (#","a":[["0.0026","0"]]"#, "", .field("a")), (#""e":"depthUpdate","#, "", .unknownMessage("no event type")),
        // Of another type.
        (#""U":157"#, #""U":"157""#, .field("U")), (#""U":157"#, #""U":157.0"#, .field("U")),
        (#""U":157"#, #""U":1.57e2"#, .field("U")), (#""U":157"#, #""U":null"#, .field("U")),
        (#""U":157"#, #""U":-157"#, .field("U")), (#""s":"BTCUSDT""#, #""s":7"#, .field("s")),
        (#"["0.0024","10"]"#, #"[0.0024,"10"]"#, .field("b")), (#"["0.0024","10"]"#, #"["0.0024",10]"#, .field("b")),
        (#"["0.0024","10"]"#, #"["0.0024"]"#, .field("b")), (#"["0.0024","10"]"#, #""0.0024""#, .field("b")),
        (#"[["0.0024","10"]]"#, #"{"0.0024":"10"}"#, .field("b")), (#"[["0.0024","10"]]"#, "null", .field("b")),
        // Numbers.
        (#""u":160"#, #""u":18446744073709551616"#, .json("Bigint value that does not fit 64 bits")),
        (#""E":1723161255408"#, #""E":9223372036855"#, .number("E is out of range")),
        (#""0.0024""#, #""0.0000000001""#, .number("b: finer than the instrument's scale")),
        (#""10""#, #""0.000000001""#, .number("b: finer than the instrument's scale")),
        (#""0.0024""#, #""-0.0024""#, .number("b is not above 0")),
        (#""0.0024""#, #""0.000""#, .number("b is not above 0")), (#""10""#, #""-10""#, .number("b is below 0")),
        (#""10""#, #""1e1""#, .number("b: not a decimal number")),
        (#""10""#, #""""#, .number("b: not a decimal number")),
        (#""10""#, #"" 10""#, .number("b: not a decimal number")),
        (#""10""#, #""NaN""#, .number("b: not a decimal number")),
    ])
    func `A bad field of a diff is refused by name`(_ good: String, _ bad: String, _ error: FormatError) {
        let text = BinanceTests.depth.replacing(good, with: bad)
        #expect(text != BinanceTests.depth)
        let refusal = binance.refusal(text)
        // The parser's own words differ between its versions.
        if case .json = error { #expect(refusal?.kind == .json) } else { #expect(refusal == error, "\(text)") }
    }

    @Test(arguments: [
        (BinanceTests.ticker, #""25.35190000""#, #""9223372036.854775808""#, FormatError.outOfRange("b")),
        (BinanceTests.ticker, #""31.21000000""#, #""92233720368.54775808""#, .outOfRange("B")),
        (BinanceTests.ticker, #""25.36520000""#, "25.3652", .field("a")),
        (BinanceTests.ticker, #","A":"40.66000000""#, "", .field("A")),
        (BinanceTests.ticker, #""s":"BNBUSDT","#, "", .field("s")),
        (BinanceTests.trade, #""p":"0.001""#, #""p":"99999999999999999999""#, .outOfRange("p")),
        (BinanceTests.trade, #""p":"0.001""#, #""p":"0""#, .number("p is not above 0")),
        (BinanceTests.trade, #""q":"100""#, #""q":"-1""#, .number("q is below 0")),
        (BinanceTests.trade, #","m":true"#, "", .field("m")),
        (BinanceTests.trade, #""m":true"#, #""m":1"#, .field("m")),
        (BinanceTests.trade, #""t":12345,"#, "", .field("t")),
        (BinanceTests.trade, #""T":1672515782130"#, #""T":"1672515782130""#, .field("T")),
        (BinanceTests.trade, #""e":"trade""#, #""e":"trad""#, .unknownMessage("trad")),
        (BinanceTests.snapshot, #""bids":[["4.0","431"]],"#, "", .field("bids")),
        (BinanceTests.snapshot, #""lastUpdateId":1027024"#, #""lastUpdateId":"1027024""#, .field("lastUpdateId")),
        ("[]", "", "", .unknownMessage("no event type")), ("7", "", "", .unknownMessage("no event type")),
    ])
    func `A bad field of a ticker, trade or snapshot is refused by name`(
        _ whole: String, _ good: String, _ bad: String, _ error: FormatError
    ) {
        let text = good.isEmpty ? whole : whole.replacing(good, with: bad)
        #expect(good.isEmpty || text != whole)
        #expect(binance.refusal(text, symbol: "X") == error, "\(text)")
    }

    @Test func `A level out of range is left out and counted; the largest in range is taken`() throws {
        let text = BinanceTests.depth.replacing(
            #"[["0.0026","0"]]"#,
            with: #"[["9223372036.854775808","1"],["9223372036.854775807","1"],["1","92233720368.54775808"],["2","1"]]"#
        )
        let message = try #require(try binance.read(text).first)
        #expect(message.levelsRefused == 2)
        #expect(
            message.asks == [
                PriceLevel(price: .max, size: 100_000_000), PriceLevel(price: 2_000_000_000, size: 100_000_000),
            ])
    }

    @Test func `Of a name that stands twice the last value counts, as browsers have it`() throws {
        let text = BinanceTests.depth.replacing(#""u":160"#, with: #""u":159,"u":161"#)
        #expect(try binance.read(text).first?.lastSequence == 161)
        #expect(binance.refusal(BinanceTests.depth.replacing(#""u":160"#, with: #""u":160,"u":"x""#)) == .field("u"))
    }

    @Test func `Zeros that say nothing and escapes change no value`() throws {
        let expected = try binance.read(BinanceTests.depth)
        for (from, to) in [
            (#""0.0024""#, #""00.002400000000000000""#), (#""10""#, #""+10.0""#), (#""e":"#, #""\u0065":"#),
            (#""10""#, #""\u0031\u0030""#), (",", " ,\t\r\n"),
        ] {
            #expect(try binance.read(BinanceTests.depth.replacing(from, with: to)) == expected, "\(to)")
        }
    }
}
