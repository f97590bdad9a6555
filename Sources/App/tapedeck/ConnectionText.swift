import GRPC
import Observability

/// Open calls as `tapedeck connections` shows them, and as they come from the process that serves them: a line each,
/// fields between tabs, with tabs, line ends and backslashes escaped.
enum ConnectionText {
    private static let names = [
        "id", "identity", "peer", "method", "policy", "lag_bytes", "received_bytes", "sent_bytes", "age_ms",
    ]
    private static let firstNumber = 5

    static func encode(_ calls: [CallDescription]) -> String {
        calls.map { call in
            let fields: [String] = [
                call.id, call.identity, call.peer, call.method, call.stream?.policy ?? "",
                "\(call.stream?.lagBytes ?? 0)", "\(call.receivedBytes)", "\(call.sentBytes)",
                "\(call.ageMilliseconds)",
            ]
            return fields.map(escaped).joined(separator: "\t") + "\n"
        }.joined()
    }

    /// The fields of each line; lines of another form are left out.
    static func decode(_ text: String) -> [[String]] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false).map { unescaped(String($0)) }
            return fields.count == names.count ? fields : nil
        }
    }

    /// One JSON object per call.
    static func json(_ calls: [[String]]) -> [String] {
        calls.map { fields in
            let members = zip(names, fields).enumerated().map { index, member in
                "\"\(member.0)\":" + (index >= firstNumber ? member.1 : quoted(member.1))
            }
            return "{" + members.joined(separator: ",") + "}"
        }
    }

    /// Columns for people. What could move a terminal's cursor is shown as `?`.
    static func table(_ calls: [[String]]) -> [String] {
        let heads = ["ID", "IDENTITY", "PEER", "METHOD", "POLICY", "LAG", "IN", "OUT", "AGE"]
        let rows = calls.map { fields in
            fields.enumerated().map { index, field in
                switch index {
                case 5...7: bytes(UInt64(field) ?? 0)
                case 8: age(Int(field) ?? 0)
                default: field.isEmpty ? "-" : printable(field)
                }
            }
        }
        let widths = heads.indices.map { column in ([heads] + rows).map { $0[column].count }.max() ?? 0 }
        return ([heads] + rows).map { row in
            let cells = row.enumerated().map { index, cell in
                cell + String(repeating: " ", count: widths[index] - cell.count)
            }
            return String(cells.joined(separator: "  ").reversed().drop { $0 == " " }.reversed())
        }
    }

    private static func printable(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { isControl($0) ? "?" : $0 }))
    }

    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) || scalar.value == 0x2028 || scalar.value == 0x2029
    }

    private static func bytes(_ count: UInt64) -> String {
        switch count {
        case ..<(10 << 10): "\(count) B"
        case ..<(10 << 20): "\(count >> 10) KiB"
        default: "\(count >> 20) MiB"
        }
    }

    private static func age(_ milliseconds: Int) -> String {
        switch milliseconds {
        case ..<10_000: "\(milliseconds) ms"
        case ..<600_000: "\(milliseconds / 1000) s"
        default: "\(milliseconds / 60_000) min"
        }
    }

    private static func escaped(_ text: String) -> String {
        var out = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": out += "\\\\"
            case "\t": out += "\\t"
            case "\n": out += "\\n"
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out
    }

    private static func unescaped(_ text: String) -> String {
        var out = ""
        var isEscape = false
        for scalar in text.unicodeScalars {
            if isEscape {
                out.unicodeScalars.append(scalar == "t" ? "\t" : scalar == "n" ? "\n" : scalar)
                isEscape = false
            } else if scalar == "\\" {
                isEscape = true
            } else {
                out.unicodeScalars.append(scalar)
            }
        }
        return out
    }

    private static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case _ where isControl(scalar):
                let hex = String(scalar.value, radix: 16)
                out += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}
