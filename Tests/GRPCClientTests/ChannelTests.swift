import EventLoop
import HTTP2
import Simulation
import Synchronization
import TestSupport
import Testing

@testable import GRPC

/// A channel against servers on this machine.
@Suite(.timeLimit(.minutes(1)))
struct ChannelTests {
    /// Returns once the condition holds, or after the time: the test then fails by what it finds.
    static func wait(seconds: Int = 20, _ condition: () -> Bool) async {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(seconds)
        while !condition(), clock.now < end { await Task.yield() }
    }

    /// Options that try again at once, so that a test need not wait.
    static func quick(_ change: (inout GRPCChannelOptions) -> Void = { _ in }) -> GRPCChannelOptions {
        var options = GRPCChannelOptions()
        options.seed = 1
        options.backoff.initialMilliseconds = 10
        options.backoff.maxMilliseconds = 50
        options.resolutionPauseMilliseconds = 10
        options.resolutionIntervalMilliseconds = 50
        options.calls.timeoutMilliseconds = 20_000
        change(&options)
        return options
    }

    private static func echo(
        _ channel: GRPCChannel, _ text: String = "hello", _ method: String = "Echo", options: GRPCCallOptions? = nil
    ) async -> GRPCChannel.Answer {
        await channel.unary(path: EchoServer.service + method, request: Array(text.utf8), options: options)
    }

