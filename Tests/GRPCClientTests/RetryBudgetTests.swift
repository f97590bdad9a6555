import EventLoop
import HTTP2
import Simulation
import Testing

@testable import GRPC

/// A channel on a simulated network, and one server that fails as long as it is told to.
private final class FailingWorld {
    let loop = SimulatedLoop()
    private let work = FailingWork()
    private let core: GRPCChannelCore
    private let network: SimulatedNetwork

    final class FailingWork {
        var fails = true
        /// Calls that came, retries among them.
        var received = 0
    }

    init(throttle: GRPCRetryThrottle = GRPCRetryThrottle()) throws {
        let (loop, work) = (loop, work)
        var weather = SimulatedNetwork.Weather()
        (weather.cut, weather.silent, weather.lost, weather.failedNames) = (0, 0, 0, 0)
        network = SimulatedNetwork(loop, SimulatedStream.SharedRandom(seed: 1), hosts: 1, weather: weather) {
            var table = GRPCServiceTable()
            table.register(
                path: "/tapedeck.test.Failing/Get",
                unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    work.received += 1
                    if work.fails { return call.fail(GRPCStatus(.unavailable, "always")) }
                    call.respond(Array(request))
                })
            return GRPCLoopServer(loop: loop, table: table, configuration: GRPCServerConfiguration())
        }
        var options = GRPCChannelOptions()
        options.seed = 1
        options.transport = network
        options.resolver = network
        options.retryThrottle = throttle
        core = GRPCChannelCore(try GRPCTarget("dns:///edge.test:1"), options: options, loop: loop)
    }

    deinit { core.close() }

    /// Makes a call; how often the server had it, where it ended as the server is told to end it.
    func attempts(failing: Bool, _ change: (inout GRPCCallOptions) -> Void = { $0.retry = GRPCRetryPolicy() }) -> Int {
        work.fails = failing
        let before = work.received
        var options = GRPCCallOptions()
        change(&options)
        let owner = Owner()
        let call = core.call(path: "/tapedeck.test.Failing/Get", options: options, owner: owner)
        call.send([1])
        call.halfClose()
        #expect(loop.run { owner.end != nil })
        #expect(owner.end?.code == (failing ? .unavailable : .ok))
        return work.received - before
    }

    private final class Owner: GRPCCallOwner {
        var end: GRPCStatus?
        func received(metadata: GRPCMetadata) {}
        func received(frames: UnsafeRawBufferPointer) {}
        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { end = status }
    }
}

/// The budget for retries as a server sees it, which all calls of a channel share.
struct RetryBudgetTests {
    @Test func `Calls of a server that always fails are tried again until the budget is used up, then once each`()
        throws
    {
        let world = try FailingWorld()
        // Ten tokens: three retries leave six, and the next failure five, of which none is for retries.
        #expect((1...12).map { _ in world.attempts(failing: true) } == [4] + Array(repeating: 1, count: 11))
    }

    @Test func `Successes fill the budget again, a tenth of a retry each`() throws {
        let world = try FailingWorld()
        #expect((1...2).map { _ in world.attempts(failing: true) } == [4, 1])
        // Five are left. After ten successes a failure leaves five again, and after eleven more of them 5.1.
        for _ in 1...10 { #expect(world.attempts(failing: false) == 1) }
        #expect(world.attempts(failing: true) == 1)
        for _ in 1...11 { #expect(world.attempts(failing: false) == 1) }
        #expect(world.attempts(failing: true) == 2)
        // What was full stays full.
        for _ in 1...500 { #expect(world.attempts(failing: false) == 1) }
        #expect((1...2).map { _ in world.attempts(failing: true) } == [4, 1])
    }

    @Test func `Calls that may not be repeated take nothing, and their successes count too`() throws {
        let world = try FailingWorld()
        for _ in 1...50 { #expect(world.attempts(failing: true) { $0.retry = nil } == 1) }
        #expect((1...2).map { _ in world.attempts(failing: true) } == [4, 1])
        for _ in 1...50 { #expect(world.attempts(failing: false) { $0.retry = nil } == 1) }
        #expect(world.attempts(failing: true) == 4)
    }

    @Test func `Hedged calls have the same budget`() throws {
        let world = try FailingWorld(throttle: GRPCRetryThrottle(tokensMax: 4))
        let hedge = { (options: inout GRPCCallOptions) in
            options.hedging = GRPCHedgingPolicy(delayMilliseconds: 60_000)
        }
        // Four tokens: the first failure leaves three, the second two, of which none is for more attempts.
        #expect((1...4).map { _ in world.attempts(failing: true, hedge) } == [2, 1, 1, 1])
        for _ in 1...40 { #expect(world.attempts(failing: false, hedge) == 1) }
        #expect(world.attempts(failing: true, hedge) == 2)
    }
}
