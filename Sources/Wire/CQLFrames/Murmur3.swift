/// The token of `Murmur3Partitioner`: half of MurmurHash3 x64 128, with the bytes of the tail sign-extended, as
/// Cassandra has it from its first day, and the smallest number replaced by the largest.
public enum Murmur3 {
    private static let c1: UInt64 = 0x87c3_7b91_1142_53d5
    private static let c2: UInt64 = 0x4cf5_ad43_2745_937f

    /// Of a partition key's bytes.
    public static func token(_ key: UnsafeRawBufferPointer) -> Int64 {
        var h1: UInt64 = 0
        var h2: UInt64 = 0
        let blocks = key.count / 16
        for block in 0..<blocks {
            let k1 = UInt64(littleEndian: key.loadUnaligned(fromByteOffset: block * 16, as: UInt64.self))
            let k2 = UInt64(littleEndian: key.loadUnaligned(fromByteOffset: block * 16 + 8, as: UInt64.self))
            h1 ^= mix1(k1)
            h1 = (rotate(h1, 27) &+ h2) &* 5 &+ 0x52dc_e729
            h2 ^= mix2(k2)
            h2 = (rotate(h2, 31) &+ h1) &* 5 &+ 0x3849_5ab5
        }
        var k1: UInt64 = 0
        var k2: UInt64 = 0
        let tail = blocks * 16
        for index in stride(from: key.count - 1, through: tail, by: -1) {
            let byte = UInt64(bitPattern: Int64(Int8(bitPattern: key[index])))
            let place = index - tail
            if place >= 8 { k2 ^= byte << UInt64((place - 8) * 8) } else { k1 ^= byte << UInt64(place * 8) }
        }
        if key.count - tail > 8 { h2 ^= mix2(k2) }
        if key.count > tail { h1 ^= mix1(k1) }
        h1 ^= UInt64(key.count)
        h2 ^= UInt64(key.count)
        h1 = h1 &+ h2
        h2 = h2 &+ h1
        h1 = final(h1)
        h2 = final(h2)
        let token = Int64(bitPattern: h1 &+ h2)
        return token == .min ? .max : token
    }

    /// Of a partition key of several columns: each behind its length, with a zero at its end.
    public static func token(of components: [[UInt8]]) -> Int64 {
        if components.count == 1 { return components[0].withUnsafeBytes { token($0) } }
        var key: [UInt8] = []
        for component in components {
            key.append(UInt8(truncatingIfNeeded: component.count >> 8))
            key.append(UInt8(truncatingIfNeeded: component.count))
            key += component
            key.append(0)
        }
        return key.withUnsafeBytes { token($0) }
    }

    private static func rotate(_ value: UInt64, _ by: UInt64) -> UInt64 { value << by | value >> (64 - by) }
    private static func mix1(_ k: UInt64) -> UInt64 { rotate(k &* c1, 31) &* c2 }
    private static func mix2(_ k: UInt64) -> UInt64 { rotate(k &* c2, 33) &* c1 }
    private static func final(_ value: UInt64) -> UInt64 {
        var k = value
        k ^= k >> 33
        k = k &* 0xff51_afd7_ed55_8ccd
        k ^= k >> 33
        k = k &* 0xc4ce_b9fe_1a85_ec53
        return k ^ k >> 33
    }
}
