import TickStore

/// Walks blocks of one instrument from both key spaces and gives their rows once, in order.
///
/// Blocks overlap where ticks came late or twice. A block that overlaps nothing is handed on whole, without a look at
/// its rows.
final class RowMerge {
    /// Rows of one block that come next. `rows` is empty for a whole block whose rows nobody has read yet.
    struct Run {
        let reader: RowBlockReader
        let range: Range<Int>
        let isWhole: Bool
    }

    private struct Cursor {
        let reader: RowBlockReader
        var position: Int
        /// The row that stays where two blocks have it: merged before fresh, earlier before later.
        let rank: UInt64
    }

    /// Told of each block as it is unpacked, and whether it was merged before.
    var onOpen: ((RowBlockReader, _ isMerged: Bool) -> Void)?
    private let sources: [BlockSource]
    private let directory: String
    private var cursors: [Cursor] = []
    private var idle: [RowBlockReader] = []
    private var lastKey: RowKey?
    private var lastPlace: RowPlace?

    init(_ sources: [BlockSource], directory: String) {
        self.sources = sources
        self.directory = directory
    }

    /// Calls `body` with run after run until it returns false or there are no more.
    func forEachRun(_ body: (Run) throws(StoreError) -> Bool) throws(StoreError) {
        while true {
            let next = try nextSource()
            if cursors.isEmpty {
                guard let next else { return }
                try open(next)
                if let whole = try wholeBlock() {
                    guard try body(whole) else { return }
                    idle.append(whole.reader)
                    continue
                }
                try readRows(cursors[0].reader)
                continue
            }
            let least = leastCursor()
            let head = cursors[least].reader.rows[cursors[least].position].key
            if let next, let first = next.first, first <= head.place {
                try open(next)
                try readRows(cursors[cursors.count - 1].reader)
                continue
            }
            if head == lastKey {
                advance(least, to: cursors[least].position + 1)
                continue
            }
            let end = runEnd(least, before: next?.first)
            let reader = cursors[least].reader
            let run = Run(reader: reader, range: cursors[least].position..<end, isWhole: false)
            lastKey = reader.rows[end - 1].key
            lastPlace = lastKey?.place
            guard try body(run) else { return }
            advance(least, to: end)
        }
    }

    private func nextSource() throws(StoreError) -> BlockSource? {
        var next: BlockSource?
        for source in sources {
            guard let first = try source.peek() else { continue }
            if let known = next?.first, known <= first { continue }
            next = source
        }
        return next
    }

    private func open(_ source: BlockSource) throws(StoreError) {
        let reader = idle.popLast() ?? RowBlockReader()
        let rank = try source.take(into: reader)
        onOpen?(reader, source.isMerged)
        cursors.append(Cursor(reader: reader, position: 0, rank: rank))
    }

    /// The only open block, if all of it comes before whatever is next and after what was given.
    private func wholeBlock() throws(StoreError) -> Run? {
        let reader = cursors[0].reader
        if let lastPlace, reader.header.first <= lastPlace { return nil }
        if let next = try nextSource()?.first, next <= reader.header.last { return nil }
        cursors.removeAll(keepingCapacity: true)
        lastPlace = reader.header.last
        lastKey = nil
        return Run(reader: reader, range: 0..<reader.rowCount, isWhole: true)
    }

    /// Makes sure that a reader has its rows.
    func readRows(_ reader: RowBlockReader) throws(StoreError) {
        do { try reader.readRows() } catch {
            throw StoreFailure.damaged(directory, "a block of rows is damaged (\(error.rawValue))")
        }
    }

    private func leastCursor() -> Int {
        var least = 0
        for index in cursors.indices.dropFirst() {
            let a = cursors[index]
            let b = cursors[least]
            let keyA = a.reader.rows[a.position].key
            let keyB = b.reader.rows[b.position].key
            if keyA < keyB || (keyA == keyB && a.rank < b.rank) { least = index }
        }
        return least
    }

