import MarketModel
import MarketProto

/// The requests of one `Subscribe` stream: which subscriptions and fills there are, and what a request may change.
///
/// Pure: a request in, one action out. Whoever performs actions says when a subscription or a fill ended by itself.
struct SubscribeState {
    /// A subscription to prices as asked for, checked.
    struct Prices: Equatable {
        var exchange: String
        var symbols: Set<String>
        var policy: StreamPolicy
        var skipSnapshot: Bool
        var token: [UInt8]
        var resumesSnapshot = false
    }

    /// How a client sees a book.
    struct BookShape: Equatable {
        var depth: Int
        /// Width of price groups at 1e-9; 0: not grouped.
        var grouping: Int64
    }

    /// What changes of a subscription to prices.
    struct Change: Equatable {
        var policy: StreamPolicy?
        /// All symbols that it has now; nil where they stay.
        var symbols: Set<String>?
        var added: Set<String> = []
        var skipSnapshot = false
    }

    /// Why a request was refused.
    struct Refusal: Error, Equatable {
        let error: Proto.SubscribeError
        let message: String

        init(_ error: Proto.SubscribeError, _ message: String) {
            self.error = error
            self.message = message
        }
    }

    enum Action: Equatable {
        case refuse(Refusal)
        case addPrices(id: UInt64, Prices)
        case changePrices(id: UInt64, Change)
        case addBook(id: UInt64, Instrument, BookShape)
        case changeBook(id: UInt64, BookShape)
        case remove(id: UInt64)
        case fill([Proto.FillRange])
        case cancelFill(id: UInt64)
        case list
        case heartbeat(milliseconds: Int)
        /// The request is none: the stream ends.
        case end(message: String)
    }

    /// What a request is checked against beyond the stream's own state.
    protocol World {
        /// Nothing new is begun.
        var isStopping: Bool { get }
        /// What waits for the reader leaves room for a snapshot.
        var hasRoom: Bool { get }
        /// A subscription still reads what its token left open.
        func isCatchingUp(_ id: UInt64) -> Bool
        /// The caller may not see the instrument; an empty exchange stands for any.
        func isDenied(exchange: String, symbol: String) -> Bool
    }

    private enum Subscription {
        case prices(exchange: String, symbols: Set<String>)
        case book

        var symbolCount: Int {
            if case .prices(_, let symbols) = self { return symbols.count }
            return 0
        }
    }

    private let limits: EdgeLimits
    private let rules: SubscriptionRules
    private var subscriptions: [UInt64: Subscription] = [:]
    private var fills: Set<UInt64> = []
    private var symbolCount = 0
    private var bookCount = 0
    /// The client sends no more.
    private(set) var isHalfClosed = false

    init(limits: EdgeLimits) {
        self.limits = limits
        rules = SubscriptionRules(limits: limits)
    }

    /// Nothing is left that could bring anything.
    var isIdle: Bool { subscriptions.isEmpty && fills.isEmpty }

    mutating func receive(_ request: Proto.SubscribeRequest, _ world: some World) -> Action {
        guard request.requestId != 0 else { return .end(message: "request_id is 0") }
        do {
            return try perform(request, world)
        } catch {
            return .refuse(error)
        }
    }

    mutating func halfClose() { isHalfClosed = true }

    /// A subscription is no more: it failed, or could not begin.
    mutating func subscriptionEnded(_ id: UInt64) {
        guard let subscription = subscriptions.removeValue(forKey: id) else { return }
        symbolCount -= subscription.symbolCount
        if case .book = subscription { bookCount -= 1 }
    }

    mutating func fillEnded(_ id: UInt64) { fills.remove(id) }

    // MARK: One kind of request each

    private mutating func perform(_ request: Proto.SubscribeRequest, _ world: some World) throws(Refusal) -> Action {
        switch request.request {
        case .add(let add): return try perform(add, world)
        case .change(let change): return try perform(change, world)
        case .remove(let remove):
            guard subscriptions[remove.subscriptionId] != nil else { throw unknown(remove.subscriptionId) }
            subscriptionEnded(remove.subscriptionId)
            return .remove(id: remove.subscriptionId)
        case .addBook(let add): return try perform(add, world)
        case .changeBook(let change):
            guard case .book = subscriptions[change.subscriptionId] else { throw unknown(change.subscriptionId) }
            let shape = try shape(
                depth: change.depth, micros: change.groupingMicros, remainder: change.groupingNanoRemainder)
            return .changeBook(id: change.subscriptionId, shape)
        case .fill(let fill): return try perform(fill, request.requestId, world)
        case .cancelFill(let cancel):
            guard fills.contains(cancel.fillRequestId) else {
                throw Refusal(.fillUnknown, "no fill of request \(cancel.fillRequestId) is in flight")
            }
            return .cancelFill(id: cancel.fillRequestId)
        case .list: return .list
        case .options(let options):
            let milliseconds = options.heartbeatMs == 0 ? limits.heartbeatMilliseconds : Int(options.heartbeatMs)
            let range = limits.heartbeatMillisecondsRange
            guard range.contains(milliseconds) else {
                throw Refusal(
                    .invalidArgument,
                    "heartbeat_ms is \(milliseconds); \(range.lowerBound) to \(range.upperBound) are allowed")
            }
            return .heartbeat(milliseconds: milliseconds)
        case nil: throw Refusal(.invalidArgument, "the request asks for nothing that this server knows")
        }
    }

