import MarketProto

extension Proto.PriceUpdate {
    /// The updates that this one stands for, as a range that `Fill` of `Subscribe` brings; nil where it stands for
    /// itself alone.
    public var conflatedRange: Proto.FillRange? {
        guard let conflated else { return nil }
        return Proto.FillRange(
            exchange, symbol, feed: feedHandlerId, epoch: epoch, first: conflated.firstSequence,
            last: conflated.lastSequence)
    }
}
