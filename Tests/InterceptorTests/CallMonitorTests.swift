import GRPC
import Synchronization
import Testing

@testable import Observability

/// What is counted, kept and written of calls, over real connections.
@Suite(.timeLimit(.minutes(1)))
struct CallMonitorTests {
    /// Waits until no call is open: the server hears of an end a little later than the client.
    private func settled(_ server: GuardedServer) async {
        while await !server.monitor.calls().isEmpty { await Task.yield() }
    }

    @Test func `Calls are counted by method and code when they begin, pass and end`() async throws {
        let server = try GuardedServer(loops: 2)
        defer { server.stop() }
        for _ in 0..<10 { #expect(await TestCall(server, "Get").end().status.isOK) }
        #expect(await TestCall(server, "Fail").end().status.code == .internalError)
        #expect(await TestCall(server, "Missing").end().status.code == .unimplemented)
        let stream = TestCall(server, "Watch")
        await stream.begun()
        #expect(server.metric("grpc_server_started_total", method: "Watch") == 1)
        #expect(server.metric("grpc_server_handled_total", method: "Watch", code: "Canceled") == 0)
        stream.cancel()
        await settled(server)
        #expect(server.metric("grpc_server_handled_total", method: "Watch", code: "Canceled") == 1)
        #expect(server.metric("grpc_server_msg_sent_total", method: "Watch") == 1)
        #expect(server.metric("grpc_server_started_total", method: "Get") == 10)
        #expect(server.metric("grpc_server_handled_total", method: "Get", code: "OK") == 10)
        #expect(server.metric("grpc_server_msg_received_total", method: "Get") == 10)
        #expect(server.metric("grpc_server_msg_sent_total", method: "Get") == 10)
        #expect(server.metric("grpc_server_handled_total", method: "Fail", code: "Internal") == 1)
        let methods = Set(server.metrics.collect()[0].samples.map { $0.labels[2] })
        #expect(methods == ["Get", "Fail", "Watch"])
    }

    @Test func `Open calls are listed with what they say of themselves, and one can be ended`() async throws {
        let server = try GuardedServer(loops: 2)
        defer { server.stop() }
        let streams = (0..<4).map { _ in TestCall(server, "Watch") }
        for stream in streams { await stream.begun() }
        let unary = TestCall(server, "Never")
        while await server.monitor.calls().count < 5 { await Task.yield() }
        let calls = await server.monitor.calls()
        #expect(Set(calls.map(\.id)).count == 5)
        #expect(calls.allSatisfy { $0.identity == "anonymous" && $0.peer == "127.0.0.1" && $0.ageMilliseconds >= 0 })
        let watching = calls.filter { $0.method == GuardedServer.service + "Watch" }
        #expect(watching.count == 4)
        #expect(watching.allSatisfy { $0.stream == StreamStatus(policy: "ALL", lagBytes: 7) && $0.sentBytes == 6 })
        let never = try #require(calls.first { $0.method == GuardedServer.service + "Never" })
        #expect(never.stream == nil && never.receivedBytes == 8)
        #expect(await server.monitor.end(never.id))
        let cut = await unary.end()
        #expect(cut.status.code == .unavailable)
        #expect(cut.trailers.value("tapedeck-end-reason") == "ENDED_BY_OPERATOR")
        #expect(await server.monitor.end(watching[0].id))
        while !streams.contains(where: \.isOver) { await Task.yield() }
        let over = streams.first(where: \.isOver)
        let ended = try #require(over)
        #expect(await ended.end().status.message == "ended with its token")
        #expect(streams.count { !$0.isOver } == 3)
        for wrong in [never.id, "", "x", "0", "0-", "0-x", "7-1", "-1-1", "0-99999999999999999999"] {
            #expect(await !server.monitor.end(wrong), "\(wrong)")
        }
        for stream in streams { stream.cancel() }
        await settled(server)
    }

    @Test func `A stream that does not end when an operator wants it to is cut`() async throws {
        let server = try GuardedServer()
        defer { server.stop() }
        let stream = TestCall(server, "Stubborn")
        await stream.begun()
        let calls = await server.monitor.calls()
        let call = try #require(calls.first)
        #expect(await server.monitor.end(call.id))
        let end = await stream.end()
        #expect(end.status.code == .unavailable && end.status.message == "an operator ended the call")
        #expect(end.trailers.value("tapedeck-end-reason") == "ENDED_BY_OPERATOR")
    }

    @Test func `The server's own deadline ends what takes longer, streams only if they have one`() async throws {
        let server = try GuardedServer(deadlines: CallDeadlines(unaryMilliseconds: 300))
        defer { server.stop() }
        let stream = TestCall(server, "Watch")
        await stream.begun()
        let end = await TestCall(server, "Never").end()
        #expect(end.status.code == .deadlineExceeded && end.status.message.contains("300 ms"))
        #expect(!stream.isOver)
        let short = try GuardedServer(deadlines: CallDeadlines(unaryMilliseconds: 0, streamMilliseconds: 300))
        defer { short.stop() }
        let unary = TestCall(short, "Never")
        #expect(await TestCall(short, "Watch").end().status.code == .deadlineExceeded)
        #expect(!unary.isOver)
        unary.cancel()
        stream.cancel()
    }

    @Test func `Each of the calls that begin one after the other has the whole time, and then ends`() async throws {
        let server = try GuardedServer(
            deadlines: CallDeadlines(unaryMilliseconds: 600, streamMilliseconds: 3_600_000))
        defer { server.stop() }
        let stream = TestCall(server, "Watch")
        await stream.begun()
        for _ in 0..<2 {
            let began = ContinuousClock.now
            let first = TestCall(server, "Never")
            while began.duration(to: .now) < .milliseconds(300) { await Task.yield() }
            let later = ContinuousClock.now
            let second = TestCall(server, "Never")
            #expect(await first.end().status.code == .deadlineExceeded)
            let firstTook = began.duration(to: .now)
            #expect(await second.end().status.code == .deadlineExceeded)
            let secondTook = later.duration(to: .now)
            // How much later is a matter of the machine: that they end at all is what a wrong deadline would spoil.
            for took in [firstTook, secondTook] { #expect(took >= .milliseconds(600), "\(took)") }
        }
        #expect(!stream.isOver)
        stream.cancel()
    }

    private func lines(_ server: GuardedServer) -> [String] {
        let lines = Mutex<[String]>([])
        server.log.write(to: Diagnostics(wallNs: { 0 }, write: { line in lines.withLock { $0.append(line) } }))
        return lines.withLock { $0 }
    }

    @Test func `A call gets a line with who, what, how it ended and its trace`() async throws {
        let server = try GuardedServer(successesPerSecond: 1)
        defer { server.stop() }
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        #expect(await TestCall(server, "Get", metadata: [("traceparent", trace)]).end().status.isOK)
        #expect(await TestCall(server, "Fail").end().status.code == .internalError)
        await settled(server)
        let lines = lines(server)
        try #require(lines.count == 2, "\(lines)")
        let match = lines[0].firstMatch(
            of: #/info call: ended method=(\S+) identity=anonymous peer=127.0.0.1 code=OK ms=[\d.]+ (.*)\n/#)
        let get = try #require(match)
        #expect(get.1 == GuardedServer.service + "Get")
        #expect(get.2 == "received_bytes=8 sent_bytes=8 trace=4bf92f3577b34da6a3ce929d0e0e4736")
        #expect(lines[1].contains("error call: INTERNAL: it broke method=") && !lines[1].contains("trace="))
        #expect(self.lines(server).isEmpty)
    }

    @Test func `Calls that go well are sampled, failures of the server all get a line`() async throws {
        let server = try GuardedServer(successesPerSecond: 0)
        defer { server.stop() }
        for _ in 0..<5 {
            #expect(await TestCall(server, "Get").end().status.isOK)
            #expect(await TestCall(server, "Fail").end().status.code == .internalError)
        }
        await settled(server)
        #expect(lines(server).count == 5)
    }
}
