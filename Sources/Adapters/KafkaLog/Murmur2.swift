/// Which partition a key belongs to: murmur2 as Java's client, franz-go and Kafka Connect do it.
///
/// librdkafka's own default (CRC-32) and sarama's (FNV-1a) place the same key elsewhere: who produces to these topics
/// with another client sets its partitioner to `murmur2_random` or its like.
public enum Murmur2 {
    /// The hash of a key.
    public static func hash(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let m: UInt32 = 0x5bd1_e995
        var hash: UInt32 = 0x9747_b28c ^ UInt32(truncatingIfNeeded: bytes.count)
        var position = 0
        while position &+ 4 <= bytes.count {
            var k = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self))
            k = k &* m
            k ^= k >> 24
            k = k &* m
            hash = hash &* m
            hash ^= k
            position &+= 4
        }
        let rest = bytes.count &- position
        if rest == 3 { hash ^= UInt32(bytes[position &+ 2]) << 16 }
        if rest >= 2 { hash ^= UInt32(bytes[position &+ 1]) << 8 }
        if rest >= 1 {
            hash ^= UInt32(bytes[position])
            hash = hash &* m
        }
        hash ^= hash >> 13
        hash = hash &* m
        hash ^= hash >> 15
        return hash
    }

    /// The partition of a key among `count`, at least one.
    public static func partition(_ key: UnsafeRawBufferPointer, count: Int) -> Int {
        Int(hash(key) & 0x7fff_ffff) % max(count, 1)
    }
}
