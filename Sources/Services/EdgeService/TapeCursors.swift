import EventLog
import EventLoop
import TickStore

/// A reader's places in the partitions of the tape, never ahead of it. Blocks in memory come at once, others through
/// the log's reader threads. Confined to its loop.
final class TapeCursors {
    private let tape: Tape
    private let filter: InstrumentFilter
    private let wake: () -> Void
    /// Per partition, the first record not yet passed.
    private(set) var offsets: [UInt64]
    /// Why it cannot go on; nil while it can.
    private(set) var failure: StreamEnd?
    private var loaded: [(block: Block, index: Int)?]
    private var isLoading: [Bool]
    private var turn = 0
    /// What the store has in place of records that are gone from the log; until it is taken, no block is.
    private(set) var stored: StoredRows?

    /// `wake` is called when blocks or rows that had to be loaded are there. Of the store, `filter` says which rows.
    init(tape: Tape, offsets: [UInt64], filter: InstrumentFilter, wake: @escaping () -> Void) {
        self.tape = tape
        self.filter = filter
        self.offsets = offsets
        self.wake = wake
        loaded = offsets.map { _ in nil }
        isLoading = offsets.map { _ in false }
    }

    /// Everything that the tape has handled was passed.
    var isAtTape: Bool { offsets == tape.next }

    /// A block is being loaded.
    var isWaiting: Bool { isLoading.contains(true) || stored != nil }

    /// Bytes of blocks that were loaded and not read yet.
    var heldBytes: Int { loaded.reduce(stored?.heldBytes ?? 0) { $0 + ($1?.block.image.count ?? 0) } }

    var token: ResumeToken { tape.token(offsets) }

    /// The next block of any partition and the record to begin with. The caller reads it and then calls ``pass(_:)``.
    func next() -> (block: Block, index: Int)? {
        for step in offsets.indices where failure == nil && stored == nil {
            let partition = (turn + step) % offsets.count
            guard let found = find(partition) else { continue }
            turn = (partition + 1) % offsets.count
            return found
        }
        return nil
    }

    func pass(_ block: Block) { offsets[Int(block.topicPartition.partition)] = block.endOffset }

    private func find(_ partition: Int) -> (block: Block, index: Int)? {
        if let found = loaded[partition] {
            loaded[partition] = nil
            return found
        }
        guard !isLoading[partition], offsets[partition] < tape.next[partition] else { return nil }
        let place = TopicPartition(.ticksRaw, UInt16(partition))
        let result = tape.log.read(place, at: offsets[partition], .written)
        if case .onDisk = result {
            load(place)
            return nil
        }
        return take(result, place)
    }

    /// Rows that the store has in place of records, as gRPC frames, and the place of the first of these; nil when there
    /// are none now.
    func takeStored() -> (frames: [UInt8], place: TopicPartition, offset: UInt64)? {
        guard let rows = stored else { return nil }
        if let frames = rows.take() { return (frames, rows.place, rows.offsets.lowerBound) }
        if let error = rows.failure {
            failure = .logFailed("the store cannot be read: \(error.message)")
            stored = nil
        } else if rows.isDone {
            offsets[Int(rows.place.partition)] = rows.offsets.upperBound
            stored = nil
        }
        return nil
    }

    private func load(_ place: TopicPartition) {
        isLoading[Int(place.partition)] = true
        let box = LoopConfined(self)
        let loop = tape.loop
        tape.log.load(place, at: offsets[Int(place.partition)], .written) { result in
            loop.execute { box.value.finishLoad(place, result) }
        }
    }

    private func finishLoad(_ place: TopicPartition, _ result: Result<ReadResult, LogError>) {
        isLoading[Int(place.partition)] = false
        switch result {
        case .success(let read): loaded[Int(place.partition)] = take(read, place)
        case .failure(let error): failure = .logFailed(error.message)
        }
        wake()
    }

    private func take(_ result: ReadResult, _ place: TopicPartition) -> (block: Block, index: Int)? {
        let from = offsets[Int(place.partition)]
        switch result {
        case .block(let block, let index): return (block, index)
        case .expired(let oldest): goOnWithStore(place, from, oldest)
        case .damaged(let next, let reason):
            miss(MissingRange(place: place, from: from, to: next, reason: "damaged: \(reason)"))
        case .atEnd, .onDisk: break
        }
        return nil
    }

    private func goOnWithStore(_ place: TopicPartition, _ from: UInt64, _ oldest: UInt64) {
        // One partition after the other: this one is found again.
        guard stored == nil else { return }
        let held = tape.store?.heldOffsets(place).range(at: from)
        guard let store = tape.store, let held, held.contains(from) else {
            let next = min(oldest, held?.lowerBound ?? oldest)
            return miss(MissingRange(place: place, from: from, to: next, reason: "expired"))
        }
        let rows = StoredRows(
            place, from..<min(held.upperBound, oldest),
            filter: { [tape, filter] in filter.matches($0) && tape.mayLie($0, in: place) },
            store: store, loop: tape.loop, wake: wake)
        stored = rows
        rows.begin()
    }

    /// The stream ends here; its token goes on after the range.
    private func miss(_ range: MissingRange) {
        failure = .missing([range])
        offsets[Int(range.place.partition)] = range.to
    }
}
