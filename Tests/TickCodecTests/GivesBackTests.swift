import MarketModel
import TestSupport
import Testing

@testable import TickCodec

/// Whether an encoder gives a reader's bytes back, beside encoding and comparing.
struct GivesBackTests {
    /// Says so of some bytes, and whether that is right.
    private func givesBack(_ bytes: [UInt8], _ encoder: TickEncoder) -> Bool? {
        bytes.withUnsafeBytes { bytes in
            guard let reader = try? TickReader(bytes) else { return nil }
            let hasMore = reader.hasConditions || reader.hasConflation || reader.hasExact
            let isSame = !hasMore && encoded(reader.tick(), encoder).elementsEqual(bytes)
            let found = withUnsafeTemporaryAllocation(byteCount: encoder.lengthMax, alignment: 16) {
                encoder.givesBack(reader, scratch: $0)
            }
            #expect(found == isSame, "\(Array(bytes))")
            return found
        }
    }

    private static func fields(_ bytes: [UInt8]) -> [[UInt8]] {
        let ends = fieldEnds(bytes)
        return zip(ends, ends.dropFirst()).map { Array(bytes[$0..<$1]) }
    }

    /// The same with one thing that an encoder does not write, or another tick.
    private static func changed(_ bytes: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
        var fields = fields(bytes)
        guard !fields.isEmpty else { return bytes + [0x60, 0x00] }
        let index = fields.indices.randomElement(using: &random)!
        let field = fields[index]
        // Tags up to field 15 have one byte.
        let tagLength = field[0] < 0x80 ? 1 : 2
        let isVarint = field[0] & 7 == 0
        switch Int.random(in: 0..<8, using: &random) {
        case 0: fields.swapAt(index, fields.indices.randomElement(using: &random)!)
        case 1: fields.insert(field, at: fields.indices.randomElement(using: &random)!)
        case 2: fields.remove(at: index)
        // A varint, or a time's nanos, longer than it need be.
        case 3:
            guard isVarint || [7, 8, 15].contains(field[0] >> 3), field[field.count - 1] < 0x80 else { break }
            fields[index][field.count - 1] |= 0x80
            fields[index].append(0)
            if !isVarint { fields[index][1] += 1 }
        case 4: if isVarint { fields[index] = field[..<tagLength] + [0] }
        case 5: if isVarint { fields[index] = field[..<tagLength] + [UInt8.random(in: 0...9, using: &random)] }
        case 6:
            let other: [[UInt8]] = [
                [0x60, 0x00], [0x50, 0x00], [0x0a, 0x00], [0x4a, 0x00], [0xb0, 0x01, 0x01], [0xc0, 0x01, 0x02],
                [0x80, 0x01, 0x05], [0xda, 0x01, 0x01, 0x41], [0xa0, 0x06, 0x00], [0xd2, 0x01, 0x02, 0x30, 0x31],
                [0xd2, 0x01, 0x00], [0xfa, 0x01, 0x01, 0x07],
            ]
            fields.insert(other.randomElement(using: &random)!, at: Int.random(in: 0...fields.count, using: &random))
        default:
            var all = bytes
            all[Int.random(in: 0..<all.count, using: &random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            return all
        }
        return fields.flatMap { $0 }
    }

    @Test func `What an encoder wrote is given back, and what it would not write is not`() {
        let seed: UInt64 = Checkout.isSoak ? .random(in: 0...UInt64.max) : 31
        print("seed \(seed)")
        var random = SeededRandom(seed: seed)
        var counts: [Bool: Int] = [:]
        for _ in 0..<(Checkout.isSoak ? 3_000_000 : 60_000) {
            let names = random.isOne(in: 3) ? [random.name(), random.name(), random.name()] : ["XNAS", "AAPL", "main"]
            let encoder = TickEncoder(exchange: names[0], symbol: names[1], feed: names[2])
            let bytes = encoded(random.tick(), encoder)
            #expect(givesBack(bytes, encoder) == true)
            if let found = givesBack(Self.changed(bytes, &random), encoder) { counts[found, default: 0] += 1 }
            let stranger = TickEncoder(exchange: names[0], symbol: names[1] + "X", feed: names[2])
            #expect(givesBack(bytes, stranger) == false)
        }
        #expect(counts[true, default: 0] > 1000 && counts[false, default: 0] > 10_000, "\(counts)")
    }

    @Test func `Ticks as markets send them are known without encoding`() throws {
        let encoder = TickEncoder(exchange: "XNAS", symbol: "AAPL", feed: "main")
        let nowNs: Int64 = 1_732_000_000_123_456_789
        for kind in [TickKind.trade, .quote] {
            var tick = Tick(
                kind: kind, receivedTimeNs: nowNs, publishTimeNs: nowNs + 20_000, epoch: 1_732_000_000_123,
                sequence: 1234)
            tick.eventTimeNs = nowNs - 300_000_000
            (tick.bid, tick.ask) = (150_100_000_000, 150_110_000_000)
            (tick.bidSize, tick.askSize) = (30_000_000_000, 20_000_000_000)
            tick.venueSequence = 77
            if kind == .trade {
                (tick.last, tick.lastSize) = (150_110_000_000, 10_000_000_000)
                tick.aggressorSide = .buy
                tick.tradeID = 4711
            }
            let bytes = encoded(tick, encoder)
            #expect(try bytes.withUnsafeBytes { encoder.isPlain(try TickReader($0)) })
        }
    }
}
