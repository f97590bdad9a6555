import MarketModel
import MarketProto
import Testing

@testable import EdgeService

struct SubscribeStateTests {
    private struct Anything: SubscribeState.World {
        var isStopping = false
        var hasRoom = true
        var catchingUp: Set<UInt64> = []
        var denied: Set<String> = []
        func isCatchingUp(_ id: UInt64) -> Bool { catchingUp.contains(id) }
        func isDenied(exchange: String, symbol: String) -> Bool { denied.contains(symbol) }
    }

    private static func request(_ request: Proto.SubscribeRequest.OneOf_Request?) -> Proto.SubscribeRequest {
        var message = Proto.SubscribeRequest()
        message.requestId = 9
        message.request = request
        return message
    }

    private static func add(
        _ id: UInt64, _ symbols: [String] = [], _ change: (inout Proto.PriceSubscription) -> Void = { _ in }
    ) -> Proto.SubscribeRequest {
        request(
            SubscribeClient.adding(id) {
                $0.symbols = symbols
                change(&$0)
            })
    }

    private static func book(_ id: UInt64, _ change: (inout Proto.AddBook) -> Void = { _ in }) -> Proto.SubscribeRequest
    {
        var add = Proto.AddBook()
        add.subscriptionId = id
        add.exchange = "X"
        add.symbol = "A"
        change(&add)
        return request(.addBook(add))
    }

    private static func change(_ id: UInt64, _ fill: (inout Proto.ChangeSubscription) -> Void) -> Proto.SubscribeRequest
    {
        var change = Proto.ChangeSubscription()
        change.subscriptionId = id
        fill(&change)
        return request(.change(change))
    }

    private static func error(_ action: SubscribeState.Action) -> Proto.SubscribeError? {
        if case .refuse(let refusal) = action { return refusal.error }
        return nil
    }

    @Test func `Each limit has its error, and what was refused takes none of it`() {
        var limits = EdgeLimits()
        limits.subscriptionsMax = 4
        limits.symbolsMax = 3
        limits.streamSymbolsMax = 5
        limits.booksMax = 1
        var state = SubscribeState(limits: limits)
        let world = Anything()
        func error(_ request: Proto.SubscribeRequest) -> Proto.SubscribeError? {
            SubscribeStateTests.error(state.receive(request, world))
        }
        #expect(error(SubscribeStateTests.add(0)) == .invalidArgument)
        #expect(error(SubscribeStateTests.add(1, ["A", "B", "C", "D"])) == .tooManySymbols)
        #expect(error(SubscribeStateTests.add(1, ["A", "B", "C"])) == nil)
        #expect(error(SubscribeStateTests.add(1)) == .subscriptionExists)
        #expect(error(SubscribeStateTests.add(2, ["A", "B", "C"])) == .tooManySymbols)
        #expect(error(SubscribeStateTests.add(2, ["A", "B"])) == nil)
        #expect(error(SubscribeStateTests.change(2) { $0.addSymbols = ["C"] }) == .tooManySymbols)
        #expect(error(SubscribeStateTests.change(1) { $0.removeSymbols = ["C"] }) == nil)
        #expect(error(SubscribeStateTests.change(2) { $0.addSymbols = ["C", "D"] }) == .tooManySymbols)
        #expect(error(SubscribeStateTests.change(2) { $0.addSymbols = ["C"] }) == nil)
        #expect(error(SubscribeStateTests.book(3)) == nil)
        #expect(error(SubscribeStateTests.book(4)) == .tooManyBooks)
        #expect(error(SubscribeStateTests.change(3) { $0.policy = .all }) == .subscriptionUnknown)
        #expect(error(SubscribeStateTests.add(4)) == nil)
        #expect(error(SubscribeStateTests.add(5)) == .tooManySubscriptions)
        state.subscriptionEnded(3)
        #expect(error(SubscribeStateTests.book(5)) == nil)
        state.subscriptionEnded(1)
        #expect(error(SubscribeStateTests.add(6, ["E", "F"])) == nil)
    }

