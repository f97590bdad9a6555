import EventLoop
import HTTP2
import Protobuf
import Simulation
import Synchronization
import Testing

@testable import GRPC

/// A server in virtual time whose handler makes a call of its own, back to the same server.
private final class ChainedWorld {
    private typealias Message = Interop.Payload
    private static let front = RPCMethod<Message, Message>(path: "/tapedeck.test.Chain/Front")
    private static let back = RPCMethod<Message, Message>(path: "/tapedeck.test.Chain/Back")

    let loop = SimulatedLoop()
    private let channel: GRPCChannel
    /// Of each call that a handler made, as its server had it: milliseconds left, and the headers of its trace.
    let seen = Seen()

    final class Seen: Sendable {
        let calls = Mutex<[Call]>([])
        struct Call: Hashable {
            let left: Int?
            let trace: [String]
        }
    }

    /// The handler waits so long, then calls with these options.
    init(waitMilliseconds: Int = 0, _ own: GRPCCallOptions) throws {
        let (loop, seen) = (loop, seen)
        var weather = SimulatedNetwork.Weather()
        (weather.cut, weather.silent, weather.lost, weather.failedNames) = (0, 0, 0, 0)
        weather.delayMillisecondsMax = 0
        let made = ChannelBox()
        let network = SimulatedNetwork(loop, SimulatedStream.SharedRandom(seed: 1), hosts: 1, weather: weather) {
            var table = GRPCServiceTable()
            table.unary(ChainedWorld.front) { request in
                guard let channel = made.channel, let context = GRPCCallContext.current else {
                    throw GRPCStatus(.internalError)
                }
                if waitMilliseconds > 0 { await channel.wait(milliseconds: waitMilliseconds) }
                return try await channel.unary(ChainedWorld.back, request, options: await context.callOptions(own))
            }
            table.register(
                path: ChainedWorld.back.path,
                unary: { (call: ServerCall, request: UnsafeRawBufferPointer) in
                    let left = call.deadlineMilliseconds.map { Int($0) - Int(call.loop.nowMilliseconds) }
                    let trace = ["traceparent", "tracestate"].flatMap { call.metadata.values($0) }
                    seen.calls.withLock { $0.append(Seen.Call(left: left, trace: trace)) }
                    // Whoever asks for nothing gets no answer.
                    if !request.isEmpty { call.respond(Array(request)) }
                })
            return GRPCLoopServer(loop: loop, table: table, configuration: GRPCServerConfiguration())
        }
        var options = GRPCChannelOptions()
        options.seed = 1
        options.transport = network
        options.resolver = network
        channel = try GRPCChannel(target: "dns:///edge.test:1", options: options, loop: loop)
        made.set(channel)
    }

    private final class ChannelBox: Sendable {
        private let held = Mutex<GRPCChannel?>(nil)
        var channel: GRPCChannel? { held.withLock { $0 } }
        func set(_ channel: GRPCChannel) { held.withLock { $0 = channel } }
    }

    deinit { channel.close() }

    /// Calls the handler; how the call ended, and after how long.
    func call(_ options: GRPCCallOptions, isAnswered: Bool = true) -> (code: GRPCStatus.Code?, milliseconds: Int) {
        let owner = Owner()
        let start = loop.nowMilliseconds
        var request = Message()
        if isAnswered { request.body = [1] }
        let bytes = request.encodedBytes()
        channel.call(path: ChainedWorld.front.path, options: options, owner: owner) { call in
            call.send(bytes)
            call.halfClose()
        }
        #expect(loop.run { owner.code != nil })
        return (owner.code, Int(loop.nowMilliseconds - start))
    }

    private final class Owner: GRPCCallOwner, Sendable {
        private let end = Mutex<GRPCStatus.Code?>(nil)
        var code: GRPCStatus.Code? { end.withLock { $0 } }
        func received(metadata: GRPCMetadata) {}
        func received(frames: UnsafeRawBufferPointer) {}
        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) { end.withLock { $0 = status.code } }
    }
}

/// What a call that is made for another one takes over from it.
struct PassedDeadlineTests {
    /// The caller's milliseconds, how long the handler takes before it calls, its own, and what is left then.
    @Test(
        arguments: [
            (5000, 0, 10_000, 5000), (5000, 0, 1000, 1000), (5000, 300, nil, 4700), (5000, 300, 4700, 4700),
            (nil, 300, 1000, 1000), (nil, 0, nil, nil),
        ] as [(Int?, Int, Int?, Int?)])
    func `A call from a handler has the rest of its caller's time, or its own where that is less`(
        _ callers: Int?, _ wait: Int, _ own: Int?, _ left: Int?
    ) throws {
        let world = try ChainedWorld(waitMilliseconds: wait, GRPCCallOptions(timeoutMilliseconds: own))
        #expect(world.call(GRPCCallOptions(timeoutMilliseconds: callers)).code == .ok)
        #expect(world.seen.calls.withLock { $0.map(\.left) } == [left])
    }

    @Test func `Nobody waits longer than the caller`() throws {
        let world = try ChainedWorld(GRPCCallOptions(timeoutMilliseconds: 60_000))
        let late = world.call(GRPCCallOptions(timeoutMilliseconds: 500), isAnswered: false)
        #expect(late.code == .deadlineExceeded && late.milliseconds == 500)
        // Of one whose time is over when the handler calls, no server hears.
        let over = try ChainedWorld(waitMilliseconds: 700, GRPCCallOptions())
        #expect(over.call(GRPCCallOptions(timeoutMilliseconds: 500)).code == .deadlineExceeded)
        _ = over.loop.run { false }
        #expect(over.seen.calls.withLock { $0.isEmpty })
    }

    @Test func `The caller's trace goes on, unless the call has one of its own`() throws {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        let other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000b7-01"
        var traced = GRPCCallOptions()
        traced.metadata.add("traceparent", parent)
        traced.metadata.add("tracestate", "desk=1")
        traced.metadata.add("x-secret", "of the caller's")
        let world = try ChainedWorld(GRPCCallOptions())
        #expect(world.call(traced).code == .ok)
        #expect(world.call(GRPCCallOptions()).code == .ok)
        var own = GRPCCallOptions()
        own.metadata.add("traceparent", other)
        let apart = try ChainedWorld(own)
        #expect(apart.call(traced).code == .ok)
        let traces = [world, apart].flatMap { $0.seen.calls.withLock { $0.map(\.trace) } }
        #expect(traces == [[parent, "desk=1"], [], [other]])
    }
}
