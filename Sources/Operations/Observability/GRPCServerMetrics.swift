import GRPC
import Synchronization

/// What go-grpc-prometheus tells of a server, under the same names, types and labels
/// (https://github.com/grpc-ecosystem/go-grpc-prometheus), so that dashboards made for it work.
///
/// One block of cells per loop, with the same layout; a method gets its place when it is first seen. Safe to use from
/// any thread, but for the shards, which belong to their loops.
public final class GRPCServerMetrics: Sendable {
    /// Upper bounds of `grpc_server_handling_seconds`, in nanoseconds.
    static let boundsNs: [UInt64] = [
        1_000_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000,
        2_500_000_000, 5_000_000_000,
    ]
    /// Methods that are told apart. Those beyond, and those that no service has, are one: `unknown`.
    static let methodsMax = 256

    /// A method's cells: four counts, one for each of `codeNames`, one for each of `boundsNs` and what is above.
    enum Cell {
        static let started = 0
        static let received = 1
        static let sent = 2
        static let sumNs = 3
        static let codes = 4
        static let buckets = codes + 17
        static let count = buckets + 12
    }

    /// As grpc-go writes them. Codes that gRPC does not have count as Unknown.
    static let codeNames = [
        "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
        "PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented",
        "Internal", "Unavailable", "DataLoss", "Unauthenticated",
    ]

    private struct State {
        /// Labels by place; the first is for what has no place of its own.
        var methods: [[String]] = [["unary", "unknown", "unknown"]]
        var places: [String: Int] = [:]
        var shards: [MetricCells] = []
    }

    private let state = Mutex(State())

    public init() {}

    /// Gives a method its place before it is called, so that its series begin at 0.
    public func declare(path: String, clientStreaming: Bool, serverStreaming: Bool) {
        _ = place(path: path, type: GRPCServerMetrics.type(clientStreaming, serverStreaming))
    }

    /// `grpc_type`.
    static func type(_ clientStreaming: Bool, _ serverStreaming: Bool) -> String {
        switch (clientStreaming, serverStreaming) {
        case (false, false): "unary"
        case (false, true): "server_stream"
        case (true, false): "client_stream"
        case (true, true): "bidi_stream"
        }
    }

    /// The place of a method that a service has; 0 when there is no room.
    func place(path: String, type: String) -> Int {
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 3 else { return 0 }
        return state.withLock { state in
            if let place = state.places[path] { return place }
            guard state.methods.count < GRPCServerMetrics.methodsMax else { return 0 }
            state.places[path] = state.methods.count
            state.methods.append([type, String(parts[1]), String(parts[2])])
            return state.methods.count - 1
        }
    }

    /// The cells of one loop.
    func makeShard() -> MetricCells {
        let cells = MetricCells(count: GRPCServerMetrics.methodsMax * Cell.count)
        state.withLock { $0.shards.append(cells) }
        return cells
    }

    /// For ``MetricsRegistry``. A scrape reads while loops count: a call may be in one family and not yet in another.
    public func collect() -> [MetricFamily] {
        let (methods, shards) = state.withLock { ($0.methods, $0.shards) }
        let method = ["grpc_type", "grpc_service", "grpc_method"]
        var started = MetricFamily(
            "grpc_server_started_total", .counter, "Total number of RPCs started on the server.", labels: method)
        var handled = MetricFamily(
            "grpc_server_handled_total", .counter,
            "Total number of RPCs completed on the server, regardless of success or failure.",
            labels: method + ["grpc_code"])
        var received = MetricFamily(
            "grpc_server_msg_received_total", .counter,
            "Total number of RPC stream messages received on the server.", labels: method)
        var sent = MetricFamily(
            "grpc_server_msg_sent_total", .counter, "Total number of gRPC stream messages sent by the server.",
            labels: method)
        var seconds = MetricFamily(
            "grpc_server_handling_seconds", .histogram,
            "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
            labels: method)
        for (place, labels) in methods.enumerated() {
            let sums = (0..<Cell.count).map { cell in
                shards.reduce(0 as UInt64) { $0 &+ $1[place * Cell.count + cell] }
            }
            if place == 0, sums[Cell.started] == 0 { continue }
            started.samples.append(.init(labels, .whole(sums[Cell.started])))
            received.samples.append(.init(labels, .whole(sums[Cell.received])))
            sent.samples.append(.init(labels, .whole(sums[Cell.sent])))
            for (code, name) in GRPCServerMetrics.codeNames.enumerated() {
                handled.samples.append(.init(labels + [name], .whole(sums[Cell.codes + code])))
            }
            let histogram = HistogramValue(
                upperBounds: GRPCServerMetrics.boundsNs.map { Double($0) / 1e9 }, counts: Array(sums[Cell.buckets...]),
                sum: Double(sums[Cell.sumNs]) / 1e9)
            seconds.samples.append(.init(labels, .histogram(histogram)))
        }
        return [started, handled, received, sent, seconds]
    }
}

/// What one loop counts. Confined to it.
struct GRPCMetricsShard {
    private typealias Cell = GRPCServerMetrics.Cell
    private let cells: MetricCells

    init(_ metrics: GRPCServerMetrics) { cells = metrics.makeShard() }

    func started(_ place: Int) { cells.add(place * Cell.count + Cell.started, 1) }

    func received(_ place: Int, _ messages: Int) {
        cells.add(place * Cell.count + Cell.received, UInt64(max(0, messages)))
    }

    func sent(_ place: Int, _ messages: Int) { cells.add(place * Cell.count + Cell.sent, UInt64(max(0, messages))) }

    func handled(_ place: Int, _ code: GRPCStatus.Code, ns: UInt64) {
        let first = place * Cell.count
        let isKnown = GRPCServerMetrics.codeNames.indices.contains(code.rawValue)
        cells.add(first + Cell.codes + (isKnown ? code.rawValue : GRPCStatus.Code.unknown.rawValue), 1)
        cells.add(first + Cell.sumNs, ns)
        var bucket = 0
        while bucket < GRPCServerMetrics.boundsNs.count, ns > GRPCServerMetrics.boundsNs[bucket] { bucket += 1 }
        cells.add(first + Cell.buckets + bucket, 1)
    }
}
