import DayFigures
import EventLog
import MarketModel

/// The answer to GetQuote.
enum Quote {
    /// Room for everything but the latest record: its tag and length, and twelve numbers with their tags.
    private static let figuresBytesMax = 16 + 13 * 12

    /// Calls `body` with a `QuoteResponse`, whose bytes are valid during the call: the latest record as it came, then
    /// the day's figures.
    static func withBytes(_ frame: FrameBuffer, _ day: DayFigures, _ body: (UnsafeRawBufferPointer) -> Void) {
        frame.withBytes { frame in
            let latest = UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...])
            withUnsafeTemporaryAllocation(byteCount: latest.count + figuresBytesMax, alignment: 1) { buffer in
                var writer = FieldWriter(place: buffer.baseAddress!)
                writer.record(1, latest)
                write(day, &writer)
                body(UnsafeRawBufferPointer(rebasing: buffer[..<(writer.place - buffer.baseAddress!)]))
            }
        }
    }

    /// In the order of the fields' numbers, as the generated type writes them.
    private static func write(_ day: DayFigures, _ writer: inout FieldWriter) {
        let high = day.high.map(PriceMicros.split)
        let low = day.low.map(PriceMicros.split)
        let open = (day.open?.price).map(PriceMicros.split)
        let close = day.previousClose.map(PriceMicros.split)
        if let high { writer.number(2, high.micros) }
        if let low { writer.number(3, low.micros) }
        if let open { writer.number(4, open.micros) }
        if let close { writer.number(5, close.micros) }
        writer.nonzero(10, Int64(high?.remainder ?? 0))
        writer.nonzero(11, Int64(low?.remainder ?? 0))
        writer.nonzero(12, Int64(open?.remainder ?? 0))
        writer.nonzero(13, Int64(close?.remainder ?? 0))
        let volume = VolumeUnits.split(day.volume)
        writer.nonzero(14, volume.units)
        writer.nonzero(15, Int64(volume.remainder))
        writer.nonzero(16, Int64(bitPattern: day.tradeCount))
        writer.nonzero(17, Int64(TradingDay.yyyymmdd(day.day)))
    }

    /// Writes fields of protobuf where there is room for them.
    private struct FieldWriter {
        var place: UnsafeMutableRawPointer

        private mutating func varint(_ value: UInt64) {
            var value = value
            while value >= 0x80 {
                place.storeBytes(of: UInt8(truncatingIfNeeded: value) | 0x80, as: UInt8.self)
                place += 1
                value >>= 7
            }
            place.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
            place += 1
        }

        mutating func number(_ field: UInt64, _ value: Int64) {
            varint(field << 3)
            varint(UInt64(bitPattern: value))
        }

        mutating func nonzero(_ field: UInt64, _ value: Int64) { if value != 0 { number(field, value) } }

        mutating func record(_ field: UInt64, _ bytes: UnsafeRawBufferPointer) {
            varint(field << 3 | 2)
            varint(UInt64(bytes.count))
            if let start = bytes.baseAddress { place.copyMemory(from: start, byteCount: bytes.count) }
            place += bytes.count
        }
    }
}

/// Which lines questions were about, by the bytes of the questions: who asks the same again is answered without a look
/// at names. A fixed size; a newer question takes the place of an older one. Good as long as no line is added.
struct QuoteQuestions {
    private struct Slot {
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        var length: Int32 = 0
        var line: Int32 = 0
        /// Number of lines when it was found; 0 where there is none.
        var lineCount = 0
    }

    /// Longer questions are not kept.
    private static let bytesMax = 32
    private static let slotCount = 4096
    private var slots: [Slot] = []

    private static func words(_ question: UnsafeRawBufferPointer) -> (UInt64, UInt64, UInt64, UInt64) {
        var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        withUnsafeMutableBytes(of: &words) { $0.copyMemory(from: question) }
        return words
    }

    private static func place(_ words: (UInt64, UInt64, UInt64, UInt64)) -> Int {
        var hash = words.0 &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ (hash >> 29) ^ words.1) &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ (hash >> 29) ^ words.2) &* 0x9e37_79b9_7f4a_7c15
        hash = (hash ^ (hash >> 29) ^ words.3) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: hash >> 40) & (slotCount - 1)
    }

    /// The line that a question is about, where that is known; `lineCount` lines are there now.
    func line(_ question: UnsafeRawBufferPointer, lineCount: Int) -> Int? {
        guard question.count <= QuoteQuestions.bytesMax, !slots.isEmpty else { return nil }
        let words = QuoteQuestions.words(question)
        let slot = slots[QuoteQuestions.place(words)]
        guard slot.lineCount == lineCount, slot.length == question.count, slot.words == words else { return nil }
        return Int(slot.line)
    }

    mutating func keep(_ question: UnsafeRawBufferPointer, line: Int, lineCount: Int) {
        guard question.count <= QuoteQuestions.bytesMax, let number = Int32(exactly: line) else { return }
        if slots.isEmpty { slots = Array(repeating: Slot(), count: QuoteQuestions.slotCount) }
        let words = QuoteQuestions.words(question)
        slots[QuoteQuestions.place(words)] = Slot(
            words: words, length: Int32(question.count), line: number, lineCount: lineCount)
    }
}

/// Calendar dates from day numbers.
enum TradingDay {
    /// YYYYMMDD of a number of days since 1970-01-01 (proleptic Gregorian), after Howard Hinnant's `civil_from_days`.
    static func yyyymmdd(_ day: Int32) -> Int32 {
        let shifted = Int64(day) + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let dayOfMonth = dayOfYear - (153 * month + 2) / 5 + 1
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)
        return Int32(truncatingIfNeeded: year * 10_000 + calendarMonth * 100 + dayOfMonth)
    }
}
