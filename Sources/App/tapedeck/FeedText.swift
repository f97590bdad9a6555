import FeedService

/// What feeds did, as the last line of `replay` and `up` say it.
enum FeedText {
    /// `37797 ticks taken, 0 known from before, 37797 rows stored, 2 bad lines, 1 violation (json 2, gap 1)`
    static func line(_ feeds: FeedCounters, rows: UInt64? = nil) -> String {
        var parts = ["\(feeds.ticks) ticks taken", "\(feeds.ticksKnown) known from before"]
        if let rows { parts.append("\(rows) rows stored") }
        parts.append("\(bad(feeds)) bad lines")
        if feeds.outdated > 0 { parts.append("\(feeds.outdated) outdated messages") }
        if feeds.levelsRefused > 0 { parts.append("\(feeds.levelsRefused) levels left out") }
        parts.append("\(violations(feeds)) violations")
        if feeds.staleInstruments > 0 { parts.append("\(feeds.staleInstruments) instruments stale") }
        if !feeds.unread.isEmpty {
            let channels = feeds.unread.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
            parts.append("not read: \(channels.joined(separator: ", "))")
        }
        let kinds = feeds.kinds.map { "\($0.name) \($0.count)" }.joined(separator: ", ")
        return parts.joined(separator: ", ") + (kinds.isEmpty ? "" : " (\(kinds))")
    }

    /// The same for programs. `kinds` has each kind of bad input and violation that there was.
    static func json(_ feeds: FeedCounters, rows: UInt64) -> String {
        let kinds = feeds.kinds.map { "\"\($0.name)\":\($0.count)" }.joined(separator: ",")
        let unread = feeds.unread.sorted { $0.key < $1.key }.map { "\"\($0.key)\":\($0.value)" }.joined(separator: ",")
        return "{\"ticks\":\(feeds.ticks),\"ticks_known\":\(feeds.ticksKnown),\"rows\":\(rows),\"bad\":\(bad(feeds)),"
            + "\"outdated\":\(feeds.outdated),\"levels_refused\":\(feeds.levelsRefused),"
            + "\"violations\":\(violations(feeds)),\"stale_instruments\":\(feeds.staleInstruments),"
            + "\"unread\":{\(unread)},\"kinds\":{\(kinds)}}"
    }

    private static func bad(_ feeds: FeedCounters) -> UInt64 { feeds.badLines + feeds.badMessages }
    private static func violations(_ feeds: FeedCounters) -> UInt64 { feeds.violations.values.reduce(0, +) }
}
