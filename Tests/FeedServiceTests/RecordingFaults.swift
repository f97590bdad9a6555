import BookEngine
import MarketModel
import TestSupport
import VenueFormats

/// Faults that lines of a recording can have, put into one by seed.
struct RecordingFaults {
    /// What a fault must be counted as, at least once.
    enum Kind: CaseIterable {
        case garbage, truncated, noJSON, tooFine, outOfRange, farLevel, missingField, otherKind, badSymbol
        case duplicate, swapped, lost, crossedTicker, emptyTrade
    }

    private static func text(_ line: [UInt8]) -> String { String(decoding: line, as: UTF8.self) }

    /// Lines with `count` faults of these kinds, none in the first `from` lines; and the kinds that got in three times
    /// or more: a later fault may undo one or two.
    static func put(
        _ kinds: [Kind], count: Int, from: Int, into lines: [[UInt8]], _ random: inout SeededNumbers
    ) -> (lines: [[UInt8]], kinds: Set<Kind>) {
        var lines = lines
        var used: [Kind: Int] = [:]
        for _ in 0..<count {
            let kind = kinds.randomElement(using: &random)!
            let place = from + random.below(lines.count - from - 2)
            if put(kind, at: place, into: &lines, &random) { used[kind, default: 0] += 1 }
        }
        return (lines, Set(used.filter { $0.value >= 3 }.keys))
    }

    /// False where the line is not of the kind that the fault is of.
    private static func put(
        _ kind: Kind, at place: Int, into lines: inout [[UInt8]], _ random: inout SeededNumbers
    ) -> Bool {
        let line = lines[place]
        let time = Array(line.prefix { $0 != UInt8(ascii: " ") }) + Array(" ".utf8)
        func replace(_ from: String, _ to: String) -> Bool {
            let text = text(line)
            guard let range = text.firstRange(of: from) else { return false }
            lines[place] = Array(text.replacingCharacters(range, to).utf8)
            return true
        }
        switch kind {
        case .garbage:
            lines.insert((0..<(1 + random.below(300))).map { _ in UInt8(0x3a + random.below(190)) }, at: place)
        case .truncated:
            // A line that another fault made may have nothing to cut off.
            guard line.count > time.count + 1 else { return false }
            lines[place] = Array(line.prefix(time.count + 1 + random.below(line.count - time.count - 1)))
        case .noJSON: lines.insert(time + Array(#"{"e":"trade","s":BTC}"#.utf8), at: place)
        case .tooFine: return replace(#"00","B":""#, #"0012345","B":""#) || replace(#"00","q":""#, #"0012345","q":""#)
        case .outOfRange: return replace(#""p":""#, #""p":"99999999999"#)
        case .farLevel: return replace(#""a":["#, #""a":[["99999999999.0","1"],"#) && text(line).contains("depthUpdate")
        case .missingField: return replace(#""s":"BTCUSDT","#, "") || replace(#""time":""#, #""time":"x"#)
        case .otherKind: lines.insert(time + Array(#"{"e":"surprise","type":"surprise"}"#.utf8), at: place)
        case .badSymbol: return replace(#""s":"BTCUSDT""#, #""s":"BTC|USDT""#)
        case .duplicate: lines.insert(line, at: place + 1 + random.below(min(20, lines.count - place)))
        case .swapped: lines.swapAt(place, place + 1)
        case .lost: lines.remove(at: place)
        case .crossedTicker: return text(line).contains("bookTicker") && replace(#""b":"6"#, #""b":"9"#)
        case .emptyTrade:
            guard let start = text(line).firstRange(of: #""q":""#) else { return false }
            let rest = text(line)[start.upperBound...]
            return replace(#""q":""# + rest.prefix { $0 != "\"" } + "\"", #""q":"0.0""#)
        }
        return true
    }

    /// Lines of a Binance recording with a snapshot after each `period` applied diffs, made of the book as it is there.
    static func withSnapshots(_ lines: [[UInt8]], every period: Int) throws -> [[UInt8]] {
        let parser = JSONParser()
        var machine = BookMachine(.contiguous)
        var out: [[UInt8]] = []
        for line in lines {
            out.append(line)
            try line.withUnsafeBytes { bytes in
                guard case .received(let ns, let text, _) = try RecordingLine.split(bytes) else { return }
                var messages: [VenueMessage] = []
                try VenueFormat.binance.read(parser.parse(text), symbol: "BTCUSDT", into: &messages)
                for message in messages {
                    let before = machine.deltasApplied
                    _ = machine.receive(message)
                    guard machine.deltasApplied > before, machine.deltasApplied % period == 0 else { continue }
                    out.append(Array("\(ns) \(snapshot(machine))".utf8))
                }
            }
        }
        return out
    }

    private static func snapshot(_ machine: BookMachine) -> String {
        func side(_ levels: [PriceLevel]) -> String {
            levels.map {
                "[\"\(DecimalText.string($0.price, scale: 9))\",\"\(DecimalText.string($0.size, scale: 8))\"]"
            }.joined(separator: ",")
        }
        let book = machine.book
        let (bids, asks) = (side(book.bids(50)), side(book.asks(50)))
        return "{\"lastUpdateId\":\(machine.sequence),\"bids\":[\(bids)],\"asks\":[\(asks)]}"
    }
}

extension String {
    fileprivate func replacingCharacters(_ range: Range<Index>, _ with: String) -> String {
        String(self[..<range.lowerBound]) + with + self[range.upperBound...]
    }
}
