/// A price at 1e-9 as the wire carries it: micros, rounded toward negative infinity, and what they cut off.
public enum PriceMicros {
    /// `mantissa` (1e-9) as micros (1e-6) and a remainder of 0...999 (1e-9). Every mantissa has exactly one such pair.
    @inlinable @inline(__always)
    public static func split(_ mantissa: Int64) -> (micros: Int64, remainder: Int32) {
        let micros = floorDivide(mantissa, by: 1000)
        return (micros, Int32(truncatingIfNeeded: mantissa &- micros &* 1000))
    }

    /// The mantissa (1e-9) of micros and remainder; nil when the remainder is not in 0...999 or the price is out of
    /// range.
    @inlinable @inline(__always)
    public static func join(micros: Int64, remainder: Int32) -> Int64? {
        if remainder == 0 { return multiply(micros, 1000) }
        guard UInt32(bitPattern: remainder) < 1000 else { return nil }
        return multiplyAdd(micros, 1000, Int64(remainder))
    }
}

/// A quantity at 1e-8 as the wire's `*_size_micros` carry it: micros and what they cut off, in 1e-9.
public enum QuantityMicros {
    /// `mantissa` (1e-8) as micros (1e-6), rounded toward negative infinity, and a remainder of 0...990 (1e-9).
    @inlinable @inline(__always)
    public static func split(_ mantissa: Int64) -> (micros: Int64, remainder: Int32) {
        let micros = floorDivide(mantissa, by: 100)
        return (micros, Int32(truncatingIfNeeded: mantissa &- micros &* 100) &* 10)
    }

    /// The mantissa (1e-8) of micros and remainder; nil when the remainder is not in 0...999, is finer than 1e-8, or
    /// the quantity is out of range.
    @inlinable @inline(__always)
    public static func join(micros: Int64, remainder: Int32) -> Int64? {
        if remainder == 0 { return multiply(micros, 100) }
        guard UInt32(bitPattern: remainder) < 1000, remainder % 10 == 0 else { return nil }
        return multiplyAdd(micros, 100, Int64(remainder / 10))
    }
}

/// A traded quantity at 1e-8 as the wire's `volume` carries it: whole units and what they cut off, in 1e-9.
public enum VolumeUnits {
    /// `mantissa` (1e-8) as whole units, rounded toward negative infinity, and a remainder of 0...999,999,990 (1e-9).
    @inlinable @inline(__always)
    public static func split(_ mantissa: Int64) -> (units: Int64, remainder: Int32) {
        let units = floorDivide(mantissa, by: 100_000_000)
        return (units, Int32(truncatingIfNeeded: mantissa &- units &* 100_000_000) &* 10)
    }

    /// The mantissa (1e-8) of units and remainder; nil when the remainder is not in 0...999,999,999, is finer than
    /// 1e-8, or the quantity is out of range.
    @inlinable @inline(__always)
    public static func join(units: Int64, remainder: Int32) -> Int64? {
        if remainder == 0 { return multiply(units, 100_000_000) }
        guard UInt32(bitPattern: remainder) < 1_000_000_000, remainder % 10 == 0 else { return nil }
        return multiplyAdd(units, 100_000_000, Int64(remainder / 10))
    }
}

/// A time in nanoseconds since the Unix epoch as `google.protobuf.Timestamp` carries it.
public enum TimestampParts {
    /// Seconds, rounded toward negative infinity, and nanos of 0...999,999,999.
    @inlinable @inline(__always)
    public static func split(_ ns: Int64) -> (seconds: Int64, nanos: Int32) {
        let seconds = floorDivide(ns, by: 1_000_000_000)
        return (seconds, Int32(truncatingIfNeeded: ns &- seconds &* 1_000_000_000))
    }

    /// Nanoseconds since the epoch; nil when nanos are not in 0...999,999,999 or the time is outside 1677...2262.
    @inlinable @inline(__always)
    public static func join(seconds: Int64, nanos: Int32) -> Int64? {
        guard UInt32(bitPattern: nanos) < 1_000_000_000 else { return nil }
        return multiplyAdd(seconds, 1_000_000_000, Int64(nanos))
    }
}

/// The quotient rounded toward negative infinity; `divisor` is a positive constant.
@inlinable @inline(__always)
public func floorDivide(_ value: Int64, by divisor: Int64) -> Int64 {
    let quotient = value / divisor
    return quotient &+ ((value &- quotient &* divisor) >> 63)
}

/// `value * factor`, or nil when Int64 cannot hold it.
@inlinable @inline(__always)
func multiply(_ value: Int64, _ factor: Int64) -> Int64? {
    let (product, overflow) = value.multipliedReportingOverflow(by: factor)
    return overflow ? nil : product
}

/// `value * factor + rest`, or nil when Int64 cannot hold it; `factor` is positive and `rest` in 0..<factor.
///
/// The product alone may be out of range where the sum is not: the least mantissas of each scale are such.
@usableFromInline @inline(never)
func multiplyAdd(_ value: Int64, _ factor: Int64, _ rest: Int64) -> Int64? {
    let (product, overflow) = value.multipliedReportingOverflow(by: factor)
    if !overflow {
        let (sum, carry) = product.addingReportingOverflow(rest)
        return carry ? nil : sum
    }
    guard value < 0 else { return nil }
    let (next, low) = (value + 1).multipliedReportingOverflow(by: factor)
    if low { return nil }
    let (sum, borrow) = next.addingReportingOverflow(rest - factor)
    return borrow ? nil : sum
}
