import EventLog
import MarketModel
import TestSupport
import Testing
import TickCodec

struct RoundTripTests {
    @Test func `Ticks read back as they were encoded, extremes too`() throws {
        var random = SeededRandom(seed: 11)
        for index in 0..<(Checkout.isSoak ? 500_000 : 20_000) {
            let encoder = TickEncoder(exchange: "BINANCE", symbol: "BTCUSDT", feed: index % 2 == 0 ? "binance" : "")
            let tick = random.tick()
            let bytes = encoded(tick, encoder)
            #expect(bytes.count <= encoder.lengthMax)
            try bytes.withUnsafeBytes {
                let reader = try TickReader($0)
                #expect(reader.tick() == tick)
                let filing = FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs)
                #expect(reader.filingTimeNs == filing.ns && reader.eventTimeSource == filing.source)
                let read = RecordFigures(
                    filingTimeNs: reader.filingTimeNs, tradePrice: reader.kind == .trade ? reader.last : nil,
                    tradeSize: reader.lastSize ?? 0)
                #expect(RecordFigures(tick) == read)
                let sizes = [tick.bidSize, tick.askSize, tick.lastSize]
                if sizes.allSatisfy({ $0 ?? 0 >= 0 }) {
                    try reader.check()
                } else {
                    #expect(throws: TickCodecError.self) { try reader.check() }
                }
            }
        }
    }

    @Test func `Every trade id of every number of digits is its decimal text`() throws {
        let encoder = TickEncoder(exchange: "X", symbol: "Y", feed: "z")
        var tick = Tick(kind: .trade, receivedTimeNs: 1, publishTimeNs: 2, epoch: 1, sequence: 1)
        var power: UInt64 = 1
        var ids: [UInt64] = [0, .max]
        for _ in 0..<19 {
            ids += [power, power - 1, power + 1, power &* 9]
            power = power &* 10
        }
        ids += (0..<20_000).map { $0 } + (0..<2000).map { UInt64($0) &* 99_991_234_567 }
        for id in ids {
            tick.tradeID = id
            try encoded(tick, encoder).withUnsafeBytes {
                let reader = try TickReader($0)
                #expect(String(decoding: reader.tradeID, as: UTF8.self) == "\(id)")
                #expect(reader.tick().tradeID == id)
            }
        }
    }

    @Test func `Numbers at each length of a varint, and nanos at theirs, stand as they are`() throws {
        let encoder = TickEncoder(exchange: "X", symbol: "Y", feed: "z")
        let second: Int64 = 1_732_000_000
        var edges: [UInt64] = [1, .max, 1 << 63]
        for length in 1...9 { edges += [(1 << (7 * UInt64(length))) - 1, 1 << (7 * UInt64(length))] }
        for edge in edges {
            for nanos: Int64 in [0, 1, 127, 128, 2_097_151, 2_097_152, 268_435_455, 268_435_456, 999_999_999] {
                let ns = second * 1_000_000_000 + nanos
                var tick = Tick(kind: .quote, receivedTimeNs: ns, publishTimeNs: ns + 1, epoch: edge, sequence: edge)
                tick.eventTimeNs = ns - 1
                let micros = Int64(edge % (1 << 53))
                (tick.bid, tick.bidSize, tick.venueSequence) = (micros * 1000, micros * 100, edge)
                func time(_ ns: Int64) -> String { "\(ns / 1_000_000_000).\(ns % 1_000_000_000)" }
                #expect(
                    try line(encoded(tick, encoder))
                        == "1=58 2=59 3=\(micros) 7=\(time(ns - 1)) 8=\(time(ns)) 9=7a 10=\(edge) 11=\(edge) 12=1 "
                        + "13=\(micros) 15=\(time(ns + 1)) 23=\(edge)")
            }
        }
    }

    @Test func `What is absent stays absent, and zero is not absence`() throws {
        let encoder = TickEncoder(exchange: "X", symbol: "Y", feed: "z")
        var tick = Tick(kind: .quote, receivedTimeNs: 0, publishTimeNs: 0, epoch: 0, sequence: 0)
        #expect(try line(encoded(tick, encoder)) == "1=58 2=59 8=0.0 9=7a 12=1 15=0.0 22=1")
        tick.bid = 0
        tick.lastSize = 0
        tick.eventTimeNs = 0
        #expect(try line(encoded(tick, encoder)) == "1=58 2=59 3=0 6=0 7=0.0 8=0.0 9=7a 12=1 15=0.0")
        try [UInt8]().withUnsafeBytes {
            let reader = try TickReader($0)
            #expect(
                reader.exchange.isEmpty && reader.bid == nil && reader.receivedTimeNs == 0 && !reader.hasReceivedTime)
            #expect(throws: TickCodecError(.missing, field: 8, offset: -1)) { try reader.check() }
        }
    }

    @Test func `A price below zero is rounded down, so that micros alone are a truncated price`() throws {
        let encoder = TickEncoder(exchange: "", symbol: "", feed: "")
        var tick = Tick(kind: .quote, receivedTimeNs: -1, publishTimeNs: -1_000_000_000, epoch: 0, sequence: 0)
        tick.bid = -1
        tick.ask = -1000
        #expect(try line(encoded(tick, encoder)) == "3=-1 4=-1 8=-1.999999999 12=1 15=-1.0 16=999 22=1")
    }

    @Test func `Values that a tick cannot hold are found by check`() throws {
        let encoder = TickEncoder(exchange: "X", symbol: "Y", feed: "z")
        var tick = Tick(kind: .trade, receivedTimeNs: 5, publishTimeNs: 5, epoch: 1, sequence: 1)
        tick.eventTimeNs = 5
        tick.bid = 1
        tick.bidSize = 100
        tick.lastSize = 1
        let good = encoded(tick, encoder)
        let minusOne: [UInt8] = [UInt8](repeating: 0xff, count: 9) + [1]
        // Appended fields win over those before.
        let cases: [([UInt8], Int)] = [
            ([0x80, 0x01, 0xe8, 0x07], 3),  // bid_nano_remainder = 1000
            ([0x80, 0x01] + minusOne, 3),
            ([0x18] + minusOne.dropLast(2) + [0x7f], 3),  // bid_micros = 2^63 - 1 shifted: out of Int64 at 1e-9
            ([0x68] + minusOne, 13),  // bid_size_micros = -1
            ([0x98, 0x01, 0x01], 13),  // a size remainder finer than 1e-8
            ([0x88, 0x01, 0x01], 17),  // a remainder without its price
            ([0xa8, 0x01, 0x80, 0x94, 0xeb, 0xdc, 0x03], 6),  // volume_nano_remainder = 1e9
            ([0x30] + minusOne, 6),
            ([0x3a, 0x06, 0x10, 0x80, 0x94, 0xeb, 0xdc, 0x03], 7),  // nanos = 1e9
            ([0x42, 0x0b, 0x10] + minusOne, 8),
            ([0x7a, 0x07, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0x07], 15),  // past 2262
            ([0x60, 0x04], 12), ([0xb0, 0x01, 0x03], 22), ([0xc0, 0x01, 0x02], 24), ([0xc8, 0x01] + minusOne, 25),
        ]
        try good.withUnsafeBytes { try TickReader($0).check() }
        for (suffix, field) in cases {
            try (good + suffix).withUnsafeBytes {
                let reader = try TickReader($0)
                #expect(throws: TickCodecError(.outOfRange, field: field, offset: -1)) { try reader.check() }
                _ = reader.tick()
            }
        }
    }
}
