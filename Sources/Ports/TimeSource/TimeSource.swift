/// Where a service takes its time from: the machine's clocks in production, a virtual clock in simulation.
public protocol TimeSource: AnyObject, Sendable {
    /// Wall-clock nanoseconds since the Unix epoch. May step.
    func wallNs() -> Int64
    /// Nanoseconds since an arbitrary point. Never goes back.
    func monotonicNs() -> Int64
    /// Blocks the calling thread; a virtual clock moves instead. Never called on an event loop.
    func sleep(ns: Int64)
}
