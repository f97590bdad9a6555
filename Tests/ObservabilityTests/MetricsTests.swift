import Foundation
import GRPC
import HTTP1Codec
import Synchronization
import TestSupport
import Testing

@testable import Observability

struct MetricsTests {
    private func text(_ families: [MetricFamily]) -> String {
        String(decoding: PrometheusText.write(families), as: UTF8.self)
    }

    @Test func `Families are written with help, type, labels and values, and nothing leaves its line`() {
        let families = [
            MetricFamily(
                "a_total", .counter, "One\nline \\ of \"help\".", labels: ["x", "y"],
                [
                    .init(["plain", "a\\b\"c\nd"], .whole(.max)), .init(["", "é"], .whole(0)),
                ]),
            MetricFamily("empty", .gauge, "Never seen."),
            MetricFamily(
                "b", .gauge, "Numbers.", labels: ["n"],
                [
                    .init(["1"], .signed(-5)), .init(["2"], .number(0.25)), .init(["3"], .number(3)),
                    .init(["4"], .number(.infinity)), .init(["5"], .number(-.infinity)), .init(["6"], .number(.nan)),
                ]),
        ]
        #expect(
            text(families) == #"""
                # HELP a_total One\nline \\ of "help".
                # TYPE a_total counter
                a_total{x="plain",y="a\\b\"c\nd"} 18446744073709551615
                a_total{x="",y="é"} 0
                # HELP b Numbers.
                # TYPE b gauge
                b{n="1"} -5
                b{n="2"} 0.25
                b{n="3"} 3
                b{n="4"} +Inf
                b{n="5"} -Inf
                b{n="6"} NaN

                """#)
    }

    @Test func `Buckets are cumulative and end with all`() {
        let value = HistogramValue(upperBounds: [0.001, 2.5], counts: [1, 2, 4], sum: 12.5)
        let family = MetricFamily("t_seconds", .histogram, "Time.", labels: ["m"], [.init(["a"], .histogram(value))])
        #expect(
            text([family]) == """
                # HELP t_seconds Time.
                # TYPE t_seconds histogram
                t_seconds_bucket{m="a",le="0.001"} 1
                t_seconds_bucket{m="a",le="2.5"} 3
                t_seconds_bucket{m="a",le="+Inf"} 7
                t_seconds_sum{m="a"} 12.5
                t_seconds_count{m="a"} 7

                """)
    }

    @Test func `Sources of one family are one family`() {
        let registry = MetricsRegistry()
        for label in ["a", "b"] {
            registry.register { [MetricFamily("f", .gauge, "F.", labels: ["l"], [.init([label], .whole(1))])] }
        }
        registry.register { [MetricFamily("g", .gauge, "G.", [.init(.whole(2))])] }
        #expect(registry.collect().map(\.name) == ["f", "g"])
        #expect(registry.collect()[0].samples.map(\.labels) == [["a"], ["b"]])
    }

    @Test func `Cells are read while their thread counts, and lose nothing`() async {
        let cells = MetricCells(count: 2)
        await withTaskGroup(of: Void.self) { group in
            group.addTask { for _ in 0..<100_000 { cells.add(1, 2) } }
            group.addTask {
                var last: UInt64 = 0
                while last < 200_000 {
                    let now = cells[1]
                    #expect(now >= last && now % 2 == 0)
                    last = now
                    await Task.yield()
                }
            }
        }
        #expect(cells[0] == 0 && cells[1] == 200_000)
    }

    @Test func `A server's calls have go-grpc-prometheus' names, types, labels and buckets`() throws {
        let metrics = GRPCServerMetrics()
        metrics.declare(path: "/p.S/Watch", clientStreaming: false, serverStreaming: true)
        let shards = [GRPCMetricsShard(metrics), GRPCMetricsShard(metrics)]
        let place = metrics.place(path: "/p.S/Get", type: "unary")
        #expect(metrics.place(path: "/p.S/Get", type: "unary") == place)
        for shard in shards {
            shard.started(place)
            shard.received(place, 1)
            shard.sent(place, 1)
        }
        shards[0].handled(place, .ok, ns: 1_000_000)
        shards[1].handled(place, .notFound, ns: 1_000_001)
        shards[1].handled(place, .init(rawValue: 99), ns: 6_000_000_000)
        let text = text(metrics.collect())
        let labels = #"grpc_type="unary",grpc_service="p.S",grpc_method="Get""#
        for line in [
            "# TYPE grpc_server_started_total counter", "grpc_server_started_total{\(labels)} 2",
            #"grpc_server_started_total{grpc_type="server_stream",grpc_service="p.S",grpc_method="Watch"} 0"#,
            "# TYPE grpc_server_handled_total counter", "grpc_server_handled_total{\(labels),grpc_code=\"OK\"} 1",
            "grpc_server_handled_total{\(labels),grpc_code=\"NotFound\"} 1",
            "grpc_server_handled_total{\(labels),grpc_code=\"Unknown\"} 1",
            "grpc_server_handled_total{\(labels),grpc_code=\"Unauthenticated\"} 0",
            "grpc_server_msg_received_total{\(labels)} 2", "grpc_server_msg_sent_total{\(labels)} 2",
            "# TYPE grpc_server_handling_seconds histogram",
            "grpc_server_handling_seconds_bucket{\(labels),le=\"0.001\"} 1",
            "grpc_server_handling_seconds_bucket{\(labels),le=\"0.005\"} 2",
            "grpc_server_handling_seconds_bucket{\(labels),le=\"5\"} 2",
            "grpc_server_handling_seconds_bucket{\(labels),le=\"+Inf\"} 3",
            "grpc_server_handling_seconds_count{\(labels)} 3",
            "grpc_server_handling_seconds_sum{\(labels)} 6.002000001",
        ] {
            #expect(text.contains(line + "\n"), "\(line)")
        }
        let bounds = text.matches(of: #/_bucket\{[^}]*"Get",le="([^"]+)"/#).map { String($0.1) }
        #expect(
            bounds == ["0.001", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "+Inf"])
    }

    @Test func `Every code and bucket has its cell`() {
        #expect(GRPCServerMetrics.Cell.buckets == GRPCServerMetrics.Cell.codes + GRPCServerMetrics.codeNames.count)
        #expect(GRPCServerMetrics.Cell.count == GRPCServerMetrics.Cell.buckets + GRPCServerMetrics.boundsNs.count + 1)
    }

    @Test func `Methods beyond the room share one series`() {
        let metrics = GRPCServerMetrics()
        let shard = GRPCMetricsShard(metrics)
        for number in 0..<1000 { shard.started(metrics.place(path: "/p.S/M\(number)", type: "unary")) }
        let started = metrics.collect()[0]
        #expect(started.samples.count == GRPCServerMetrics.methodsMax)
        #expect(started.samples[0].labels == ["unary", "unknown", "unknown"])
        #expect(metrics.place(path: "nonsense", type: "unary") == 0)
    }

    // MARK: The endpoint

    private func answer(_ line: String, _ readiness: Readiness = Readiness()) throws -> HTTP1Response {
        let registry = MetricsRegistry()
        registry.register { [MetricFamily("m", .gauge, "M.", [.init(.whole(1))])] }
        var parser = HTTP1RequestParser()
        Array("\(line) HTTP/1.1\r\nHost: h\r\n\r\n".utf8).withUnsafeBytes { parser.append($0) }
        let request = try parser.next()
        return MonitoringEndpoint.answer(try #require(request), registry, readiness)
    }

    @Test func `Metrics, health and readiness have their places, and everything else is told so`() throws {
        let metrics = try answer("GET /metrics?x=y")
        #expect(metrics.status == 200 && metrics.contentType == "text/plain; version=0.0.4; charset=utf-8")
        #expect(String(decoding: metrics.body, as: UTF8.self) == "# HELP m M.\n# TYPE m gauge\nm 1\n")
        #expect(try answer("GET /healthz").status == 200)
        #expect(try answer("GET /").status == 404)
        let post = try answer("POST /metrics")
        #expect(post.status == 405 && post.headers == [HTTP1Header("allow", "GET, HEAD")])
    }

    @Test func `Readiness names what objects, and follows it`() throws {
        let readiness = Readiness()
        let objection = Mutex<String?>("behind\nby 5")
        readiness.add("log") { nil }
        readiness.add("writer") { objection.withLock { $0 } }
        let no = try answer("GET /readyz", readiness)
        #expect(no.status == 503)
        #expect(String(decoding: no.body, as: UTF8.self) == "not ready\nlog: ok\nwriter: behind\\nby 5\n")
        objection.withLock { $0 = nil }
        #expect(readiness.isReady)
        #expect(try answer("GET /readyz", readiness).status == 200)
    }
}

struct CallLogTests {
    @Test func `The first lines of each second are written`() {
        var sampler = CallSampler(perSecond: 2)
        let second: Int64 = 1_000_000_000
        // The last: a clock that steps back begins anew.
        let times = [5, 6, 7, second + 4, second + 5, second + 6, second + 7, 0]
        var admitted: [Bool] = []
        for time in times { admitted.append(sampler.admits(time)) }
        #expect(admitted == [true, true, false, false, true, true, false, true])
        var none = CallSampler(perSecond: 0)
        let isAdmitted = none.admits(5)
        #expect(!isAdmitted)
    }

    @Test func `What a handler threw is written under the id that its client was told`() {
        struct Failure: Error, CustomStringConvertible { let description = "no such\nthing" }
        let lines = Mutex<[String]>([])
        let diagnostics = Diagnostics(wallNs: { 0 }, write: { line in lines.withLock { $0.append(line) } })
        let log = CallLog(successesPerSecond: 0)
        log.addError(id: "5f", method: "/a.B/C", error: Failure())
        log.write(to: diagnostics)
        log.write(to: diagnostics)
        let time = "1970-01-01T00:00:00.000Z"
        #expect(
            lines.withLock { $0 }
                == ["\(time) error call: internal error: no such\\nthing error_id=5f method=/a.B/C type=Failure\n"])
        // A handler that throws all the time fills no memory.
        for _ in 0..<(CallLog.linesMax + 5) { log.addError(id: "1", method: "/a.B/C", error: Failure()) }
        log.write(to: diagnostics)
        #expect(lines.withLock { $0.count } == 1 + CallLog.linesMax + 1)
        #expect(lines.withLock { $0.last?.contains("5 failed calls without a line") } == true)
    }

    @Test func `Named values stand behind the message, quoted where they must be`() {
        let lines = Mutex<[String]>([])
        for format in [Diagnostics.Format.text, .json] {
            Diagnostics(format: format, wallNs: { 0 }, write: { line in lines.withLock { $0.append(line) } })
                .log(.info, "call", "ended", fields: [("a", "b"), ("c", "d e\n"), ("f", "")])
        }
        let time = "1970-01-01T00:00:00.000Z"
        #expect(
            lines.withLock { $0 } == [
                "\(time) info call: ended a=b c=\"d e\\n\" f=\"\"\n",
                #"{"time":"\#(time)","level":"info","component":"call","message":"ended","a":"b","c":"d e\n","f":""}"#
                    + "\n",
            ])
    }
}
