import CQLFrames
import CassandraStore

/// What `--consistency CLASS=LEVEL` says.
struct ConsistencyOptions {
    /// Of the other classes.
    private(set) var classes = ClassConsistency()
    /// nil where nothing is said of ticks.
    private(set) var ticks: CQLConsistency?

    init(_ options: ResolvedOptions) throws(CommandError) {
        for text in options.strings(.consistency) {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let level = CQLConsistency(name: String(parts[1])), level != .serial,
                level != .localSerial
            else {
                throw CommandError("--consistency \(text): it is CLASS=LEVEL, as trades=QUORUM")
            }
            switch parts[0] {
            case "ticks": ticks = level
            case "trades": classes.trades = level
            case "events": classes.events = level
            case "positions": classes.positions = level
            case "books": classes.books = level
            default:
                throw CommandError("--consistency \(text): classes are ticks, books, trades, events and positions")
            }
        }
    }
}
