import GRPC
import Protobuf
import TestSupport
import Testing

/// The client against grpc-go, case by case of
/// https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md.
@Suite(.enabled(if: SharedData.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(1)))
struct InteropTests {
    private typealias Service = Interop.TestService

    /// Runs a case on a channel of its own.
    private func run(_ body: (GRPCChannel) async throws -> Void) async throws {
        let server = try await ToolServer.start("grpc-interop-server") { ["-port", "\($0)"] }
        defer { server.stop() }
        var options = ChannelTests.quick()
        options.calls.waitsForReady = true
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
        defer { channel.close() }
        try await body(channel)
    }

    private static func payload(_ size: Int) -> Interop.Payload {
        var payload = Interop.Payload()
        payload.body = [UInt8](repeating: 0, count: size)
        return payload
    }

    private static func output(_ sizes: [Int], payload: Int) -> Interop.StreamingOutputCallRequest {
        var request = Interop.StreamingOutputCallRequest()
        request.responseParameters = sizes.map { size in
            var parameters = Interop.ResponseParameters()
            parameters.size = Int32(size)
            return parameters
        }
        request.payload = InteropTests.payload(payload)
        return request
    }

    private static let responseSizes = [31_415, 9, 2653, 58_979]
    private static let requestSizes = [27_182, 8, 1828, 45_904]

    @Test func `empty_unary, large_unary, server_streaming, client_streaming`() async throws {
        try await run { channel async throws in
            let client = Interop.TestServiceClient(channel)
            #expect(try await client.emptyCall(Interop.Empty()) == Interop.Empty())
            var large = Interop.SimpleRequest()
            large.responseSize = 314_159
            large.payload = InteropTests.payload(271_828)
            #expect(try await client.unaryCall(large).payload?.body.count == 314_159)
            var sizes: [Int] = []
            let request = InteropTests.output(InteropTests.responseSizes, payload: 0)
            for try await response in client.streamingOutputCall(request) {
                sizes.append(response.payload?.body.count ?? -1)
            }
            #expect(sizes == InteropTests.responseSizes)
            let requests = AsyncStream<Interop.StreamingInputCallRequest> { continuation in
                for size in InteropTests.requestSizes {
                    var request = Interop.StreamingInputCallRequest()
                    request.payload = InteropTests.payload(size)
                    continuation.yield(request)
                }
                continuation.finish()
            }
            #expect(try await client.streamingInputCall(requests).aggregatedPayloadSize == 74_922)
            // More than waits anywhere on the way, before the server answers.
            let many = AsyncStream<Interop.StreamingInputCallRequest> { continuation in
                for _ in 0..<300 {
                    var request = Interop.StreamingInputCallRequest()
                    request.payload = InteropTests.payload(10_000)
                    continuation.yield(request)
                }
                continuation.finish()
            }
            #expect(try await client.streamingInputCall(many).aggregatedPayloadSize == 3_000_000)
        }
    }

    @Test func `ping_pong, empty_stream`() async throws {
        try await run { channel async throws in
            let stream = channel.typedStream(Service.fullDuplexCall)
            for (response, request) in zip(InteropTests.responseSizes, InteropTests.requestSizes) {
                await stream.send(InteropTests.output([response], payload: request))
                #expect(try await stream.next()?.payload?.body.count == response)
            }
            stream.halfClose()
            #expect(try await stream.next() == nil)
            let nothing = AsyncStream<Interop.StreamingOutputCallRequest> { $0.finish() }
            for try await _ in Interop.TestServiceClient(channel).fullDuplexCall(nothing) {
                Issue.record("an answer to nothing")
            }
        }
    }

