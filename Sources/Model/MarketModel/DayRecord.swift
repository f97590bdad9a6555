/// Figures of an instrument's trading day, as stores keep them and edges go on from them. Prices at 1e-9, volume at
/// 1e-8; what has no trade is nil.
public struct DayRecord: Sendable, Hashable {
    /// A trade that is a figure: its price and its place among the day's trades.
    public struct Mark: Sendable, Hashable {
        public var price: Int64
        public var filingTimeNs: Int64
        public var epoch: UInt64
        public var sequence: UInt64

        public init(price: Int64, filingTimeNs: Int64, epoch: UInt64, sequence: UInt64) {
            self.price = price
            self.filingTimeNs = filingTimeNs
            self.epoch = epoch
            self.sequence = sequence
        }
    }

    /// Days since 1970-01-01 in the instrument's session calendar.
    public var day: Int32
    public var open: Mark?
    public var last: Mark?
    public var high: Int64?
    public var low: Int64?
    public var volume: Int64 = 0
    public var tradeCount: UInt64 = 0
    /// The last trade of the latest day before ``day`` that had one, and that day.
    public var previousClose: Mark?
    public var previousDay: Int32 = 0
    /// Epoch and sequence of the newest tick counted; nil before the first.
    public var newestEpoch: UInt64?
    public var newestSequence: UInt64 = 0

    public init(day: Int32) { self.day = day }
}
