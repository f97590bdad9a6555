import DayFigures
import EventLog
import MarketModel
import Synchronization
import TickStore

/// A ``TickStore`` in memory for the seeded world: what was not synced is lost by seed at a power cut, the latest
/// applies first.
///
/// Obvious rather than fast: rows are a sorted array per instrument. The same object goes on after
/// ``powerLoss(seed:)``, as if it had been opened again.
public final class SimulatedStore: TickStore, Sendable {
    private struct Order: Hashable, Comparable {
        let time: Int64
        let low: UInt64
        let epoch: UInt64
        let sequence: UInt64

        static func < (a: Order, b: Order) -> Bool {
            (a.time, a.low, a.epoch, a.sequence) < (b.time, b.low, b.epoch, b.sequence)
        }
    }

    private struct StoredRow {
        let order: Order
        let filingTimeNs: Int64
        let frame: [UInt8]
    }

    private struct Book {
        var primaryFeed: String?
        var place: TopicPartition
        var figures = DayFigures()
        var update: [UInt8] = []
        var rows: [StoredRow] = []
    }

    private struct Contents {
        var feeds = ["direct"]
        var books: [Instrument: Book] = [:]
        var next: [TopicPartition: UInt64] = [:]
        var filed: [TopicPartition: [FiledRecords]] = [:]
    }

    private struct Apply {
        let rows: TickRows
        let next: UInt64
        let place: TopicPartition
    }

    private struct State {
        var contents = Contents()
        var durable = Contents()
        var unsynced: [Apply] = []
        var syncEvery: Int
        var failure: StoreError?
        var isClosed = false
        var applyCount = 0
        var released: [TopicPartition] = []
    }

    private let calendar: SessionCalendar
    private let state: Mutex<State>

    /// Every `syncEvery`th apply syncs by itself, as the real store does each second; 0 never does.
    public init(calendar: SessionCalendar = .utc, syncEvery: Int = 0) {
        self.calendar = calendar
        state = Mutex(State(syncEvery: syncEvery))
    }

    /// Drops a suffix of the unsynced applies, chosen by the seed, and forgets failures, as a start after a power cut
    /// does.
    public func powerLoss(seed: UInt64) {
        state.withLock { state in
            var z = seed &+ 0x9e37_79b9_7f4a_7c15
            z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
            z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
            let kept = Int((z ^ (z >> 31)) % UInt64(state.unsynced.count + 1))
            for apply in state.unsynced.prefix(kept) { Self.perform(apply, on: &state.durable, calendar) }
            state.unsynced.removeAll()
            state.contents = state.durable
            state.failure = nil
            state.isClosed = false
        }
    }

    /// Makes every call throw `error` until it is set to nil; applies then change nothing.
    public func fail(with error: StoreError?) { state.withLock { $0.failure = error } }

    /// The offset that would be left after a power cut at its worst.
    public func durableOffset(_ place: TopicPartition) -> UInt64? { state.withLock { $0.durable.next[place] } }

    /// Applies that changed something, since it was made.
    public var applyCount: Int { state.withLock { $0.applyCount } }

    /// Places that were let go to another process, in order.
    public var released: [TopicPartition] { state.withLock { $0.released } }

    public func release(_ place: TopicPartition) throws(StoreError) { state.withLock { $0.released.append(place) } }

