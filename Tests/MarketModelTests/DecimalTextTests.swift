import MarketModel
import TestSupport
import Testing

struct DecimalTextTests {
    @Test(arguments: [
        ("61837.63000000", 9, 61_837_630_000_000), ("-0.5", 9, -500_000_000), ("0", 8, 0), ("-0", 8, 0),
        ("+1.5", 1, 15),
        ("00012.50", 2, 1250), ("0.00000001", 8, 1), ("0.10000000000000000000", 1, 1), ("7", 0, 7), ("7.000", 0, 7),
        ("9223372036.854775807", 9, Int64.max), ("-9223372036.854775808", 9, Int64.min),
        ("92233720368.54775807", 8, Int64.max), ("9223372036854775807", 0, Int64.max),
        ("000000000000000000000000000000000001", 0, 1), ("1", 18, 1_000_000_000_000_000_000),
        ("9.223372036854775807", 18, Int64.max), ("12345678.12345678", 8, 1_234_567_812_345_678),
    ])
    func `Decimal text becomes its mantissa`(text: String, scale: Int, mantissa: Int64) throws {
        #expect(try DecimalText.mantissa(text, scale: scale) == mantissa)
    }

    @Test(arguments: [
        "", "+", "-", ".", "1.", ".5", "-.5", "1..2", "1.2.3", "1e-7", "1E5", " 1", "1 ", "1,000", "0x10", "--1", "+-1",
        "NaN",
        "inf", "1.2a", "١", "1_000", "1\u{0}", "/", ":", "1/2",
    ])
    func `What is not a plain decimal number is refused`(text: String) {
        #expect(throws: DecimalTextError.notANumber) { try DecimalText.mantissa(text, scale: 8) }
    }

    @Test(arguments: [
        ("0.000000001", 8, DecimalTextError.finerThanScale), ("1.5", 0, .finerThanScale), ("-0.01", 1, .finerThanScale),
        ("9223372036.854775808", 9, .outOfRange), ("-9223372036.854775809", 9, .outOfRange), ("10", 18, .outOfRange),
        ("9223372036854775808", 0, .outOfRange), ("99999999999999999999999999999999", 0, .outOfRange),
        ("18446744073709551617", 0, .outOfRange), ("100000000000000000000.0", 0, .outOfRange),
        ("9223372037", 9, .outOfRange), ("-9223372037", 9, .outOfRange),
    ])
    func `What does not fit is refused, never rounded`(text: String, scale: Int, error: DecimalTextError) {
        #expect(throws: error) { try DecimalText.mantissa(text, scale: scale) }
    }

    @Test func `A mantissa reads back from its text at every scale, and the text has no superfluous digit`() throws {
        var random = SplitMix(seed: 31)
        for round in 0..<(Checkout.isSoak ? 300_000 : 10_000) {
            let scale = round % 19
            let mantissa = random.mantissa()
            let text = DecimalText.string(mantissa, scale: scale)
            #expect(try DecimalText.mantissa(text, scale: scale) == mantissa)
            #expect(!text.hasSuffix("."))
            #expect(!(text.contains(".") && text.hasSuffix("0")))
        }
        #expect(DecimalText.string(0, scale: 8) == "0")
        #expect(DecimalText.string(.min, scale: 9) == "-9223372036.854775808")
        #expect(DecimalText.string(-5, scale: 1) == "-0.5")
        #expect(DecimalText.string(100, scale: 2) == "1")
        #expect(DecimalText.string(1, scale: 8) == "0.00000001")
        #expect(DecimalText.string(120, scale: 0) == "120")
    }

    /// The obvious way: all digits as one big number, then compared digit by digit.
    private func reference(_ text: [UInt8], scale: Int) -> Result<Int64, DecimalTextError> {
        var digits = text[...]
        let isNegative = digits.first == UInt8(ascii: "-")
        if isNegative || digits.first == UInt8(ascii: "+") { digits = digits.dropFirst() }
        let parts = digits.split(separator: UInt8(ascii: "."), maxSplits: .max, omittingEmptySubsequences: false)
        guard parts.count <= 2, parts.allSatisfy({ !$0.isEmpty && $0.allSatisfy { 0x30...0x39 ~= $0 } }) else {
            return .failure(.notANumber)
        }
        let fraction = parts.count == 2 ? Array(parts[1]) : []
        let kept = Array(fraction.prefix(scale)) + [UInt8](repeating: 0x30, count: max(0, scale - fraction.count))
        var value: Int128 = 0
        for digit in Array(parts[0]) + kept {
            if value > 1 << 100 { return .failure(.outOfRange) }
            value = value * 10 + Int128(digit) - 0x30
        }
        if isNegative { value = -value }
        guard let mantissa = Int64(exactly: value) else { return .failure(.outOfRange) }
        return fraction.dropFirst(scale).allSatisfy { $0 == 0x30 } ? .success(mantissa) : .failure(.finerThanScale)
    }

    @Test func `Random text, mostly of number characters, is judged as by the obvious parser`() {
        var random = SplitMix(seed: 32)
        for _ in 0..<(Checkout.isSoak ? 5_000_000 : 60_000) {
            let scale = Int.random(in: 0...18, using: &random)
            var text = Array(DecimalText.string(random.mantissa(), scale: Int.random(in: 0...18, using: &random)).utf8)
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                let place = Int.random(in: 0...text.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: text.insert("0000123456789.-+e ".utf8.randomElement(using: &random)!, at: place)
                case 1: text = Array(text[..<place])
                default: text += [UInt8](repeating: 0x30, count: place)
                }
            }
            let result: Result<Int64, DecimalTextError> = text.withUnsafeBytes { buffer in
                do throws(DecimalTextError) { return .success(try DecimalText.mantissa(buffer, scale: scale)) } catch {
                    return .failure(error)
                }
            }
            #expect(result == reference(text, scale: scale), "\(String(decoding: text, as: UTF8.self)) at \(scale)")
        }
    }
}

/// The same seed gives the same values.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }

    /// Any bit length is as likely as any other, extremes too.
    mutating func mantissa() -> Int64 {
        if next() % 20 == 0 { return [.min, .max, 0, -1, .min + 1].randomElement(using: &self)! }
        let value = Int64(bitPattern: next() >> (next() % 64))
        return next() % 3 == 0 ? 0 &- value : value
    }
}
