import EventLoop
import Foundation
import HTTP2
import Protobuf
import TestSupport
import Testing

@testable import GRPC

/// `grpc-status-details-bin` as it is on a connection, and as gRPC for Python writes and reads it.
@Suite(.timeLimit(.minutes(1)))
struct StatusDetailsTests {
    private static let path = "/tapedeck.test.Details/Fail"
    private static let stringType = "type.googleapis.com/google.protobuf.StringValue"

    /// One packed `google.protobuf.StringValue`.
    private static let detail: WellKnown.AnyMessage = {
        var detail = WellKnown.AnyMessage()
        detail.typeUrl = stringType
        detail.value = [10, 4] + Array("AAPL".utf8)
        return detail
    }()

    /// Fails each call with the request's text and one detail.
    private final class DetailServer: Sendable {
        private let server: GRPCServer
        let port: Int

        init() throws {
            server = GRPCServer(
                group: EventLoopGroup(count: 1), configuration: GRPCServerConfiguration(),
                makeService: { _ in
                    var table = GRPCServiceTable()
                    table.register(
                        path: StatusDetailsTests.path,
                        unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                            let status = GRPCStatus(.notFound, String(decoding: request, as: UTF8.self))
                            var trailers = GRPCMetadata()
                            trailers.addDetails([StatusDetailsTests.detail], of: status)
                            call.fail(status, trailers: trailers)
                        })
                    return table
                })
            port = try server.listen(host: "127.0.0.1", port: 0).port
        }

        /// Ends it on a thread of its own: to wait would hold one of the few that async tests have.
        func stop() {
            let server = server
            Thread.detachNewThread { server.shutdown(withinMilliseconds: 2000) }
        }
    }

    /// Of one, two and no bytes beyond a multiple of three: what base64 pads, and gRPC does not.
    @Test(arguments: [
        (
            "no such thing",
            "CAUSDW5vIHN1Y2ggdGhpbmcaOQovdHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucHJvdG9idWYuU3RyaW5nVmFsdWUSBgoEQUFQTA"
        ),
        (
            "no such thing!",
            "CAUSDm5vIHN1Y2ggdGhpbmchGjkKL3R5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnByb3RvYnVmLlN0cmluZ1ZhbHVlEgYKBEFBUEw"
        ),
        (
            "no such thing!!",
            "CAUSD25vIHN1Y2ggdGhpbmchIRo5Ci90eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5wcm90b2J1Zi5TdHJpbmdWYWx1ZRIGCgRBQVBM"
        ),
    ])
    func `The trailer is base64 without padding`(_ text: String, _ expected: String) async throws {
        let server = try DetailServer()
        defer { server.stop() }
        let call = RawCall(loop: EventLoop(name: "client"))
        try call.start(port: server.port, headers: RawCall.headers(StatusDetailsTests.path))
        call.send(MessageFrame.make(Array(text.utf8)), ends: true)
        let answer = await call.end()
        #expect(answer.status == "5")
        let values = (answer.headers + answer.trailers).filter { $0.name == "grpc-status-details-bin" }.map(\.value)
        #expect(values == [expected])
        #expect((answer.headers + answer.trailers).first { $0.name == "grpc-message" }?.value == text)
    }

    @Test func `This client reads them from a connection as they were`() async throws {
        let server = try DetailServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)")
        defer { channel.close() }
        let answer = await channel.unary(path: StatusDetailsTests.path, request: Array("nothing".utf8))
        #expect(answer.status == GRPCStatus(.notFound, "nothing"))
        #expect(answer.trailers.statusDetails == [StatusDetailsTests.detail])
    }

    /// The messages that the details are made of, in another implementation: `details.py FOLDER ROLE PORT`.
    private static let script = """
        import os, sys, grpc, grpc_tools
        from concurrent import futures
        from grpc_tools import protoc

        folder, role, port = sys.argv[1:4]
        with open(os.path.join(folder, "status_details.proto"), "w") as file:
            file.write('syntax = "proto3"; package google.rpc; import "google/protobuf/any.proto"; message Status {'
                       'int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }')
        include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
        assert protoc.main(["protoc", "-I" + folder, "-I" + include, "--python_out=" + folder,
                            "status_details.proto"]) == 0
        sys.path.insert(0, folder)
        import status_details_pb2 as rpc
        from google.protobuf.wrappers_pb2 import StringValue

        NAME = "grpc-status-details-bin"
        if role == "read":
            channel = grpc.insecure_channel("127.0.0.1:" + port)
            call = channel.unary_unary("/tapedeck.test.Details/Fail", lambda bytes: bytes, lambda bytes: bytes)
            for text in ["a", "ab", "abc"]:
                try:
                    call(text.encode(), timeout=30)
                    assert False
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.NOT_FOUND and error.details() == text, error
                    values = [value for key, value in error.trailing_metadata() if key == NAME]
                    assert len(values) == 1, values
                    status = rpc.Status.FromString(values[0])
                    assert (status.code, status.message, len(status.details)) == (5, text, 1), status
                    value = StringValue()
                    assert status.details[0].Unpack(value) and value.value == "AAPL", status
            print("read")
            sys.exit(0)

        class Fail(grpc.GenericRpcHandler):
            def service(self, details):
                def fail(request, context):
                    status = rpc.Status(code=5, message=request.decode())
                    status.details.add().Pack(StringValue(value="AAPL"))
                    context.set_trailing_metadata(((NAME, status.SerializeToString()),))
                    context.abort(grpc.StatusCode.NOT_FOUND, request.decode())
                return grpc.unary_unary_rpc_method_handler(fail)

        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Fail()])
        server.add_insecure_port("127.0.0.1:" + port)
        server.start()
        server.wait_for_termination()
        """

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `gRPC for Python reads them`() async throws {
        let server = try DetailServer()
        defer { server.stop() }
        let folder = try TemporaryFolder()
        let script = try folder.write("details.py", Array(Self.script.utf8))
        let ended = try await Tools.run(
            program: Checkout.python, [script, folder.path, "read", "\(server.port)"])
        #expect(ended.status == 0 && ended.output == "read\n", "\(ended.output)")
    }

    @Test(.enabled(if: Checkout.hasPython, "no .venv"))
    func `Those of gRPC for Python are read`() async throws {
        let folder = try TemporaryFolder()
        let script = try folder.write("details.py", Array(Self.script.utf8))
        let path = folder.path
        let server = try await ToolServer.python { [script, path, "serve", "\($0)"] }
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)")
        defer { channel.close() }
        var options = GRPCCallOptions()
        options.waitsForReady = true
        for text in ["a", "ab", "abc"] {
            let answer = await channel.unary(path: Self.path, request: Array(text.utf8), options: options)
            #expect(answer.status == GRPCStatus(.notFound, text))
            #expect(answer.trailers.statusDetails == [Self.detail])
        }
    }
}
