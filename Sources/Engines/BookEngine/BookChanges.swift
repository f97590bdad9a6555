import MarketModel

/// Which of a book's best levels one message changed: what has to be published of it. Reused for message after message,
/// so that it allocates nothing once it has grown.
public struct BookChanges: Sendable {
    /// Levels of each side that count, from the best. A level that comes within by the removal of a better one is a
    /// change, and so is one that goes beyond.
    public let depth: Int
    /// The message was a whole book: the levels are all of the best ``depth``.
    public private(set) var isWhole = false
    /// Best first, each price once. Size 0: not among the best any more.
    public private(set) var bids: [PriceLevel] = []
    public private(set) var asks: [PriceLevel] = []

    /// A depth of 0 notes nothing.
    public init(depth: Int) {
        precondition(depth >= 0)
        self.depth = depth
    }

    public var isEmpty: Bool { bids.isEmpty && asks.isEmpty }

    /// Nothing is changed.
    public mutating func removeAll() { begin(isWhole: false) }

    mutating func begin(isWhole: Bool) {
        self.isWhole = isWhole
        bids.removeAll(keepingCapacity: true)
        asks.removeAll(keepingCapacity: true)
    }

    @inline(__always)
    mutating func noteBid(_ edit: Book.Edit, _ price: Int64, _ levels: [PriceLevel]) {
        if !isWhole { BookChanges.note(edit, price, levels, depth, &bids) }
    }

    @inline(__always)
    mutating func noteAsk(_ edit: Book.Edit, _ price: Int64, _ levels: [PriceLevel]) {
        if !isWhole { BookChanges.note(edit, price, levels, depth, &asks) }
    }

    /// Notes the prices that an edit touched; their sizes are settled when the message is done. `levels` is the side
    /// after the edit, its best level last.
    @inline(__always)
    private static func note(
        _ edit: Book.Edit, _ price: Int64, _ levels: [PriceLevel], _ depth: Int, _ touched: inout [PriceLevel]
    ) {
        guard edit.kind != .none, edit.rank < depth else { return }
        touched.append(PriceLevel(price: price, size: 0))
        switch edit.kind {
        case .inserted:
            if levels.count > depth {
                touched.append(levels[levels.count - 1 - depth])
            } else if let evicted = edit.evicted {
                touched.append(evicted)
            }
        case .removed:
            if levels.count >= depth { touched.append(levels[levels.count - depth]) }
        case .none, .resized: break
        }
    }

    /// The message is done: gives each price that was touched the size it has now.
    mutating func settle(_ book: Book) {
        if isWhole {
            takeAll(of: book)
        } else {
            BookChanges.sortUnique(&bids) { $0 > $1 }
            BookChanges.sortUnique(&asks) { $0 < $1 }
            for index in bids.indices { bids[index].size = book.bidSize(bids[index].price, within: depth) }
            for index in asks.indices { asks[index].size = book.askSize(asks[index].price, within: depth) }
        }
    }

    /// Makes it the whole of a book.
    public mutating func takeAll(of book: Book) {
        begin(isWhole: true)
        book.appendBids(depth, to: &bids)
        book.appendAsks(depth, to: &asks)
    }

    private static func sortUnique(_ levels: inout [PriceLevel], _ isBetter: (Int64, Int64) -> Bool) {
        guard levels.count > 1 else { return }
        levels.sort { isBetter($0.price, $1.price) }
        var count = 1
        for index in 1..<levels.count where levels[index].price != levels[count - 1].price {
            levels[count] = levels[index]
            count += 1
        }
        levels.removeLast(levels.count - count)
    }
}