    private mutating func perform(_ add: Proto.AddSubscription, _ world: some World) throws(Refusal) -> Action {
        try checkNew(add.subscriptionId, world)
        let asked = add.subscription ?? Proto.PriceSubscription()
        let prices: Prices
        do {
            try rules.check(symbols: asked.symbols, exchange: asked.exchange)
            prices = Prices(
                exchange: asked.exchange, symbols: Set(asked.symbols),
                policy: try rules.policy(
                    asked.policy, throttleMs: asked.throttleMs, maxStalenessMs: asked.maxStalenessMs),
                skipSnapshot: asked.skipSnapshot, token: asked.resumeToken, resumesSnapshot: asked.resumeSnapshot)
            try rules.checkTokens(asked, isSubscribe: true)
        } catch {
            throw SubscribeState.refusal(error)
        }
        try checkSymbols(adding: prices.symbols.count)
        try checkAllowed(exchange: prices.exchange, asked.symbols, world)
        symbolCount += prices.symbols.count
        subscriptions[add.subscriptionId] = .prices(exchange: prices.exchange, symbols: prices.symbols)
        return .addPrices(id: add.subscriptionId, prices)
    }

    private mutating func perform(
        _ change: Proto.ChangeSubscription, _ world: some World
    ) throws(Refusal) -> Action {
        guard case .prices(let exchange, let symbols) = subscriptions[change.subscriptionId] else {
            throw unknown(change.subscriptionId)
        }
        var result = Change(skipSnapshot: change.skipSnapshot)
        do throws(SubscriptionRules.Problem) {
            if change.policy != .unspecified {
                result.policy = try rules.policy(
                    change.policy, throttleMs: change.throttleMs, maxStalenessMs: change.maxStalenessMs)
            } else if change.throttleMs != 0 || change.maxStalenessMs != 0 {
                throw .invalid("throttle_ms and max_staleness_ms go with a policy; name it")
            }
            try rules.check(symbols: change.addSymbols + change.removeSymbols, exchange: exchange)
        } catch {
            throw SubscribeState.refusal(error)
        }
        guard !change.addSymbols.isEmpty || !change.removeSymbols.isEmpty else {
            return .changePrices(id: change.subscriptionId, result)
        }
        guard !symbols.isEmpty else {
            throw Refusal(.invalidArgument, "the subscription is to all symbols; add one that names them")
        }
        guard !world.isCatchingUp(change.subscriptionId) else {
            throw Refusal(.catchingUp, "subscription \(change.subscriptionId) has not caught up yet; ask again later")
        }
        try checkRoom(world)
        let new = symbols.subtracting(change.removeSymbols).union(change.addSymbols)
        guard !new.isEmpty else {
            throw Refusal(.invalidArgument, "no symbol would be left; remove the subscription instead")
        }
        guard new.count <= limits.symbolsMax else {
            throw Refusal(
                .tooManySymbols, "\(new.count) symbols; at most \(limits.symbolsMax) in one subscription")
        }
        try checkSymbols(adding: new.count - symbols.count)
        try checkAllowed(exchange: exchange, change.addSymbols, world)
        symbolCount += new.count - symbols.count
        subscriptions[change.subscriptionId] = .prices(exchange: exchange, symbols: new)
        result.symbols = new
        result.added = new.subtracting(symbols)
        return .changePrices(id: change.subscriptionId, result)
    }

    private mutating func perform(_ add: Proto.AddBook, _ world: some World) throws(Refusal) -> Action {
        try checkNew(add.subscriptionId, world)
        guard bookCount < limits.booksMax else {
            throw Refusal(.tooManyBooks, "\(bookCount) books; at most \(limits.booksMax) in one stream")
        }
        let shape = try shape(depth: add.depth, micros: add.groupingMicros, remainder: add.groupingNanoRemainder)
        let instrument = try SubscribeState.instrument(add.exchange, add.symbol)
        try checkAllowed(exchange: add.exchange, [add.symbol], world)
        bookCount += 1
        subscriptions[add.subscriptionId] = .book
        return .addBook(id: add.subscriptionId, instrument, shape)
    }