    /// One past the last row of a cursor that comes before every other open block and before the next one; at least one
    /// row.
    private func runEnd(_ least: Int, before next: RowPlace?) -> Int {
        var bound: RowKey?
        for index in cursors.indices where index != least {
            let key = cursors[index].reader.rows[cursors[index].position].key
            if bound.map({ key < $0 }) ?? true { bound = key }
        }
        let rows = cursors[least].reader.rows
        var low = cursors[least].position + 1
        var high = rows.count
        while low < high {
            let middle = (low + high) / 2
            let key = rows[middle].key
            let isBefore = (bound.map { key < $0 } ?? true) && (next.map { key.place < $0 } ?? true)
            if isBefore { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func advance(_ index: Int, to position: Int) {
        if position < cursors[index].reader.rowCount {
            cursors[index].position = position
            return
        }
        idle.append(cursors.remove(at: index).reader)
    }
}

/// Blocks of one instrument in one key space, in the order of their first rows.
final class BlockSource {
    private let iterator: RowIterator
    private let instrument: UInt32
    private let lastHour: Int32
    private let directory: String
    /// Blocks whose rows all lie before it are passed over.
    private let from: RowPlace
    /// Blocks that begin after it are left out.
    private let through: RowPlace
    private var key: BlockKey?
    private var isPositioned = false
    /// Keys of the blocks taken, when they are to be remembered.
    private(set) var taken: [BlockKey] = []
    let isMerged: Bool
    private let keepsTaken: Bool
    private let takenMax: Int

    init(
        _ database: RocksDatabase, _ space: KeySpace, _ snapshot: Snapshot, instrument: UInt32, from: RowPlace,
        firstHour: Int32, lastHour: Int32, through: RowPlace = .greatest, keepsTaken: Bool = false,
        takenMax: Int = .max
    ) throws(StoreError) {
        iterator = database.iterator(space, snapshot)
        directory = database.directory
        isMerged = space == .hours
        self.instrument = instrument
        self.lastHour = lastHour
        self.from = from
        self.through = through
        self.keepsTaken = keepsTaken
        self.takenMax = takenMax
        let start = BlockKey.start(instrument, firstHour)
        if space == .hours {
            // Merged blocks do not overlap: of those that begin before `from` only the last can reach it.
            iterator.seekBack(BlockKey(instrument: instrument, hour: firstHour, first: from, origin: nil).bytes)
            if try iterator.isValid(), let found = BlockKey(iterator.key), found.instrument == instrument,
                found.hour == firstHour
            {
                return
            }
        }
        iterator.seek(start)
    }

    /// Where the block that is next begins; nil at the end. Valid after ``peek()``.
    var first: RowPlace? { key?.first }

    func peek() throws(StoreError) -> RowPlace? {
        if let key { return key.first }
        while try iterator.isValid() {
            guard let found = BlockKey(iterator.key) else {
                throw StoreFailure.damaged(directory, "a key of \(iterator.key.count) bytes among the rows")
            }
            guard found.hour <= lastHour, taken.count < takenMax else { return nil }
            if found.instrument != instrument {
                guard seekOn(past: found) else { return nil }
                continue
            }
            guard found.first <= through else { return nil }
            guard let header = RowBlock.Header(iterator.value) else {
                throw StoreFailure.damaged(directory, "the rows of \(describe(found)) have a damaged header")
            }
            if header.last < from {
                iterator.next()
                continue
            }
            key = found
            return found.first
        }
        return nil
    }

    /// Goes to where the instrument's blocks may go on; false where they cannot.
    private func seekOn(past found: BlockKey) -> Bool {
        if found.instrument < instrument {
            iterator.seek(BlockKey.start(instrument, found.hour))
            return true
        }
        guard found.hour < lastHour else { return false }
        iterator.seek(BlockKey.start(instrument, found.hour + 1))
        return true
    }

    /// Unpacks the next block and moves on. Returns its rank among blocks that hold the same row.
    func take(into reader: RowBlockReader) throws(StoreError) -> UInt64 {
        guard let key else { preconditionFailure("nothing was peeked") }
        do { try reader.open(iterator.value, hour: key.hour) } catch {
            throw StoreFailure.damaged(directory, "the rows of \(describe(key)) are damaged (\(error.rawValue))")
        }
        guard reader.header.first == key.first else {
            throw StoreFailure.damaged(directory, "the rows of \(describe(key)) begin elsewhere")
        }
        if keepsTaken { taken.append(key) }
        self.key = nil
        iterator.next()
        return key.origin.map { $0.next } ?? 0
    }

    private func describe(_ key: BlockKey) -> String { "instrument \(key.instrument), hour \(key.hour)" }
}
