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

    /// A line per instrument, the buckets that differ, and a total.
    public static func table(_ result: AuditResult) -> [String] {
        var lines = [row("INSTRUMENT", columns.map(\.title))]
        for (instrument, counts) in result.instruments { lines.append(row(instrument.description, counts)) }
        lines.append(row("all", result.total))
        for bucket in result.differing.prefix(bucketsMax) { lines.append("differs: \(name(bucket))") }
        if result.differing.count > bucketsMax {
            lines.append("and \(result.differing.count - bucketsMax) more buckets of instruments differ")
        }
        lines += result.damage.map { "damaged: \($0)" }
        lines.append(
            result.isEqual
                ? "log and store agree in \(result.bucketCount) buckets of instruments"
                : "log and store differ in \(result.differing.count) of \(result.bucketCount) buckets of instruments")
        return lines
    }

    /// Buckets that a table lists; the JSON has all.
    private static let bucketsMax = 100

    /// One bucket of an instrument as a JSON object.
    public static func json(_ bucket: StoredBucket, _ counts: AuditCounts) -> String {
        let numbers = columns.map { "\"\($0.name)\":\($0.value(counts))" }.joined(separator: ",")
        return "{\(fields(bucket)),\(numbers),"
            + "\"log_digest\":\"\(hex(counts.logDigest))\",\"store_digest\":\"\(hex(counts.storeDigest))\","
            + "\"equal\":\(counts.isEqual)}"
    }

    /// The total as a JSON object.
    public static func json(_ result: AuditResult) -> String {
        let numbers = columns.map { "\"\($0.name)\":\($0.value(result.total))" }.joined(separator: ",")
        let damage = result.damage.map(quoted).joined(separator: ",")
        return "{\"total\":true,\"buckets\":\(result.bucketCount),"
            + "\"differing_buckets\":\(result.differing.count),\(numbers),"
            + "\"log_digest\":\"\(hex(result.total.logDigest))\",\"store_digest\":\"\(hex(result.total.storeDigest))\","
            + "\"damage\":[\(damage)],\"equal\":\(result.isEqual)}"
    }

    /// One row that differs.
    public static func line(_ difference: AuditDifference) -> String {
        "\(difference.kind.rawValue): \(name(difference.bucket)), \(difference.key)"
    }

    /// As ``line(_:)``, for programs.
    public static func json(_ difference: AuditDifference) -> String {
        "{\"row\":\"\(difference.kind.rawValue)\",\(fields(difference.bucket)),\"tick_time\":\"\(difference.key)\"}"
    }

    /// Which bucket it is.
    private static func fields(_ place: StoredBucket) -> String {
        "\"exchange\":\(quoted(place.instrument.exchange)),\"symbol\":\(quoted(place.instrument.symbol)),"
            + "\"day\":\"\(CivilTime.date(day: place.bucket.day))\",\"bucket\":\(place.bucket.number)"
    }

    /// `BINANCE|BTCUSDT 2024-08-08 09h`, or `... 09:05-09:10` of another width than an hour.
    public static func name(_ bucket: StoredBucket) -> String {
        "\(bucket)" + (bucket.bucket.width == .hour ? "h" : "")
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
}

private func quoted(_ text: String) -> String { JSONWriter.quoted(text) }
