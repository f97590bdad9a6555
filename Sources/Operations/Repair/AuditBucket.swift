import MarketModel
import TickStore

extension TapeAudit {
    /// A tick of the log.
    struct Logged {
        let key: TickRowIdentity
        let hash: UInt64
        let partition: UInt16
        let offset: UInt64
        /// Whether the store has to have it.
        let isRequired: Bool
    }

    /// What one bucket's comparison found.
    struct BucketFound {
        var counts = AuditCounts()
        var leadMicroseconds: Int64?
        var timesNs: ClosedRange<Int64>?
        /// Records whose rows are to be written.
        var rewritten: [Logged] = []
        var wrong: [TickRowIdentity] = []
        /// Rows without a record, so far.
        var unknown: [(key: TickRowIdentity, hash: UInt64?, writtenMicroseconds: Int64?)] = []

        mutating func saw(_ filingTimeNs: Int64?) {
            guard let time = filingTimeNs else { return }
            let known = timesNs ?? time...time
            timesNs = min(known.lowerBound, time)...max(known.upperBound, time)
        }

        mutating func saw(_ key: TickRowIdentity, writtenMicroseconds: Int64?) {
            saw(key.filingTimeNs)
            guard let written = writtenMicroseconds, let filedNs = key.filingTimeNs else { return }
            let (lead, overflow) = written.subtractingReportingOverflow(floorDivide(filedNs, by: 1000))
            if !overflow { leadMicroseconds = max(leadMicroseconds ?? .min, lead) }
        }
    }

    static func first(_ key: TickRowIdentity, _ ticks: [Logged]) -> Int? {
        var low = 0
        var high = ticks.count
        while low < high {
            let middle = (low + high) / 2
            if ticks[middle].key < key { low = middle + 1 } else { high = middle }
        }
        return low < ticks.count && ticks[low].key == key ? low : nil
    }

    static func equals(_ ticks: [Logged], _ first: Int) -> ArraySlice<Logged> {
        var end = first + 1
        while end < ticks.count, ticks[end].key == ticks[first].key { end += 1 }
        return ticks[first..<end]
    }
}
