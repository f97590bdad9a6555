import MarketModel
import MarketProto
import Protobuf
import TestSupport
import Testing
import TickCodec

struct BookCodecTests {
    private func record(_ random: inout SeededRandom) -> BookRecord {
        let isUsual = random.isOne(in: 2)
        func time() -> Int64 {
            isUsual
                ? 1_732_000_000_123_456_789 + Int64.random(in: 0...800_000_000, using: &random) : random.wideSigned()
        }
        func levels() -> [PriceLevel] {
            (0..<Int.random(in: 0...(isUsual ? 4 : 40), using: &random)).map { _ in
                guard isUsual else {
                    return PriceLevel(
                        price: max(1, Int64(random.wide() >> 1)), size: Int64(random.wide() >> 1))
                }
                return PriceLevel(
                    price: Int64.random(in: 1...9_000_000, using: &random) * 10_000_000,
                    size: Int64.random(in: 0...900_000, using: &random) * 1000)
            }
        }
        var head = BookRecord.Head(epoch: max(1, random.wide()), sequence: max(1, random.wide()))
        head.venueSequence = random.wide()
        head.isSnapshot = random.isOne(in: 3)
        head.state = random.isOne(in: 4) ? .stale : .live
        head.eventTimeNs = random.isOne(in: 3) ? nil : time()
        head.receivedTimeNs = time()
        head.publishTimeNs = time()
        var record = BookRecord(head)
        record.bids = levels()
        record.asks = levels()
        return record
    }

    private func encoded(_ record: BookRecord, _ encoder: BookEncoder) -> [UInt8] {
        let room = encoder.lengthMax(levels: record.bids.count + record.asks.count)
        return [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
            count = encoder.encode(
                record.head, bids: record.bids, asks: record.asks, into: UnsafeMutableRawBufferPointer(buffer))
        }
    }

    private func message(_ record: BookRecord, feed: String) -> Proto.BookDelta {
        func time(_ ns: Int64) -> WellKnown.Timestamp {
            var time = WellKnown.Timestamp()
            (time.seconds, time.nanos) = TimestampParts.split(ns)
            return time
        }
        func level(_ level: PriceLevel) -> Proto.BookLevel {
            var out = Proto.BookLevel()
            (out.priceMicros, out.priceNanoRemainder) = PriceMicros.split(level.price)
            (out.sizeMicros, out.sizeNanoRemainder) = QuantityMicros.split(level.size)
            return out
        }
        var delta = Proto.BookDelta()
        delta.exchange = "KRAKEN"
        delta.symbol = "BTC/USD"
        delta.feedHandlerId = feed
        delta.epoch = record.head.epoch
        delta.sequence = record.head.sequence
        delta.eventTime = record.head.eventTimeNs.map(time)
        delta.receivedTime = time(record.head.receivedTimeNs)
        delta.publishTime = time(record.head.publishTimeNs)
        delta.venueSequence = record.head.venueSequence
        delta.snapshot = record.head.isSnapshot
        delta.bids = record.bids.map(level)
        delta.asks = record.asks.map(level)
        delta.state = record.head.state == .stale ? .stale : .live
        return delta
    }

    @Test func `Book records are the message's own bytes, and read back as they were`() throws {
        var random = SeededRandom(seed: 5)
        var read = BookRecord()
        for index in 0..<(Checkout.isSoak ? 200_000 : 5000) {
            let feed = index % 2 == 0 ? "rec-0123456789abcdef" : ""
            let encoder = BookEncoder(exchange: "KRAKEN", symbol: "BTC/USD", feed: feed)
            let record = record(&random)
            let bytes = encoded(record, encoder)
            #expect(bytes == message(record, feed: feed).encodedBytes(), "\(record)")
            try bytes.withUnsafeBytes { try read.decode($0) }
            #expect(read == record)
        }
    }

    @Test func `Any bytes are read or refused, none trap`() throws {
        var random = SeededRandom(seed: 6)
        let encoder = BookEncoder(exchange: "X", symbol: "Y", feed: "z")
        var read = BookRecord()
        for round in 0..<(Checkout.isSoak ? 2000 : 60) {
            var bytes = encoded(record(&random), encoder)
            if round % 2 == 1 {
                for _ in 0..<3 { bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8(random.next() & 255) }
            }
            for count in 0...bytes.count {
                bytes[..<count].withUnsafeBytes { try? read.decode($0) }
            }
        }
    }

    @Test func `A record that cannot be one is refused by field`() throws {
        func refusal(_ change: (inout Proto.BookDelta) -> Void) -> TickCodecError? {
            var delta = Proto.BookDelta()
            delta.epoch = 1
            delta.sequence = 1
            change(&delta)
            var read = BookRecord()
            return delta.encodedBytes().withUnsafeBytes { bytes in
                do throws(TickCodecError) {
                    try read.decode(bytes)
                    return nil
                } catch {
                    return error
                }
            }
        }
        func level(_ price: Int64, _ size: Int64, _ rest: Int32 = 0) -> Proto.BookLevel {
            var level = Proto.BookLevel()
            level.priceMicros = price
            level.sizeMicros = size
            level.sizeNanoRemainder = rest
            return level
        }
        #expect(refusal { _ in } == nil)
        #expect(refusal { $0.epoch = 0 }?.field == 4)
        #expect(refusal { $0.sequence = 0 }?.field == 5)
        #expect(refusal { $0.bids = [level(0, 1)] }?.field == 11)
        #expect(refusal { $0.bids = [level(-1, 1)] }?.field == 11)
        #expect(refusal { $0.asks = [level(1, -1)] }?.field == 12)
        #expect(refusal { $0.asks = [level(.max, 1)] }?.problem == .outOfRange)
        // Finer than a quantity can be.
        #expect(refusal { $0.asks = [level(1, 1, 5)] }?.field == 12)
        #expect(refusal { $0.state = Proto.InstrumentState(rawValue: 2) }?.field == 13)
        #expect(refusal { $0.eventTime = WellKnown.Timestamp(seconds: .max) }?.field == 6)
    }
}

extension WellKnown.Timestamp {
    fileprivate init(seconds: Int64) {
        self.init()
        self.seconds = seconds
    }
}
