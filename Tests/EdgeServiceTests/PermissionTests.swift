import AccessControl
import EdgeService
import EventLog
import EventLoop
import FileDisk
import Foundation
import GRPC
import MarketModel
import MarketProto
import Protobuf
import SegmentLog
import Simulation
import Testing
import TickCodec

/// An edge with the simulated venue and an access file, and its callers' calls.
private final class PermissionWorld {
    private let directory = NSTemporaryDirectory() + "tapedeck-permissions-" + UUID().uuidString
    private let log: SegmentLog
    private let edge: EdgeService
    private let channel: GRPCChannel
    private let tokens: [String: AccessToken]
    private var sequence: UInt64 = 0

    /// `rights` by caller, as on a line of the access file.
    init(_ rights: [String: String]) throws {
        var tokens: [String: AccessToken] = [:]
        var lines = ""
        for (number, (name, rest)) in rights.sorted(by: { $0.key < $1.key }).enumerated() {
            let token = AccessToken(name: name, random: [UInt8](repeating: UInt8(number + 1), count: 32))!
            tokens[name] = token
            lines += "\(name) \(token.proof(salt: [UInt8](0..<16))) methods=* \(rest)\n"
        }
        self.tokens = tokens
        let policy = AccessPolicy(anonymous: .nobody)
        policy.use(try AccessFile(parsing: Array(lines.utf8)))
        var configuration = GRPCServerConfiguration()
        configuration.interceptors = { [policy.makeInterceptor(loop: $0)] }
        log = try SegmentLog(disk: try FileDisk(directory: directory), time: RealTime())
        edge = try EdgeService(
            log: log, store: SimulatedStore(), time: RealTime(), loops: EventLoopGroup(count: 2),
            orders: OrderVenue(feed: "sim", time: RealTime()), server: configuration)
        let port = try edge.listen(host: "127.0.0.1", port: 0).port
        channel = try GRPCChannel(target: "127.0.0.1:\(port)")
        try publish()
    }

    /// Appends a quote of MSFT and one of AAPL, in one block.
    func publish() throws {
        sequence += 1
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        for symbol in ["MSFT", "AAPL"] {
            let encoder = TickEncoder(exchange: "SIMX", symbol: symbol, feed: "sim")
            let key = builder.register(BlockBuilder.Key(exchange: "SIMX", symbol: symbol, feed: "sim"))
            let nowNs = 1_700_000_000_000_000_000 + Int64(sequence)
            var tick = Tick(kind: .quote, receivedTimeNs: nowNs, publishTimeNs: nowNs, epoch: 1, sequence: sequence)
            (tick.bid, tick.bidSize) = (99 * 1_000_000_000, 50 * 100_000_000)
            (tick.ask, tick.askSize) = (101 * 1_000_000_000, 50 * 100_000_000)
            builder.append(key: key, epoch: 1, sequence: sequence, lengthMax: encoder.lengthMax) {
                encoder.encode(tick, into: $0)
            }
        }
        try log.append([builder.build()], consumed: [])
    }

    deinit {
        channel.close()
        edge.stop(withinMilliseconds: 1000)
        try? log.close()
        try? FileManager.default.removeItem(atPath: directory)
    }

    private func options(_ caller: String) -> GRPCCallOptions {
        // Without a deadline: beside tests that hold every thread, any would be too short.
        var options = GRPCCallOptions()
        options.waitsForReady = true
        options.metadata.add("authorization", "Bearer " + (tokens[caller]?.text ?? ""))
        return options
    }

    func unary<Request, Response>(
        _ caller: String, _ method: RPCMethod<Request, Response>, _ request: Request
    ) async throws(GRPCStatus) -> Response {
        try await channel.unary(method, request, options: options(caller))
    }

    func stream<Request, Response>(
        _ caller: String, _ method: RPCMethod<Request, Response>
    ) -> GRPCTypedStream<Request, Response> {
        channel.typedStream(method, options: options(caller))
    }
}

/// What a caller may not see or trade, on calls as clients make them.
@Suite(.timeLimit(.minutes(1)))
struct PermissionTests {
    private typealias Market = Proto.MarketDataService

