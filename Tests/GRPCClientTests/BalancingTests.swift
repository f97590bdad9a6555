import EventLoop
import Synchronization
import Testing

@testable import GRPC

/// Names whose addresses a test decides.
final class ChangingNames: GRPCResolver {
    private let addresses = Mutex<[GRPCAddress]>([])
    let asked = Atomic<Int>(0)

    func set(_ servers: [EchoServer]) {
        addresses.withLock { $0 = servers.map { GRPCAddress(host: "127.0.0.1", port: $0.port) } }
    }

    func resolve(
        _ name: GRPCAddress, server: GRPCAddress?, loop: any Loop,
        _ done: @escaping (Result<[GRPCAddress], GRPCStatus>) -> Void
    ) {
        asked.add(1, ordering: .relaxed)
        let found = addresses.withLock { $0 }
        loop.afterTurn {
            done(found.isEmpty ? .failure(GRPCStatus(.unavailable, "no such name")) : .success(found))
        }
    }
}

/// Calls over several servers.
@Suite(.timeLimit(.minutes(1)))
struct BalancingTests {
    private static func counts(_ servers: [EchoServer]) -> [Int] {
        servers.map { $0.counters.calls.load(ordering: .relaxed) }
    }

    private static func channel(
        _ names: ChangingNames, _ change: (inout GRPCChannelOptions) -> Void = { _ in }
    ) throws -> GRPCChannel {
        let options = ChannelTests.quick {
            $0.resolver = names
            $0.calls.waitsForReady = true
            change(&$0)
        }
        return try GRPCChannel(target: "dns:///edge.test:1", options: options)
    }

    private static func echo(_ channel: GRPCChannel) async -> GRPCStatus {
        await channel.unary(path: EchoServer.service + "Echo", request: [1]).status
    }

    /// Makes so many calls from eight tasks; returns the statuses that are not OK.
    private static func load(_ channel: GRPCChannel, calls: Int) async -> [GRPCStatus] {
        await withTaskGroup(of: [GRPCStatus].self) { group in
            for _ in 0..<8 {
                group.addTask {
                    var failures: [GRPCStatus] = []
                    for _ in 0..<(calls / 8) {
                        let status = await echo(channel)
                        if !status.isOK { failures.append(status) }
                    }
                    return failures
                }
            }
            return await group.reduce(into: []) { $0 += $1 }
        }
    }

    @Test func `Three servers, then six, each get their share of the calls`() async throws {
        let servers = try (0..<6).map { _ in try EchoServer() }
        defer { for server in servers { server.stop() } }
        let names = ChangingNames()
        names.set(Array(servers.prefix(3)))
        let channel = try BalancingTests.channel(names)
        defer { channel.close() }
        #expect(await BalancingTests.load(channel, calls: 8) == [])
        for count in [3, 6] {
            names.set(Array(servers.prefix(count)))
            // The name is asked again by itself, and new servers are connected.
            await ChannelTests.wait { servers.prefix(count).allSatisfy { $0.server.connectionCount == 1 } }
            let before = BalancingTests.counts(servers)
            #expect(await BalancingTests.load(channel, calls: 1200) == [])
            let shares = zip(BalancingTests.counts(servers), before).map { $0.0 - $0.1 }.prefix(count)
            let fair = 1200 / count
            #expect(shares.allSatisfy { $0 >= fair * 8 / 10 && $0 <= fair * 12 / 10 }, "\(shares)")
        }
        // Servers that leave the name get no more calls, and lose none.
        names.set(Array(servers.suffix(2)))
        await ChannelTests.wait { servers.prefix(4).allSatisfy { $0.server.connectionCount == 0 } }
        let before = BalancingTests.counts(servers)
        #expect(await BalancingTests.load(channel, calls: 80) == [])
        #expect(BalancingTests.counts(servers).prefix(4) == before.prefix(4))
    }

    @Test func `pick_first stays with one server and goes to the next when it is gone`() async throws {
        let servers = try (0..<2).map { _ in try EchoServer() }
        defer { servers[1].stop() }
        let names = ChangingNames()
        names.set(servers)
        let channel = try BalancingTests.channel(names) { $0.balancing = .pickFirst }
        defer { channel.close() }
        #expect(await BalancingTests.load(channel, calls: 40) == [])
        #expect(BalancingTests.counts(servers) == [40, 0])
        servers[0].stop()
        await ChannelTests.wait { servers[0].server.connectionCount == 0 }
        var failures = 0
        while !(await BalancingTests.echo(channel).isOK) { failures += 1 }
        #expect(failures <= 1)
        #expect(await BalancingTests.load(channel, calls: 40) == [])
        #expect(BalancingTests.counts(servers)[1] >= 40)
    }

