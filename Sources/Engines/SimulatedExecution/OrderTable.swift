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

/// Everything that is known of orders, by number, by name and by key. Bounded: what is finished is forgotten oldest
/// first. Never iterated in the order of a hash.
struct OrderTable: Sendable {
    /// An order's name or key within its account.
    struct Name: Hashable, Sendable {
        let account: String
        let text: String
    }

    /// What a key was used for.
    enum KeyUse: Sendable {
        case order(UInt64)
        case cancel(orderID: String, OrderUpdate)
    }

    private enum Finished: Sendable {
        case order(UInt64)
        case cancel(Name)
    }

    private let finishedMax: Int
    private var orders: [UInt64: Order] = [:]
    private var numberOfName: [Name: UInt64] = [:]
    private var useOfKey: [Name: KeyUse] = [:]
    /// Oldest first, from `finishedStart` on.
    private var finished: [Finished] = []
    private var finishedStart = 0
    private var openByAccount: [String: Int] = [:]
    private(set) var openCount = 0

    init(finishedMax: Int) { self.finishedMax = finishedMax }

    var finishedCount: Int { finished.count - finishedStart }

    func openCount(of account: String) -> Int { openByAccount[account] ?? 0 }
    func find(_ name: Name) -> UInt64? { numberOfName[name] }
    func use(of key: Name) -> KeyUse? { useOfKey[key] }

    subscript(number: UInt64) -> Order? { orders[number] }

    /// Adds an open order.
    mutating func add(_ order: Order) {
        orders[order.number] = order
        numberOfName[Name(account: order.request.account, text: order.request.orderID)] = order.number
        addKey(order)
        openCount += 1
        openByAccount[order.request.account, default: 0] += 1
    }

    /// Keeps a rejected order's answer under its key. Its name stays free.
    mutating func remember(rejected order: Order) {
        orders[order.number] = order
        addKey(order)
        finish(.order(order.number))
    }

    /// Keeps a cancel's answer under its key.
    mutating func remember(_ cancel: OrderCancel, _ answer: OrderUpdate) {
        let key = Name(account: cancel.account, text: cancel.idempotencyKey)
        useOfKey[key] = .cancel(orderID: cancel.orderID, answer)
        finish(.cancel(key))
    }

    private mutating func addKey(_ order: Order) {
        guard !order.request.idempotencyKey.isEmpty else { return }
        useOfKey[Name(account: order.request.account, text: order.request.idempotencyKey)] = .order(order.number)
    }

    /// Changes an order that is there. One that is open no longer is remembered as long as there is room.
    mutating func change(_ number: UInt64, _ body: (inout Order) -> Void) {
        guard var order = orders[number] else { return }
        let wasOpen = order.isOpen
        body(&order)
        orders[number] = order
        guard wasOpen, !order.isOpen else { return }
        openCount -= 1
        let left = openCount(of: order.request.account) - 1
        openByAccount[order.request.account] = left == 0 ? nil : left
        finish(.order(number))
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
        case .order(let number):
            guard let order = orders.removeValue(forKey: number) else { return }
            let account = order.request.account
            let name = Name(account: account, text: order.request.orderID)
            if numberOfName[name] == number { numberOfName[name] = nil }
            if !order.request.idempotencyKey.isEmpty {
                useOfKey[Name(account: account, text: order.request.idempotencyKey)] = nil
            }
        }
    }
}
