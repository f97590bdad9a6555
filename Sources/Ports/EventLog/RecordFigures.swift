import MarketModel

/// What a tick adds to the figures of its day, as its producer had it before it was encoded: readers in the same
/// process need not decode it.
public struct RecordFigures: Hashable, Sendable {
    /// The filing time, nanoseconds since the epoch.
    public let filingTimeNs: Int64
    /// Price at 1e-9 of a trade that has one; nil of every other tick.
    @inlinable
    public var tradePrice: Int64? { price == Int64.min ? nil : price }
    /// Size of the trade at 1e-8; 0 where it has none.
    public let tradeSize: Int64
    @usableFromInline let price: Int64

    /// `tradePrice`: nil of what is no trade, or has no price.
    @inlinable
    public init(filingTimeNs: Int64, tradePrice: Int64?, tradeSize: Int64) {
        self.filingTimeNs = filingTimeNs
        price = tradePrice ?? Int64.min
        self.tradeSize = tradePrice == nil ? 0 : tradeSize
    }

    /// Those that a reader of the tick's encoded bytes would find.
    @inlinable
    public init(_ tick: Tick) {
        self.init(
            filingTimeNs: FilingTime.of(eventTimeNs: tick.eventTimeNs, receivedTimeNs: tick.receivedTimeNs).ns,
            tradePrice: tick.kind == .trade ? tick.last : nil, tradeSize: tick.lastSize ?? 0)
    }
}
