/// How long ticks wait for others: while few come, requests are so far apart, the farther the more partitions they are
/// spread over, each of which costs the broker. What comes after a pause goes at once, and so does what fills a batch.
struct Linger {
    /// A millisecond for so many partitions.
    private static let partitionsPerMillisecond: Int64 = 64
    private static let leastNs: Int64 = 1_000_000

    private let mostNs: Int64
    private let recordsMax: Int
    private var lastNs = Int64.min / 2

    /// `mostNs`: the longest wait; 0 for none.
    init(_ mostNs: Int64, recordsMax: Int) {
        self.mostNs = mostNs
        self.recordsMax = recordsMax
    }

    /// 0 or less: now. `pending`: records that wait. `partitions`: that records go to.
    func waitNs(nowNs: Int64, pending: Int, partitions: Int) -> Int64 {
        if pending >= recordsMax { return 0 }
        let intervalNs = Int64(partitions) * 1_000_000 / Linger.partitionsPerMillisecond
        return lastNs + min(max(intervalNs, Linger.leastNs), mostNs) - nowNs
    }

    mutating func sent(nowNs: Int64) { lastNs = nowNs }
}
