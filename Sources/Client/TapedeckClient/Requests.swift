import MarketProto

extension Proto.PriceSubscription {
    init(_ symbols: [String], exchange: String, policy: Proto.DeliveryPolicy) {
        self.init()
        self.symbols = symbols
        self.exchange = exchange
        self.policy = policy
    }
}

extension Proto.FillRange {
    init(_ exchange: String, _ symbol: String, feed: String, epoch: UInt64, first: UInt64, last: UInt64) {
        self.init()
        self.exchange = exchange
        self.symbol = symbol
        feedHandlerId = feed
        self.epoch = epoch
        firstSequence = first
        lastSequence = last
    }
}
