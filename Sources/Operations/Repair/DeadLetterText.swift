import MarketModel
import Protobuf

/// What `tapedeck dlq` prints.
public enum DeadLetterText {
    /// A letter in a line.
    public static func line(_ letter: DeadLetterEntry) -> String {
        "\(letter.position)  \(letter.isRedriven ? "redriven" : "waiting ")  from "
            + "\(letter.sourcePartition):\(letter.sourceOffset)  \(letter.value.count) bytes  \(letter.reasonCode): "
            + letter.reason
    }

    /// A letter with its bytes.
    public static func all(_ letter: DeadLetterEntry) -> [String] {
        [
            line(letter),
            "put aside by \(letter.consumer) at \(letter.failedTimeNs.map { CivilTime.text(ns: $0) } ?? "?")",
        ]
            + stride(from: 0, to: letter.value.count, by: 16).map { start in
                let bytes = letter.value[start..<min(start + 16, letter.value.count)]
                let offset = String(start, radix: 16)
                let text = bytes.map { (0x20...0x7e).contains($0) ? String(UnicodeScalar($0)) : "." }.joined()
                let dump = bytes.map(hex).joined(separator: " ")
                return String(repeating: "0", count: max(0, 8 - offset.count)) + offset + "  " + dump
                    + String(repeating: " ", count: 3 * (16 - bytes.count)) + "  " + text
            }
    }

    /// The closing count of a redrive.
    public static func line(_ count: RedriveCount) -> String {
        "read \(count.read) = redriven \(count.redriven) + skipped \(count.skipped) + failed \(count.failed)"
            + " (skipped: \(count.skippedBefore) redriven before, \(count.skippedOthers) not chosen)"
    }

    /// A letter as a JSON object; its bytes in hexadecimal.
    public static func json(_ letter: DeadLetterEntry, withBytes: Bool) -> String {
        "{\"position\":\"\(letter.position)\",\"redriven\":\(letter.isRedriven),"
            + "\"source_partition\":\(letter.sourcePartition),\"source_offset\":\(letter.sourceOffset),"
            + "\"reason_code\":\(JSONWriter.quoted(letter.reasonCode)),\"reason\":\(JSONWriter.quoted(letter.reason)),"
            + "\"consumer\":\(JSONWriter.quoted(letter.consumer)),"
            + "\"failed_time_ns\":\(letter.failedTimeNs.map { "\($0)" } ?? "null"),\"bytes\":\(letter.value.count)"
            + (withBytes ? ",\"value\":\"\(letter.value.map(hex).joined())\"}" : "}")
    }

    /// The closing count of a redrive as a JSON object.
    public static func json(_ count: RedriveCount) -> String {
        "{\"read\":\(count.read),\"redriven\":\(count.redriven),\"skipped\":\(count.skipped),"
            + "\"skipped_before\":\(count.skippedBefore),\"skipped_others\":\(count.skippedOthers),"
            + "\"failed\":\(count.failed),\"balanced\":\(count.isBalanced)}"
    }

    private static func hex(_ byte: UInt8) -> String { (byte < 16 ? "0" : "") + String(byte, radix: 16) }
}
