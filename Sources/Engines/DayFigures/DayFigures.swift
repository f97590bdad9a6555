// Figures of an instrument's trading day, made from the ticks of its primary feed. The stores feed it as they apply
// rows and keep its state beside the last tick; an edge starts from that state and applies the log from its offset on.
import MarketModel

/// Which day a filing time belongs to: days of 24 hours from a fixed time of day in UTC.
public struct SessionCalendar: Sendable, Hashable {
    public static let utc = SessionCalendar(dayStartNs: 0)
    public static let dayLengthNs: Int64 = 86_400_000_000_000

    /// When the day begins, in nanoseconds after midnight UTC, less than a day either way; 0 is the UTC day.
    public let dayStartNs: Int64

    /// `dayStartNs` lies in -24 h...24 h.
    public init(dayStartNs: Int64) {
        precondition(dayStartNs > -Self.dayLengthNs && dayStartNs < Self.dayLengthNs)
        self.dayStartNs = dayStartNs
    }

    /// Days since 1970-01-01.
    @inlinable
    public func day(of filingTimeNs: Int64) -> Int32 {
        // At the ends of Int64 the start of day cannot be subtracted: those times belong to the first or last day.
        let (time, overflow) = filingTimeNs.subtractingReportingOverflow(dayStartNs)
        let shifted = overflow ? (dayStartNs > 0 ? Int64.min : Int64.max) : time
        let (quotient, remainder) = shifted.quotientAndRemainder(dividingBy: Self.dayLengthNs)
        return Int32(truncatingIfNeeded: remainder < 0 ? quotient &- 1 : quotient)
    }
}

/// A trade: price at 1e-9, size at 1e-8.
@frozen
public struct DayTrade: Sendable, Hashable {
    public let price: Int64
    public let size: Int64

    @inlinable
    public init(price: Int64, size: Int64) {
        self.price = price
        self.size = size
    }
}

/// The figures of one instrument's day, and what is needed to go on from them. A value of fixed size without
/// references.
///
/// They depend on which ticks came, not on how they were cut into batches. The day is that of the newest filing time
/// seen; open and last are the first and last trade by (filing time, epoch, sequence); the previous close is the last
/// trade of the latest earlier day that had one. A trade of an earlier day that comes late still counts for the
/// previous close.
public struct DayFigures: Sendable, Hashable {
    /// A place among a day's trades.
    public struct Place: Sendable, Hashable, Comparable {
        public var filingTimeNs: Int64
        public var epoch: UInt64
        public var sequence: UInt64

        @inlinable
        public init(filingTimeNs: Int64, epoch: UInt64, sequence: UInt64) {
            self.filingTimeNs = filingTimeNs
            self.epoch = epoch
            self.sequence = sequence
        }

        @inlinable
        public static func < (a: Place, b: Place) -> Bool {
            if a.filingTimeNs != b.filingTimeNs { return a.filingTimeNs < b.filingTimeNs }
            if a.epoch != b.epoch { return a.epoch < b.epoch }
            return a.sequence < b.sequence
        }
    }

    /// A trade that is a figure, and where it stands.
    public struct Mark: Sendable, Hashable {
        public var place: Place
        public var price: Int64

        @inlinable
        public init(place: Place, price: Int64) {
            self.place = place
            self.price = price
        }
    }

    /// Days since 1970-01-01 in the session calendar; meaningless before the first tick.
    public var day: Int32 = 0
    /// Epoch and sequence of the newest tick applied; nil before the first.
    public var newest: Identity?
    public var open: Mark?
    public var last: Mark?
    public var high: Int64?
    public var low: Int64?
    /// Traded on the day, at 1e-8; stays at `Int64.max` from where it no longer fits.
    public var volume: Int64 = 0
    public var tradeCount: UInt64 = 0
    /// The last trade of the latest day before ``day`` that had one, and that day.
    public var previous: Mark?
    public var previousDay: Int32 = 0

