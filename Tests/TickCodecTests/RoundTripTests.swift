import MarketModel
import Testing
import TickCodec

struct RoundTripTests {
    @Test func `A tick reads back as it was encoded`() throws {
        let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: "binance")
        var tick = Tick(
            kind: .trade, receivedTimeNs: 1_732_000_000_123_456_789, publishTimeNs: -1, epoch: .max, sequence: 7)
        tick.last = .min
        tick.bid = 61_837_630_000_001
        tick.lastSize = 12_345_678
        tick.eventTimeNs = .min
        tick.tradeID = .max
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: encoder.lengthMax, alignment: 8)
        defer { bytes.deallocate() }
        let length = encoder.encode(tick, into: bytes)
        let reader = try TickReader(UnsafeRawBufferPointer(rebasing: bytes[..<length]))
        try reader.check()
        #expect(reader.tick() == tick)
        #expect(Array(reader.symbol) == Array("BTCUSDT".utf8))
    }
}
