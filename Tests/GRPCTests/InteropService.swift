import GRPC
import Protobuf

/// `grpc.testing.TestService`, what gRPC's interoperability tests call, in the async form.
struct InteropService: InteropProto.TestServiceHandler {
    func emptyCall(_ request: InteropProto.Empty) async throws -> InteropProto.Empty {
        try echoMetadata()
        return InteropProto.Empty()
    }

    func unaryCall(_ request: InteropProto.SimpleRequest) async throws -> InteropProto.SimpleResponse {
        try echoMetadata()
        try InteropService.check(request.responseStatus)
        var response = InteropProto.SimpleResponse()
        response.payload = try InteropService.payload(request.responseSize)
        if request.fillServerId { response.serverId = "tapedeck" }
        return response
    }

    func streamingOutputCall(
        _ request: InteropProto.StreamingOutputCallRequest,
        _ responses: RPCResponses<InteropProto.StreamingOutputCallResponse>
    ) async throws {
        try echoMetadata()
        try await answer(request, responses)
    }

    func streamingInputCall(
        _ requests: RPCRequests<InteropProto.StreamingInputCallRequest>
    ) async throws -> InteropProto.StreamingInputCallResponse {
        try echoMetadata()
        var response = InteropProto.StreamingInputCallResponse()
        for try await request in requests { response.aggregatedPayloadSize += Int32(request.payload?.body.count ?? 0) }
        return response
    }

    func fullDuplexCall(
        _ requests: RPCRequests<InteropProto.StreamingOutputCallRequest>,
        _ responses: RPCResponses<InteropProto.StreamingOutputCallResponse>
    ) async throws {
        try echoMetadata()
        for try await request in requests { try await answer(request, responses) }
    }

    private func answer(
        _ request: InteropProto.StreamingOutputCallRequest,
        _ responses: RPCResponses<InteropProto.StreamingOutputCallResponse>
    ) async throws {
        try InteropService.check(request.responseStatus)
        for parameters in request.responseParameters {
            var response = InteropProto.StreamingOutputCallResponse()
            response.payload = try InteropService.payload(parameters.size)
            try await responses.write(response)
        }
    }

    private static func check(_ status: InteropProto.EchoStatus?) throws {
        guard let status, status.code != 0 else { return }
        throw GRPCStatus(GRPCStatus.Code(rawValue: Int(status.code)), status.message)
    }

    private static func payload(_ size: Int32) throws -> InteropProto.Payload {
        guard size >= 0 else { throw GRPCStatus(.invalidArgument, "a payload of \(size) bytes") }
        var payload = InteropProto.Payload()
        payload.body = [UInt8](repeating: 0, count: Int(size))
        return payload
    }

    private func echoMetadata() throws {
        guard let context = GRPCCallContext.current else { throw GRPCStatus(.internalError, "no call") }
        var headers = GRPCMetadata()
        for value in context.metadata.values("x-grpc-test-echo-initial") {
            headers.add("x-grpc-test-echo-initial", value)
        }
        context.setResponseMetadata(headers)
        var trailers = GRPCMetadata()
        for value in context.metadata.binaries("x-grpc-test-echo-trailing-bin") {
            trailers.add("x-grpc-test-echo-trailing-bin", binary: value)
        }
        context.setTrailers(trailers)
    }
}
