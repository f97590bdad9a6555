import MarketModel

/// How long the buckets of an instrument's day are, in minutes.
public struct BucketWidth: Hashable, Sendable, Comparable, CustomStringConvertible {
    public let minutes: Int

    /// An hour, the width of every instrument that nobody set another for.
    public static let hour = BucketWidth(unchecked: 60)

    /// All there are, ascending: the divisors of an hour, so that no bucket lies in two hours or two days.
    public static let all = [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60].map { BucketWidth(unchecked: $0) }

    private init(unchecked minutes: Int) { self.minutes = minutes }

    /// nil for what is none of ``all``.
    public init?(minutes: Int) {
        guard let known = BucketWidth.all.first(where: { $0.minutes == minutes }) else { return nil }
        self = known
    }

    public static func < (a: BucketWidth, b: BucketWidth) -> Bool { a.minutes < b.minutes }

    public var description: String { self == .hour ? "an hour" : minutes == 1 ? "1 minute" : "\(minutes) minutes" }
}

/// A span of an instrument's day whose rows lie together: with exchange, symbol and date, the partition of `tick_data`.
///
/// Its number says its width. Of an hour's width it is the hour of the day, 0 to 23; of another, the width in minutes
/// times 10,000, and the minute of the day at which the bucket begins.
public struct TickBucket: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// Minutes since 1970 at which it begins.
    public let startMinute: Int64
    public let width: BucketWidth

    private static let minuteNs: Int64 = 60_000_000_000
    private static let minutesOfDay: Int64 = 1440
    /// The days of the first and the last filing time.
    private static let dayMin = floorDivide(Int64.min, by: 1440 * minuteNs)
    private static let dayMax = floorDivide(Int64.max, by: 1440 * minuteNs)
    private static let numberOfWidth: Int64 = 10_000

    /// The bucket that a filing time lies in, in nanoseconds since 1970.
    public init(of filingTimeNs: Int64, width: BucketWidth = .hour) {
        let minutes = Int64(width.minutes)
        startMinute = floorDivide(filingTimeNs, by: minutes * TickBucket.minuteNs) * minutes
        self.width = width
    }

    /// The bucket with this number of a day since 1970; nil where there is none.
    public init?(day: Int64, number: Int64) {
        guard (TickBucket.dayMin...TickBucket.dayMax).contains(day) else { return nil }
        let minute: Int64
        if (0..<24).contains(number) {
            (minute, width) = (number * 60, .hour)
        } else {
            let minutes = number / TickBucket.numberOfWidth
            guard number > 0, let width = BucketWidth(minutes: Int(minutes)), width != .hour else { return nil }
            self.width = width
            minute = number - minutes * TickBucket.numberOfWidth
            guard minute < TickBucket.minutesOfDay, minute % minutes == 0 else { return nil }
        }
        startMinute = day * TickBucket.minutesOfDay + minute
    }

    /// The bucket of a partition's key; nil where that names none.
    public init?(tradeDate: String, number: Int64) {
        guard let day = CivilTime.day(date: tradeDate) else { return nil }
        self.init(day: day, number: number)
    }

    /// Days since 1970.
    public var day: Int64 { floorDivide(startMinute, by: TickBucket.minutesOfDay) }

    /// As it stands in a key.
    public var number: Int32 {
        let minute = startMinute - day * TickBucket.minutesOfDay
        return Int32(
            truncatingIfNeeded: width == .hour
                ? minute / 60 : Int64(width.minutes) * TickBucket.numberOfWidth + minute)
    }

    /// Where it begins, in nanoseconds since 1970; nil for the one at the end of the past, which begins before `Int64`
    /// does.
    public var startNs: Int64? {
        let (ns, overflow) = startMinute.multipliedReportingOverflow(by: TickBucket.minuteNs)
        return overflow ? nil : ns
    }

    /// Whether filing times of `first` to `last`, both included, lie in it.
    public func overlaps(_ first: Int64, _ last: Int64) -> Bool {
        startMinute <= floorDivide(last, by: TickBucket.minuteNs)
            && startMinute + Int64(width.minutes) > floorDivide(first, by: TickBucket.minuteNs)
    }

    /// By time; of those that begin together the longer one first.
    public static func < (a: TickBucket, b: TickBucket) -> Bool {
        a.startMinute != b.startMinute ? a.startMinute < b.startMinute : a.width > b.width
    }

    /// The time of day: `09`, or `09:05-09:10` of another width than an hour.
    public var timeOfDay: String {
        let minute = startMinute - day * TickBucket.minutesOfDay
        func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        if width == .hour { return two(minute / 60) }
        let end = minute + Int64(width.minutes)
        return "\(two(minute / 60)):\(two(minute % 60))-\(two(end / 60)):\(two(end % 60))"
    }

    /// `2024-08-08 09`, or `2024-08-08 09:05-09:10`.
    public var description: String { "\(CivilTime.date(day: day)) \(timeOfDay)" }
}

/// The widths of an instrument's buckets: each from a day on, until the next. Before the first, and where there is
/// none, buckets are an hour's.
public struct BucketWidths: Hashable, Sendable {
    /// A width, and the day since 1970 from which it is in force.
    public struct Change: Hashable, Sendable {
        public let day: Int64
        public let width: BucketWidth
    }

    /// By ascending day.
    public private(set) var changes: [Change] = []

    public init() {}

    /// From this day on; in place of what was set for the same day.
    public mutating func set(_ width: BucketWidth, from day: Int64) {
        let index = changes.firstIndex { $0.day >= day } ?? changes.endIndex
        if index < changes.endIndex, changes[index].day == day { changes.remove(at: index) }
        changes.insert(Change(day: day, width: width), at: index)
    }

    /// In force on a day since 1970.
    public func width(on day: Int64) -> BucketWidth { changes.last { $0.day <= day }?.width ?? .hour }

    /// The bucket that a filing time lies in, in nanoseconds since 1970.
    public func bucket(of filingTimeNs: Int64) -> TickBucket {
        guard !changes.isEmpty else { return TickBucket(of: filingTimeNs) }
        return TickBucket(of: filingTimeNs, width: width(on: floorDivide(filingTimeNs, by: 86_400_000_000_000)))
    }
}
