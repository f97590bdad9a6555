import Foundation
import TestSupport
import Testing

/// Health and reflection of a running platform, by the tools that others use for them.
@Suite(.serialized, .enabled(if: SharedData.isPresent, "../shared is absent"), .timeLimit(.minutes(3)))
struct StandardServicesTests {
    private static let market = "financial.marketdata.v1.MarketDataService"
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func platform(_ arguments: [String] = []) throws -> BinaryTests.Platform {
        try BinaryTests.Platform(folder.path + "/data", ["--rate", "5000"] + arguments)
    }

    @Test func `Ticks are written past the log on a listener of their own, once, and verify counts them apart`()
        async throws
    {
        let platform = try platform(["--tick-writer-listen", "127.0.0.1:0"])
        let address = try #require(platform.tickWriter)
        #expect(address != platform.address)
        let services = try await Tools.run("grpcurl", ["-plaintext", address, "list"]).output
        #expect(services.hasPrefix("financial.marketdata.v1.TickWriterService\n"), "\(services)")
        #expect(!services.contains("MarketDataService"))
        let method = "financial.marketdata.v1.TickWriterService/WriteTick"
        func write(_ tick: String, to address: String) async throws -> String {
            try await Tools.run("grpcurl", ["-plaintext", "-d", tick, address, method]).output
        }
        let tick =
            #"{"exchange":"SIMX","symbol":"AAPL","kind":"TICK_KIND_TRADE","last_micros":187500000,"volume":100,"#
            + #""event_time":"2026-11-26T14:30:00Z"}"#
        for _ in 0..<2 {
            let answer = try await write(tick, to: address)
            #expect(answer.contains("\"success\": true") && answer.contains("writeLatencyUs"), "\(answer)")
        }
        let refused = try await write(#"{"exchange":"SIMX","symbol":"A|B"}"#, to: address)
        #expect(refused.contains("InvalidArgument"), "\(refused)")
        // The public port knows nothing of it.
        let elsewhere = try await write(tick, to: platform.address)
        #expect(elsewhere.contains("not found") || elsewhere.contains("does not"), "\(elsewhere)")
        #expect(platform.stop() == 0)
        let verify = try await Tools.run(program: BinaryTests.program, ["verify", "--data", folder.path + "/data"])
            .output
        #expect(
            verify.contains("and 1 rows written past the log") && verify.contains("log and store agree"), "\(verify)")
    }

    /// Lists, describes and calls with nothing known but the address.
    private func explore(_ address: String, _ flags: [String]) async throws {
        func grpcurl(_ more: [String]) async throws -> String {
            try await Tools.run("grpcurl", flags + more).output
        }
        let services = try await grpcurl([address, "list"]).split(separator: "\n")
        #expect(
            services == [
                "financial.marketdata.v1.MarketDataService", "financial.marketdata.v1.OrderService",
                "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ])
        let described = try await grpcurl([address, "describe", StandardServicesTests.market])
        #expect(
            described.contains(
                "rpc StreamPrices ( .financial.marketdata.v1.PriceSubscription ) returns ( stream "
                    + ".financial.marketdata.v1.PriceUpdate )"), "\(described)")
        // Internal services share the file of the public ones, and are not shown.
        let inner = try await grpcurl([address, "describe", "financial.marketdata.v1.TickWriterService"])
        #expect(inner.contains("not found") || inner.contains("unknown symbol"), "\(inner)")
        #expect(!described.contains("TickWriterService"))
        var quote = ""
        while !quote.contains("bidMicros") {
            quote = try await grpcurl([
                "-d", #"{"symbol":"AAPL"}"#, address, StandardServicesTests.market + "/GetQuote",
            ])
            guard quote.contains("bidMicros") || quote.contains("NotFound") else { break }
        }
        #expect(quote.contains("\"bidMicros\""), "\(quote)")
        let stream = try await grpcurl([
            "-max-time", "2", "-d", #"{"symbols":["AAPL"]}"#, address, StandardServicesTests.market + "/StreamPrices",
        ])
        #expect(stream.components(separatedBy: "\"symbol\": \"AAPL\"").count > 10, "\(stream)")
        #expect(stream.contains("DeadlineExceeded"), "\(stream)")
    }