    @Test func `A server that drains loses no call: they go elsewhere, also those it refused`() async throws {
        let staying = try EchoServer()
        defer { staying.stop() }
        let names = ChangingNames()
        let first = try EchoServer()
        names.set([first, staying])
        let channel = try BalancingTests.channel(names)
        defer { channel.close() }
        #expect(await BalancingTests.load(channel, calls: 80) == [])
        let open = channel.stream(path: EchoServer.service + "Count")
        await open.send(Array("2000".utf8))
        open.halfClose()
        _ = try await open.metadata()
        async let failures = BalancingTests.load(channel, calls: 4000)
        async let stopped: Void = Self.drain(first)
        var received = 0
        while let frames = try await open.nextFrames() { received += frames.count / 1005 }
        #expect(received <= 2000)
        #expect(open.end?.status == .ok)
        #expect(await failures == [])
        await stopped
    }

    private static func drain(_ server: EchoServer) async {
        await withCheckedContinuation { continuation in
            let loop = EventLoop(name: "drain")
            loop.execute {
                server.server.shutdown(withinMilliseconds: 10_000)
                continuation.resume()
                loop.stop()
            }
        }
    }

    @Test func `Servers that say they do not serve get no calls until they do`() async throws {
        let healthy = try EchoServer()
        let sick = try EchoServer(serving: [false, true])
        let silent = try EchoServer(serving: [])
        defer { for server in [healthy, sick, silent] { server.stop() } }
        let names = ChangingNames()
        names.set([sick, healthy, silent])
        let channel = try BalancingTests.channel(names) { $0.healthService = "tapedeck.test.Client" }
        defer { channel.close() }
        // A server without the health service counts as serving.
        #expect(await BalancingTests.load(channel, calls: 80) == [])
        #expect(BalancingTests.counts([healthy])[0] > 0)
        await Self.call(channel) { sick.counters.calls.load(ordering: .relaxed) > 0 }
        #expect(BalancingTests.counts([sick])[0] > 0)
        #expect(BalancingTests.counts([silent]) == [0])
    }

    @Test func `A server's health service decides at any time whether it is used`() async throws {
        let health = GRPCHealth()
        let service = "tapedeck.test.Client"
        health.set(.notServing, service: service)
        let watched = try EchoServer(health: health)
        let other = try EchoServer()
        defer { for server in [watched, other] { server.stop() } }
        let names = ChangingNames()
        names.set([watched, other])
        let channel = try BalancingTests.channel(names) { $0.healthService = service }
        defer { channel.close() }
        #expect(await BalancingTests.load(channel, calls: 80) == [])
        #expect(BalancingTests.counts([watched, other]) == [0, 80])
        health.set(.serving, service: service)
        await Self.call(channel) { BalancingTests.counts([watched])[0] > 0 }
        #expect(BalancingTests.counts([watched])[0] > 0)
        health.set(.notServing, service: service)
        // Once it has heard, none of twenty calls in a row goes there.
        var last = -1
        await Self.call(
            channel,
            until: {
                let now = BalancingTests.counts([watched, other])
                defer { last = now[0] == last ? last : now[0] }
                return now[0] == last && now[1] > 200
            })
        let before = BalancingTests.counts([watched])
        #expect(await BalancingTests.load(channel, calls: 80) == [])
        #expect(BalancingTests.counts([watched]) == before)
    }

    /// Calls until the condition holds.
    private static func call(_ channel: GRPCChannel, until condition: () -> Bool) async {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(20)
        while !condition(), clock.now < end { _ = await echo(channel) }
    }

    @Test func `A name that cannot be resolved fails calls at once, or lets them wait`() async throws {
        let names = ChangingNames()
        let channel = try BalancingTests.channel(names)
        defer { channel.close() }
        let quick = GRPCCallOptions(timeoutMilliseconds: 20_000)
        let answer = await channel.unary(path: EchoServer.service + "Echo", request: [], options: quick)
        #expect(answer.status == GRPCStatus(.unavailable, "no such name"))
        async let waiting = BalancingTests.echo(channel)
        await ChannelTests.wait { names.asked.load(ordering: .relaxed) > 2 }
        let server = try EchoServer()
        defer { server.stop() }
        names.set([server])
        #expect(await waiting == .ok)
    }
}
