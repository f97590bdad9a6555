import CassandraStore
import MarketModel
import Observability
import TickStore

/// How rows are written to Cassandra, and which partitions cannot be written now.
enum CassandraMetrics {
    /// Registers what there is to say of a store on Cassandra; nothing for another one. A process that serves clients
    /// goes on with that while a partition cannot be written: it gives no `readiness`.
    static func register(_ store: any TickStore, in metrics: MetricsRegistry, _ readiness: Readiness? = nil) {
        guard let store = store as? CassandraStore else { return }
        metrics.register { families(store.writeCounters, store.failingPartitions) }
        readiness?.add("cassandra") { objection(store.failingPartitions) }
    }

    /// Which partition fails, why and since when; nil while none does.
    static func objection(_ failing: [FailingPartition]) -> String? {
        guard let first = failing.first else { return nil }
        let others = failing.count > 1 ? " (and \(failing.count - 1) more partitions)" : ""
        let since = CivilTime.text(ns: first.sinceNs)
        return "rows of \(first.name)\(others) cannot be written since \(since): \(first.reason)"
    }

    static func families(_ counters: CassandraWriteCounters, _ failing: [FailingPartition]) -> [MetricFamily] {
        let rows = HistogramValue(
            upperBounds: CassandraWriteCounters.rowBounds.map { Double($0) }, counts: counters.rowCounts,
            sum: Double(counters.rowsSum))
        return [
            MetricFamily(
                "cassandra_write_errors_total", .counter, "Attempts to write a batch that failed; each is made again.",
                [.init(.whole(counters.errors))]),
            MetricFamily(
                "cassandra_write_latency_seconds", .histogram, "From sending a batch to its acknowledgement.",
                [.init(.latency(counters.latency))]),
            MetricFamily(
                "cassandra_write_batch_size", .histogram, "Rows of a batch.", [.init(.histogram(rows))]),
            gauge(
                "cassandra_write_in_flight_max", "Batches that may be on their way at once now.", counters.inFlightMax),
            gauge("cassandra_write_batch_rows_max", "Rows that a batch may have now.", counters.batchRowsMax),
            gauge("cassandra_write_open_bytes", "Bytes of batches that are not acknowledged.", counters.openBytes),
            gauge("cassandra_write_open_bytes_max", "The most of them since the start.", counters.openBytesMost),
            MetricFamily(
                "cassandra_write_failing_since_seconds", .gauge,
                "Partitions whose rows cannot be written now, and since when.", labels: ["partition"],
                // As many as somebody can look at.
                failing.prefix(100).map { .init([$0.name], .number(Double($0.sinceNs) / 1e9)) }),
            gauge("cassandra_write_failing_partitions", "How many they are.", failing.count),
        ]
    }

    private static func gauge(_ name: String, _ help: String, _ value: Int) -> MetricFamily {
        MetricFamily(name, .gauge, help, [.init(.signed(Int64(value)))])
    }
}