    private static let accountText = "you may not trade for this account"
    private static let symbolText = "you may not trade this symbol"
    private static let rights = [
        "alice": "symbols=SIMX|AAPL accounts=desk*", "bob": "symbols=* accounts=other", "eve": "symbols=*",
    ]

    private static func order(_ id: String, _ account: String, _ symbol: String = "AAPL", limit: Int64 = 50)
        -> Proto.OrderRequest
    {
        var order = Proto.OrderRequest()
        order.orderId = id
        order.account = account
        order.symbol = symbol
        order.exchange = "SIMX"
        order.side = "BUY"
        order.orderType = "LIMIT"
        order.quantityMicros = 5_000_000
        order.limitPriceMicros = limit * 1_000_000
        return order
    }

    private static func cancel(_ id: String, _ account: String) -> Proto.OrderCancelRequest {
        var cancel = Proto.OrderCancelRequest()
        cancel.orderId = id
        cancel.account = account
        return cancel
    }

    private static func text(_ result: Proto.OrderResult) -> String {
        [
            result.orderId, result.accepted ? "accepted" : "refused", result.status?.status ?? "",
            result.rejectionCode, result.rejectionReason,
        ].joined(separator: " ").trimmingCharacters(in: .whitespaces)
    }

    private static func text(_ message: Proto.TradingMessage?) -> String {
        switch message?.payload {
        case .status(let status):
            [status.account, status.orderId, status.status, status.reasonCode, status.reason].joined(separator: " ")
                .trimmingCharacters(in: .whitespaces)
        case .execution(let execution): "\(execution.account) \(execution.orderId) executed"
        default: "nothing"
        }
    }

    private static func refused(_ id: String, _ reason: String) -> String {
        "\(id) refused REJECTED PERMISSION_DENIED \(reason)"
    }

