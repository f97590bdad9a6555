/// Orders of one side by price and then by age.
struct PriceQueue: Sendable {
    struct Entry: Hashable, Sendable {
        let price: Int64
        /// The order's, ascending with age.
        let number: UInt64
        /// Where it lies in the table of orders.
        let place: Int
    }

    private let isHighestFirst: Bool
    /// The first in line last: that is where orders leave.
    private(set) var entries: [Entry] = []

    init(highestFirst: Bool) { isHighestFirst = highestFirst }

    var first: Entry? { entries.last }
    var isEmpty: Bool { entries.isEmpty }

    mutating func insert(_ entry: Entry) { entries.insert(entry, at: place(of: entry)) }

    /// Nothing where it is not there.
    mutating func remove(_ entry: Entry) {
        let place = place(of: entry)
        if place < entries.count, entries[place] == entry { entries.remove(at: place) }
    }

    private func place(of entry: Entry) -> Int {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if isBehind(entries[middle], entry) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func isBehind(_ a: Entry, _ b: Entry) -> Bool {
        if a.price != b.price { return isHighestFirst ? a.price < b.price : a.price > b.price }
        return a.number > b.number
    }
}
