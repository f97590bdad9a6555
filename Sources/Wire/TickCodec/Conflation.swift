import MarketModel

/// What is done to encoded updates without decoding them.
public enum TickCodec {
    /// Appends `conflated = 28` to an encoded `PriceUpdate` that does not have it yet.
    ///
    /// It may stand behind higher fields: proto3 readers take fields in any order.
    public static func appendConflation(_ range: ConflatedRange, to update: inout [UInt8]) {
        withUnsafeTemporaryAllocation(byteCount: 128, alignment: 8) { buffer in
            let start = buffer.baseAddress!
            var out = Output(start)
            out.nonZero(1, range.first, likely: (1, 2))
            out.nonZero(2, range.last, likely: (1, 2))
            out.nonZero(3, range.count, likely: (1, 2))
            out.nonZero(4, range.tradeCount, likely: (1, 2))
            let volume = VolumeUnits.split(range.tradeVolume)
            out.nonZero(5, UInt64(bitPattern: volume.units), likely: (1, 2))
            out.nonZero(6, UInt64(volume.remainder), likely: (1, 2))
            if let high = range.tradeHigh.map(PriceMicros.split) {
                out.varint(7, UInt64(bitPattern: high.micros), likely: (1, 2))
                out.nonZero(8, UInt64(high.remainder), likely: (1, 2))
            }
            if let low = range.tradeLow.map(PriceMicros.split) {
                out.varint(9, UInt64(bitPattern: low.micros), likely: (1, 2))
                out.nonZero(10, UInt64(low.remainder), likely: (1, 2))
            }
            let length = out.place - start
            update.append(contentsOf: [0xe2, 0x01, UInt8(length)])
            update.append(contentsOf: UnsafeRawBufferPointer(start: start, count: length))
        }
    }

    /// Appends `staleness_violation_ms = 30` to an encoded `PriceUpdate` that does not have it yet.
    public static func appendStalenessViolation(milliseconds: UInt32, to update: inout [UInt8]) {
        update.append(contentsOf: [0xf0, 0x01])
        var value = milliseconds
        while value >= 0x80 {
            update.append(UInt8(truncatingIfNeeded: value) | 0x80)
            value >>= 7
        }
        update.append(UInt8(value))
    }

    /// `resume_token = 31` as it is appended to an encoded `PriceUpdate` that does not have it yet.
    public static func resumeTokenField(_ token: [UInt8]) -> [UInt8] {
        var field: [UInt8] = [0xfa, 0x01]
        var length = token.count
        while length >= 0x80 {
            field.append(UInt8(truncatingIfNeeded: length) | 0x80)
            length >>= 7
        }
        field.append(UInt8(length))
        return field + token
    }
}
