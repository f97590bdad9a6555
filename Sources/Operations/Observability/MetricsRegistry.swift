import Synchronization
import TimeSource

/// A metric with its series, as they are at one moment.
public struct MetricFamily: Sendable {
    /// Prometheus' kinds; their names are those of its text format.
    public enum Kind: String, Sendable {
        case counter, gauge, histogram
    }

    /// One value of a series.
    public enum Value: Sendable {
        case whole(UInt64)
        case signed(Int64)
        case number(Double)
        case histogram(HistogramValue)

        /// In seconds, as Prometheus counts.
        public static func latency(_ latency: LatencyHistogram) -> Value {
            .histogram(
                HistogramValue(
                    upperBounds: LatencyHistogram.boundsNs.map { Double($0) / 1e9 }, counts: latency.counts,
                    sum: Double(latency.sumNs) / 1e9))
        }
    }

    /// A series: the values of the family's labels, in their order, and where it stands.
    public struct Sample: Sendable {
        public let labels: [String]
        public let value: Value

        public init(_ labels: [String], _ value: Value) {
            self.labels = labels
            self.value = value
        }

        /// Of a family without labels.
        public init(_ value: Value) { self.init([], value) }
    }

    /// `[a-zA-Z_:][a-zA-Z0-9_:]*`, with the unit and, for counters, `_total` last.
    public let name: String
    public let kind: Kind
    /// One sentence for people.
    public let help: String
    /// `[a-zA-Z_][a-zA-Z0-9_]*` each.
    public let labelNames: [String]
    /// No two have the same labels. As many label values as the family has names.
    public var samples: [Sample]

    public init(_ name: String, _ kind: Kind, _ help: String, labels: [String] = [], _ samples: [Sample] = []) {
        precondition(PrometheusText.isName(name, colons: true), "\(name) is no name of a metric")
        precondition(labels.allSatisfy { PrometheusText.isName($0, colons: false) }, "a label of \(name) has no name")
        self.name = name
        self.kind = kind
        self.help = help
        labelNames = labels
        self.samples = samples
    }
}

/// Observations by size.
public struct HistogramValue: Sendable, Hashable {
    /// Upper bounds, ascending, without the last one, which has none.
    public let upperBounds: [Double]
    /// Observations in each bucket alone, one more than there are bounds.
    public let counts: [UInt64]
    public let sum: Double

    /// `counts` are not cumulative.
    public init(upperBounds: [Double], counts: [UInt64], sum: Double) {
        precondition(counts.count == upperBounds.count + 1)
        self.upperBounds = upperBounds
        self.counts = counts
        self.sum = sum
    }
}

/// All metrics of the process: those who have some register a closure, which is asked at each scrape. What counts on a
/// loop counts in ``MetricCells`` of its own, and the closure sums them.
///
/// Safe to use from any thread.
public final class MetricsRegistry: Sendable {
    private let sources = Mutex<[@Sendable () -> [MetricFamily]]>([])

    public init() {}

    /// `collect` is called at each scrape, on the scraper's thread. Families of one name from several sources become
    /// one: kind, help and labels are the first's.
    public func register(_ collect: @escaping @Sendable () -> [MetricFamily]) {
        sources.withLock { $0.append(collect) }
    }

    /// Every family as it is now, in the order first registered.
    public func collect() -> [MetricFamily] {
        var families: [MetricFamily] = []
        var places: [String: Int] = [:]
        for source in sources.withLock({ $0 }) {
            for family in source() {
                if let place = places[family.name] {
                    families[place].samples += family.samples
                } else {
                    places[family.name] = families.count
                    families.append(family)
                }
            }
        }
        return families
    }

    /// What Prometheus scrapes, as ``PrometheusText`` writes it.
    public func text() -> [UInt8] { PrometheusText.write(collect()) }
}
