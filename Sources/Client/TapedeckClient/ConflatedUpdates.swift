import MarketProto

extension Proto.PriceUpdate {
    /// The updates that this one stands for, as a range that `Fill` of `Subscribe` brings; nil where it stands for
    /// itself alone.
    public var conflatedRange: Proto.FillRange? {
        guard let conflated else { return nil }
        var range = Proto.FillRange()
        range.exchange = exchange
        range.symbol = symbol
        range.feedHandlerId = feedHandlerId
        range.epoch = epoch
        range.firstSequence = conflated.firstSequence
        range.lastSequence = conflated.lastSequence
        return range
    }
}
