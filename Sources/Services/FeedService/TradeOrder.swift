/// Tells new trades of one instrument from duplicates and older ones, by the venue's ascending numbers.
///
/// A number far ahead counts only once the next one confirms it, so that a wrong digit does not make every trade behind
/// it look old.
struct TradeOrder {
    /// How far ahead is far.
    static let leapMax: UInt64 = 100

    private var last: UInt64?
    private var leap: UInt64?

    /// Whether a trade is a new one.
    mutating func isNew(_ number: UInt64) -> Bool {
        if let last, number <= last { return false }
        if number == leap { return false }
        let follows = isNear(number, leap) || isNear(number, last)
        last = follows ? number : last
        leap = follows ? nil : number
        return true
    }

    private func isNear(_ number: UInt64, _ before: UInt64?) -> Bool {
        guard let before else { return false }
        return number > before && number - before <= TradeOrder.leapMax
    }
}
