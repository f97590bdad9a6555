import CQLFrames
import MarketModel
import TickStore

/// The table `bucket_widths`: how wide the buckets of an instrument are, by the trade date from which on.
enum BucketWidthTable {
    /// How long before a trade date its widths are fixed: a tick is filed at most 24 h ahead, and the clocks of nodes
    /// may be an hour apart.
    static let noticeNs: Int64 = FilingTime.eventTimeOffsetNsMax + 3_600_000_000_000

    private static let dayNs: Int64 = 86_400_000_000_000

    /// The first day since 1970 at which a width that is set now can begin.
    static func firstDay(nowNs: Int64) -> Int64 { floorDivide(nowNs + noticeNs - 1, by: dayNs) + 1 }

    /// All of it: a row for each change, of the few instruments that have one.
    static func all(
        _ session: BlockingSession, _ keyspace: String, _ consistency: CQLConsistency
    ) throws(StoreError) -> [Instrument: BucketWidths] {
        var found: [Instrument: BucketWidths] = [:]
        for row in try session.query(
            "SELECT exchange, symbol, trade_date, minutes FROM \(keyspace).bucket_widths", [], consistency)
        {
            let (exchange, symbol, date) = (row[0].string ?? "", row[1].string ?? "", row[2].string ?? "")
            guard let instrument = try? Instrument(exchange: exchange, symbol: symbol),
                let day = CivilTime.day(date: date), let minutes = row[3].integer,
                let width = BucketWidth(minutes: Int(minutes))
            else {
                throw StoreError(
                    .damaged,
                    "bucket_widths of keyspace \(keyspace) has a row of '\(exchange)' '\(symbol)' from '\(date)' with "
                        + "\(row[3].integer.map { "\($0)" } ?? "no") minutes, which is no width; delete it with cqlsh")
            }
            found[instrument, default: BucketWidths()].set(width, from: day)
        }
        return found
    }
}

/// The widths of buckets as a writer has them, and the days of which they are settled.
///
/// A width begins at a date that is at least 25 h away when it is set. So what is read on one day settles this day and
/// the next: nothing that is set later concerns them. A tick is filed at most 24 h ahead, so a table that was read on
/// the day of writing says enough, and one that was read a day before does but for the ticks of tomorrow.
struct SettledWidths {
    /// Read again when it is older, though it would do.
    static let ageNsMax: Int64 = 3_600_000_000_000
    /// And not more often, where it cannot be read.
    static let attemptNs: Int64 = 600_000_000_000
    /// Ticks of clocks that are days ahead are filed by what was read no longer ago than this.
    static let freshNs: Int64 = 60_000_000_000

    private static let dayNs: Int64 = 86_400_000_000_000

    private(set) var widths: [Instrument: BucketWidths]
    /// By the nodes' clock.
    private var readNs: Int64
    private var nextReadNs: Int64

    /// `readNs`: the nodes' time, from before they were read.
    init(_ widths: [Instrument: BucketWidths], readNs: Int64) {
        self.widths = widths
        self.readNs = readNs
        nextReadNs = readNs &+ SettledWidths.ageNsMax
    }

    /// The last day since 1970 of which they are settled, whatever was set since they were read.
    var settledDay: Int64 { floorDivide(readNs, by: SettledWidths.dayNs) + 1 }

    /// Whether a tick may be filed by them.
    func isSettled(_ filingTimeNs: Int64, nowNs: Int64) -> Bool {
        floorDivide(filingTimeNs, by: SettledWidths.dayNs) <= settledDay || nowNs &- readNs < SettledWidths.freshNs
    }

    /// Reads them again where they are not settled for the newest of some ticks, or old. True where that was done.
    /// Throws `.bucketWidthUnknown` where they are not settled and cannot be read: a row of another bucket than its own
    /// would be missing in this and too many in that.
    mutating func settle(
        _ newestNs: Int64, nowNs: Int64, _ read: () throws(StoreError) -> [Instrument: BucketWidths]
    ) throws(StoreError) -> Bool {
        let isSettled = isSettled(newestNs, nowNs: nowNs)
        guard !isSettled || nowNs >= nextReadNs else { return false }
        nextReadNs = nowNs &+ SettledWidths.attemptNs
        do {
            self = SettledWidths(try read(), readNs: nowNs)
            return true
        } catch {
            if isSettled { return false }
            let (read, settled) = (CivilTime.text(ns: readNs), CivilTime.date(day: settledDay))
            throw StoreError(
                .bucketWidthUnknown,
                "no row of \(CivilTime.text(ns: newestNs)) is written: bucket_widths was read last at \(read), which "
                    + "settles dates up to \(settled), and cannot be read now: \(error.message)", retryable: true)
        }
    }
}
