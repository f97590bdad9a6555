import MarketModel
import Protobuf
import TickStore

/// What `tapedeck verify` of a cluster and `tapedeck repair` print.
public enum AuditText {
    private static let columns: [(title: String, name: String, value: @Sendable (AuditCounts) -> Int)] = [
        ("IN LOG", "log", { $0.logTicks }), ("IN STORE", "store", { $0.storeRows }),
        ("MATCHING", "matching", { $0.matching }), ("MISSING", "missing", { $0.missing }),
        ("DIFFERENT", "different", { $0.different }), ("WRONG KEY", "wrong_key", { $0.wrongKey }),
        ("EXPIRED", "expired", { $0.expired }), ("DIRECT", "direct", { $0.direct }),
        ("FOREIGN", "foreign", { $0.foreign }), ("PENDING", "pending", { $0.pending }),
        ("CORRUPT", "corrupt", { $0.corrupt }),
    ]

    /// A line per instrument, the hours that differ, and a total.
    public static func table(_ result: AuditResult) -> [String] {
        var lines = [row("INSTRUMENT", columns.map(\.title))]
        for (instrument, counts) in result.instruments { lines.append(row(instrument.description, counts)) }
        lines.append(row("all", result.total))
        for hour in result.differing.prefix(hoursMax) { lines.append("differs: \(name(hour))") }
        if result.differing.count > hoursMax {
            lines.append("and \(result.differing.count - hoursMax) more hours of instruments differ")
        }
        lines += result.damage.map { "damaged: \($0)" }
        lines.append(
            result.isEqual
                ? "log and store agree in \(result.hourCount) hours of instruments"
                : "log and store differ in \(result.differing.count) of \(result.hourCount) hours of instruments")
        return lines
    }

    /// Hours that a table lists; the JSON has all.
    private static let hoursMax = 100

    /// One hour of an instrument as a JSON object.
    public static func json(_ hour: StoredHour, _ counts: AuditCounts) -> String {
        let numbers = columns.map { "\"\($0.name)\":\($0.value(counts))" }.joined(separator: ",")
        return
            "{\"exchange\":\(quoted(hour.instrument.exchange)),\"symbol\":\(quoted(hour.instrument.symbol)),"
            + "\"day\":\"\(date(hour.day))\",\"bucket\":\(hour.bucket),\(numbers),"
            + "\"log_digest\":\"\(hex(counts.logDigest))\",\"store_digest\":\"\(hex(counts.storeDigest))\","
            + "\"equal\":\(counts.isEqual)}"
    }

    /// The total as a JSON object.
    public static func json(_ result: AuditResult) -> String {
        let numbers = columns.map { "\"\($0.name)\":\($0.value(result.total))" }.joined(separator: ",")
        let damage = result.damage.map(quoted).joined(separator: ",")
        return "{\"total\":true,\"hours\":\(result.hourCount),\"differing_hours\":\(result.differing.count),\(numbers),"
            + "\"log_digest\":\"\(hex(result.total.logDigest))\",\"store_digest\":\"\(hex(result.total.storeDigest))\","
            + "\"damage\":[\(damage)],\"equal\":\(result.isEqual)}"
    }

    /// One row that differs.
    public static func line(_ difference: AuditDifference) -> String {
        "\(difference.kind.rawValue): \(name(difference.hour)), \(difference.key)"
    }

    /// As ``line(_:)``, for programs.
    public static func json(_ difference: AuditDifference) -> String {
        let hour = difference.hour
        return "{\"row\":\"\(difference.kind.rawValue)\",\"exchange\":\(quoted(hour.instrument.exchange)),"
            + "\"symbol\":\(quoted(hour.instrument.symbol)),\"day\":\"\(date(hour.day))\",\"bucket\":\(hour.bucket),"
            + "\"tick_time\":\"\(difference.key)\"}"
    }

    /// `BINANCE|BTCUSDT 2024-08-08 09h`.
    public static func name(_ hour: StoredHour) -> String {
        "\(hour.instrument) \(date(hour.day)) \(hour.bucket < 10 ? "0" : "")\(hour.bucket)h"
    }

    private static func row(_ name: String, _ counts: AuditCounts) -> String {
        row(name, columns.map { String($0.value(counts)) })
    }

    private static func row(_ name: String, _ cells: [String]) -> String {
        var text = name + String(repeating: " ", count: max(1, 21 - name.count))
        for (cell, column) in zip(cells, columns) {
            let width = max(10, column.title.count + 2)
            text += String(repeating: " ", count: max(1, width - cell.count)) + cell
        }
        return text
    }

    private static func hex(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// `2024-08-08` of a day since 1970, by the proleptic Gregorian calendar.
    private static func date(_ day: Int64) -> String {
        // Eras of 400 years that begin on 1 March.
        let shifted = day + 719_468
        let era = floorDivide(shifted, by: 146_097)
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)
        func two(_ number: Int64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(year)-\(two(calendarMonth))-\(two(dayOfYear - (153 * month + 2) / 5 + 1))"
    }
}

private func quoted(_ text: String) -> String { JSONWriter.quoted(text) }
