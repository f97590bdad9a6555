import CQLFrames
import MarketModel
import TickStore
import TimeSource

/// Lists and sets the widths of instruments' buckets. `tapedeck buckets` prints what it finds. Used by one thread,
/// which it blocks.
public final class BucketWidthTool {
    /// A width of an instrument, and the trade date from which it is in force.
    public struct Entry: Sendable, Hashable {
        /// Whether it counts.
        public enum State: String, Sendable {
            /// Another one has come after it.
            case over
            case current
            /// Its date has not come.
            case pending
        }

        public let instrument: Instrument
        /// As `tick_data.trade_date`.
        public let tradeDate: String
        public let width: BucketWidth
        public let state: State
    }

    /// A width that cannot begin at the date asked for; nothing was changed.
    public struct Refusal: Error, Sendable, Hashable, CustomStringConvertible {
        /// Why.
        public enum Code: String, Sendable {
            /// The date is not far enough away.
            case tooSoon
            /// The instrument has rows of the date or a later one.
            case hasRows
            /// Somebody else set another width for the same date at the same time.
            case lost
        }

        public let code: Code
        /// What is the matter, with which instrument and date, and what to do next.
        public let description: String
    }

    private let session: BlockingSession
    private let configuration: CassandraStoreConfiguration
    private let clock: NodeClock

    /// Connects. Throws where no node answers, and where the tables are of another version.
    public init(_ configuration: CassandraStoreConfiguration, time: any TimeSource) throws(StoreError) {
        self.configuration = configuration
        session = try BlockingSession(configuration)
        do {
            try CassandraStore.checkVersion(session, configuration.keyspace)
            clock = try NodeClock(session, time)
        } catch {
            session.close()
            throw error
        }
    }

    deinit { session.close() }

    /// All widths that were ever set, by instrument and date.
    public func entries() throws(StoreError) -> [Entry] {
        let today = floorDivide(clock.nowNs, by: BucketWidthTool.dayNs)
        let widths = try BucketWidthTable.all(session, configuration.keyspace, configuration.readConsistency)
        return widths.sorted { $0.key < $1.key }.flatMap { instrument, widths in
            let current = widths.changes.lastIndex { $0.day <= today } ?? -1
            return widths.changes.enumerated().map { index, change in
                Entry(
                    instrument: instrument, tradeDate: CivilTime.date(day: change.day), width: change.width,
                    state: index < current ? .over : index == current ? .current : .pending)
            }
        }
    }

    /// The first day since 1970 at which a width that is set now can begin: one that begins in 25 hours or later.
    public var firstDay: Int64 { BucketWidthTable.firstDay(nowNs: clock.nowNs) }

    private static let dayNs: Int64 = 86_400_000_000_000

    /// Sets the width of an instrument's buckets from a day since 1970 on, without one from ``firstDay`` on; in place
    /// of what was set for that day. Returns the trade date. Throws a ``Refusal`` or a `StoreError`.
    @discardableResult
    public func set(_ width: BucketWidth, of instrument: Instrument, from day: Int64? = nil) throws -> String {
        let first = firstDay
        let day = day ?? first
        let date = CivilTime.date(day: day)
        guard day >= first else {
            throw Refusal(
                code: .tooSoon,
                description: "\(instrument): no width can begin at \(date) any more: writers have to know it a day and "
                    + "an hour before, as they may file ticks of it; the first date is \(CivilTime.date(day: first))")
        }
        let key: [(CQLValue, CQLType)] = [
            (.text(instrument.exchange), .text), (.text(instrument.symbol), .text), (.text(date), .text),
        ]
        let (exchangeAndSymbol, table) = ("exchange = ? AND symbol = ?", "\(configuration.keyspace).bucket_widths")
        // Rows of clocks that are days ahead.
        let filed = try session.query(
            "SELECT trade_date FROM \(configuration.keyspace).tick_partitions WHERE \(exchangeAndSymbol) "
                + "AND trade_date >= ? ORDER BY trade_date DESC LIMIT 1", key, configuration.readConsistency)
        if let latest = filed.first?.first?.string {
            throw Refusal(
                code: .hasRows,
                description: "\(instrument): there are rows of \(latest), filed by a clock that was ahead: a width can "
                    + "begin after it; say a later --from")
        }
        // Every writer reads it at a quorum of its own data centre.
        _ = try session.query(
            "INSERT INTO \(table) (exchange, symbol, trade_date, minutes) VALUES (?, ?, ?, ?)",
            key + [(.int(Int32(width.minutes)), .int)], .eachQuorum)
        let found = try session.query(
            "SELECT minutes FROM \(table) WHERE \(exchangeAndSymbol) AND trade_date = ?", key,
            configuration.readConsistency)
        guard found.first?.first?.integer == Int64(width.minutes) else {
            throw Refusal(
                code: .lost,
                description: "\(instrument): somebody set another width from \(date) on at the same time; "
                    + "`tapedeck buckets list` says which")
        }
        return date
    }
}