    @Test func `cancel_after_begin, cancel_after_first_response, timeout_on_sleeping_server`() async throws {
        try await run { channel async throws in
            let begun = channel.typedStream(Service.streamingInputCall)
            begun.cancel()
            #expect(await #expect(throws: GRPCStatus.self) { try await begun.next() }?.code == .cancelled)
            let stream = channel.typedStream(Service.fullDuplexCall)
            await stream.send(InteropTests.output([31_415], payload: 27_182))
            #expect(try await stream.next()?.payload?.body.count == 31_415)
            stream.cancel()
            #expect(await #expect(throws: GRPCStatus.self) { try await stream.next() }?.code == .cancelled)
            let late = channel.typedStream(Service.fullDuplexCall, options: GRPCCallOptions(timeoutMilliseconds: 1))
            let status = await #expect(throws: GRPCStatus.self) {
                await late.send(InteropTests.output([], payload: 27_182))
                while try await late.next() != nil {}
            }
            #expect(status?.code == .deadlineExceeded)
        }
    }

    @Test func `status_code_and_message, special_status_message`() async throws {
        try await run { channel async throws in
            for text in ["test status message", "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"] {
                var wanted = Interop.EchoStatus()
                wanted.code = 2
                wanted.message = text
                var request = Interop.SimpleRequest()
                request.responseStatus = wanted
                let error = await #expect(throws: GRPCStatus.self) {
                    try await channel.unary(Service.unaryCall, request)
                }
                #expect(error == GRPCStatus(.unknown, text))
                let stream = channel.typedStream(Service.fullDuplexCall)
                var streamed = Interop.StreamingOutputCallRequest()
                streamed.responseStatus = wanted
                await stream.send(streamed)
                stream.halfClose()
                #expect(
                    await #expect(throws: GRPCStatus.self) { try await stream.next() } == GRPCStatus(.unknown, text))
            }
        }
    }

    @Test func `custom_metadata`() async throws {
        try await run { channel async throws in
            var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
            options.waitsForReady = true
            options.metadata.add("x-grpc-test-echo-initial", "test_initial_metadata_value")
            options.metadata.add("x-grpc-test-echo-trailing-bin", binary: [0xab, 0xab, 0xab])
            var request = Interop.SimpleRequest()
            request.responseSize = 314_159
            request.payload = InteropTests.payload(271_828)
            let answer = await channel.unary(
                path: Service.unaryCall.path, request: request.encodedBytes(), options: options)
            #expect(answer.status == .ok)
            #expect(answer.metadata.value("x-grpc-test-echo-initial") == "test_initial_metadata_value")
            #expect(answer.trailers.binary("x-grpc-test-echo-trailing-bin") == [0xab, 0xab, 0xab])
            let stream = channel.typedStream(Service.fullDuplexCall, options: options)
            await stream.send(InteropTests.output([314_159], payload: 271_828))
            #expect(
                try await stream.stream.metadata().value("x-grpc-test-echo-initial") == "test_initial_metadata_value")
            #expect(try await stream.next()?.payload?.body.count == 314_159)
            stream.halfClose()
            #expect(try await stream.next() == nil)
            #expect(stream.stream.end?.trailers.binary("x-grpc-test-echo-trailing-bin") == [0xab, 0xab, 0xab])
        }
    }

    @Test func `unimplemented_method, unimplemented_service`() async throws {
        try await run { channel async throws in
            let method = await #expect(throws: GRPCStatus.self) {
                try await channel.unary(Service.unimplementedCall, Interop.Empty())
            }
            #expect(method?.code == .unimplemented)
            let service = await #expect(throws: GRPCStatus.self) {
                try await channel.unary(Interop.UnimplementedService.unimplementedCall, Interop.Empty())
            }
            #expect(service?.code == .unimplemented)
        }
    }

    @Test func `rpc_soak, channel_soak`() async throws {
        let server = try await ToolServer.start("grpc-interop-server") { ["-port", "\($0)"] }
        defer { server.stop() }
        var large = Interop.SimpleRequest()
        large.responseSize = 314_159
        large.payload = InteropTests.payload(271_828)
        var options = ChannelTests.quick()
        options.calls.waitsForReady = true
        for (channels, calls) in [(1, 40), (10, 1)] {
            for _ in 0..<channels {
                let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
                defer { channel.close() }
                try await withThrowingTaskGroup(of: Int?.self) { group in
                    for _ in 0..<calls {
                        group.addTask { [large] in
                            try await Interop.TestServiceClient(channel).unaryCall(large).payload?.body.count
                        }
                    }
                    for try await count in group { #expect(count == 314_159) }
                }
            }
        }
    }

    /// grpc-go's health service, in a program of ours that has one.
    @Test func `A server of grpc-go that says it serves is used, and one that knows nothing of the service is not`()
        async throws
    {
        let http = try ToolServer.freePort()
        let server = try await ToolServer.start("otlp-sink") {
            ["-grpc", "127.0.0.1:\($0)", "-http", "127.0.0.1:\(http)"]
        }
        defer { server.stop() }
        for (service, code) in [("", GRPCStatus.Code.unimplemented), ("no.such.Service", .unavailable)] {
            let options = ChannelTests.quick { $0.healthService = service }
            let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: options)
            defer { channel.close() }
            let status = await channel.unary(path: "/no.such.Service/Method", request: []).status
            #expect(status.code == code, "\(status)")
        }
    }
}