    @Test func `What cannot be is refused by name and changes nothing`() {
        var state = SubscribeState(limits: EdgeLimits())
        let world = Anything(catchingUp: [1], denied: ["B"])
        let wrong: [(Proto.SubscribeRequest, Proto.SubscribeError)] = [
            (SubscribeStateTests.request(nil), .invalidArgument),
            (SubscribeStateTests.add(1, ["A|B"]), .invalidArgument),
            (SubscribeStateTests.add(1, [""]), .invalidArgument),
            (SubscribeStateTests.add(1) { $0.throttleMs = -1 }, .invalidArgument),
            (SubscribeStateTests.add(1) { $0.policy = .maxStaleness }, .invalidArgument),
            (SubscribeStateTests.add(1) { $0.maxStalenessMs = 5 }, .invalidArgument),
            (SubscribeStateTests.add(1) { $0.policy = .unrecognized(9) }, .invalidArgument),
            (SubscribeStateTests.add(1, ["A", "B"]), .permissionDenied),
            (SubscribeStateTests.book(1) { $0.symbol = "B" }, .permissionDenied),
            (SubscribeStateTests.book(1) { $0.exchange = "" }, .invalidArgument),
            (SubscribeStateTests.book(1) { $0.depth = 1001 }, .invalidArgument),
            (SubscribeStateTests.book(1) { $0.groupingMicros = -1 }, .invalidArgument),
            (SubscribeStateTests.book(1) { $0.groupingMicros = .max }, .invalidArgument),
            (SubscribeStateTests.book(1) { $0.groupingNanoRemainder = 1000 }, .invalidArgument),
            (SubscribeStateTests.change(1) { $0.policy = .all }, .subscriptionUnknown),
        ]
        for (request, error) in wrong {
            #expect(SubscribeStateTests.error(state.receive(request, world)) == error, "\(request)")
            #expect(state.isIdle)
        }
        #expect(SubscribeStateTests.error(state.receive(SubscribeStateTests.add(1, ["A"]), world)) == nil)
        for (request, error) in [
            (SubscribeStateTests.change(1) { $0.addSymbols = ["C"] }, .catchingUp),
            (SubscribeStateTests.change(1) { $0.throttleMs = 5 }, .invalidArgument),
            (SubscribeStateTests.change(1) { $0.maxStalenessMs = 5 }, .invalidArgument),
        ] as [(Proto.SubscribeRequest, Proto.SubscribeError)] {
            let refused = SubscribeStateTests.error(state.receive(request, world))
            #expect(refused == error, "\(request)")
        }
        for (world, error) in [
            (Anything(isStopping: true), .serverStopping), (Anything(hasRoom: false), .readerTooSlow),
        ] as [(Anything, Proto.SubscribeError)] {
            #expect(SubscribeStateTests.error(state.receive(SubscribeStateTests.add(2), world)) == error)
        }
        var none = SubscribeStateTests.add(2)
        none.requestId = 0
        #expect(state.receive(none, world) == .end(message: "request_id is 0"))
    }

    @Test func `A request is resolved as it is performed`() throws {
        var state = SubscribeState(limits: EdgeLimits())
        let world = Anything()
        let added = state.receive(
            SubscribeStateTests.add(1, ["A", "A", "B"]) {
                $0.throttleMs = 20
                $0.skipSnapshot = true
            }, world)
        #expect(
            added
                == .addPrices(
                    id: 1,
                    SubscribeState.Prices(
                        exchange: "", symbols: ["A", "B"], policy: .interval(milliseconds: 20), skipSnapshot: true,
                        token: [])))
        let changed = state.receive(
            SubscribeStateTests.change(1) {
                $0.addSymbols = ["B", "C"]
                $0.removeSymbols = ["A", "NONE"]
                $0.policy = .latest
            }, world)
        #expect(
            changed == .changePrices(id: 1, .init(policy: .latest, symbols: ["B", "C"], added: ["C"])))
        let book = state.receive(
            SubscribeStateTests.book(2) {
                $0.groupingMicros = 10
                $0.groupingNanoRemainder = 5
            }, world)
        let instrument = try Instrument(exchange: "X", symbol: "A")
        #expect(book == .addBook(id: 2, instrument, .init(depth: 1000, grouping: 10_005)))
    }
}
