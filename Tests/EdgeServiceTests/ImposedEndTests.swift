import EdgeService
import EventLoop
import GRPC
import MarketProto
import Observability
import Protobuf
import TapedeckClient
import Testing

/// Ends of streams that neither the client wanted nor the stream itself: each says why, and where to go on.
@Suite(.timeLimit(.minutes(1)))
struct ImposedEndTests {
    private static let prices = Proto.MarketDataService.streamPrices.path

    /// Who ends the streams, the reason that clients read, and the status.
    enum Cause: String, CaseIterable {
        case endedByOperator = "ENDED_BY_OPERATOR"
        case rightsChanged = "RIGHTS_CHANGED"
        case deadlinePassed = "DEADLINE_PASSED"

        var code: GRPCStatus.Code {
            switch self {
            case .endedByOperator: .unavailable
            case .rightsChanged: .unauthenticated
            case .deadlinePassed: .deadlineExceeded
            }
        }

        var deadlines: CallDeadlines { CallDeadlines(streamMilliseconds: self == .deadlinePassed ? 1000 : 0) }

        func happens(_ edge: GuardedEdge, _ path: String) async throws {
            switch self {
            case .endedByOperator: await edge.endByOperator(path)
            case .rightsChanged: try edge.changeRights()
            case .deadlinePassed: break
            }
        }
    }

    @Test(arguments: Cause.allCases)
    func `A stream of prices ends with the reason and a token from which nothing is lost or repeated`(_ cause: Cause)
        async throws
    {
        let edge = try GuardedEdge(deadlines: cause.deadlines)
        let world = edge.world
        let kinds: [(name: String, change: (inout Proto.PriceSubscription) -> Void)] = [
            ("everything", { _ in }), ("filtered", { $0.symbols = ["AAPL", "MSFT", "BTC"] }),
        ]
        let streams = kinds.map { world.stream($0.change) }
        for (stream, _) in streams { await world.waitForStart(stream) }
        for _ in 0..<50 { try world.publish(EdgeWorld.instruments) }
        try await cause.happens(edge, ImposedEndTests.prices)
        for ((stream, got), kind) in zip(streams, kinds) {
            await RestartWorld.wait { stream.end != nil }
            let end = try #require(stream.end, "\(kind.name)")
            #expect(end.status.code == cause.code, "\(kind.name): \(end.status)")
            #expect(end.reason == cause.rawValue, "\(kind.name)")
            let token = try #require(end.resumeToken, "\(kind.name)")
            for _ in 0..<5 { try world.publish(EdgeWorld.instruments) }
            let (next, rest) = world.stream {
                kind.change(&$0)
                $0.resumeToken = token
            }
            await rest.wait(for: world.published.count - got.all.count)
            #expect(got.all + rest.all == world.published, "\(kind.name)")
            next.cancel()
        }
    }

    /// The reason and the token of a stream's trailers.
    private static func end(_ trailers: GRPCMetadata?) -> (reason: String?, hasToken: Bool) {
        (
            trailers?.value("tapedeck-end-reason"),
            trailers?.binary("tapedeck-resume-token-bin").map { !$0.isEmpty } ?? false
        )
    }

    @Test(arguments: Cause.allCases)
    func `A Subscribe stream ends with the reason and a token`(_ cause: Cause) async throws {
        let edge = try GuardedEdge(deadlines: cause.deadlines)
        let channel = try GRPCChannel(target: "127.0.0.1:\(edge.world.port)")
        defer { channel.close() }
        let call = channel.typedStream(Proto.MarketDataService.subscribe)
        var request = Proto.SubscribeRequest()
        request.requestId = 1
        var add = Proto.AddSubscription()
        add.subscriptionId = 1
        add.subscription = Proto.PriceSubscription()
        request.request = .add(add)
        await call.send(request)
        guard case .result(let result) = try await call.next()?.event else {
            Issue.record("no result of the request")
            return
        }
        #expect(result.requestId == 1)
        try await cause.happens(edge, Proto.MarketDataService.subscribe.path)
        let status = await #expect(throws: GRPCStatus.self) { while try await call.next() != nil {} }
        #expect(status?.code == cause.code)
        #expect(ImposedEndTests.end(call.stream.end?.trailers) == (cause.rawValue, true))
    }

    @Test(arguments: Cause.allCases)
    func `A LiveTrading stream answers what it has taken and ends with the reason`(_ cause: Cause) async throws {
        let edge = try GuardedEdge(deadlines: cause.deadlines, takesOrders: true)
        let channel = try GRPCChannel(target: "127.0.0.1:\(edge.world.port)")
        defer { channel.close() }
        let call = channel.typedStream(Proto.MarketDataService.liveTrading)
        var order = Proto.TradingMessage()
        order.payload = .newOrder(Proto.OrderRequest())
        await call.send(order)
        guard case .status = try await call.next()?.payload else {
            Issue.record("no status of the order")
            return
        }
        try await cause.happens(edge, Proto.MarketDataService.liveTrading.path)
        let status = await #expect(throws: GRPCStatus.self) { while try await call.next() != nil {} }
        #expect(status?.code == cause.code)
        #expect(ImposedEndTests.end(call.stream.end?.trailers) == (cause.rawValue, false))
    }

    @Test func `A stream whose requests are more than the server may hold ends with the reason and a token`()
        async throws
    {
        let edge = try GuardedEdge { $0.heldBytesMax = 64 << 10 }
        let channel = try GRPCChannel(target: "127.0.0.1:\(edge.world.port)")
        defer { channel.close() }
        let call = channel.typedStream(Proto.MarketDataService.subscribe)
        var request = Proto.SubscribeRequest()
        request.requestId = 1
        var add = Proto.AddSubscription()
        add.subscription = Proto.PriceSubscription()
        add.subscription?.symbols = (0..<5000).map { "SYMBOL-WITH-A-LONG-NAME-\($0)" }
        request.request = .add(add)
        await call.send(request)
        let status = await #expect(throws: GRPCStatus.self) { while try await call.next() != nil {} }
        #expect(status?.code == .resourceExhausted && status?.message.contains("as many bytes") == true)
        #expect(ImposedEndTests.end(call.stream.end?.trailers) == ("SERVER_OUT_OF_MEMORY", true))
        #expect(edge.world.edge.serverCounters.callsOutOfMemory == 1)
        await RestartWorld.wait { edge.world.edge.serverCounters.openCalls == 0 }
        #expect(edge.world.edge.serverCounters.heldBytes == 0)
    }

    @Test func `How far a reader lags is listed`() async throws {
        let edge = try GuardedEdge()
        let group = EventLoopGroup(count: 1)
        defer { group.stop() }
        let reader = try SlowReader(port: edge.world.port, loop: group.loops[0]) { _ in }
        _ = try await reader.stream.metadata()
        #expect(await edge.calls(ImposedEndTests.prices).map(\.stream) == [StreamStatus(policy: "ALL", lagBytes: 0)])
        // What the reader's windows and the connection take is not behind.
        var lag = 0
        for _ in 0..<40 where lag < 1 << 20 {
            for _ in 0..<50 { try edge.world.publish((0..<25).flatMap { _ in EdgeWorld.instruments }) }
            lag = await edge.calls(ImposedEndTests.prices).first?.stream.map { Int($0.lagBytes) } ?? 0
        }
        let bytes = edge.world.published.reduce(0) { $0 + $1.count + 5 }
        #expect(lag >= 1 << 20 && lag <= bytes, "\(lag) of \(bytes)")
        await edge.endByOperator(ImposedEndTests.prices)
        await reader.read(to: .max)
        #expect(reader.end?.code == .unavailable)
    }
}
