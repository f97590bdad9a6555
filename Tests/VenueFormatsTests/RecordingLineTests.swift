import MarketModel
import Testing
import VenueFormats

struct RecordingLineTests {
    private func split(_ text: String) throws -> (ns: Int64, message: String, symbol: String?)? {
        var text = text
        return try text.withUTF8 { bytes in
            guard
                case .received(let ns, let message, let symbol) = try RecordingLine.split(UnsafeRawBufferPointer(bytes))
            else { return nil }
            return (ns, String(decoding: message, as: UTF8.self), symbol)
        }
    }

    @Test func `Nanoseconds, seconds and answers to requests are read without floating point`() throws {
        #expect(try split("1723161253937085768 {}")?.ns == 1_723_161_253_937_085_768)
        #expect(try split("1618678132.927716: {}")?.ns == 1_618_678_132_927_716_000)
        let answer = try split(
            "https://api.binance.com/api/v3/depth?symbol=BLZETH&limit=1000 -> 1633998514.6462898: {\"a\":1}")
        #expect(answer?.ns == 1_633_998_514_646_289_800)
        #expect(answer?.symbol == "BLZETH")
        #expect(answer?.message == "{\"a\":1}")
    }

    @Test func `What the client sent is passed over`() throws {
        #expect(try split("wss://ws.kraken.com <-> 1618678132.3858151") == nil)
        #expect(try split("wss://ws.kraken.com <- 1618678132.8: {}") == nil)
        #expect(try split("") == nil)
    }

    @Test(arguments: [
        "garbage", "12x {}", "1723161253937085768", "-5 {}", "ftp://x -> 1: {}", "99999999999999999999 {}",
    ])
    func `Other lines are refused`(_ line: String) {
        #expect(throws: FormatError.self) { try split(line) }
    }
}
