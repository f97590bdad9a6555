import MarketModel

/// What a comparison of log and store found.
public struct VerifyResult: Sendable, Hashable {
    /// One line per instrument that the log or the store has, sorted by (exchange, symbol).
    public var lines: [VerifyLine] = []
    /// Blocks of the log that could not be read, with their places and reasons; what they held is not compared.
    public var damage: [String] = []

    /// Nothing is missing, extra, different or damaged. Repeats, corrupt records, pending and expired ones are no
    /// differences.
    public var isClean: Bool { damage.isEmpty && lines.allSatisfy { $0.isClean } }
}

/// Log and store of one instrument in the range compared.
public struct VerifyLine: Sendable, Hashable {
    public let instrument: Instrument
    /// Different ticks in the log, and records that repeat one of them (a recording played twice).
    public var logTicks = 0
    public var logRepeats = 0
    public var storeRows = 0
    /// Ticks of the log whose row has the same bytes.
    public var matching = 0
    /// Ticks that the store should have and has not.
    public var missing = 0
    /// Rows that no record of the log stands for, though the log goes back that far.
    public var extra = 0
    /// Rows of the feed `direct`, which are written past the log.
    public var direct = 0
    /// Rows with other bytes than the tick's first record.
    public var different = 0
    /// Records that claim the identity of an earlier one with other bytes; the first stays in the store.
    public var conflicting = 0
    /// Rows that share 100 ns, 6 bits of epoch, sequence and feed with a row of another epoch: kept apart here, but not
    /// by the published key.
    public var keyCollisions = 0
    /// Rows from before the oldest record that the log still has.
    public var expired = 0
    /// Ticks that the store has not been given yet.
    public var pending = 0
    /// Records that are no valid ticks: expected in the dead-letter topic, not in the store.
    public var corrupt = 0
    /// Over identities and bytes of what both should have: `sum` whatever the order, `chain` in row order.
    public var logDigest = VerifyDigest()
    public var storeDigest = VerifyDigest()
    /// The first differences, in row order.
    public var samples: [VerifyDifference] = []

    public init(instrument: Instrument) { self.instrument = instrument }

    public var isClean: Bool { missing == 0 && extra == 0 && different == 0 }
}

/// A 64-bit digest of ticks: equal for equal ticks, to compare runs and machines. No protection against forgery.
public struct VerifyDigest: Sendable, Hashable {
    public var sum: UInt64 = 0
    public var chain: UInt64 = 0

    mutating func add(_ hash: UInt64) {
        sum &+= hash
        chain = TickHash.mix(chain ^ hash, 0x9fb2_1c65_1e98_df25)
    }
}

/// One tick on which log and store differ.
public struct VerifyDifference: Sendable, Hashable {
    /// Which side lacks it, or that both have it with other bytes.
    public enum Kind: String, Sendable { case missing, extra, different }

    public let kind: Kind
    public let filingTimeNs: Int64
    public let feed: String
    public let epoch: UInt64
    public let sequence: UInt64
}

/// A fast hash of bytes, the same everywhere.
enum TickHash {
    static func of(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        var hash = mix(UInt64(bytes.count), 0xa076_1d64_78bd_642f)
        var position = 0
        while bytes.count - position >= 8 {
            let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            hash = mix(hash ^ word, 0xe703_7ed1_a0b4_28db)
            position += 8
        }
        var rest: UInt64 = 0
        while position < bytes.count {
            rest = rest << 8 | UInt64(bytes[position])
            position += 1
        }
        return mix(hash ^ rest, 0x8ebc_6af0_9c88_c6e3)
    }

    static func mix(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let product = (a ^ 0x5896_5cf7_52d5_9f1b).multipliedFullWidth(by: b)
        return product.high ^ product.low
    }
}
