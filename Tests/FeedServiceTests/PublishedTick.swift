import MarketModel
import TickCodec

/// A tick of the log, with what a reader sees of it.
struct PublishedTick: Hashable {
    let name: String
    let kind: TickKind
    let state: InstrumentState
    let bid, bidSize, ask, askSize, last, lastSize: Int64?
    let tradeID: UInt64?
    let venueSequence: UInt64

    init?(_ record: [UInt8]) {
        let read: PublishedTick? = record.withUnsafeBytes { bytes in
            guard let reader = try? TickReader(bytes), (try? reader.check()) != nil else { return nil }
            return PublishedTick(reader)
        }
        guard let read else { return nil }
        self = read
    }

    private init(_ reader: TickReader) {
        name =
            String(decoding: reader.exchange, as: UTF8.self) + "|" + String(decoding: reader.symbol, as: UTF8.self)
        kind = reader.kind
        state = reader.state
        bid = reader.bid
        bidSize = reader.bidSize
        ask = reader.ask
        askSize = reader.askSize
        last = reader.last
        lastSize = reader.lastSize
        tradeID = reader.tick().tradeID
        venueSequence = reader.venueSequence
    }

    /// What a quote says, without when it was said.
    struct Quote: Hashable {
        let name: String
        let bid, bidSize, ask, askSize: Int64?
    }

    var quote: Quote { Quote(name: name, bid: bid, bidSize: bidSize, ask: ask, askSize: askSize) }

    struct Trade: Hashable {
        let name: String
        let price, size: Int64?
        let id: UInt64?
    }

    var trade: Trade { Trade(name: name, price: last, size: lastSize, id: tradeID) }
}
