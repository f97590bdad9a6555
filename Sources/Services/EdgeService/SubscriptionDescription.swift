import MarketProto
import Protobuf

extension PriceSubscriber {
    /// As a client asks for it.
    var description: Proto.PriceSubscription {
        var subscription = Proto.PriceSubscription()
        subscription.symbols = filter.symbols.sorted()
        subscription.exchange = filter.exchange
        switch policy {
        case .all: subscription.policy = .all
        case .latest: subscription.policy = .latest
        case .interval(let milliseconds):
            subscription.policy = .interval
            subscription.throttleMs = Int32(clamping: milliseconds)
        case .maxStaleness(let milliseconds):
            subscription.policy = .maxStaleness
            subscription.maxStalenessMs = UInt32(clamping: milliseconds)
        }
        return subscription
    }
}
