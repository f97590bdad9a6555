// Varints a word at a time. A varint of up to eight bytes is one 64-bit word: spreading puts each 7 bits of a value
// into a byte of their own, gathering takes them back, in three steps of masks and shifts instead of a loop over
// bytes.

/// The 7-bit groups of `value`, below 2^56, one in each byte, the lowest first.
@inline(__always)
func spread(_ value: UInt64) -> UInt64 {
    var bits = value
    bits = (bits & 0x0fff_ffff) | (bits & 0x00ff_ffff_f000_0000) &<< 4
    bits = (bits & 0x0000_3fff_0000_3fff) | (bits & 0x0fff_c000_0fff_c000) &<< 2
    return (bits & 0x007f_007f_007f_007f) | (bits & 0x3f80_3f80_3f80_3f80) &<< 1
}

/// The same of a value below 2^28.
@inline(__always)
func spreadFour(_ value: UInt64) -> UInt64 {
    var bits = UInt32(truncatingIfNeeded: value)
    bits = (bits & 0x3fff) | (bits & 0x0fff_c000) &<< 2
    return UInt64((bits & 0x007f_007f) | (bits & 0x3f80_3f80) &<< 1)
}

/// The same of a value below 2^35.
@inline(__always)
func spreadFive(_ value: UInt64) -> UInt64 { spreadFour(value & 0x0fff_ffff) | (value &>> 28) &<< 32 }

/// The reverse of ``spread(_:)``; the top bit of each byte is 0.
@inline(__always)
func gatherWord(_ bytes: UInt64) -> UInt64 {
    var bits = bytes
    bits = (bits & 0x007f_007f_007f_007f) | (bits & 0x7f00_7f00_7f00_7f00) &>> 1
    bits = (bits & 0x0000_3fff_0000_3fff) | (bits & 0x3fff_0000_3fff_0000) &>> 2
    return (bits & 0x0fff_ffff) | (bits & 0x0fff_ffff_0000_0000) &>> 4
}

/// The same of up to four bytes.
@inline(__always)
func gatherFour(_ bytes: UInt64) -> UInt64 {
    var bits = UInt32(truncatingIfNeeded: bytes)
    bits = (bits & 0x007f_007f) | (bits & 0x7f00_7f00) &>> 1
    return UInt64((bits & 0x3fff) | (bits & 0x3fff_0000) &>> 2)
}

/// Spread groups as a varint in the low bytes of a word, and its length in bytes less one.
///
/// The highest group is sought from below in the swapped word: the baseline's instruction for leading zeros is many
/// times slower than the one for trailing zeros.
@inline(__always)
func varintWord(groups: UInt64) -> (bytes: UInt64, last: UInt64) {
    let emptyBits = UInt64(truncatingIfNeeded: (groups.byteSwapped | 1 &<< 63).trailingZeroBitCount) & 56
    return (groups | 0x0080_8080_8080_8080 &>> emptyBits, 7 &- emptyBits &>> 3)
}
