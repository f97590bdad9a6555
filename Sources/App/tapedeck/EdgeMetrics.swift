import EdgeService
import GRPC
import HTTP2
import Observability

/// What the edge and its server refused, ended and left out. Read on the monitoring loop, from memory.
enum EdgeMetrics {
    static func families(_ edge: EdgeCounters, _ server: GRPCServerCounters) -> [MetricFamily] {
        serverFamilies(server) + edgeFamilies(edge)
    }

    private static func serverFamilies(_ server: GRPCServerCounters) -> [MetricFamily] {
        let refused = [("all", server.connectionsRefused), ("address", server.connectionsRefusedPerAddress)]
        let ended = HTTP2PeerFault.allCases.map { fault in
            MetricFamily.Sample([fault.rawValue], .whole(UInt64(server.faults[fault] ?? 0)))
        }
        return [
            MetricFamily(
                "tapedeck_edge_connections_refused_total", .counter,
                "Connections refused because there were too many, of all clients or of one address.", labels: ["limit"],
                refused.map { .init([$0.0], .whole(UInt64($0.1))) }),
            MetricFamily(
                "tapedeck_edge_connections_ended_total", .counter,
                "Connections that the server ended for what the client did.", labels: ["reason"], ended),
            MetricFamily(
                "tapedeck_edge_calls_out_of_memory_total", .counter,
                "Calls failed because all calls together held too much.",
                [.init(.whole(UInt64(server.callsOutOfMemory)))]),
            MetricFamily(
                "tapedeck_edge_open_calls", .gauge, "Calls that are not over.",
                [.init(.signed(Int64(server.openCalls)))]),
            MetricFamily(
                "tapedeck_edge_calls_held_bytes", .gauge, "Bytes of requests and responses that calls hold.",
                [.init(.signed(Int64(server.heldBytes)))]),
        ]
    }

    private static func edgeFamilies(_ edge: EdgeCounters) -> [MetricFamily] {
        [
            MetricFamily(
                "tapedeck_edge_updates_conflated_total", .counter,
                "Updates left out because a later one stands for them.", labels: ["policy"], samples(edge.conflated)),
            MetricFamily(
                "tapedeck_edge_updates_late_total", .counter,
                "Updates handed over later than their MAX_STALENESS.", [.init(.whole(edge.late))]),
            MetricFamily(
                "tapedeck_edge_streams_ended_total", .counter,
                "Streams, and subscriptions within one, that the server ended.", labels: ["reason"],
                samples(edge.ended)),
            MetricFamily(
                "tapedeck_edge_turn_seconds", .histogram,
                "From a loop's reading ticks of the log to its having given them to its streams.",
                [.init(.latency(edge.turnLatency))]),
        ]
    }

    private static func samples(_ counts: [String: UInt64]) -> [MetricFamily.Sample] {
        counts.sorted { $0.key < $1.key }.map { .init([$0.key], .whole($0.value)) }
    }
}
