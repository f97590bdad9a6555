/// How long ticks wait for others: while few records come, requests are so far apart. What comes after a pause goes at
/// once, and so does what fills a batch.
struct Linger {
    private let intervalNs: Int64
    private let recordsMax: Int
    private var lastNs = Int64.min / 2

    init(_ intervalNs: Int64, recordsMax: Int) {
        self.intervalNs = intervalNs
        self.recordsMax = recordsMax
    }

    /// 0 or less: now. `pending`: records that wait.
    func waitNs(nowNs: Int64, pending: Int) -> Int64 { pending >= recordsMax ? 0 : lastNs + intervalNs - nowNs }

    mutating func sent(nowNs: Int64) { lastNs = nowNs }
}
