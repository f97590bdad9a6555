import MarketModel
import Testing
import VenueFormats

/// What each field of Coinbase's level2 channel becomes. (docs.cdp.coinbase.com, Exchange WebSocket channels)
struct CoinbaseTests {
    private let coinbase = FormatReading(format: .coinbase)
    private static let update =
        #"{"type":"l2update","product_id":"SKL-BTC","changes":[["sell","0.00001306","660.5"],["buy","2","0"]],"#
        + #""time":"2021-04-17T16:43:37.075687Z"}"#
    private static let snapshot =
        #"{"type":"snapshot","product_id":"BAND-GBP","asks":[["14.8024","12.77"]],"bids":[["14.8","1"],["14","2"]]}"#

    @Test func `Each field of an update and of a snapshot`() throws {
        var update = VenueMessage(.delta, exchange: "COINBASE", symbol: "SKL-BTC")
        update.eventTimeNs = 1_618_677_817_075_687_000
        update.asks = [PriceLevel(price: 13060, size: 66_050_000_000)]
        update.bids = [PriceLevel(price: 2_000_000_000, size: 0)]
        #expect(try coinbase.read(CoinbaseTests.update) == [update])
        var snapshot = VenueMessage(.snapshot, exchange: "COINBASE", symbol: "BAND-GBP")
        snapshot.asks = [PriceLevel(price: 14_802_400_000, size: 1_277_000_000)]
        snapshot.bids = [
            PriceLevel(price: 14_800_000_000, size: 100_000_000), PriceLevel(price: 14_000_000_000, size: 200_000_000),
        ]
        #expect(try coinbase.read(CoinbaseTests.snapshot) == [snapshot])
    }

    @Test(arguments: ["subscriptions", "heartbeat", "last_match", "match", "ticker", "status", "error"])
    func `Answers and other channels are read as nothing`(_ type: String) throws {
        #expect(try coinbase.read(#"{"type":"\#(type)"}"#).isEmpty)
    }

    @Test(arguments: [
        (#""type":"l2update","#, "", FormatError.field("type")), (#""l2update""#, "2", .field("type")),
        (#""l2update""#, #""l2updat""#, .unknownMessage("l2updat")),
        (#""product_id":"SKL-BTC","#, "", .field("product_id")), (#""SKL-BTC""#, "[]", .field("product_id")),
        (#""changes":"#, #""change":"#, .field("changes")), (#"["buy","2","0"]"#, #"["buy","2"]"#, .field("changes")),
        (#"["buy","2","0"]"#, #"[0,"2","0"]"#, .field("changes")), (#"["buy","2","0"]"#, "null", .field("changes")),
        (#""buy""#, #""BUY""#, .field("side")), (#""2""#, "2", .field("change")),
        (#""2""#, #""0""#, .number("change is not above 0")), (#""660.5""#, #""-660.5""#, .number("change is below 0")),
        (#""660.5""#, #""660.123456789""#, .number("change: finer than the instrument's scale")),
        (#""660.5""#, #""660.5.""#, .number("change: not a decimal number")),
        (#""2021-04-17T16:43:37.075687Z""#, "1618677817", .field("time")),
    ])
    func `A bad field of an update is refused by name`(_ good: String, _ bad: String, _ error: FormatError) {
        let text = CoinbaseTests.update.replacing(good, with: bad)
        #expect(text != CoinbaseTests.update)
        #expect(coinbase.refusal(text) == error, "\(text)")
    }

    @Test func `A snapshot with one side is refused; a level out of range is left out and counted`() throws {
        let oneSided = CoinbaseTests.snapshot.replacing(#","bids":[["14.8","1"],["14","2"]]"#, with: "")
        #expect(coinbase.refusal(oneSided) == .field("bids"))
        let high = CoinbaseTests.snapshot.replacing(#""14.8024""#, with: #""9999999999.99""#)
        let message = try #require(try coinbase.read(high).first)
        #expect(message.asks.isEmpty && message.bids.count == 2 && message.levelsRefused == 1)
    }

    @Test(arguments: [
        ("1970-01-01T00:00:00Z", Int64(0)), ("2000-02-29T12:00:00.5Z", 951_825_600_500_000_000),
        ("2021-12-31T23:59:60.000000001Z", 1_640_995_200_000_000_001), ("1969-12-31T23:59:59.999999999Z", -1),
        ("2261-12-31T23:59:59Z", 9_214_646_399_000_000_000), ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
    ])
    func `A time is read to the nanosecond`(_ text: String, _ ns: Int64) throws {
        let update = CoinbaseTests.update.replacing("2021-04-17T16:43:37.075687Z", with: text)
        #expect(try coinbase.read(update).first?.eventTimeNs == ns)
    }

    @Test(arguments: [
        "2021-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2021-04-31T00:00:00Z", "2021-13-01T00:00:00Z",
        "2021-00-01T00:00:00Z", "2021-01-00T00:00:00Z", "2021-01-01T24:00:00Z", "2021-01-01T00:60:00Z",
        "2021-01-01T00:00:61Z", "2021-01-01T00:00:00.Z", "2021-01-01T00:00:00.1234567890Z", "2021-01-01T00:00:00+00:00",
        "2021-01-01 00:00:00Z", "2021-01-01T00:00:00", "", "Z", "1677-01-01T00:00:00Z", "2262-01-01T00:00:00Z",
        "2021-01-01T00:00:00.-1Z", "٢٠٢١-01-01T00:00:00Z",
    ])
    func `What is no time is refused`(_ text: String) {
        let update = CoinbaseTests.update.replacing("2021-04-17T16:43:37.075687Z", with: text)
        #expect(coinbase.refusal(update) == .field("time"))
    }
}
