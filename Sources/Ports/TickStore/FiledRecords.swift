import EventLog

/// Consecutive records of the log that a store has, and where it filed their rows.
public struct FiledRecords: Sendable, Hashable {
    public var offsets: Range<UInt64>
    /// Every row of these records is filed at one of these times; others may be too.
    public var times: FilingTimes

    public init(offsets: Range<UInt64>, times: FilingTimes) {
        self.offsets = offsets
        self.times = times
    }

    /// Records of one run, at most, unless they were applied at once; and nanoseconds of filing time.
    static let countMax: UInt64 = 16_384
    static let spanNsMax: Int64 = 60_000_000_000

    /// Both as one run; nil where the other does not follow, or the run would be too long.
    public func joined(by next: FiledRecords) -> FiledRecords? {
        guard offsets.upperBound == next.offsets.lowerBound,
            next.offsets.upperBound - offsets.lowerBound <= FiledRecords.countMax
        else { return nil }
        var run = FiledRecords(offsets: offsets.lowerBound..<next.offsets.upperBound, times: times)
        run.times.add(next.times)
        return run.times.spanNs <= FiledRecords.spanNsMax ? run : nil
    }
}

/// Filing times as a few ranges, both ends included: ascending, none overlaps. They hold every time that was added, and
/// perhaps others between.
public struct FilingTimes: Sendable, Hashable {
    public static let rangesMax = 8
    /// Times that are no further apart than this are one range.
    static let gapNsMax: Int64 = 60_000_000_000

    public private(set) var ranges: [ClosedRange<Int64>] = []

    public init() {}

    /// nil where the ranges are none of these.
    public init?(ranges: [ClosedRange<Int64>]) {
        guard ranges.count <= FilingTimes.rangesMax,
            zip(ranges, ranges.dropFirst()).allSatisfy({ $0.upperBound < $1.lowerBound })
        else { return nil }
        self.ranges = ranges
    }

    /// From the first time to the last.
    var spanNs: Int64 {
        guard let first = ranges.first, let last = ranges.last else { return 0 }
        let (length, overflow) = last.upperBound.subtractingReportingOverflow(first.lowerBound)
        return overflow ? .max : length
    }

    /// Adds the filing time of every row.
    public mutating func add(_ rows: TickRows) {
        var recent = Int64.max...Int64.max
        for row in rows.rows where !recent.contains(row.filingTimeNs) { recent = insert(row.filingTimeNs) }
    }

    /// Adds all times that another has.
    public mutating func add(_ other: FilingTimes) {
        for range in other.ranges { insert(range) }
    }

    /// The range that has it then.
    private mutating func insert(_ time: Int64) -> ClosedRange<Int64> {
        insert(time...time)
        return ranges.first { $0.contains(time) } ?? time...time
    }

    /// Joins what is near; past the bound on ranges, the two that are nearest to each other.
    private mutating func insert(_ new: ClosedRange<Int64>) {
        let place = ranges.firstIndex { $0.lowerBound > new.lowerBound } ?? ranges.count
        ranges.insert(new, at: place)
        var index = max(1, place)
        while index < ranges.count, index <= place + 1 {
            if distance(before: index) <= FilingTimes.gapNsMax { join(before: index) } else { index += 1 }
        }
        while ranges.count > FilingTimes.rangesMax {
            join(before: (1..<ranges.count).min { distance(before: $0) < distance(before: $1) } ?? 1)
        }
    }

    private func distance(before index: Int) -> Int64 {
        let (distance, overflow) = ranges[index].lowerBound.subtractingReportingOverflow(ranges[index - 1].upperBound)
        return overflow ? .max : distance
    }

    private mutating func join(before index: Int) {
        let upper = max(ranges[index - 1].upperBound, ranges[index].upperBound)
        ranges[index - 1] = ranges[index - 1].lowerBound...upper
        ranges.remove(at: index)
    }
}

/// Offsets of one place that a store holds: ascending ranges, none of which touches the next.
public struct HeldOffsets: Sendable, Hashable {
    public private(set) var ranges: [Range<UInt64>] = []

    public init() {}

    /// nil where the ranges are none of these.
    public init?(ranges: [Range<UInt64>]) {
        guard ranges.allSatisfy({ !$0.isEmpty }),
            zip(ranges, ranges.dropFirst()).allSatisfy({ $0.upperBound < $1.lowerBound })
        else { return nil }
        self.ranges = ranges
    }

    /// The range that has the offset, or else the next one after it.
    public func range(at offset: UInt64) -> Range<UInt64>? { ranges.first { $0.upperBound > offset } }

    /// Adds offsets, some of which may be there already.
    public mutating func insert(_ new: Range<UInt64>) {
        guard !new.isEmpty else { return }
        if let last = ranges.last, last.upperBound == new.lowerBound {
            ranges[ranges.count - 1] = last.lowerBound..<new.upperBound
            return
        }
        var merged = new
        ranges.removeAll { range in
            guard range.lowerBound <= merged.upperBound, merged.lowerBound <= range.upperBound else { return false }
            merged = min(range.lowerBound, merged.lowerBound)..<max(range.upperBound, merged.upperBound)
            return true
        }
        let place = ranges.firstIndex { $0.lowerBound > merged.lowerBound } ?? ranges.count
        ranges.insert(merged, at: place)
    }

    /// Takes offsets out, whether they are there or not.
    public mutating func remove(_ gone: Range<UInt64>) {
        ranges = ranges.flatMap { range -> [Range<UInt64>] in
            guard range.overlaps(gone) else { return [range] }
            return [
                range.lowerBound..<max(range.lowerBound, gone.lowerBound),
                min(range.upperBound, gone.upperBound)..<range.upperBound,
            ].filter { !$0.isEmpty }
        }
    }
}

extension TickRows {
    /// Offsets of the records that were looked at for the rows, from `offset` on: all of the blocks, whether they made
    /// a row or not. In the order of the blocks, adjoining ones joined.
    public func offsets(from offset: UInt64) -> [Range<UInt64>] {
        var ranges: [Range<UInt64>] = []
        for block in blocks {
            let start = max(offset, block.firstOffset)
            guard start < block.endOffset else { continue }
            if let last = ranges.last, last.upperBound == start {
                ranges[ranges.count - 1] = last.lowerBound..<block.endOffset
            } else {
                ranges.append(start..<block.endOffset)
            }
        }
        return ranges
    }
}
