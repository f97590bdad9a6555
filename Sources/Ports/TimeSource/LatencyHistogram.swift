/// How long something took, counted by buckets.
public struct LatencyHistogram: Sendable, Hashable {
    /// Nanoseconds; the last count is of what took longer.
    public static let boundsNs: [Int64] =
        [10_000, 20_000, 50_000, 100_000, 200_000, 300_000, 500_000, 750_000]
        + [
            1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40, 50, 60, 75, 100, 125, 150, 200, 250, 300, 500,
            1000, 2000, 5000, 30_000,
        ].map { $0 * 1_000_000 }

    public private(set) var counts = [UInt64](repeating: 0, count: LatencyHistogram.boundsNs.count + 1)
    /// Nanoseconds together.
    public private(set) var sumNs: UInt64 = 0

    public init() {}

    /// A clock that was set back makes no time less than none.
    public mutating func add(_ latencyNs: Int64) {
        let latencyNs = max(0, latencyNs)
        counts[LatencyHistogram.boundsNs.withUnsafeBufferPointer { LatencyHistogram.place(of: latencyNs, in: $0) }] += 1
        sumNs &+= UInt64(latencyNs)
    }

    /// The first bound that is not less; the number of bounds where all are. Of a backlog each row is late, and to
    /// compare with one bound after the other was 2 % of a writer's work.
    private static func place(of latencyNs: Int64, in bounds: UnsafeBufferPointer<Int64>) -> Int {
        var (low, high) = (0, bounds.count)
        while low < high {
            let middle = (low &+ high) / 2
            if latencyNs <= bounds[middle] { high = middle } else { low = middle &+ 1 }
        }
        return low
    }

    /// Adds what another one counted.
    public mutating func add(_ other: LatencyHistogram) {
        for index in counts.indices { counts[index] += other.counts[index] }
        sumNs &+= other.sumNs
    }
}
