import SimulatedExecution
import TimeSource

/// Bounds of the order calls; reaching one is answered by name.
public struct OrderLimits: Sendable {
    /// Orders in one call of SubmitOrders.
    public var ordersPerCallMax = 10_000
    /// Orders and cancels of one call that are not answered yet; beyond, the call is not read until some are.
    public var inFlightMax = 1024
    /// Bytes that wait for the reader of a LiveTrading stream; beyond, the stream ends.
    public var queueBytesMax = 8 << 20
    /// Accounts that one LiveTrading stream names.
    public var accountsPerStreamMax = 1000
    /// What is kept of orders.
    public var execution = SimulatedExecution.Limits()

    public init() {}
}

/// Against what orders are executed.
public struct OrderVenue: Sendable {
    /// The feed whose quotes they meet: the simulated venue's.
    public let feed: String
    public let time: any TimeSource
    public let limits: OrderLimits

    public init(feed: String, time: any TimeSource, limits: OrderLimits = OrderLimits()) {
        self.feed = feed
        self.time = time
        self.limits = limits
    }
}
