import TickStore

/// One pass over an instrument's rows in a range of filing times, ns.
struct RowScan {
    /// Rows collected from short runs before they are handed on.
    private static let batchBytes = 64 << 10
    /// Runs at least this long are handed on as they lie.
    private static let directRows = 64

    private let from: Int64
    private let to: Int64
    private let merge: RowMerge

    init(_ database: RocksDatabase, _ instrument: UInt32, from: Int64, to: Int64) throws(StoreError) {
        self.from = from
        self.to = to
        let snapshot = database.snapshot()
        let first = RowPlace(time: RowKey.time(from), low: 0)
        let through = RowPlace(time: RowKey.time(to - 1), low: .max)
        var sources: [BlockSource] = []
        for space in [KeySpace.hours, .fresh] {
            sources.append(
                try BlockSource(
                    database, space, snapshot, instrument: instrument, from: first, firstHour: Hour.of(from),
                    lastHour: Hour.of(to - 1), through: through))
        }
        merge = RowMerge(sources, directory: database.directory)
    }

    func run(_ body: (RowBatch) -> Bool) throws(StoreError) {
        let pending = Scratch(Self.batchBytes * 2)
        var pendingLength = 0
        var pendingCount = 0
        func flush() -> Bool {
            guard pendingCount > 0 else { return true }
            let frames = UnsafeRawBufferPointer(rebasing: pending.bytes[..<pendingLength])
            defer {
                pendingLength = 0
                pendingCount = 0
            }
            return body(RowBatch(frames: frames, count: pendingCount))
        }
        var isStopped = false
        try merge.forEachRun { run throws(StoreError) in
            let reader = run.reader
            if run.isWhole, isInside(reader.header) {
                guard flush(), body(RowBatch(frames: reader.frames, count: reader.rowCount)) else {
                    isStopped = true
                    return false
                }
                return true
            }
            try merge.readRows(reader)
            var start = run.range.lowerBound
            while start < run.range.upperBound {
                guard contains(reader.rows[start].filingTimeNs) else {
                    start += 1
                    continue
                }
                var end = start + 1
                while end < run.range.upperBound, contains(reader.rows[end].filingTimeNs) { end += 1 }
                let bytes = Int(reader.rows[start].start)..<Int(reader.rows[end - 1].end)
                let frames = UnsafeRawBufferPointer(rebasing: reader.frames[bytes])
                if end - start >= Self.directRows {
                    guard flush(), body(RowBatch(frames: frames, count: end - start)) else {
                        isStopped = true
                        return false
                    }
                } else {
                    pending.grow(pendingLength + frames.count, keeping: pendingLength)
                    (pending.bytes.baseAddress! + pendingLength).copyMemory(
                        from: frames.baseAddress!, byteCount: frames.count)
                    pendingLength += frames.count
                    pendingCount += end - start
                    if pendingLength >= Self.batchBytes, !flush() {
                        isStopped = true
                        return false
                    }
                }
                start = end
            }
            return true
        }
        if !isStopped { _ = flush() }
    }

    private func contains(_ filingTimeNs: Int64) -> Bool { filingTimeNs >= from && filingTimeNs < to }

    /// Whether every row of a block lies in the range, as far as its header's 100 ns tell.
    private func isInside(_ header: RowBlock.Header) -> Bool {
        header.first.time > RowKey.time(from) && header.last.time < RowKey.time(to - 1)
            || (header.first.time == RowKey.time(from) && from % 100 == 0 && header.last.time < RowKey.time(to - 1))
    }
}
