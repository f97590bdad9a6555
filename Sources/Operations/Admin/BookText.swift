import MarketModel
import Protobuf

/// What `tapedeck book` prints.
public enum BookText {
    /// Lines for people: bids left, asks right, the best first.
    public static func lines(_ book: PastBook.Found, at timeNs: Int64, depth: Int) -> [String] {
        let name = "\(book.instrument.exchange) \(book.instrument.symbol)"
        var lines = ["\(name) at \(time(timeNs)): last change \(time(book.changedNs))"]
        if !book.isComplete { lines.append("  " + incomplete) }
        lines.append(
            "  feed \(book.feed), epoch \(book.epoch), sequence \(book.sequence); \(book.bids.count) bids, "
                + "\(book.asks.count) asks")
        lines.append(row(["SIZE", "BID", "ASK", "SIZE"]))
        for level in 0..<min(depth, max(book.bids.count, book.asks.count)) {
            let bid = level < book.bids.count ? book.bids[level] : nil
            let ask = level < book.asks.count ? book.asks[level] : nil
            lines.append(
                row([
                    bid.map { size($0.size) } ?? "", bid.map { WatchTable.price($0.price) } ?? "",
                    ask.map { WatchTable.price($0.price) } ?? "", ask.map { size($0.size) } ?? "",
                ]))
        }
        return lines
    }

    /// One object; prices and sizes are text, so that no program rounds them.
    public static func json(_ book: PastBook.Found, at timeNs: Int64, depth: Int) -> String {
        func side(_ levels: [PriceLevel]) -> String {
            levels.prefix(depth).map {
                "[\"\(DecimalText.string($0.price, scale: Scale.price))\",\"\(size($0.size))\"]"
            }.joined(separator: ",")
        }
        return
            "{\"exchange\":\(quoted(book.instrument.exchange)),\"symbol\":\(quoted(book.instrument.symbol)),"
            + "\"at_ns\":\(timeNs),\"last_change_ns\":\(book.changedNs),\"complete\":\(book.isComplete),"
            + "\"feed\":\(quoted(book.feed)),\"epoch\":\(book.epoch),\"sequence\":\(book.sequence),"
            + "\"bids\":[\(side(book.bids))],\"asks\":[\(side(book.asks))]}"
    }

    private static let incomplete =
        "not all of it: books.deltas has no more what changed since; of that time there is one stored book an hour"

    private static func row(_ cells: [String]) -> String {
        cells.map { WatchTable.padLeft($0, 17) }.joined()
    }

    private static func size(_ value: Int64) -> String { DecimalText.string(value, scale: Scale.quantity) }

    /// With milliseconds.
    private static func time(_ ns: Int64) -> String {
        let text = CivilTime.text(ns: ns)
        let milliseconds = floorDivide(ns, by: 1_000_000) - floorDivide(ns, by: 1_000_000_000) * 1000
        let digits = String(milliseconds + 1000).dropFirst()
        return "\(text.dropLast()).\(digits)Z"
    }
}

private func quoted(_ text: String) -> String { JSONWriter.quoted(text) }
