/// What one delivered update stands for: the updates before it that a subscription's policy left out.
public struct ConflatedRange: Hashable, Sendable {
    /// The first and the last sequence left out, and how many.
    public var first: UInt64
    public var last: UInt64
    public var count: UInt64
    /// How many trades were among them.
    public var tradeCount: UInt64
    /// Their size, mantissa at 1e-8.
    public var tradeVolume: Int64
    /// The highest and lowest price of those trades, mantissas at 1e-9; nil when there was none.
    public var tradeHigh: Int64?
    public var tradeLow: Int64?

    public init(
        first: UInt64, last: UInt64, count: UInt64, tradeCount: UInt64 = 0, tradeVolume: Int64 = 0,
        tradeHigh: Int64? = nil, tradeLow: Int64? = nil
    ) {
        self.first = first
        self.last = last
        self.count = count
        self.tradeCount = tradeCount
        self.tradeVolume = tradeVolume
        self.tradeHigh = tradeHigh
        self.tradeLow = tradeLow
    }
}