    public func apply(_ rows: TickRows, through next: UInt64, of place: TopicPartition) throws(StoreError) -> UInt64 {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            if let applied = state.contents.next[place], next <= applied { return state.durable.next[place] ?? 0 }
            let apply = Apply(rows: rows, next: next, place: place)
            Self.perform(apply, on: &state.contents, calendar)
            state.unsynced.append(apply)
            state.applyCount += 1
            if state.syncEvery > 0, state.unsynced.count >= state.syncEvery { Self.sync(&state, calendar) }
            return state.durable.next[place] ?? 0
        }
    }

    public func nextOffset(_ place: TopicPartition) throws(StoreError) -> UInt64? {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            return state.contents.next[place]
        }
    }

    public func sync(_ place: TopicPartition) throws(StoreError) -> UInt64 {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            Self.sync(&state, calendar)
            return state.durable.next[place] ?? 0
        }
    }

    public func instruments() throws(StoreError) -> [Instrument] {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            return state.contents.books.filter { !$0.value.update.isEmpty }.keys.sorted()
        }
    }

    public func latest(_ instrument: Instrument) throws(StoreError) -> LatestTick? {
        try state.withLock { state throws(StoreError) -> LatestTick? in
            try Self.check(state)
            guard let book = state.contents.books[instrument], !book.update.isEmpty else { return nil }
            return LatestTick(
                update: book.update, nextOffset: state.contents.next[book.place] ?? 0, day: book.figures.record)
        }
    }

    public func scan(_ instrument: Instrument, from: Int64, to: Int64, _ body: (RowBatch) -> Bool) throws(StoreError) {
        let rows = try state.withLock { state throws(StoreError) in
            try Self.check(state)
            return state.contents.books[instrument]?.rows ?? []
        }
        let inside = rows.filter { $0.filingTimeNs >= from && $0.filingTimeNs < to }
        var start = 0
        while start < inside.count {
            let end = min(start + 100, inside.count)
            let frames = inside[start..<end].flatMap { $0.frame }
            let goesOn = frames.withUnsafeBytes { body(RowBatch(frames: $0, count: end - start)) }
            guard goesOn else { return }
            start = end
        }
    }

    public func heldOffsets(_ place: TopicPartition) -> HeldOffsets {
        state.withLock { state in
            var held = HeldOffsets()
            for run in state.contents.filed[place] ?? [] { held.insert(run.offsets) }
            return held
        }
    }

    public func filed(_ place: TopicPartition, _ offsets: Range<UInt64>) throws(StoreError) -> [FiledRecords] {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            return (state.contents.filed[place] ?? []).filter { $0.offsets.overlaps(offsets) }
        }
    }

    public func statistics() throws(StoreError) -> StoreStatistics {
        try state.withLock { state throws(StoreError) in
            try Self.check(state)
            let books = state.contents.books.values
            return StoreStatistics(
                instrumentCount: books.count, rowCount: UInt64(books.reduce(0) { $0 + $1.rows.count }),
                diskBytes: UInt64(books.reduce(0) { $0 + $1.rows.reduce(0) { $0 + $1.frame.count } }))
        }
    }

    public func close() throws(StoreError) {
        state.withLock { state in
            Self.sync(&state, calendar)
            state.isClosed = true
        }
    }

    private static func check(_ state: State) throws(StoreError) {
        if state.isClosed { throw StoreError(.closed, "the store is closed") }
        if let failure = state.failure { throw failure }
    }

    private static func sync(_ state: inout State, _ calendar: SessionCalendar) {
        for apply in state.unsynced { perform(apply, on: &state.durable, calendar) }
        state.unsynced.removeAll()
    }

    private static func perform(_ apply: Apply, on contents: inout Contents, _ calendar: SessionCalendar) {
        let from = contents.next[apply.place] ?? 0
        for row in apply.rows.rows {
            let block = apply.rows.blocks[Int(row.block)]
            let record = Int(row.record)
            guard block.firstOffset + UInt64(record) >= from else { continue }
            let track = block.track(of: record)
            guard
                let instrument = try? Instrument(
                    exchange: block.exchange(track: track), symbol: block.symbol(track: track))
            else { continue }
            let feed = block.feed(track: track)
            if !contents.feeds.contains(feed) { contents.feeds.append(feed) }
            let number = UInt64((contents.feeds.firstIndex(of: feed) ?? 0) + 1)
            let epoch = block.epoch(track: track)
            let sequence = block.sequence(of: record)
            let time = row.filingTimeNs / 100 - (row.filingTimeNs % 100 < 0 ? 1 : 0)
            let low = (epoch & 0x3f) << 56 | (sequence & 0xff_ffff_ffff) << 16 | number
            let order = Order(time: time, low: low, epoch: epoch, sequence: sequence)
            let frame = Array(block.records[block.frameRange(record)])
            var book = contents.books.removeValue(forKey: instrument) ?? Book(place: apply.place)
            // What is written past the log never leads an instrument.
            if book.primaryFeed == nil, feed != "direct" { book.primaryFeed = feed }
            if book.primaryFeed == feed {
                let trade = row.tradePrice.map { DayTrade(price: $0, size: row.tradeSize) }
                if book.figures.apply(
                    filingTimeNs: row.filingTimeNs, epoch: epoch, sequence: sequence, trade: trade, calendar: calendar)
                {
                    book.update = Array(block.payload(record))
                    book.place = apply.place
                }
            }
            let position = firstIndex(in: book.rows, notBefore: order)
            if position == book.rows.count || book.rows[position].order != order {
                book.rows.insert(StoredRow(order: order, filingTimeNs: row.filingTimeNs, frame: frame), at: position)
            }
            contents.books[instrument] = book
        }
        var times = FilingTimes()
        times.add(apply.rows)
        for range in apply.rows.offsets(from: from) {
            contents.filed[apply.place, default: []].append(FiledRecords(offsets: range, times: times))
        }
        contents.next[apply.place] = apply.next
    }

    private static func firstIndex(in rows: [StoredRow], notBefore order: Order) -> Int {
        var low = 0
        var high = rows.count
        while low < high {
            let middle = (low + high) / 2
            if rows[middle].order < order { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
