import DayFigures
import EventLog
import MarketModel
import MarketProto
import Protobuf

extension Line {
    /// The answer to GetQuote.
    func quote() -> Proto.QuoteResponse {
        var response = Proto.QuoteResponse()
        response.latest = frame.withBytes { frame in
            try? Proto.PriceUpdate(decoding: UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...]))
        }
        if let high = day.high.map(PriceMicros.split) {
            response.dayHighMicros = high.micros
            response.dayHighNanoRemainder = high.remainder
        }
        if let low = day.low.map(PriceMicros.split) {
            response.dayLowMicros = low.micros
            response.dayLowNanoRemainder = low.remainder
        }
        if let open = (day.open?.price).map(PriceMicros.split) {
            response.openMicros = open.micros
            response.openNanoRemainder = open.remainder
        }
        if let close = day.previousClose.map(PriceMicros.split) {
            response.prevCloseMicros = close.micros
            response.prevCloseNanoRemainder = close.remainder
        }
        let volume = VolumeUnits.split(day.volume)
        response.dayVolume = volume.units
        response.dayVolumeNanoRemainder = volume.remainder
        response.dayTradeCount = day.tradeCount
        response.tradingDay = TradingDay.yyyymmdd(day.day)
        return response
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
