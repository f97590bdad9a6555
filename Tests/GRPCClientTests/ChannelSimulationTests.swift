import EventLoop
import HTTP2
import Simulation
import TestSupport
import Testing

@testable import GRPC

/// A channel and its servers in a simulated network, everything by seed.
private final class ChannelWorld {
    let loop = SimulatedLoop()
    let network: SimulatedNetwork
    let work: SimulatedWork
    private(set) var calls: [SimulatedCall] = []
    private(set) var channelCalls: [WeakObject] = []
    private var core: GRPCChannelCore?
    private weak var formerCore: GRPCChannelCore?
    private let isTiny: Bool
    private var livesUntil: UInt64 = 0

    init(
        seed: UInt64, weather: SimulatedNetwork.Weather? = nil, _ change: (inout GRPCChannelOptions) -> Void = { _ in }
    ) {
        let random = SimulatedStream.SharedRandom(seed: seed)
        let work = SimulatedWork(random)
        self.work = work
        isTiny = weather?.isTiny ?? (seed % 3 == 0)
        var now = weather ?? SimulatedNetwork.Weather()
        now.isTiny = isTiny
        let loop = loop
        var number: UInt64 = 0
        let health = seed % 4 == 1 ? GRPCHealth() : nil
        health?.set(.serving, service: "tapedeck.test.World")
        network = SimulatedNetwork(loop, random, hosts: 3, weather: now) {
            var configuration = GRPCServerConfiguration()
            number += 1
            configuration.seed = seed &+ number
            configuration.http2.streamWindowBytes = 70_000
            configuration.http2.ageMilliseconds = 8000
            configuration.http2.graceMilliseconds = 3000
            configuration.http2.idleMilliseconds = 5000
            configuration.http2.pingGapMillisecondsMin = 1000
            var table = work.table()
            health?.register(on: &table)
            return GRPCLoopServer(loop: loop, table: table, configuration: configuration)
        }
        var options = GRPCChannelOptions()
        options.seed = seed
        options.transport = network
        options.resolver = network
        options.balancing = seed % 2 == 0 ? .roundRobin : .pickFirst
        options.backoff.initialMilliseconds = 100
        options.backoff.maxMilliseconds = 2000
        options.resolutionPauseMilliseconds = 500
        options.resolutionIntervalMilliseconds = 4000
        options.connection.http2.keepaliveMilliseconds = 3000
        options.connection.http2.keepaliveTimeoutMilliseconds = 1000
        options.retryThrottle = GRPCRetryThrottle(tokensMax: 1000)
        options.healthService = health == nil ? nil : "tapedeck.test.World"
        change(&options)
        let target = try? GRPCTarget("dns:///edge.test:1")
        core = target.map { GRPCChannelCore($0, options: options, loop: loop) }
        formerCore = core
    }

    func int(_ range: ClosedRange<Int>) -> Int { network.int(range) }

    func at(_ milliseconds: Int, _ body: @escaping () -> Void) {
        _ = loop.timer(afterMilliseconds: milliseconds, body)
    }

    func begin(_ call: SimulatedCall) {
        guard let core else { return }
        calls.append(call)
        call.begin(core)
        channelCalls.append(WeakObject(object: call.call))
    }

    /// Calls over some seconds, while servers come and go.
    func live() {
        livesUntil = 12_000
        for number in 1...int(10...30) { at(int(0...10_000)) { [self] in random(number) } }
        for _ in 0..<int(0...4) {
            let host = network.hosts[int(0...2)]
            if int(0...1) == 0 {
                let start = int(0...10_000)
                at(start) { [network] in network.crash(host) }
                at(start + int(1...3000)) { [network] in network.start(host) }
            } else {
                at(int(0...10_000)) { [network] in network.replace(host) }
            }
        }
    }

    private func random(_ number: Int) {
        let options = randomOptions()
        let size = isTiny ? [0, 3, 300][int(0...2)] : [0, 3, 3000, 60_000][int(0...3)]
        let message = (0..<size).map { UInt8(truncatingIfNeeded: $0 / 7) }
        let method = ["Echo", "Never", "Flaky", "Count", "Collect", "Chat"][int(0...5)]
        var requests = [message]
        var expected = [message]
        switch method {
        case "Count":
            let count = isTiny ? int(0...3) : int(0...200)
            requests = [Array("\(count)".utf8)]
            expected = (0..<count).map { NumberSource.message($0) }
        case "Collect", "Chat":
            requests = [[UInt8]](repeating: message, count: int(0...6))
            expected = method == "Chat" ? requests : [Array("\(requests.count * size)".utf8)]
        default: break
        }
        var more = options
        // What never answers ends by its deadline.
        if method == "Never", more.timeoutMilliseconds == nil { more.timeoutMilliseconds = int(1...8000) }
        let call = SimulatedCall(number, loop, method, more, requests: requests, expected: expected)
        begin(call)
        if int(0...4) == 0 { at(int(0...800)) { call.call?.cancel() } }
        if int(0...2) == 0 { at(int(0...500)) { [self] in call.pause(int(1...1500)) } }
    }

