/// One price level of a book: price at 1e-9, size at 1e-8. In a change, size 0 removes the level.
@frozen
public struct PriceLevel: Hashable, Sendable {
    public var price: Int64
    public var size: Int64

    @inlinable
    public init(price: Int64, size: Int64) {
        self.price = price
        self.size = size
    }
}

/// What a venue said, normalized: made by VenueFormats and by the simulated venue, taken by the feed.
public struct VenueMessage: Hashable, Sendable {
    /// What kind of message it is.
    public enum Kind: UInt8, Sendable {
        /// The whole book.
        case snapshot
        /// Levels that changed.
        case delta
        /// Best bid and ask, as the venue gives them apart from the book. The only level of each side.
        case ticker
        case trade
    }

    public var kind: Kind
    public var exchange: String
    public var symbol: String
    /// The venue's time, nanoseconds since the epoch; nil where it gives none.
    public var eventTimeNs: Int64?
    /// The venue's sequence numbers of a delta: from and through. Elsewhere both are the number the message stands at;
    /// 0 where the venue has none.
    public var firstSequence: UInt64 = 0
    public var lastSequence: UInt64 = 0
    /// Best first in a snapshot; in any order in a delta.
    public var bids: [PriceLevel] = []
    public var asks: [PriceLevel] = []
    public var trade: Trade?
    /// What the venue says the book's checksum is after this message.
    public var checksum: UInt32?
    /// Levels left out because the instrument's scale cannot hold them.
    public var levelsRefused = 0
    /// Decimals of prices and sizes as the venue writes them; where a checksum is over text.
    public var priceDecimals: UInt8 = 0
    public var sizeDecimals: UInt8 = 0

    /// A trade: price at 1e-9, size at 1e-8.
    public struct Trade: Hashable, Sendable {
        public var price: Int64
        public var size: Int64
        public var id: UInt64?
        public var aggressorSide: AggressorSide

        public init(price: Int64, size: Int64, id: UInt64?, aggressorSide: AggressorSide) {
            self.price = price
            self.size = size
            self.id = id
            self.aggressorSide = aggressorSide
        }
    }

    public init(_ kind: Kind, exchange: String, symbol: String) {
        self.kind = kind
        self.exchange = exchange
        self.symbol = symbol
    }
}
