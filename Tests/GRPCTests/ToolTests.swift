import GRPC
import HTTP2
import TLS
import TestSupport
import Testing

/// The server under other people's conformance tools.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(3)))
struct ToolTests {
    /// Every case of grpc-go's client that needs neither accounts, nor load reports, nor a load balancer.
    private static let cases = [
        "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
        "timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
        "special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
        "pick_first_unary", "rpc_soak", "channel_soak",
    ]

    private func interop(_ name: String, _ world: StreamingWorld, _ more: [String] = []) async throws {
        var arguments = ["-server_host", "127.0.0.1", "-server_port", "\(world.port)", "-test_case", name] + more
        if name.hasSuffix("soak") { arguments += ["-soak_iterations", "100", "-soak_num_threads", "4"] }
        let ended = try await Tools.run("grpc-interop-client", arguments)
        #expect(ended.status == 0, "\(name): \(ended.output)")
    }

    @Test(arguments: cases)
    func `grpc-go's interop client passes`(_ name: String) async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        try await interop(name, world)
    }

    /// A server behind TLS, with the folder that its certificate lies in.
    private func secureWorld() throws -> (world: StreamingWorld, certificates: CertificateFolder) {
        let certificates = try CertificateFolder()
        try certificates.issue("server", "DNS:localhost,IP:127.0.0.1")
        let context = try TLSServerContext(
            TLSServerConfiguration(
                certificateChainFile: certificates.file("server"), privateKeyFile: certificates.key("server")))
        return (try StreamingWorld(secure: { context.wrap($0) }), certificates)
    }

    @Test(.enabled(if: CertificateFolder.isPossible, "no openssl"))
    func `grpc-go's interop client passes by TLS`() async throws {
        let (world, certificates) = try secureWorld()
        defer { world.stop() }
        for name in ToolTests.cases {
            try await interop(
                name, world,
                [
                    "-use_tls", "-use_test_ca", "-ca_file", certificates.file("authority"), "-server_host_override",
                    "localhost",
                ])
        }
    }

    /// What is decided otherwise here, by the text of h2spec.
    private static let otherwise = [
        // nghttp2 takes HEADERS on a stream below the last one as such on a closed stream and ignores them
        // (RFC 9113 section 5.1 permits frames that arrive late), h2spec wants PROTOCOL_ERROR.
        "Sends stream identifier that is numerically smaller than previous"
    ]

    @Test func `h2spec passes, but for the cases that nghttp2 decides otherwise`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        try await specify(world, [])
        // What it provokes is counted.
        #expect((world.server.counters.faults[.protocolError] ?? 0) > 50)
    }

    @Test(.enabled(if: CertificateFolder.isPossible, "no openssl"))
    func `h2spec passes by TLS as it does without`() async throws {
        let (world, _) = try secureWorld()
        defer { world.stop() }
        try await specify(world, ["-t", "-k"])
    }

    private func specify(_ world: StreamingWorld, _ flags: [String]) async throws {
        let ended = try await Tools.run(
            "h2spec",
            ["-h", "127.0.0.1", "-p", "\(world.port)", "-P", "/grpc.testing.TestService/EmptyCall", "-o", "2"] + flags)
        let failed = ended.output.split(whereSeparator: \.isNewline).filter {
            $0.contains("×") && !$0.contains("Error")
        }
        .map { $0.drop { !$0.isNumber }.drop { $0.isNumber || $0 == ":" || $0 == " " } }
        let unexpected = Set(failed.map(String.init)).subtracting(ToolTests.otherwise)
        #expect(unexpected.isEmpty, "\(ended.output)")
        #expect(ended.output.contains("145 tests"))
    }

    @Test func `grpcurl lists, describes and calls all four patterns by reflection`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        func grpcurl(_ arguments: [String]) async throws -> String {
            try await Tools.run("grpcurl", ["-plaintext"] + arguments).output
        }
        let address = "127.0.0.1:\(world.port)"
        let services = try await grpcurl([address, "list"]).split(separator: "\n").map(String.init)
        #expect(
            services == [
                "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection", "grpc.testing.TestService", "tapedeck.test.Async",
            ])
        let described = try await grpcurl([address, "describe", "grpc.testing.TestService"])
        #expect(described.contains("rpc FullDuplexCall ( stream .grpc.testing.StreamingOutputCallRequest )"))
        #expect(try await grpcurl([address, "describe", "grpc.testing.Payload.body"]).contains("bytes body = 2;"))
        let service = address + " grpc.testing.TestService/"
        func call(_ method: String, _ data: String) async throws -> String {
            let parts = (service + method).split(separator: " ").map(String.init)
            return try await grpcurl(["-d", data] + parts).filter { !$0.isWhitespace }
        }
        #expect(try await call("UnaryCall", #"{"responseSize":3}"#) == #"{"payload":{"body":"AAAA"}}"#)
        #expect(
            try await call("StreamingOutputCall", #"{"responseParameters":[{"size":3},{"size":0}]}"#)
                == #"{"payload":{"body":"AAAA"}}{"payload":{}}"#)
        #expect(
            try await call("StreamingInputCall", #"{"payload":{"body":"AAAA"}}{"payload":{"body":"AA=="}}"#)
                == #"{"aggregatedPayloadSize":4}"#)
        #expect(
            try await call("FullDuplexCall", #"{"responseParameters":[{"size":3}]}{"responseParameters":[{"size":3}]}"#)
                == #"{"payload":{"body":"AAAA"}}{"payload":{"body":"AAAA"}}"#)
        let unknown = try await Tools.run("grpcurl", ["-plaintext", address, "describe", "grpc.testing.Nothing"])
        #expect(unknown.status != 0)
    }

    @Test func `grpc_health_probe follows what the owner says`() async throws {
        let world = try StreamingWorld()
        defer { world.stop() }
        func probe(_ service: String) async throws -> Int32 {
            try await Tools.run("grpc_health_probe", ["-addr", "127.0.0.1:\(world.port)", "-service", service]).status
        }
        #expect(try await probe("") == 0)
        #expect(try await probe("tapedeck.test.Async") != 0)
        world.health.set(.serving, service: "tapedeck.test.Async")
        #expect(try await probe("tapedeck.test.Async") == 0)
        world.health.set(.notServing, service: "tapedeck.test.Async")
        #expect(try await probe("tapedeck.test.Async") == 4)
    }
}