    @Test func `SubmitOrder refuses an account and a symbol that are not the caller's`() async throws {
        let world = try PermissionWorld(PermissionTests.rights)
        func submit(_ caller: String, _ order: Proto.OrderRequest) async throws -> String {
            PermissionTests.text(try await world.unary(caller, Proto.OrderService.submitOrder, order))
        }
        #expect(try await submit("alice", PermissionTests.order("a1", "desk")) == "a1 accepted NEW")
        #expect(try await submit("alice", PermissionTests.order("a2", "desk-2")) == "a2 accepted NEW")
        for account in ["other", "des", "Desk", ""] {
            let order = PermissionTests.order("a3", account, limit: 200)
            #expect(
                try await submit("alice", order) == PermissionTests.refused("a3", PermissionTests.accountText),
                "\(account)")
        }
        let symbol = PermissionTests.refused("a4", PermissionTests.symbolText)
        #expect(try await submit("alice", PermissionTests.order("a4", "desk", "MSFT", limit: 200)) == symbol)
        // Without an exchange it is the same instrument.
        var anywhere = PermissionTests.order("a4", "desk", "MSFT", limit: 200)
        anywhere.exchange = ""
        #expect(try await submit("alice", anywhere) == symbol)
        // Who has no accounts trades for none; what was refused left no order behind its id.
        #expect(
            try await submit("eve", PermissionTests.order("a3", "other"))
                == PermissionTests.refused("a3", PermissionTests.accountText))
        #expect(try await submit("bob", PermissionTests.order("a3", "other", "MSFT")) == "a3 accepted NEW")
        #expect(try await submit("alice", PermissionTests.order("a4", "desk")) == "a4 accepted NEW")
    }

    @Test func `SubmitOrders refuses some orders of a batch by name, and takes the others`() async throws {
        let world = try PermissionWorld(PermissionTests.rights)
        let stream = world.stream("alice", Market.submitOrders)
        for order in [
            PermissionTests.order("b1", "desk"), PermissionTests.order("b2", "other"),
            PermissionTests.order("b3", "desk", "MSFT"), PermissionTests.order("b4", "desk-2"),
            PermissionTests.order("b5", "other", "MSFT"),
        ] { await stream.send(order) }
        stream.halfClose()
        let summary = try #require(try await stream.next())
        #expect(try await stream.next() == nil)
        #expect(summary.accepted == 2 && summary.rejected == 3)
        #expect(
            summary.results.map { PermissionTests.text($0) } == [
                "b1 accepted NEW", PermissionTests.refused("b2", PermissionTests.accountText),
                PermissionTests.refused("b3", PermissionTests.symbolText), "b4 accepted NEW",
                PermissionTests.refused("b5", PermissionTests.accountText),
            ])
        #expect(
            summary.rejectionReasons
                == [PermissionTests.accountText, PermissionTests.symbolText, PermissionTests.accountText].map {
                    "PERMISSION_DENIED: " + $0
                })
    }

    @Test func `LiveTrading refuses orders and cancels of other accounts, and brings nothing of theirs`()
        async throws
    {
        let world = try PermissionWorld(PermissionTests.rights)
        let (alice, bob) = (world.stream("alice", Market.liveTrading), world.stream("bob", Market.liveTrading))
        func send(
            _ stream: GRPCTypedStream<Proto.TradingMessage, Proto.TradingMessage>,
            _ payload: Proto.TradingMessage.OneOf_Payload
        ) async throws -> String {
            var message = Proto.TradingMessage()
            message.payload = payload
            await stream.send(message)
            return PermissionTests.text(try await stream.next())
        }
        #expect(try await send(bob, .newOrder(PermissionTests.order("o1", "other"))) == "other o1 NEW")
        let refused = "REJECTED PERMISSION_DENIED \(PermissionTests.accountText)"
        #expect(
            try await send(alice, .newOrder(PermissionTests.order("o2", "other", limit: 200)))
                == "other o2 \(refused)")
        #expect(try await send(alice, .cancel(PermissionTests.cancel("o1", "other"))) == "other o1 \(refused)")
        // Nothing is told of an order that there is not, either.
        #expect(try await send(alice, .cancel(PermissionTests.cancel("none", "other"))) == "other none \(refused)")
        #expect(
            try await send(alice, .newOrder(PermissionTests.order("o3", "desk", "MSFT")))
                == "desk o3 REJECTED PERMISSION_DENIED \(PermissionTests.symbolText)")
        // The order stands: its own caller cancels it, and hears of nothing else.
        #expect(
            try await send(bob, .cancel(PermissionTests.cancel("o1", "other"))).hasPrefix(
                "other o1 CANCELLED CANCELLED_BY_CLIENT"))
        // To have named an account is not to hear of it.
        #expect(try await send(alice, .newOrder(PermissionTests.order("o4", "desk"))) == "desk o4 NEW")
        #expect(
            try await send(alice, .cancel(PermissionTests.cancel("o4", "desk"))).hasPrefix(
                "desk o4 CANCELLED CANCELLED_BY_CLIENT"))
        for stream in [alice, bob] {
            stream.halfClose()
            #expect(try await stream.next() == nil)
        }
    }

    @Test func `StreamPrices refuses a symbol by name, and leaves it out of everything`() async throws {
        let world = try PermissionWorld(PermissionTests.rights)
        func prices(_ symbols: [String], _ exchange: String = "") -> GRPCTypedStream<
            Proto.PriceSubscription, Proto.PriceUpdate
        > {
            var subscription = Proto.PriceSubscription()
            subscription.symbols = symbols
            subscription.exchange = exchange
            let stream = world.stream("alice", Market.streamPrices)
            stream.stream.sendOnly(subscription.encodedBytes())
            return stream
        }
        for (symbols, exchange, refused) in [
            (["MSFT"], "SIMX", "MSFT"), (["AAPL", "MSFT"], "", "MSFT"), (["AAPL"], "SIMY", "AAPL"),
            (["NONE"], "SIMX", "NONE"),
        ] {
            let stream = prices(symbols, exchange)
            let status = await #expect(throws: GRPCStatus.self) { try await stream.next() }
            #expect(status == GRPCStatus(.permissionDenied, "\(refused) is not among what the caller may see"))
        }
        for (wanted, sequence) in zip([([], ""), (["AAPL"], ""), ([], "SIMX")] as [([String], String)], UInt64(1)...) {
            let stream = prices(wanted.0, wanted.1)
            for expected in [sequence, sequence + 1] {
                let update = try #require(try await stream.next())
                #expect(update.symbol == "AAPL" && update.sequence == expected)
                // What comes next has MSFT before AAPL.
                if expected == sequence { try world.publish() }
            }
            stream.cancel()
        }
    }
}
