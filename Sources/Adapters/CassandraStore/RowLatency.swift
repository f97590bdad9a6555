/// How long rows took from their tick's event to their acknowledgement, counted.
public struct RowLatency: Sendable, Hashable {
    /// Nanoseconds; the last count is of those that took longer.
    public static let boundsNs: [Int64] = [
        1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 26, 30, 35, 40, 50, 60, 75, 100, 125, 150, 200, 300, 500, 1000, 2000,
        5000, 30_000,
    ].map { $0 * 1_000_000 }

    public private(set) var counts = [UInt64](repeating: 0, count: RowLatency.boundsNs.count + 1)
    /// Nanoseconds together.
    public private(set) var sumNs: UInt64 = 0

    mutating func add(_ latencyNs: Int64) {
        let latencyNs = max(0, latencyNs)
        // Most are short.
        counts[RowLatency.boundsNs.firstIndex { latencyNs <= $0 } ?? RowLatency.boundsNs.count] += 1
        sumNs &+= UInt64(latencyNs)
    }
}