    @Test func `grpcurl sees by channelz who is connected, where that is allowed`() async throws {
        let platform = try platform(["--channelz"])
        let address = platform.address
        func channelz(_ method: String, _ data: String = "{}") async throws -> [String: Any] {
            let ended = try await Tools.run(
                "grpcurl", ["-plaintext", "-emit-defaults", "-d", data, address, "grpc.channelz.v1.Channelz/" + method])
            let json = try? JSONSerialization.jsonObject(with: Data(ended.output.utf8)) as? [String: Any]
            return json ?? ["text": ended.output]
        }
        // A client that stays.
        let watching = ChildProcess()
        watching.executableURL = URL(fileURLWithPath: BinaryTests.program)
        watching.arguments = ["watch", "AAPL", "--server", address]
        watching.standardOutput = FileHandle.nullDevice
        watching.standardError = FileHandle.nullDevice
        try watching.run()
        defer {
            watching.terminate()
            watching.waitUntilExit()
        }
        let servers = try await channelz("GetServers")["server"] as? [[String: Any]] ?? []
        #expect(servers.count == 1, "\(servers)")
        let listening = (servers.first?["listenSocket"] as? [[String: Any]])?.first
        #expect(listening?["name"] as? String == "listening on \(address)")
        let listener = try await channelz("GetSocket", #"{"socketId":"2"}"#)["socket"] as? [String: Any]
        #expect(listener?["local"] != nil, "\(listener ?? [:])")
        // Its own connection is one, the client's the other.
        var sockets: [[String: Any]] = []
        try await until {
            sockets =
                try await channelz("GetServerSockets", #"{"serverId":"1"}"#)["socketRef"] as? [[String: Any]] ?? []
            return sockets.count >= 2
        }
        let ids = sockets.compactMap { $0["socketId"] as? String }.compactMap { Int64($0) }
        #expect(ids.count == sockets.count && ids == ids.sorted() && Set(ids).count == ids.count, "\(sockets)")
        let first = try await channelz("GetServerSockets", #"{"serverId":"1","maxResults":"1"}"#)
        #expect((first["socketRef"] as? [Any])?.count == 1 && first["end"] as? Bool == false, "\(first)")
        let none = try await channelz("GetServerSockets", #"{"serverId":"1","startSocketId":"\#(Int64.max)"}"#)
        #expect((none["socketRef"] as? [Any])?.isEmpty == true && none["end"] as? Bool == true, "\(none)")
        var begun: [String] = []
        for id in ids {
            let socket = try await channelz("GetSocket", #"{"socketId":"\#(id)"}"#)["socket"] as? [String: Any]
            let remote = (socket?["remote"] as? [String: Any])?["tcpipAddress"] as? [String: Any]
            // A connection of grpcurl before is gone.
            guard let remote else { continue }
            #expect(remote["ipAddress"] as? String == Data([127, 0, 0, 1]).base64EncodedString())
            begun += [(socket?["data"] as? [String: Any])?["streamsStarted"] as? String].compactMap { $0 }
        }
        #expect(begun.contains("1"), "\(begun)")
        for (method, data) in [
            ("GetSocket", #"{"socketId":"77"}"#), ("GetServer", #"{"serverId":"2"}"#), ("GetChannel", "{}"),
            ("GetServerSockets", #"{"serverId":"9"}"#),
        ] {
            let text = try await channelz(method, data)["text"] as? String
            #expect(text?.contains("NotFound") == true, "\(method): \(text ?? "")")
        }
        #expect(platform.stop() == 0)
        let silent = try self.platform()
        let refused = try await Tools.run(
            "grpcurl", ["-plaintext", silent.address, "grpc.channelz.v1.Channelz/GetServers"])
        #expect(refused.status != 0, "\(refused.output)")
        #expect(silent.stop() == 0)
    }

    private func probe(_ address: String, _ flags: [String] = []) async throws -> Int32 {
        try await Tools.run("grpc_health_probe", ["-addr", address] + flags).status
    }

    @Test func `grpcurl explores and calls, grpc_health_probe asks how each service does`() async throws {
        let platform = try platform()
        try await explore(platform.address, ["-plaintext"])
        #expect(try await probe(platform.address) == 0)
        for service in [StandardServicesTests.market, "financial.marketdata.v1.OrderService"] {
            #expect(try await probe(platform.address, ["-service", service]) == 0, "\(service)")
        }
        #expect(try await probe(platform.address, ["-service", "no.such.Service"]) != 0)
        #expect(platform.stop() == 0)
    }

    @Test(.enabled(if: CertificateFolder.isPossible, "no openssl"))
    func `The same by mutual TLS`() async throws {
        let certificates = try CertificateFolder()
        try certificates.issue("server", "DNS:localhost,IP:127.0.0.1")
        try certificates.issue("desk", "URI:spiffe://test/desk")
        let platform = try platform([
            "--tls-cert", certificates.file("server"), "--tls-key", certificates.key("server"), "--tls-client-ca",
            certificates.file("authority"),
        ])
        try await explore(
            platform.address,
            [
                "-cacert", certificates.file("authority"), "-cert", certificates.file("desk"), "-key",
                certificates.key("desk"),
            ])
        let secure = ["-tls", "-tls-ca-cert", certificates.file("authority"), "-tls-server-name", "localhost"]
        let identity = ["-tls-client-cert", certificates.file("desk"), "-tls-client-key", certificates.key("desk")]
        #expect(try await probe(platform.address, secure + identity) == 0)
        #expect(try await probe(platform.address, secure) != 0)
        #expect(platform.stop() == 0)
    }

    @Test func `Health needs no identity; reflection is a method like any other`() async throws {
        struct Made: Decodable { let token, line: String }
        let made = try JSONDecoder().decode(
            Made.self, from: Data(try await BinaryTests.runApart(["token", "alice", "--json"]).output.utf8))
        let access = try folder.write(
            "access",
            Array(made.line.replacing("methods=*", with: "methods=/grpc.reflection.v1.ServerReflection/*").utf8))
        let platform = try platform(["--access", access])
        #expect(try await probe(platform.address) == 0)
        let nobody = try await Tools.run("grpcurl", ["-plaintext", platform.address, "list"])
        #expect(nobody.output.contains("Unauthenticated"), "\(nobody.output)")
        let alice = try await Tools.run(
            "grpcurl", ["-plaintext", "-H", "authorization: Bearer \(made.token)", platform.address, "list"])
        #expect(alice.output.contains(StandardServicesTests.market), "\(alice.output)")
        #expect(platform.stop() == 0)
    }

    /// What a watch of the health service has printed so far.
    private func watch(_ platform: BinaryTests.Platform) async throws -> (
        process: ChildProcess, text: () throws -> String
    ) {
        // Unpacks the tool.
        _ = try await Tools.run("grpcurl", ["-version"])
        let process = ChildProcess()
        process.executableURL = URL(fileURLWithPath: Checkout.path + "/.build/tools/grpcurl")
        process.arguments = ["-plaintext", platform.address, "grpc.health.v1.Health/Watch"]
        let path = folder.path + "/watch"
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        process.standardError = process.standardOutput
        try process.run()
        return (process, { try String(contentsOfFile: path, encoding: .utf8) })
    }

    @Test func `Health follows readiness`() async throws {
        // A tick every 50 ms: the store is behind for a moment after each, and a record is more than it may be.
        let platform = try BinaryTests.Platform(folder.path + "/data", ["--rate", "20", "--ready-lag", "0"])
        let watch = try await watch(platform)
        func changes() throws -> Int { try watch.text().components(separatedBy: "\"status\"").count - 1 }
        try await until { try !watch.process.isRunning || changes() >= 4 }
        let statuses = try watch.text().matches(of: #/"status": "(\w+)"/#).map { String($0.1) }.prefix(4)
        #expect(Set(statuses) == ["SERVING", "NOT_SERVING"], "\(statuses)")
        for (one, next) in zip(statuses, statuses.dropFirst()) { #expect(one != next) }
        watch.process.terminate()
        #expect(platform.stop() == 0)
    }

    @Test func `A platform that stops says so to those who watch, and does not wait for them`() async throws {
        let platform = try platform(["--drain-seconds", "120"])
        let watch = try await watch(platform)
        try await until { try !watch.process.isRunning || watch.text().contains("SERVING") }
        #expect(platform.stop() == 0)
        await until { !watch.process.isRunning }
        let text = try watch.text()
        #expect(text.contains("\"NOT_SERVING\"") && text.contains("Unavailable"), "\(text)")
    }

    @Test func `Every method has its series before its first call, and the edge's counters are there`() async throws {
        let platform = try platform()
        let text = try await BinaryTests.runApart(
            "/usr/bin/curl", ["-sS", "--max-time", "20", "http://\(platform.metrics)/metrics"]
        ).output
        for (type, service, method) in [
            ("unary", StandardServicesTests.market, "GetQuote"),
            ("server_stream", StandardServicesTests.market, "StreamPrices"),
            ("bidi_stream", StandardServicesTests.market, "Subscribe"),
            ("client_stream", StandardServicesTests.market, "SubmitOrders"),
            ("unary", "financial.marketdata.v1.OrderService", "SubmitOrder"),
            ("server_stream", "grpc.health.v1.Health", "Watch"),
        ] {
            let labels = #"grpc_type="\#(type)",grpc_service="\#(service)",grpc_method="\#(method)""#
            for series in [
                "grpc_server_started_total{\(labels)} 0", "grpc_server_msg_sent_total{\(labels)} 0",
                "grpc_server_handled_total{\(labels),grpc_code=\"OK\"} 0",
                "grpc_server_handling_seconds_count{\(labels)} 0",
            ] {
                #expect(text.contains("\n\(series)\n"), "\(series)")
            }
        }
        for series in [
            #"tapedeck_edge_connections_refused_total{limit="address"} 0"#,
            #"tapedeck_edge_connections_ended_total{reason="too_many_pings"} 0"#,
            "tapedeck_edge_calls_out_of_memory_total 0", "tapedeck_edge_open_calls 0",
            "tapedeck_edge_calls_held_bytes 0",
            #"tapedeck_edge_updates_conflated_total{policy="LATEST"} 0"#, "tapedeck_edge_updates_late_total 0",
            #"tapedeck_edge_streams_ended_total{reason="READER_TOO_SLOW"} 0"#,
        ] {
            #expect(text.contains("\n\(series)\n"), "\(series)")
        }
        #expect(!text.contains("tapedeck_tls_"))
        #expect(platform.stop() == 0)
    }
}