    private func randomOptions() -> GRPCCallOptions {
        var options = GRPCCallOptions()
        if int(0...1) == 0 { options.timeoutMilliseconds = int(1...6000) }
        options.waitsForReady = int(0...2) > 0
        options.compression = [nil, .gzip, .deflate][int(0...2)]
        switch int(0...2) {
        case 0: options.retry = GRPCRetryPolicy()
        case 1: options.hedging = GRPCHedgingPolicy(delayMilliseconds: int(1...300))
        default: break
        }
        return options
    }

    /// Runs until all calls have ended, then ends everything; what is wrong afterwards.
    func finish() -> [String] {
        // Links that carry a byte at a time take many turns.
        let isOver = loop.run(
            until: { loop.nowMilliseconds > livesUntil && calls.allSatisfy(\.isOver) }, turnsMax: 50_000_000)
        guard isOver else {
            return ["a hang: \(calls.filter { !$0.isOver }.map { "\($0.number) \($0.path)" })"]
        }
        core?.close()
        core = nil
        // What was said to happen later, happens.
        _ = loop.run { false }
        var problems = calls.compactMap { call in call.problem.map { "call \(call.number) \(call.path) \($0)" } }
        for call in calls {
            let executions = work.executions["\(call.number)"] ?? 0
            if executions > call.executionsMax {
                problems.append("call \(call.number) was carried out \(executions) times")
            }
        }
        let live = (channelCalls + work.objects).count { $0.object != nil }
        if live > 0 { problems.append("\(live) objects live on") }
        if formerCore != nil { problems.append("the channel lives on") }
        if loop.openTimers > 0 { problems.append("\(loop.openTimers) timers are left") }
        let open = network.servers.reduce(0) { $0 + $1.connectionCount + $1.openCallCount }
        if open > 0 { problems.append("\(open) connections and calls are open at the servers") }
        return problems
    }

    /// How each call ended, for comparison.
    var transcript: [String] {
        calls.map { "\($0.number) \($0.path) \($0.ends)" } + ["\(loop.nowMilliseconds) \(network.connections)"]
    }
}

/// The client channel on a network that delays, cuts, goes silent and takes and brings bytes in pieces.
@Suite(.timeLimit(.minutes(Checkout.isSoak ? 30 : 2)))
struct ChannelSimulationTests {
    @Test func `By seed: no hang, no leak, no call carried out too often, each ends in exactly one status`() {
        var codes: [GRPCStatus.Code: Int] = [:]
        // In 430 a hedged call's attempt that took no more failed, and its sender waited for ever.
        for seed in Array(1...UInt64(Checkout.isSoak ? 4000 : 200)) + [430] {
            let world = ChannelWorld(seed: seed)
            world.live()
            let problems = world.finish()
            #expect(problems == [], "seed \(seed)")
            for call in world.calls { codes[call.ends.first?.code ?? .unknown, default: 0] += 1 }
            if problems.count > 0 { return }
        }
        // The weather is neither too good nor too bad to show anything.
        let all = codes.values.reduce(0, +)
        #expect(codes[.ok, default: 0] > all / 4 && codes[.unavailable, default: 0] > all / 50, "\(codes)")
        #expect(codes[.deadlineExceeded, default: 0] > 0 && codes[.cancelled, default: 0] > 0, "\(codes)")
    }

    @Test func `The same seed gives the same run`() {
        for seed in 1...UInt64(5) {
            let runs = (0..<2).map { _ in
                let world = ChannelWorld(seed: seed)
                world.live()
                _ = world.finish()
                return world.transcript
            }
            #expect(runs[0] == runs[1], "seed \(seed)")
        }
    }

    @Test(arguments: [false, true])
    func `A call that may be repeated survives a cut at any byte before its answer, either way`(_ isHedged: Bool) {
        var weather = SimulatedNetwork.Weather()
        (weather.cut, weather.silent, weather.lost, weather.failedNames) = (0, 0, 0, 0)
        weather.isTiny = true
        weather.delayMillisecondsMax = 3
        var survivors = 0
        for place in 1...450 {
            for isFromClient in [true, false] {
                let world = ChannelWorld(seed: UInt64(place), weather: weather) { $0.healthService = nil }
                world.network.cuts = [isFromClient ? (place, nil) : (nil, place)]
                var options = GRPCCallOptions(timeoutMilliseconds: 60_000)
                options.waitsForReady = true
                if isHedged {
                    // So late that the first attempt has failed: two on one connection would be cut together.
                    options.hedging = GRPCHedgingPolicy(delayMilliseconds: 20_000)
                } else {
                    options.retry = GRPCRetryPolicy()
                }
                let message = [UInt8](repeating: 7, count: 60)
                world.begin(
                    SimulatedCall(1, world.loop, "Echo", options, requests: [message], expected: [message]))
                let problems = world.finish()
                #expect(problems == [], "cut at \(place)")
                let isRepeated = world.network.connections > 1
                let call = world.calls[0]
                let isOK = call.ends.first?.isOK == true
                // Once its answer has begun, a call is not made again (gRFC A6).
                if !isOK, !call.hasBegun { Issue.record("cut at \(place): \(call.ends)") }
                if isOK, isRepeated { survivors += 1 }
            }
        }
        #expect(survivors > 200)
    }
}
