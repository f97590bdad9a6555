import Foundation
import TestSupport
import Testing

@testable import Observability
@testable import tapedeck

/// Who watches and guards a running platform, as an operator does it.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct OperationsTests {
    private func scratch() -> String { NSTemporaryDirectory() + "tapedeck-operations-" + UUID().uuidString }

    private func curl(_ arguments: [String]) throws -> BinaryTests.Ended {
        try BinaryTests.run("/usr/bin/curl", ["-sS", "--max-time", "20"] + arguments)
    }

    /// A stream that a process of its own reads.
    private func watch(_ platform: BinaryTests.Platform) throws -> ChildProcess {
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: BinaryTests.program)
        process.arguments = ["watch", "--json", "--server", platform.address]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        return process
    }

    @Test func `Metrics, health and readiness of a running platform`() throws {
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let platform = try BinaryTests.Platform(data, ["--rate", "5000"])
        let base = "http://\(platform.metrics)"
        #expect(try curl([base + "/healthz"]).output == "alive\n")
        let ready = try curl(["-w", "%{http_code}", base + "/readyz"])
        #expect(ready.output == "ready\nfeed: ok\nlog: ok\nwriter: ok\nedge: ok\n200", "\(ready.output)")
        var quote = try BinaryTests.run(["quote", "AAPL", "--server", platform.address])
        while quote.errors.contains("NOT_FOUND") {
            quote = try BinaryTests.run(["quote", "AAPL", "--server", platform.address])
        }
        let metrics = try curl([base + "/metrics"]).output
        let method =
            #"grpc_type="unary",grpc_service="financial.marketdata.v1.MarketDataService",grpc_method="GetQuote""#
        #expect(metrics.contains("grpc_server_handled_total{\(method),grpc_code=\"OK\"} 1\n"), "\(metrics)")
        for series in [
            "tapedeck_feed_ticks_total ", #"tapedeck_log_end_offset{topic="ticks.raw",partition="0"} "#,
            "tapedeck_writer_rows_total ", #"tapedeck_writer_lag_records{partition="0"} "#,
            #"tapedeck_access_refused_total{reason="unauthenticated"} 0"#, "process_resident_memory_bytes ",
        ] {
            #expect(metrics.contains("\n" + series), "\(series)")
        }
        #expect(platform.stop() == 0)
    }

    @Test func `A default port that is taken is no reason not to start, one that was asked for is`() throws {
        let first = try BinaryTests.Platform(scratch())
        let taken = try BinaryTests.run([
            "up", "--data", scratch(), "--listen", "127.0.0.1:0", "--metrics-listen", first.metrics,
        ])
        #expect(taken.status == 1 && taken.errors.contains("cannot listen on \(first.metrics)"), "\(taken.errors)")
        #expect(taken.errors.contains("choose another with --metrics-listen"), "\(taken.errors)")
        // One of these two finds 9090 taken, by the other at least.
        let others = try (0..<2).map { _ in try BinaryTests.Platform(scratch(), defaultMetrics: true) }
        #expect(others[0].metrics != others[1].metrics)
        for platform in others + [first] {
            #expect(try curl(["http://\(platform.metrics)/healthz"]).output == "alive\n")
            #expect(platform.stop() == 0)
        }
    }

    @Test func `connections lists who is there, and ends one with its token`() throws {
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let platform = try BinaryTests.Platform(data, ["--rate", "5000"])
        let watches = [try watch(platform), try watch(platform)]
        var calls: [Substring] = []
        while calls.count < 2 {
            calls = try BinaryTests.run(["connections", "--json", "--data", data]).output.split(separator: "\n")
        }
        struct Call: Decodable {
            let id, identity, peer, method, policy: String
            let sentBytes, ageMs: UInt64
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let call = try decoder.decode(Call.self, from: Data(calls[0].utf8))
        #expect(call.identity == "anonymous" && call.peer == "127.0.0.1" && call.policy == "LATEST")
        #expect(call.method == "/financial.marketdata.v1.MarketDataService/StreamPrices")
        let table = try BinaryTests.run(["connections", "--data", data]).output.split(separator: "\n")
        #expect(table.count == 3 && table[0].hasPrefix("ID ") && table[0].hasSuffix("AGE"), "\(table)")
        let closed = try BinaryTests.run(["connections", "--close", call.id, "--data", data])
        #expect(closed.status == 0, "\(closed.errors)")
        let again = try BinaryTests.run(["connections", "--close", "9-9", "--data", data])
        #expect(again.status == 1 && again.errors.contains("there is no call 9-9"))
        while try BinaryTests.run(["connections", "--json", "--data", data]).output.contains("\"id\":\"\(call.id)\"") {}
        let metrics = try curl(["http://\(platform.metrics)/metrics"]).output
        let ended = metrics.firstMatch(of: #/handled_total\{.*"StreamPrices",grpc_code="Unavailable"\} (\d+)/#)
        #expect(ended?.1 == "1", "\(metrics)")
        // Whose call it was asks again.
        while calls.count < 2 || calls.contains(where: { $0.contains("\"id\":\"\(call.id)\"") }) {
            calls = try BinaryTests.run(["connections", "--json", "--data", data]).output.split(separator: "\n")
        }
        for watch in watches {
            #expect(watch.isRunning)
            watch.terminate()
        }
        #expect(platform.stop() == 0)
    }

    @Test(arguments: [
        (["--connections-per-address", "2"], "address"), (["--connections-max", "2"], "all"),
    ])
    func `More connections than an option allows are refused and counted, those there are go on`(
        _ options: [String], _ limit: String
    ) throws {
        let data = scratch()
        defer { try? FileManager.default.removeItem(atPath: data) }
        let platform = try BinaryTests.Platform(data, ["--rate", "5000"] + options)
        let watches = [try watch(platform), try watch(platform)]
        while try BinaryTests.run(["connections", "--json", "--data", data]).output.split(separator: "\n").count < 2 {}
        let refused = try curl(["--http2-prior-knowledge", "http://\(platform.address)/"])
        #expect(refused.status != 0, "\(refused.output)")
        let metrics = try curl(["http://\(platform.metrics)/metrics"]).output
        #expect(metrics.contains("tapedeck_edge_connections_refused_total{limit=\"\(limit)\"} 1\n"), "\(metrics)")
        let calls = try BinaryTests.run(["connections", "--json", "--data", data]).output.split(separator: "\n")
        #expect(calls.count == 2)
        for watch in watches { watch.terminate() }
        // As soon as there is room, others come in.
        while try curl(["--http2-prior-knowledge", "http://\(platform.address)/"]).status != 0 {}
        #expect(platform.stop() == 0)
    }

    @Test(.enabled(if: SharedData.isPresent, "../shared is absent"))
    func `A token made, used, narrowed and revoked while the platform runs`() throws {
        let directory = scratch()
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        _ = try BinaryTests.run("/bin/bash", [SharedData.path("tools/install"), directory, "grpcurl"])
        struct Made: Decodable {
            let token, line: String
        }
        let made = try JSONDecoder().decode(
            Made.self, from: Data(try BinaryTests.run(["token", "alice", "--json"]).output.utf8))
        let file = directory + "/access"
        func allow(_ text: String) throws { try text.write(toFile: file, atomically: true, encoding: .utf8) }
        try allow("alice\n")
        let wrong = try BinaryTests.run(["up", "--data", directory + "/d", "--listen", "127.0.0.1:0", "--access", file])
        #expect(wrong.status == 1 && wrong.errors.contains("access, line 1: a line is NAME PROOF"), "\(wrong.errors)")
        try allow(made.line + "\n")
        let both = try BinaryTests.run([
            "up", "--data", directory + "/d", "--listen", "127.0.0.1:0", "--access", file, "--anonymous", "everyone",
        ])
        #expect(both.status == 1 && both.errors.contains("leave --anonymous out"))
        let platform = try BinaryTests.Platform(directory + "/d", ["--rate", "5000", "--access", file])
        let schema = ["-import-path", Checkout.path + "/proto", "-proto", "financial/marketdata/v1/market_data.proto"]
        func ask(_ headers: [String]) throws -> BinaryTests.Ended {
            try BinaryTests.run(
                directory + "/grpcurl",
                ["-plaintext"] + headers.flatMap { ["-H", $0] } + schema + [
                    "-d", "{\"symbol\":\"AAPL\"}", platform.address,
                    "financial.marketdata.v1.MarketDataService/GetQuote",
                ])
        }
        let bearer = ["authorization: Bearer \(made.token)"]
        var answer = try ask(bearer)
        while answer.errors.contains("NotFound") { answer = try ask(bearer) }
        #expect(answer.status == 0 && answer.output.contains("bidMicros"), "\(answer.errors)")
        #expect(try ask([]).errors.contains("Unauthenticated"))
        #expect(try ask(["authorization: Bearer \(made.token.dropLast())x"]).errors.contains("Unauthenticated"))
        try allow(made.line.replacing("methods=*", with: "methods=/other.Service/*") + "\n")
        while try ask(bearer).status == 0 {}
        #expect(try ask(bearer).errors.contains("PermissionDenied"))
        // A mistake changes nothing.
        try allow("alice what\n")
        platform.hangUp()
        #expect(try ask(bearer).errors.contains("PermissionDenied"))
        try allow("# nobody\n")
        while try !ask(bearer).errors.contains("Unauthenticated") {}
        let metrics = try curl(["http://\(platform.metrics)/metrics"]).output
        #expect(!metrics.contains("tapedeck_access_refused_total{reason=\"denied\"} 0\n"))
        #expect(platform.stop() == 0)
    }

    @Test func `Calls come through the control folder as they were`() {
        let call = CallDescription(
            id: "0-1", identity: "a\tb\\n\nc", peer: "::1", method: "/x", stream: nil, receivedBytes: .max,
            sentBytes: 0,
            ageMilliseconds: 5)
        let fields = ConnectionText.decode(ConnectionText.encode([call, call]))
        #expect(fields.count == 2 && fields[0][1] == call.identity && fields[0][6] == "\(UInt64.max)")
        #expect(ConnectionText.json(fields)[0].contains(#""identity":"a\u0009b\\n\u000ac","#))
        #expect(ConnectionText.table(fields)[1].contains("a?b\\n?c"))
        #expect(ConnectionText.decode("a\tb\n\n\t").isEmpty)
    }
}
