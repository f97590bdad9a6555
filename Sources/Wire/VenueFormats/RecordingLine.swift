import MarketModel

/// One line of a recording: when it was received, and what was.
public enum RecordingLine {
    /// `<receive ns> <JSON>`, `<receive s>: <JSON>`, or `<URL> -> <receive s>: <JSON>` for an answer to a request,
    /// whose `symbol=` is given.
    case received(ns: Int64, message: UnsafeRawBufferPointer, symbol: String?)
    /// What the client sent or opened, or an empty line: nothing to read.
    case other

    /// Splits a line without its end.
    public static func split(_ line: UnsafeRawBufferPointer) throws(FormatError) -> RecordingLine {
        guard let first = line.first, first != UInt8(ascii: "\r") else { return .other }
        if first >= UInt8(ascii: "0"), first <= UInt8(ascii: "9") { return try timed(line, symbol: nil) }
        let words = line.prefix(4096).split(
            separator: UInt8(ascii: " "), maxSplits: 2, omittingEmptySubsequences: false)
        guard words.count == 3 else { throw .line("neither a receive time nor a URL at its start") }
        let url = String(decoding: words[0], as: UTF8.self)
        guard url.hasPrefix("wss://") || url.hasPrefix("https://") else {
            throw .line("neither a receive time nor a URL at its start")
        }
        switch String(decoding: words[1], as: UTF8.self) {
        case "->": return try timed(UnsafeRawBufferPointer(rebasing: line[words[2].startIndex...]), symbol: symbol(url))
        case "<-", "<->": return .other
        default: throw .line("neither ->, <- nor <-> after the URL")
        }
    }

    private static func symbol(_ url: String) -> String? {
        guard let query = url.split(separator: "?").last else { return nil }
        for pair in query.split(separator: "&") where pair.hasPrefix("symbol=") { return String(pair.dropFirst(7)) }
        return nil
    }

    private static func timed(_ line: UnsafeRawBufferPointer, symbol: String?) throws(FormatError) -> RecordingLine {
        guard let space = line.prefix(64).firstIndex(of: UInt8(ascii: " ")) else {
            throw .line("no receive time and space before the message")
        }
        let message = UnsafeRawBufferPointer(rebasing: line[(space + 1)...])
        var time = UnsafeRawBufferPointer(rebasing: line[..<space])
        var scale = 0
        if time.last == UInt8(ascii: ":") {
            time = UnsafeRawBufferPointer(rebasing: time[..<(time.count - 1)])
            scale = 9
        }
        guard let ns = try? DecimalText.mantissa(time, scale: scale), ns >= 0 else {
            throw .line("the receive time is no number of seconds or nanoseconds")
        }
        return .received(ns: ns, message: message, symbol: symbol)
    }
}
