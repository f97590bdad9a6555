import EventLoop
import GRPC
import Testing

/// A connection keeps what it made of a request's head for when the same comes again: it must not be taken for another.
struct RepeatedHeadTests {
    private struct Call: Sendable {
        var method = "Unary"
        var metadata: [String] = []
        var timeout: Int?
        var code = GRPCStatus.Code.ok
    }

    @Test func `Calls of one connection are told their own heads, in any order`() async throws {
        let server = try TestServer(loops: 1)
        defer { server.stop() }
        let loop = EventLoop(name: "client")
        defer { loop.stop() }
        let calls: [Call] = [
            Call(metadata: ["1"]), Call(metadata: ["1"]), Call(metadata: ["2"]), Call(), Call(),
            Call(metadata: ["1", "2"]), Call(metadata: ["1", "2"]), Call(metadata: ["1"]),
            Call(method: "Fail", metadata: ["1"], code: .failedPrecondition), Call(metadata: ["1"]),
            Call(method: "Nothing", code: .unimplemented), Call(method: "Nothing", code: .unimplemented), Call(),
            Call(timeout: 60_000), Call(), Call(method: "Never", timeout: 1, code: .deadlineExceeded), Call(),
            Call(metadata: Array(repeating: "many", count: 40)), Call(metadata: Array(repeating: "many", count: 41)),
            Call(metadata: Array(repeating: "many", count: 41)), Call(),
            Call(metadata: [String(repeating: "long", count: 1500)]), Call(metadata: ["1"]), Call(metadata: ["1"]),
        ]
        let opened = await withCheckedContinuation { opened in
            loop.execute {
                GRPCClientConnection.connect(
                    host: "127.0.0.1", port: server.port, loop: loop,
                    opened: { result in opened.resume(returning: result.map { LoopConfined($0) }) }, closed: { _ in })
            }
        }
        let connection = try opened.get()
        for (number, call) in calls.enumerated() {
            var metadata = GRPCMetadata()
            for value in call.metadata { metadata.add("x-a", value) }
            let sent = metadata
            let result = await withCheckedContinuation { done in
                loop.execute {
                    let owner = CollectedCall(done)
                    owner.call = connection.value.call(
                        path: TestServer.service + call.method, request: [UInt8(number)], metadata: sent,
                        timeoutMilliseconds: call.timeout, owner: owner)
                }
            }
            #expect(result.status?.code == call.code, "call \(number)")
            guard call.code == .ok else { continue }
            #expect(result.messages == [[UInt8(number)]])
            #expect(result.metadata.entries.filter { $0.name == "x-a" }.map(\.value) == call.metadata, "call \(number)")
        }
        loop.execute { connection.value.close() }
    }
}