    private mutating func perform(
        _ fill: Proto.FillRequest, _ id: UInt64, _ world: some World
    ) throws(Refusal) -> Action {
        try checkRunning(world)
        guard !fills.contains(id) else { throw Refusal(.fillExists, "a fill of request \(id) is in flight") }
        guard fills.count < limits.fillsMax else {
            throw Refusal(.tooManyFills, "\(fills.count) fills are in flight; at most \(limits.fillsMax), ask again")
        }
        guard (1...limits.fillRangesMax).contains(fill.ranges.count) else {
            throw Refusal(
                fill.ranges.isEmpty ? .invalidArgument : .fillTooLarge,
                "\(fill.ranges.count) ranges; 1 to \(limits.fillRangesMax) are allowed")
        }
        var total: UInt64 = 0
        for range in fill.ranges {
            _ = try SubscribeState.instrument(range.exchange, range.symbol)
            try checkAllowed(exchange: range.exchange, [range.symbol], world)
            guard range.firstSequence >= 1, range.firstSequence <= range.lastSequence else {
                throw Refusal(
                    .invalidArgument,
                    "\(range.symbol): sequences \(range.firstSequence) to \(range.lastSequence) are no range; "
                        + "the first is at least 1")
            }
            let (sum, overflow) = total.addingReportingOverflow(range.lastSequence - range.firstSequence)
            guard !overflow, sum < limits.fillSequencesMax else {
                throw Refusal(.fillTooLarge, "more than \(limits.fillSequencesMax) sequences in one fill")
            }
            total = sum + 1
        }
        fills.insert(id)
        return .fill(fill.ranges)
    }

    // MARK: Checks

    private func checkRunning(_ world: some World) throws(Refusal) {
        guard !world.isStopping else { throw Refusal(.serverStopping, "the server is stopping; go on elsewhere") }
    }

    private func checkRoom(_ world: some World) throws(Refusal) {
        try checkRunning(world)
        guard world.hasRoom else {
            throw Refusal(.readerTooSlow, "too much waits to be read; read it, then ask again")
        }
    }

    private func checkAllowed(exchange: String, _ symbols: [String], _ world: some World) throws(Refusal) {
        for symbol in symbols where world.isDenied(exchange: exchange, symbol: symbol) {
            throw Refusal(.permissionDenied, "\(symbol) is not among what the caller may see")
        }
    }

    private func checkNew(_ id: UInt64, _ world: some World) throws(Refusal) {
        try checkRoom(world)
        guard id != 0 else { throw Refusal(.invalidArgument, "subscription_id is 0") }
        guard subscriptions[id] == nil else {
            throw Refusal(.subscriptionExists, "subscription_id \(id) is in use; remove it first, or change it")
        }
        guard subscriptions.count < limits.subscriptionsMax else {
            throw Refusal(
                .tooManySubscriptions,
                "\(subscriptions.count) subscriptions; at most \(limits.subscriptionsMax) in one stream")
        }
    }

    private func checkSymbols(adding count: Int) throws(Refusal) {
        guard count <= 0 || symbolCount + count <= limits.streamSymbolsMax else {
            throw Refusal(
                .tooManySymbols,
                "\(symbolCount + count) symbols in all; at most \(limits.streamSymbolsMax) in one stream")
        }
    }

    private func unknown(_ id: UInt64) -> Refusal {
        let what = subscriptions[id] == nil ? "there is no subscription \(id)" : "subscription \(id) is of another kind"
        return Refusal(.subscriptionUnknown, what)
    }

    private static func refusal(_ problem: SubscriptionRules.Problem) -> Refusal {
        switch problem {
        case .invalid(let message): Refusal(.invalidArgument, message)
        case .tooManySymbols(let message): Refusal(.tooManySymbols, message)
        }
    }

    private static func instrument(_ exchange: String, _ symbol: String) throws(Refusal) -> Instrument {
        do {
            return try Instrument(exchange: exchange, symbol: symbol)
        } catch {
            throw Refusal(.invalidArgument, error.description)
        }
    }

    private func shape(depth: UInt32, micros: Int64, remainder: Int32) throws(Refusal) -> BookShape {
        guard micros >= 0, (0..<1000).contains(remainder),
            let grouping = PriceMicros.join(micros: micros, remainder: remainder)
        else {
            throw Refusal(.invalidArgument, "the grouping is no price: \(micros) micros and \(remainder) nanos")
        }
        guard depth <= limits.bookDepthMax else {
            throw Refusal(.invalidArgument, "depth is \(depth); at most \(limits.bookDepthMax), which 0 stands for")
        }
        return BookShape(depth: depth == 0 ? limits.bookDepthMax : Int(depth), grouping: grouping)
    }
}
