import MarketProto

/// How far one range of a fill has come: what was sent, its digest, and what is missing. Every sequence is in exactly
/// one of both.
struct FillRangeProgress {
    let range: Proto.FillRange
    /// The next sequence that is neither sent nor missing.
    private(set) var next: UInt64
    private var count: UInt64 = 0
    private var digest = FNV1a()
    private var missing: [Proto.MissingSequences] = []

    /// `range` has its feed and epoch filled in, and is a range.
    init(_ range: Proto.FillRange) {
        self.range = range
        next = range.firstSequence
    }

    var isDone: Bool { next > range.lastSequence }

    /// The next sequence is sent.
    mutating func send(_ update: UnsafeRawBufferPointer) {
        count += 1
        next += 1
        digest.add(update)
    }

    /// Everything from the next sequence to `last` is missing.
    mutating func miss(through last: UInt64, _ reason: Proto.MissingReason) {
        let last = min(last, range.lastSequence)
        guard last >= next else { return }
        if let before = missing.last, before.reason == reason, before.lastSequence + 1 == next {
            missing[missing.count - 1].lastSequence = last
        } else {
            var entry = Proto.MissingSequences()
            entry.firstSequence = next
            entry.lastSequence = last
            entry.reason = reason
            missing.append(entry)
        }
        next = last + 1
    }

    var result: Proto.FillResult {
        var result = Proto.FillResult()
        result.range = range
        result.count = count
        result.digest = digest.value
        result.missing = missing
        return result
    }
}

/// FNV-1a with 64 bits.
struct FNV1a {
    private(set) var value: UInt64 = 0xcbf2_9ce4_8422_2325

    mutating func add(_ bytes: UnsafeRawBufferPointer) {
        for byte in bytes { value = (value ^ UInt64(byte)) &* 0x100_0000_01b3 }
    }
}
