import MarketModel
import Testing

struct DecimalPartsTests {
    @Test func `Every mantissa splits into parts that join to it`() {
        var random = SplitMix(seed: 41)
        var mantissas: [Int64] = (0..<20_000).map { _ in random.mantissa() }
        mantissas += (-1100...1100).map { $0 } + (0...1100).flatMap { [Int64.min + $0, Int64.max - $0] }
        for mantissa in mantissas {
            let wide = Int128(mantissa)
            let price = PriceMicros.split(mantissa)
            #expect(Int128(price.micros) * 1000 + Int128(price.remainder) == wide && 0...999 ~= price.remainder)
            #expect(PriceMicros.join(micros: price.micros, remainder: price.remainder) == mantissa)
            let size = QuantityMicros.split(mantissa)
            #expect(Int128(size.micros) * 1000 + Int128(size.remainder) == wide * 10 && 0...990 ~= size.remainder)
            #expect(QuantityMicros.join(micros: size.micros, remainder: size.remainder) == mantissa)
            let volume = VolumeUnits.split(mantissa)
            #expect(Int128(volume.units) * 1_000_000_000 + Int128(volume.remainder) == wide * 10)
            #expect(0...999_999_990 ~= volume.remainder)
            #expect(VolumeUnits.join(units: volume.units, remainder: volume.remainder) == mantissa)
            let time = TimestampParts.split(mantissa)
            #expect(Int128(time.seconds) * 1_000_000_000 + Int128(time.nanos) == wide && 0...999_999_999 ~= time.nanos)
            #expect(TimestampParts.join(seconds: time.seconds, nanos: time.nanos) == mantissa)
        }
    }

    @Test func `Parts that no mantissa has do not join`() {
        #expect(
            PriceMicros.join(micros: 0, remainder: 1000) == nil && PriceMicros.join(micros: 0, remainder: -1) == nil)
        #expect(
            PriceMicros.join(micros: .max, remainder: 0) == nil && PriceMicros.join(micros: .min, remainder: 0) == nil)
        #expect(PriceMicros.join(micros: 9_223_372_036_854_775, remainder: 808) == nil)
        #expect(PriceMicros.join(micros: -9_223_372_036_854_776, remainder: 191) == nil)
        #expect(PriceMicros.join(micros: -9_223_372_036_854_776, remainder: 192) == .min)
        #expect(
            QuantityMicros.join(micros: 0, remainder: 5) == nil
                && VolumeUnits.join(units: 0, remainder: 999_999_999) == nil)
        #expect(VolumeUnits.join(units: 0, remainder: 1_000_000_000) == nil)
        #expect(
            TimestampParts.join(seconds: 0, nanos: -1) == nil && TimestampParts.join(seconds: .max, nanos: 0) == nil)
    }
}
