/// Moments as text in UTC, by the proleptic Gregorian calendar.
public enum CivilTime {
    /// `2020-03-15` of a day since 1970.
    public static func date(day: Int64) -> String {
        // Howard Hinnant's days-to-civil: eras of 400 years that begin in March.
        let shifted = day + 719_468
        let era = floorDivide(shifted, by: 146_097)
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)
        return "\(year)-\(two(calendarMonth))-\(two(dayOfMonth))"
    }

    /// The day since 1970 of `2020-03-15`; nil for what is no date of the years 1600 to 2400.
    public static func day(date: String) -> Int64? {
        let parts = date.split(separator: "-", omittingEmptySubsequences: false).map { Int64($0) }
        guard parts.count == 3, let year = parts[0], let month = parts[1], let day = parts[2],
            (1...12).contains(month), (1...31).contains(day), (1600...2400).contains(year)
        else { return nil }
        let marchYear = month <= 2 ? year - 1 : year
        let era = floorDivide(marchYear, by: 400)
        let yearOfEra = marchYear - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        let found = era * 146_097 + dayOfEra - 719_468
        // The 31st of a shorter month is none, and there is one way to write a date.
        return CivilTime.date(day: found) == date ? found : nil
    }

    /// `2020-03-15T09:30:00Z` of nanoseconds since 1970; what is finer than a second is left out.
    public static func text(ns: Int64) -> String {
        let seconds = floorDivide(ns, by: 1_000_000_000)
        let day = floorDivide(seconds, by: 86_400)
        let second = seconds - day * 86_400
        return "\(date(day: day))T\(two(second / 3600)):\(two(second / 60 % 60)):\(two(second % 60))Z"
    }

    private static func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
}
