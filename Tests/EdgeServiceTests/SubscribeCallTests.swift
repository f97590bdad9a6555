import EdgeService
import EventLoop
import GRPC
import MarketProto
import Protobuf
import Synchronization
import Testing

@Suite(.timeLimit(.minutes(1)))
struct SubscribeCallTests {
    /// What a call brought.
    private final class Owner: GRPCCallOwner, Sendable {
        private let state = Mutex<(responses: [Proto.SubscribeResponse], end: GRPCStatus?, trailers: GRPCMetadata)>(
            ([], nil, GRPCMetadata()))

        /// Kept open as long as this.
        let connection = Mutex<LoopConfined<GRPCClientConnection>?>(nil)

        var responses: [Proto.SubscribeResponse] { state.withLock { $0.responses } }
        var end: GRPCStatus? { state.withLock { $0.end } }
        var trailers: GRPCMetadata { state.withLock { $0.trailers } }
        var updateCount: Int { responses.reduce(0) { $0 + $1.updates.count } }

        func received(metadata: GRPCMetadata) {}
        func received(frames: UnsafeRawBufferPointer) {
            for message in MessageSequence(frames: frames) {
                guard let response = try? Proto.SubscribeResponse(decoding: message) else { continue }
                state.withLock { $0.responses.append(response) }
            }
        }
        func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
            state.withLock {
                $0.end = status
                $0.trailers = trailers
            }
        }
    }

    /// A client that sends one request and closes its side.
    private static func call(_ world: EdgeWorld, _ request: Proto.SubscribeRequest) -> Owner {
        let owner = Owner()
        let loop = EventLoop(name: "client")
        let bytes = request.encodedBytes()
        let port = world.port
        loop.execute {
            GRPCClientConnection.connect(
                host: "127.0.0.1", port: port, loop: loop,
                opened: { result in
                    switch result {
                    case .success(let connection):
                        let box = LoopConfined(connection)
                        owner.connection.withLock { $0 = box }
                        _ = connection.call(
                            path: Proto.MarketDataService.subscribe.path, request: bytes, owner: owner)
                    case .failure(let status): owner.ended(status, trailers: GRPCMetadata())
                    }
                }, closed: { _ in })
        }
        return owner
    }

    @Test func `A client that asks once and closes its side gets everything, and the end with its reason`() async throws
    {
        let world = try EdgeWorld()
        var request = Proto.SubscribeRequest()
        request.requestId = 1
        var add = Proto.AddSubscription()
        add.subscriptionId = 9
        add.subscription = Proto.PriceSubscription()
        request.request = .add(add)
        let owner = SubscribeCallTests.call(world, request)
        await RestartWorld.wait { !owner.responses.isEmpty || owner.end != nil }
        for _ in 0..<100 { try world.publish(EdgeWorld.instruments) }
        await RestartWorld.wait { owner.updateCount == 400 || owner.end != nil }
        let updates = owner.responses.filter { $0.subscriptionId == 9 }.flatMap(\.updates)
        #expect(updates.map { $0.encodedBytes() } == world.published)
        world.edge.stop(withinMilliseconds: 5000)
        await RestartWorld.wait { owner.end != nil }
        #expect(owner.end?.code == .unavailable)
        #expect(owner.trailers.value("tapedeck-end-reason") == "SERVER_STOPPING")
        guard case .streamEnd(let end) = owner.responses.last?.event else {
            Issue.record("the last message is no StreamEnd")
            return
        }
        #expect(end.reason == .serverStopping && !end.resumeToken.isEmpty)
    }
}
