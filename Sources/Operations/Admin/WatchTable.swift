// What `tapedeck watch` shows: the latest of each instrument, its rate, a sparkline and how far behind it is. Fed by a
// price stream, drawn on a terminal or printed as plain lines.

import GRPC
import MarketModel
import TickCodec

/// The state behind the view. Used by one thread.
public struct WatchTable {
    /// Points of a sparkline; each is one refresh.
    public static let sparklineLength = 24

    struct Row {
        let instrument: Instrument
        var last: Int64?
        var bid: Int64?
        var ask: Int64?
        var state = InstrumentState.live
        var ticks: UInt64 = 0
        var ticksBefore: UInt64 = 0
        var rate = 0.0
        var lagNs: Int64 = 0
        var points: [Int64] = []
    }

    private(set) var rows: [Row] = []
    private var indexOf: [Instrument: Int] = [:]
    private var refreshedNs: Int64 = 0
    public private(set) var ticks: UInt64 = 0

    public init() {}

    /// Takes whole gRPC frames of encoded `PriceUpdate`s.
    public mutating func add(frames: [UInt8], nowNs: Int64) {
        frames.withUnsafeBytes { frames in
            for update in MessageSequence(frames: frames) { add(update, nowNs: nowNs) }
        }
    }

    /// Takes one encoded `PriceUpdate`, received at `nowNs` (wall clock). Bytes that are none are ignored.
    public mutating func add(_ update: UnsafeRawBufferPointer, nowNs: Int64) {
        guard let reader = try? TickReader(update),
            let instrument = try? Instrument(
                exchange: String(decoding: reader.exchange, as: UTF8.self),
                symbol: String(decoding: reader.symbol, as: UTF8.self))
        else { return }
        let index = indexOf[instrument] ?? append(instrument)
        ticks += 1
        rows[index].ticks += 1
        rows[index].bid = reader.bid
        rows[index].ask = reader.ask
        if let last = reader.last { rows[index].last = last }
        rows[index].state = reader.stateNumber == 1 ? .stale : .live
        rows[index].lagNs = max(0, nowNs &- reader.publishTimeNs)
    }

    private mutating func append(_ instrument: Instrument) -> Int {
        // Sorted, so that a row keeps its neighbours.
        let index = rows.firstIndex { $0.instrument > instrument } ?? rows.count
        rows.insert(Row(instrument: instrument), at: index)
        for moved in index..<rows.count { indexOf[rows[moved].instrument] = moved }
        return index
    }

    /// Closes a refresh: rates are over the time since the last one.
    public mutating func refresh(nowNs: Int64) {
        let seconds = Double(max(1, nowNs - refreshedNs)) / 1e9
        for index in rows.indices {
            rows[index].rate = refreshedNs == 0 ? 0 : Double(rows[index].ticks - rows[index].ticksBefore) / seconds
            rows[index].ticksBefore = rows[index].ticks
            if let point = rows[index].last ?? rows[index].bid {
                rows[index].points.append(point)
                if rows[index].points.count > WatchTable.sparklineLength { rows[index].points.removeFirst() }
            }
        }
        refreshedNs = nowNs
    }

    /// The table as lines that fit a terminal.
    public func lines(width: Int, height: Int) -> [String] {
        let header =
            WatchTable.pad("INSTRUMENT", 18) + WatchTable.padLeft("LAST", 15) + WatchTable.padLeft("BID", 15)
            + WatchTable.padLeft("ASK", 15) + WatchTable.padLeft("SPREAD", 11) + WatchTable.padLeft("TICKS/S", 9)
            + WatchTable.padLeft("LAG", 9) + "  TREND"
        var lines = [header]
        for row in rows.prefix(max(0, height - 2)) { lines.append(WatchTable.line(row)) }
        if rows.count > height - 2, height > 2 { lines[lines.count - 1] = "… \(rows.count - height + 3) more" }
        return lines.map { String($0.prefix(width)) }
    }

    private static func line(_ row: Row) -> String {
        let spread = row.bid.flatMap { bid in row.ask.map { $0 - bid } }
        let name = "\(row.instrument.exchange) \(row.instrument.symbol)" + (row.state == .stale ? " (stale)" : "")
        return pad(name, 18) + padLeft(price(row.last), 15) + padLeft(price(row.bid), 15)
            + padLeft(price(row.ask), 15) + padLeft(price(spread), 11) + padLeft(tenths(row.rate), 9)
            + padLeft(lag(row.lagNs), 9) + "  " + sparkline(row.points)
    }

    /// A mantissa at 1e-9 with at least two decimals and no needless ones; "-" when absent.
    public static func price(_ mantissa: Int64?) -> String {
        guard let mantissa else { return "-" }
        let magnitude = mantissa.magnitude
        var fraction = String(magnitude % 1_000_000_000)
        fraction = String(repeating: "0", count: 9 - fraction.count) + fraction
        while fraction.count > 2, fraction.last == "0" { fraction.removeLast() }
        return (mantissa < 0 ? "-" : "") + "\(magnitude / 1_000_000_000).\(fraction)"
    }

    static func sparkline(_ points: [Int64]) -> String {
        let bars = Array("▁▂▃▄▅▆▇█")
        guard let low = points.min(), let high = points.max(), high > low else {
            return String(repeating: "▄", count: points.count)
        }
        return String(points.map { bars[Int(Double($0 - low) / Double(high - low) * 7)] })
    }

    static func lag(_ ns: Int64) -> String {
        switch ns {
        case ..<10_000_000: "\(ns / 1000) us"
        case ..<10_000_000_000: "\(ns / 1_000_000) ms"
        case ..<360_000_000_000_000: "\(ns / 1_000_000_000) s"
        default: "past"
        }
    }

    static func tenths(_ value: Double) -> String {
        let tenths = Int64(value * 10)
        return "\(tenths / 10).\(tenths % 10)"
    }

    static func pad(_ text: String, _ width: Int) -> String {
        text.count >= width ? text + " " : text + String(repeating: " ", count: width - text.count)
    }

    static func padLeft(_ text: String, _ width: Int) -> String {
        text.count >= width ? " " + text : String(repeating: " ", count: width - text.count) + text
    }
}
