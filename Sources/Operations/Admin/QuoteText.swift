import MarketModel
import MarketProto
import Protobuf

/// A quote as lines for people.
public enum QuoteText {
    /// What `tapedeck quote` prints.
    public static func lines(_ quote: Proto.QuoteResponse) -> [String] {
        guard let latest = quote.latest else { return ["no tick yet"] }
        func price(_ micros: Int64?, _ remainder: Int32) -> String {
            WatchTable.price(micros.flatMap { PriceMicros.join(micros: $0, remainder: remainder) })
        }
        let state = latest.state == .stale ? "  (stale: the feed lost continuity)" : ""
        var lines = [
            "\(latest.exchange) \(latest.symbol)\(state)",
            "  bid   \(price(latest.bidMicros, latest.bidNanoRemainder))",
            "  ask   \(price(latest.askMicros, latest.askNanoRemainder))",
            "  last  \(price(latest.lastMicros, latest.lastNanoRemainder))",
        ]
        let day = quote.tradingDay
        lines += [
            "  day   \(day)  open \(price(quote.openMicros, quote.openNanoRemainder))"
                + "  high \(price(quote.dayHighMicros, quote.dayHighNanoRemainder))"
                + "  low \(price(quote.dayLowMicros, quote.dayLowNanoRemainder))"
                + "  previous close \(price(quote.prevCloseMicros, quote.prevCloseNanoRemainder))",
            "        \(quote.dayTradeCount) trades, volume \(quote.dayVolume)",
        ]
        lines.append("  feed  \(latest.feedHandlerId), epoch \(latest.epoch), sequence \(latest.sequence)")
        return lines
    }
}
