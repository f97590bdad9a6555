import EventLog
import KafkaLog
import Testing
import TimeSource

@testable import Observability
@testable import tapedeck

/// What a process on Kafka says of what it sent.
struct KafkaMetricsTests {
    @Test func `Latency is a histogram by topic whose count is that of the blocks`() {
        var counters = KafkaCounters()
        var produced = KafkaCounters.Produced()
        produced.acknowledged = 70
        // A block under a millisecond, two under half a second, one past the last bound.
        for ns: Int64 in [900_000, 300_000_000, 500_000_000, 40_000_000_000] { produced.latency.add(ns) }
        counters.produced[.ticksRaw] = produced
        let lines = String(decoding: PrometheusText.write(KafkaMetrics.families(counters)), as: UTF8.self)
            .split(separator: "\n").map(String.init)
        for line in [
            "kafka_produce_records_total{topic=\"ticks.raw\"} 70",
            "kafka_produce_latency_seconds_bucket{topic=\"ticks.raw\",le=\"0.001\"} 1",
            "kafka_produce_latency_seconds_bucket{topic=\"ticks.raw\",le=\"0.25\"} 1",
            "kafka_produce_latency_seconds_bucket{topic=\"ticks.raw\",le=\"0.5\"} 3",
            "kafka_produce_latency_seconds_bucket{topic=\"ticks.raw\",le=\"5\"} 3",
            "kafka_produce_latency_seconds_bucket{topic=\"ticks.raw\",le=\"+Inf\"} 4",
            "kafka_produce_latency_seconds_count{topic=\"ticks.raw\"} 4",
            "kafka_produce_latency_seconds_sum{topic=\"ticks.raw\"} 40.8009",
        ] {
            #expect(lines.contains(line), "\(line) in \(lines.filter { $0.contains("latency") })")
        }
    }
}