    @Test func `A unary call brings message, metadata and status`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        var options = GRPCCallOptions(timeoutMilliseconds: 5000)
        options.metadata.add("x-name", "value")
        options.metadata.add("x-bytes-bin", binary: [0, 255, 7])
        options.metadata.add("grpc-timeout", "1n")
        let answer = await ChannelTests.echo(channel, options: options)
        #expect(answer.status == .ok)
        #expect(answer.message == Array("hello".utf8))
        #expect(answer.metadata.value("x-name") == "value")
        #expect(answer.metadata.binary("x-bytes-bin") == [0, 255, 7])
        let large = [UInt8](repeating: 7, count: (16 << 20) + 1)
        let refused = await channel.unary(path: EchoServer.service + "Echo", request: large)
        #expect(refused.status.code == .resourceExhausted)
        #expect(await ChannelTests.echo(channel, "", "NoSuchMethod").status.code == .unimplemented)
    }

    @Test func `A deadline ends the call on both sides, also while nothing is connected`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        let late = await ChannelTests.echo(channel, "", "Never", options: GRPCCallOptions(timeoutMilliseconds: 60))
        #expect(late.status.code == .deadlineExceeded)
        await ChannelTests.wait { server.counters.ended.load(ordering: .relaxed) == 1 }
        #expect(server.counters.ended.load(ordering: .relaxed) == 1)
        let nowhere = try GRPCChannel(target: "127.0.0.1:1", options: ChannelTests.quick())
        defer { nowhere.close() }
        var waiting = GRPCCallOptions(timeoutMilliseconds: 60)
        waiting.waitsForReady = true
        let waited = await ChannelTests.echo(nowhere, options: waiting).status
        #expect(waited.code == .deadlineExceeded && waited.message.contains("refused"))
        #expect(await ChannelTests.echo(nowhere).status.code == .unavailable)
    }

    @Test func `Cancelling the task reaches the server`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        let task = Task { await ChannelTests.echo(channel, "", "Never") }
        await ChannelTests.wait { server.counters.calls.load(ordering: .relaxed) == 1 }
        task.cancel()
        #expect(await task.value.status.code == .cancelled)
        await ChannelTests.wait { server.counters.ended.load(ordering: .relaxed) == 1 }
        #expect(server.counters.ended.load(ordering: .relaxed) == 1)
    }

    @Test func `A stream that nobody reads stops the server, and goes on where it was`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        let count = 20_000
        let stream = channel.stream(path: EchoServer.service + "Count")
        await stream.send(Array("\(count)".utf8))
        stream.halfClose()
        #expect(try await stream.metadata().value("x-stream") == "count")
        // Others on the connection are served while the stream stands still, many times over its window.
        for _ in 0..<50 {
            let large = [UInt8](repeating: 1, count: 1 << 20)
            let answer = await channel.unary(path: EchoServer.service + "Echo", request: large)
            #expect(answer.message == large)
        }
        #expect(server.counters.ended.load(ordering: .relaxed) == 0)
        var next = 0
        var largest = 0
        while let frames = try await stream.nextFrames() {
            largest = max(largest, frames.count)
            frames.withUnsafeBytes { bytes in
                for message in MessageSequence(frames: bytes) {
                    if NumberSource.number(message) != next {
                        Issue.record("\(NumberSource.number(message)) at \(next)")
                    }
                    next += 1
                }
            }
        }
        #expect(next == count)
        #expect(largest <= (2 << 20))
        #expect(stream.end?.status == .ok)
    }

    @Test func `A stream that is let go of is cancelled`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        do {
            let stream = channel.stream(path: EchoServer.service + "Count")
            await stream.send(Array("-1".utf8))
            stream.halfClose()
            #expect(try await stream.nextFrames() != nil)
        }
        await ChannelTests.wait { server.counters.ended.load(ordering: .relaxed) == 1 }
        #expect(server.counters.ended.load(ordering: .relaxed) == 1)
    }

    @Test func `Calls that wait until ready live through a restart; others are told`() async throws {
        let first = try EchoServer(port: ToolServer.freePort())
        let channel = try GRPCChannel(target: "127.0.0.1:\(first.port)", options: ChannelTests.quick())
        defer { channel.close() }
        #expect(await ChannelTests.echo(channel).status == .ok)
        first.stop()
        await ChannelTests.wait { first.server.connectionCount == 0 }
        var status = GRPCStatus.ok
        while status.isOK { status = await ChannelTests.echo(channel).status }
        #expect(status.code == .unavailable)
        var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
        options.waitsForReady = true
        async let answer = ChannelTests.echo(channel, options: options)
        let second = try EchoServer(port: first.port)
        defer { second.stop() }
        #expect(await answer.status == .ok)
    }

    @Test func `A connection cut in a stream ends it as unavailable, and the next call connects again`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let proxy = try CuttingProxy(to: server.port)
        defer { proxy.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(proxy.port)", options: ChannelTests.quick())
        defer { channel.close() }
        for bytes in [1, 9, 60, 100, 5000, 100_000] {
            proxy.cut(afterBytes: bytes)
            proxy.cut()
            var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
            // With fewer bytes no connection is ever ready.
            options.waitsForReady = bytes >= 5000
            let stream = channel.stream(path: EchoServer.service + "Count", options: options)
            let ended = await #expect(throws: GRPCStatus.self) {
                await stream.send(Array("-1".utf8))
                stream.halfClose()
                while try await stream.nextFrames() != nil {}
            }
            #expect(ended?.code == .unavailable)
        }
        proxy.cut(afterBytes: nil)
        var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
        options.waitsForReady = true
        options.retry = GRPCRetryPolicy()
        #expect(await ChannelTests.echo(channel, options: options).status == .ok)
    }

    @Test func `A server that falls silent is given up by keepalive`() async throws {
        var configuration = GRPCServerConfiguration()
        configuration.http2.pingGapMillisecondsMin = 0
        let server = try EchoServer(configuration)
        defer { server.stop() }
        let proxy = try CuttingProxy(to: server.port)
        defer { proxy.stop() }
        let options = ChannelTests.quick {
            $0.connection.http2.keepaliveMilliseconds = 50
            $0.connection.http2.keepaliveTimeoutMilliseconds = 50
        }
        let channel = try GRPCChannel(target: "127.0.0.1:\(proxy.port)", options: options)
        defer { channel.close() }
        #expect(await ChannelTests.echo(channel).status == .ok)
        async let never = ChannelTests.echo(channel, "", "Never")
        await ChannelTests.wait { server.counters.calls.load(ordering: .relaxed) == 2 }
        proxy.mute(true)
        #expect(await never.status.code == .unavailable)
    }

    @Test func `An answer of a method that may be repeated is retried as the policy says`() async throws {
        let busy = GRPCStatus(.unavailable, "busy")
        let server = try EchoServer(flaky: [busy, busy])
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
        var policy = GRPCRetryPolicy()
        policy.backoff.initialMilliseconds = 1
        options.retry = policy
        let answer = await ChannelTests.echo(channel, "again", "Flaky", options: options)
        #expect(answer.status == .ok)
        #expect(answer.message == Array("again".utf8))
        #expect(server.counters.calls.load(ordering: .relaxed) == 3)
    }

    @Test(arguments: [
        (GRPCStatus.Code.internalError, String?.none, 1), (.unavailable, nil, 4), (.unavailable, "-1", 1),
        (.resourceExhausted, nil, 1), (.resourceExhausted, "1", 4),
    ])
    func `What may not be retried is not`(_ code: GRPCStatus.Code, _ pushback: String?, _ attempts: Int) async throws {
        let failures = [GRPCStatus](repeating: GRPCStatus(code, "no"), count: 10)
        let server = try EchoServer(flaky: failures, pushback: pushback)
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        var options = GRPCCallOptions(timeoutMilliseconds: 20_000)
        var policy = GRPCRetryPolicy()
        policy.backoff.initialMilliseconds = 1
        options.retry = policy
        #expect(await ChannelTests.echo(channel, "x", "Flaky", options: options).status.code == code)
        #expect(server.counters.calls.load(ordering: .relaxed) == attempts)
        options.retry = nil
        #expect(await ChannelTests.echo(channel, "x", "Flaky", options: options).status.code == code)
        #expect(server.counters.calls.load(ordering: .relaxed) == attempts + 1)
    }

    @Test func `A hedged call takes the second answer when the first is slow, and cancels the loser`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        defer { channel.close() }
        var options = GRPCCallOptions(timeoutMilliseconds: 30_000)
        options.hedging = GRPCHedgingPolicy(delayMilliseconds: 20)
        let answer = await ChannelTests.echo(channel, "25000 1", "Slow", options: options)
        #expect(answer.status == .ok)
        #expect(answer.message == Array("2".utf8))
        await ChannelTests.wait { server.counters.ended.load(ordering: .relaxed) == 2 }
        #expect(server.counters.ended.load(ordering: .relaxed) == 2)
        // One that is fast enough is made once.
        options.hedging = GRPCHedgingPolicy(delayMilliseconds: 10_000)
        #expect(await ChannelTests.echo(channel, "0 0 0", "Slow", options: options).message == Array("3".utf8))
    }

    @Test func `A closed channel ends its calls and takes no more`() async throws {
        let server = try EchoServer()
        defer { server.stop() }
        let channel = try GRPCChannel(target: "127.0.0.1:\(server.port)", options: ChannelTests.quick())
        async let never = ChannelTests.echo(channel, "", "Never")
        await ChannelTests.wait { server.counters.calls.load(ordering: .relaxed) == 1 }
        channel.close()
        #expect(await never.status.code == .cancelled)
        await ChannelTests.wait { server.server.connectionCount == 0 }
        #expect(server.server.connectionCount == 0)
    }
}
