/// One record of an instrument's published book: the levels that changed, or all of them, or that nobody vouches for
/// the book now. What `BookDelta` of the log says, decoded.
public struct BookRecord: Hashable, Sendable {
    /// Everything but the levels.
    public struct Head: Hashable, Sendable {
        /// As on ticks: changes when continuity ended; a higher one is newer.
        public var epoch: UInt64
        /// Contiguous from 1 within (feed, epoch, instrument), apart from the ticks' sequence.
        public var sequence: UInt64
        /// The venue's own number that the book stands at; 0 where it has none.
        public var venueSequence: UInt64 = 0
        /// The levels are the whole book, as deep as it is published.
        public var isSnapshot = false
        /// Stale: there is no book until the next snapshot.
        public var state = InstrumentState.live
        /// Nanoseconds since the Unix epoch; the venue's is nil where it gives none.
        public var eventTimeNs: Int64?
        public var receivedTimeNs: Int64 = 0
        public var publishTimeNs: Int64 = 0

        public init(epoch: UInt64, sequence: UInt64) {
            self.epoch = epoch
            self.sequence = sequence
        }
    }

    public var head: Head
    /// Best first, each price once. In a delta, size 0 removes the level.
    public var bids: [PriceLevel] = []
    public var asks: [PriceLevel] = []

    public init(_ head: Head = Head(epoch: 0, sequence: 0)) { self.head = head }
}
