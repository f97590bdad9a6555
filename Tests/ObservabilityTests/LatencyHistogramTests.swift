import Testing
import TimeSource

struct LatencyHistogramTests {
    @Test func `A latency counts under the first bound that is not less`() {
        let bounds = LatencyHistogram.boundsNs
        #expect(bounds == bounds.sorted() && Set(bounds).count == bounds.count)
        let latencies = bounds.flatMap { [$0 - 1, $0, $0 + 1] } + [.min, -1, 0, 1, .max]
        var histogram = LatencyHistogram()
        var counts = [UInt64](repeating: 0, count: bounds.count + 1)
        for latency in latencies where latency != .max {
            histogram.add(latency)
            counts[bounds.firstIndex { latency <= $0 } ?? bounds.count] += 1
        }
        #expect(histogram.counts == counts)
        #expect(histogram.sumNs == latencies.reduce(0) { $0 + ($1 == .max ? 0 : UInt64(max(0, $1))) })
        histogram.add(.max)
        #expect(histogram.counts.last == counts[bounds.count] + 1)
    }
}
