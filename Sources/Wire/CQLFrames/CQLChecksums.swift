import CDeflate

/// The two checksums of protocol v5's segments (2.2 of its specification).
enum CQLChecksums {
    private static let crc24Initial: UInt32 = 0x87_5060
    private static let crc24Polynomial: UInt32 = 0x197_4f0b

    private static let crc24Table: [UInt32] = (0..<256).map { index in
        var crc = UInt32(index) << 16
        for _ in 0..<8 {
            crc <<= 1
            if crc & 0x100_0000 != 0 { crc ^= crc24Polynomial }
        }
        return crc & 0xff_ffff
    }

    /// Of the lowest `count` bytes of a header, the lowest first.
    static func crc24(_ header: UInt64, count: Int) -> UInt32 {
        var crc = crc24Initial
        var header = header
        for _ in 0..<count {
            let index = (crc >> 16 ^ UInt32(truncatingIfNeeded: header)) & 0xff
            crc = (crc << 8 ^ crc24Table[Int(index)]) & 0xff_ffff
            header >>= 8
        }
        return crc
    }

    /// CRC-32 over four bytes of the protocol's own, so that zeros do not check, and the payload.
    static func crc32(_ payload: UnsafeRawBufferPointer) -> UInt32 {
        // Without bytes the library gives its initial value.
        guard let base = payload.baseAddress, payload.count > 0 else { return crc32Initial }
        return libdeflate_crc32(crc32Initial, base, payload.count)
    }

    private static let crc32Initial: UInt32 = {
        let salt: [UInt8] = [0xfa, 0x2d, 0x55, 0xca]
        return libdeflate_crc32(0, salt, salt.count)
    }()
}
