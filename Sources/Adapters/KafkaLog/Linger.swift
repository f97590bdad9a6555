/// How long ticks wait for others: after a hand-over to as many partitions as make that many requests, the next one
/// waits until the rate of requests is what is allowed. What comes after a pause goes at once.
struct Linger {
    private var lastNs = Int64.min / 2
    private var intervalNs: Int64 = 0
    private var limits = KafkaConfiguration.Producer()

    init(_ limits: KafkaConfiguration.Producer = KafkaConfiguration.Producer()) { self.limits = limits }

    /// 0 or less: now. `pending`: records that wait to be handed over, half a queue of which do not wait longer. What
    /// is on its way to the brokers does not count: while they are busy, more go together.
    func waitNs(nowNs: Int64, pending: Int) -> Int64 {
        if pending >= limits.ticksQueuedMax / 2 { return 0 }
        return lastNs + intervalNs - nowNs
    }

    mutating func sent(nowNs: Int64, partitions: Int) {
        lastNs = nowNs
        let requestNs = 1_000_000_000 / max(limits.requestsPerSecond, 1)
        intervalNs = min(Int64(partitions) * requestNs, limits.lingerNsMax)
    }
}
