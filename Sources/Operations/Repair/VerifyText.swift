import MarketModel

/// What `tapedeck verify` prints.
public enum VerifyText {
    /// A line per instrument and a total.
    public static func table(_ result: VerifyResult) -> [String] {
        var lines = [header]
        var total = [Int](repeating: 0, count: 9)
        for line in result.lines {
            let numbers = numbers(line)
            for (index, number) in numbers.enumerated() { total[index] += number }
            lines.append(row(line.instrument.description, numbers))
            if line.direct > 0 { lines.append("    and \(line.direct) rows written past the log") }
            for sample in line.samples {
                lines.append(
                    "    \(sample.kind.rawValue): feed \(sample.feed), epoch \(sample.epoch), "
                        + "sequence \(sample.sequence), filed at \(sample.filingTimeNs) ns"
                )
            }
        }
        lines.append(row("all", total))
        lines += result.damage.map { "damaged: \($0)" }
        lines.append(result.isClean ? "log and store agree" : "log and store differ")
        return lines
    }

    /// One JSON object per instrument.
    public static func json(_ result: VerifyResult) -> String {
        let names = ["log", "store", "matching", "missing", "extra", "different", "corrupt", "expired", "pending"]
        return result.lines.map { line in
            let numbers = zip(names, numbers(line)).map { "\"\($0)\":\($1)" }.joined(separator: ",")
            return
                "{\"exchange\":\"\(line.instrument.exchange)\",\"symbol\":\"\(line.instrument.symbol)\","
                + "\(numbers),\"direct\":\(line.direct),\"clean\":\(line.isClean)}"
        }.joined(separator: "\n")
    }

    private static func numbers(_ line: VerifyLine) -> [Int] {
        [
            line.logTicks, line.storeRows, line.matching, line.missing, line.extra, line.different, line.corrupt,
            line.expired, line.pending,
        ]
    }

    private static let header =
        "INSTRUMENT                 IN LOG  IN STORE  MATCHING  MISSING  EXTRA  DIFFERENT  CORRUPT  EXPIRED"
        + "  PENDING"
    private static let widths = [12, 10, 10, 9, 7, 11, 9, 9, 9]

    private static func row(_ name: String, _ numbers: [Int]) -> String {
        var text = name + String(repeating: " ", count: max(1, 21 - name.count))
        for (number, width) in zip(numbers, widths) {
            let digits = String(number)
            text += String(repeating: " ", count: max(1, width - digits.count)) + digits
        }
        return text
    }
}
