import EventLoop
import HTTP1
import HTTP1Codec

/// `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes. On a loop of its own: what a
/// scrape costs, no client of the market data waits for.
public final class MonitoringEndpoint: Sendable {
    private let server: HTTP1Server

    /// Serves nothing until ``listen(host:port:)``.
    public init(metrics: MetricsRegistry, readiness: Readiness) {
        server = HTTP1Server(group: EventLoopGroup(count: 1, name: "monitoring")) { request in
            MonitoringEndpoint.answer(request, metrics, readiness)
        }
    }

    /// Binds; port 0 takes a free one. Returns the address that is served. Never on a loop.
    public func listen(host: String, port: Int) throws(AddressError) -> (host: String, port: Int) {
        try server.listen(host: host, port: port)
    }

    /// Serves the connections of a socket, which is its own from now on, with what `secure` puts between a connection
    /// and its bytes. Never on a loop.
    public func listen(on socket: ListeningSocket, secure: (@Sendable (any ByteStream) -> any ByteStream)? = nil) {
        server.listen(on: socket, secure: secure)
    }

    /// Closes listeners and connections. From any thread.
    public func close() { server.close() }

    static func answer(_ request: HTTP1Request, _ metrics: MetricsRegistry, _ readiness: Readiness) -> HTTP1Response {
        let paths = ["/metrics", "/healthz", "/readyz"]
        guard paths.contains(request.path) else {
            return HTTP1Response(404, "there is " + paths.joined(separator: ", "))
        }
        guard request.method == "GET" || request.method == "HEAD" else {
            return HTTP1Response(405, "GET and HEAD only", headers: [HTTP1Header("allow", "GET, HEAD")])
        }
        switch request.path {
        case "/metrics": return HTTP1Response(200, contentType: PrometheusText.contentType, body: metrics.text())
        // That it answers is the answer.
        case "/healthz": return HTTP1Response(200, "alive")
        default:
            let state = readiness.state()
            let lines = state.map { $0.name + ": " + ($0.objection.map { LineText.plain($0) } ?? "ok") }
            let isReady = state.allSatisfy { $0.objection == nil }
            let text = ([isReady ? "ready" : "not ready"] + lines).joined(separator: "\n")
            return HTTP1Response(isReady ? 200 : 503, text)
        }
    }
}
