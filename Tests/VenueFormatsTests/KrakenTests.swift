import MarketModel
import Testing
import VenueFormats

/// What each field of Kraken's book channel becomes. (docs.kraken.com, WebSocket API v1, "Book")
struct KrakenTests {
    private let kraken = FormatReading(format: .kraken)
    private static let snapshot =
        #"[1664,{"as":[["13.26","2.5","1618678132.334706"]],"bs":[["13.2","0.25","1618678132.5"]]},"#
        + #""book-10","WAVES/EUR"]"#
    private static let update =
        #"[1664,{"a":[["13.2645","0.00","1618678163.334706","r"]],"c":"560301834"},"book-10","WAVES/EUR"]"#

    @Test func `Each field of a snapshot`() throws {
        var expected = VenueMessage(.snapshot, exchange: "KRAKEN", symbol: "WAVES/EUR")
        expected.eventTimeNs = 1_618_678_132_500_000_000
        expected.asks = [PriceLevel(price: 13_260_000_000, size: 250_000_000)]
        expected.bids = [PriceLevel(price: 13_200_000_000, size: 25_000_000)]
        expected.priceDecimals = 2
        expected.sizeDecimals = 2
        #expect(try kraken.read(KrakenTests.snapshot) == [expected])
    }

    @Test func `Each field of an update; both sides in two parts are one message`() throws {
        var expected = VenueMessage(.delta, exchange: "KRAKEN", symbol: "WAVES/EUR")
        expected.eventTimeNs = 1_618_678_163_334_706_000
        expected.asks = [PriceLevel(price: 13_264_500_000, size: 0)]
        expected.checksum = 560_301_834
        expected.priceDecimals = 4
        expected.sizeDecimals = 2
        #expect(try kraken.read(KrakenTests.update) == [expected])
        expected.bids = [PriceLevel(price: 1_000_000_000, size: 200_000_000)]
        expected.checksum = 7
        let both = KrakenTests.update.replacing(
            #","c":"560301834"}"#, with: #"},{"b":[["1","2","3.5"]],"c":"7"}"#)
        #expect(try kraken.read(both) == [expected])
    }

    @Test(arguments: [
        #"{"event":"heartbeat"}"#, #"{"connectionID":17843232920108168701,"event":"systemStatus"}"#,
        #"[1668,{"a":["13.25",35,"35.7"]},"ticker","WAVES/EUR"]"#, #"[1,[["1","2","3","b","l",""]],"trade","X/Y"]"#,
        #"[1,[],"ohlc-5","X/Y"]"#, #"[1,[],"spread","X/Y"]"#,
    ])
    func `Answers and other channels are read as nothing`(_ text: String) throws {
        #expect(try kraken.read(text).isEmpty)
    }

    @Test(arguments: [
        (#""13.2645""#, "13.2645", FormatError.field("level")),
        (#""13.2645""#, #""13,2645""#, .number("level: not a decimal number")),
        (#""13.2645""#, #""-13.2645""#, .number("level is not above 0")),
        (#""13.2645""#, #""0""#, .number("level is not above 0")),
        (#""13.2645""#, #""13.0000000001""#, .number("level: finer than the instrument's scale")),
        (#""0.00""#, #""-0.01""#, .number("level is below 0")),
        (#""1618678163.334706""#, "1618678163.334706", .field("timestamp")),
        (#""1618678163.334706""#, #""-1618678163.3""#, .field("timestamp")),
        (#""1618678163.334706""#, #""9223372036.854775808""#, .field("timestamp")),
        (#","0.00","1618678163.334706","r"]"#, "]", .field("level")),
        (#"["13.2645","0.00","1618678163.334706","r"]"#, #""13.2645""#, .field("level")),
        (#"[["13.2645","0.00","1618678163.334706","r"]]"#, "{}", .field("book side")),
        (#""560301834""#, "560301834", .field("c")), (#""560301834""#, #""4294967296""#, .field("c")),
        (#""560301834""#, #""+560301834""#, .field("c")), (#""560301834""#, #""""#, .field("c")),
        (#""560301834""#, #""-1""#, .field("c")), (#""book-10""#, #""bok-10""#, .unknownMessage("bok-10")),
        (#""book-10""#, #""booking""#, .unknownMessage("booking")), (#""book-10""#, "10", .field("channel")),
        (#""WAVES/EUR""#, "null", .field("channel")), ("1664,", "", .field("channel")),
        ("1664", #""1664""#, .field("channel")), (#"[1664,{"#, #"[1664,7,{"#, .field("book")),
    ])
    func `A bad field of an update is refused by name`(_ good: String, _ bad: String, _ error: FormatError) {
        let text = KrakenTests.update.replacing(good, with: bad, maxReplacements: 1)
        #expect(text != KrakenTests.update)
        #expect(kraken.refusal(text) == error, "\(text)")
    }

    @Test func `A snapshot with one side is refused; so is what no channel sends`() {
        let text = KrakenTests.snapshot.replacing(#","bs":[["13.2","0.25","1618678132.5"]]"#, with: "")
        #expect(kraken.refusal(text) == .field("book side"))
        #expect(kraken.refusal("{}") == .unknownMessage("an object without event"))
        #expect(kraken.refusal("[]") == .field("channel"))
        #expect(kraken.refusal(#""x""#) == .unknownMessage("an object without event"))
    }

    @Test func `Where a later part is bad, the parts before it are not read either`() throws {
        let text = KrakenTests.snapshot.replacing(
            #","book-10""#, with: #",{"a":[["1","x","3.5"]]},"book-10""#)
        #expect(kraken.refusal(text) == .number("level: not a decimal number"))
        let parser = JSONParser()
        var out = try kraken.read(KrakenTests.update)
        let before = out
        let bytes = Array(text.utf8)
        _ = bytes.withUnsafeBytes { buffer in
            #expect(throws: FormatError.self) {
                try VenueFormat.kraken.read(parser.parse(buffer), symbol: "", into: &out)
            }
        }
        #expect(out == before)
    }
}
