/// Decimal numbers as venues write them ("61837.63000000", "-0.5") to and from mantissas, without floating point.
///
/// The grammar: an optional `-` or `+`, then digits with at most one `.` among them, at least one digit on each side
/// of it. Leading zeros are allowed, and any number of them; exponents, spaces and separators are not.
public enum DecimalText {
    /// The coarsest-to-finest scales accepted: 0...18.
    public static let scaleMax = 18

    /// The mantissa of `text` at 10^-`scale` (0...``scaleMax``): exact, or a ``DecimalTextError``.
    public static func mantissa(_ text: UnsafeRawBufferPointer, scale: Int) throws(DecimalTextError) -> Int64 {
        precondition(0...scaleMax ~= scale)
        var place = 0
        var isNegative = false
        if let first = text.first, first == UInt8(ascii: "-") || first == UInt8(ascii: "+") {
            isNegative = first == UInt8(ascii: "-")
            place = 1
        }
        // Counted downwards: Int64 reaches one further below zero than above.
        var value: Int64 = 0
        var fraction = -1
        var isOutOfRange = false
        var isTooFine = false
        var digitCount = 0
        while place < text.count {
            let byte = text[place]
            let digit = Int64(byte) - 0x30
            place += 1
            if 0...9 ~= digit {
                digitCount += 1
                if fraction >= 0 {
                    if fraction == scale {
                        if digit != 0 { isTooFine = true }
                        continue
                    }
                    fraction += 1
                }
                let (product, overflow) = value.multipliedReportingOverflow(by: 10)
                let (sum, borrow) = product.subtractingReportingOverflow(digit)
                if overflow || borrow { isOutOfRange = true } else { value = sum }
            } else if byte == UInt8(ascii: "."), fraction < 0, digitCount > 0, place < text.count {
                fraction = 0
            } else {
                throw .notANumber
            }
        }
        if digitCount == 0 { throw .notANumber }
        if isOutOfRange { throw .outOfRange }
        if isTooFine { throw .finerThanScale }
        for _ in max(fraction, 0)..<scale {
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            if overflow { throw .outOfRange }
            value = product
        }
        if isNegative { return value }
        if value == .min { throw .outOfRange }
        return -value
    }

    /// The same for a string.
    public static func mantissa(_ text: some StringProtocol, scale: Int) throws(DecimalTextError) -> Int64 {
        let bytes = Array(text.utf8)
        let result: Result<Int64, DecimalTextError> = bytes.withUnsafeBytes { buffer in
            do throws(DecimalTextError) { return .success(try mantissa(buffer, scale: scale)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// `mantissa` * 10^-`scale` as text: a leading zero below one, no trailing zeros behind the point, no point
    /// without digits.
    public static func string(_ mantissa: Int64, scale: Int) -> String {
        var bytes: [UInt8] = []
        append(mantissa, scale: scale, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Appends what ``string(_:scale:)`` returns.
    public static func append(_ mantissa: Int64, scale: Int, to bytes: inout [UInt8]) {
        precondition(0...scaleMax ~= scale)
        if mantissa < 0 { bytes.append(UInt8(ascii: "-")) }
        var digits: [UInt8] = []
        var rest = mantissa.magnitude
        var fraction = scale
        while fraction > 0, rest % 10 == 0, rest > 0 {
            rest /= 10
            fraction -= 1
        }
        if rest == 0 { fraction = 0 }
        repeat {
            digits.append(UInt8(rest % 10) + 0x30)
            rest /= 10
        } while rest > 0 || digits.count <= fraction
        for position in digits.indices.reversed() {
            bytes.append(digits[position])
            if position == fraction, fraction > 0 { bytes.append(UInt8(ascii: ".")) }
        }
    }
}

/// Why text is not a mantissa at the scale asked for.
public enum DecimalTextError: String, Error, Hashable, Sendable, CustomStringConvertible {
    case notANumber
    /// Digits other than 0 stand behind the last place of the scale.
    case finerThanScale
    /// Beyond Int64 at this scale.
    case outOfRange

    public var description: String {
        switch self {
        case .notANumber: "not a decimal number"
        case .finerThanScale: "finer than the instrument's scale"
        case .outOfRange: "out of range at the instrument's scale"
        }
    }
}