    /// What orders the ticks of one feed: a higher epoch is newer, then a higher sequence.
    public struct Identity: Sendable, Hashable, Comparable {
        public var epoch: UInt64
        public var sequence: UInt64

        @inlinable
        public init(epoch: UInt64, sequence: UInt64) {
            self.epoch = epoch
            self.sequence = sequence
        }

        @inlinable
        public static func < (a: Identity, b: Identity) -> Bool {
            a.epoch != b.epoch ? a.epoch < b.epoch : a.sequence < b.sequence
        }
    }

    public init() {}

    public var previousClose: Int64? { previous?.price }

    /// Applies one tick of the primary feed. Returns false, and changes nothing, for an identity at or below the newest
    /// applied: a repeat, or what an older epoch left behind.
    @inlinable
    public mutating func apply(
        filingTimeNs: Int64, epoch: UInt64, sequence: UInt64, trade: DayTrade?, calendar: SessionCalendar = .utc
    ) -> Bool {
        let identity = Identity(epoch: epoch, sequence: sequence)
        let tickDay = calendar.day(of: filingTimeNs)
        if let newest {
            guard newest < identity else { return false }
            if tickDay > day { turn(to: tickDay) }
        } else {
            day = tickDay
        }
        newest = identity
        guard let trade else { return true }
        let mark = Mark(
            place: Place(filingTimeNs: filingTimeNs, epoch: epoch, sequence: sequence), price: trade.price)
        if tickDay < day {
            applyLate(mark, of: tickDay)
            return true
        }
        count(mark, size: trade.size)
        return true
    }

    @inlinable
    mutating func count(_ mark: Mark, size: Int64) {
        if open.map({ mark.place < $0.place }) ?? true { open = mark }
        if last.map({ $0.place < mark.place }) ?? true { last = mark }
        high = Swift.max(high ?? mark.price, mark.price)
        low = Swift.min(low ?? mark.price, mark.price)
        let (sum, overflow) = volume.addingReportingOverflow(size)
        volume = overflow ? (size > 0 ? .max : .min) : sum
        tradeCount &+= 1
    }

    @usableFromInline
    mutating func turn(to newDay: Int32) {
        if let last {
            previous = last
            previousDay = day
        }
        day = newDay
        open = nil
        last = nil
        high = nil
        low = nil
        volume = 0
        tradeCount = 0
    }

    @usableFromInline
    mutating func applyLate(_ mark: Mark, of tickDay: Int32) {
        guard let current = previous, previousDay > tickDay || (previousDay == tickDay && mark.place < current.place)
        else {
            previous = mark
            previousDay = tickDay
            return
        }
    }
}

extension DayFigures {
    /// Goes on from what a store kept.
    public init(_ record: DayRecord) {
        self.init()
        day = record.day
        newest = record.newestEpoch.map { Identity(epoch: $0, sequence: record.newestSequence) }
        open = record.open.map(Mark.init)
        last = record.last.map(Mark.init)
        high = record.high
        low = record.low
        volume = record.volume
        tradeCount = record.tradeCount
        previous = record.previousClose.map(Mark.init)
        previousDay = record.previousDay
    }

    /// What a store keeps.
    public var record: DayRecord {
        var record = DayRecord(day: day)
        record.newestEpoch = newest?.epoch
        record.newestSequence = newest?.sequence ?? 0
        record.open = open?.record
        record.last = last?.record
        record.high = high
        record.low = low
        record.volume = volume
        record.tradeCount = tradeCount
        record.previousClose = previous?.record
        record.previousDay = previousDay
        return record
    }
}

extension DayFigures.Mark {
    init(_ mark: DayRecord.Mark) {
        self.init(
            place: DayFigures.Place(filingTimeNs: mark.filingTimeNs, epoch: mark.epoch, sequence: mark.sequence),
            price: mark.price)
    }

    var record: DayRecord.Mark {
        DayRecord.Mark(
            price: price, filingTimeNs: place.filingTimeNs, epoch: place.epoch, sequence: place.sequence)
    }
}
