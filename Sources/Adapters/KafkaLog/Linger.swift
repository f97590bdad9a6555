/// How long ticks wait for others: after a hand-over to as many partitions as make that many requests, the next one
/// waits until the rate of requests is what is allowed. What comes after a pause goes at once.
struct Linger {
    private var lastNs = Int64.min / 2
    private var intervalNs: Int64 = 0
    private var limits = KafkaConfiguration.Producer()

    init(_ limits: KafkaConfiguration.Producer = KafkaConfiguration.Producer()) { self.limits = limits }

    /// 0 or less: now. A queue that is half full is not waited on.
    func waitNs(nowNs: Int64, queued: Int) -> Int64 {
        if queued >= limits.ticksQueuedMax / 2 { return 0 }
        return lastNs + intervalNs - nowNs
    }

    mutating func sent(nowNs: Int64, partitions: Int) {
        lastNs = nowNs
        let requestNs = 1_000_000_000 / max(limits.requestsPerSecond, 1)
        intervalNs = min(Int64(partitions) * requestNs, limits.lingerNsMax)
    }
}
