import MarketModel

/// An order that was taken, or rejected and remembered by its key.
struct Order: Sendable {
    let number: UInt64
    let request: NewOrder
    /// Index of its instrument; nil of a rejected one.
    let line: Int?
    let terms: OrderTerms?
    var remainingMicros: Int64
    var status: OrderStatus
    /// A stop order waits for its price.
    var isWaitingForStop = false
    /// Where it stands in its queue while it rests.
    var restingPrice: Int64?
    /// What whoever sent it was told.
    var answer: OrderUpdate?

    var isOpen: Bool { status == .new || status == .partial }
}

/// Everything that is known of orders, by name and by key. Bounded: what is finished is forgotten oldest first. Never
/// iterated in the order of a hash.
///
/// An order is found at its place, an index that is its own until it is forgotten: a table of numbers would be asked
/// six times for each order, and hand out a copy of all its words each time.
struct OrderTable: Sendable {
    /// An order's name or key within its account.
    struct Name: Hashable, Sendable {
        let account: String
        let text: String
    }

    /// What a key was used for.
    enum KeyUse: Sendable {
        /// The order at a place.
        case order(Int)
        indirect case cancel(orderID: String, OrderUpdate)
    }

    private enum Finished: Sendable {
        case order(Int)
        case cancel(Name)
    }

    private let finishedMax: Int
    private var orders: [Order] = []
    /// Places of orders that were forgotten.
    private var vacant: [Int] = []
    private var placeOfName: [Name: Int] = [:]
    private var useOfKey: [Name: KeyUse] = [:]
    /// Oldest first, from `finishedStart` on.
    private var finished: [Finished] = []
    private var finishedStart = 0
    private var openByAccount: [String: Int] = [:]
    private(set) var openCount = 0

    init(finishedMax: Int) { self.finishedMax = finishedMax }

    var finishedCount: Int { finished.count - finishedStart }

    func openCount(of account: String) -> Int { openByAccount[account] ?? 0 }
    /// The place of the order of a name.
    func find(_ name: Name) -> Int? { placeOfName[name] }
    func use(of key: Name) -> KeyUse? { useOfKey[key] }

    subscript(place: Int) -> Order { _read { yield orders[place] } }

    /// Adds an open order. Returns its place.
    mutating func add(_ order: Order) -> Int {
        let place = put(order)
        placeOfName[Name(account: order.request.account, text: order.request.orderID)] = place
        addKey(order, place)
        openCount += 1
        openByAccount[order.request.account, default: 0] += 1
        return place
    }

    /// Keeps a rejected order's answer under its key. Its name stays free.
    mutating func remember(rejected order: Order) {
        let place = put(order)
        addKey(order, place)
        finish(.order(place))
    }

    private mutating func put(_ order: Order) -> Int {
        guard let place = vacant.popLast() else {
            orders.append(order)
            return orders.count - 1
        }
        orders[place] = order
        return place
    }

    /// Keeps a cancel's answer under its key.
    mutating func remember(_ cancel: OrderCancel, _ answer: OrderUpdate) {
        let key = Name(account: cancel.account, text: cancel.idempotencyKey)
        useOfKey[key] = .cancel(orderID: cancel.orderID, answer)
        finish(.cancel(key))
    }

    private mutating func addKey(_ order: Order, _ place: Int) {
        guard !order.request.idempotencyKey.isEmpty else { return }
        useOfKey[Name(account: order.request.account, text: order.request.idempotencyKey)] = .order(place)
    }

    /// Changes an order. One that is open no longer is remembered as long as there is room.
    mutating func change(_ place: Int, _ body: (inout Order) -> Void) {
        let wasOpen = orders[place].isOpen
        body(&orders[place])
        guard wasOpen, !orders[place].isOpen else { return }
        openCount -= 1
        let account = orders[place].request.account
        let left = openCount(of: account) - 1
        openByAccount[account] = left == 0 ? nil : left
        finish(.order(place))
    }

    private mutating func finish(_ entry: Finished) {
        finished.append(entry)
        guard finishedCount > finishedMax else { return }
        forget(finished[finishedStart])
        finishedStart += 1
        if finishedStart > 1024, finishedStart > finished.count / 2 {
            finished.removeFirst(finishedStart)
            finishedStart = 0
        }
    }

    private mutating func forget(_ entry: Finished) {
        switch entry {
        case .cancel(let key): useOfKey[key] = nil
        case .order(let place):
            let request = orders[place].request
            let name = Name(account: request.account, text: request.orderID)
            if placeOfName[name] == place { placeOfName[name] = nil }
            if !request.idempotencyKey.isEmpty {
                useOfKey[Name(account: request.account, text: request.idempotencyKey)] = nil
            }
            orders[place] = OrderTable.nothing
            vacant.append(place)
        }
    }

    /// What lies at a vacant place: none of the words of the order that lay there.
    private static let nothing = Order(
        number: 0, request: NewOrder(), line: nil, terms: nil, remainingMicros: 0, status: .rejected)
}
