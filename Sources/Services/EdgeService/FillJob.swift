import EventLog
import EventLoop
import MarketModel
import MarketProto
import TickStore

/// One fill: brings ranges of sequences singly, from the log as far back as it goes and from the store before that.
///
/// In the log it walks back from the newest record of the instrument, block by block, to where the range begins, and
/// then sends forward. What the log does not have is asked of the store, a bounded run at a time. Each step is bounded
/// and waits for nothing; the reader's pace decides when there is a next one. Confined to its loop.
final class FillJob {
    /// Blocks looked at in one go; then the loop's other work gets a turn.
    private static let blocksPerStepMax = 64
    /// Bytes that are made ready at once.
    private static let readyBytes = 16 << 10
    /// Sequences asked of the store at once.
    private static let storeRunMax: UInt64 = 4096

    let id: UInt64
    private(set) var sentCount: UInt64 = 0
    /// All ranges are done, or given up.
    private(set) var outcome: Proto.FillOutcome?
    private var message = ""

    private let tape: Tape
    private let store: StoreReader
    private let blocksMax: Int
    private let wake: () -> Void
    private var waitingRanges: [Proto.FillRange]
    private var results: [Proto.FillResult] = []
    private var range: RangeSearch?
    private var queue = FrameQueue()
    /// A block or rows were asked for and are not there yet.
    private var isWaiting = false

    /// `ranges` have their feeds and epochs filled in.
    init(
        id: UInt64, ranges: [Proto.FillRange], tape: Tape, store: StoreReader, blocksMax: Int,
        wake: @escaping () -> Void
    ) {
        self.id = id
        self.tape = tape
        self.store = store
        self.blocksMax = blocksMax
        self.wake = wake
        waitingRanges = ranges.reversed()
    }

    /// What the client is told at the end.
    var end: Proto.FillEnd {
        var end = Proto.FillEnd()
        end.fillRequestId = id
        end.results = results
        end.outcome = outcome ?? .cancelled
        end.message = message
        return end
    }

    /// Everything that will be sent was taken.
    var isDrained: Bool { outcome != nil && queue.isEmpty }

    /// Bytes of memory that hold what is queued.
    var heldBytes: Int { queue.heldBytes }

    /// Ends it; what is queued is still to be taken.
    func cancel(_ outcome: Proto.FillOutcome = .cancelled, _ message: String = "") {
        guard self.outcome == nil else { return }
        if var search = range {
            search.progress.miss(through: .max, .notReached)
            results.append(search.progress.result)
            range = nil
        }
        while let next = waitingRanges.popLast() {
            var progress = FillRangeProgress(next)
            progress.miss(through: .max, .notReached)
            results.append(progress.result)
        }
        self.outcome = outcome
        self.message = message
        wake()
    }

    /// Hands over whole frames; false when there is nothing now.
    func takeFrames(about bytesWanted: Int, _ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
        if queue.isEmpty { step() }
        return queue.takeFrames(about: bytesWanted) { frames, _ in body(frames) } > 0
    }

    // MARK: Steps

    private func step() {
        var budget = FillJob.blocksPerStepMax
        while queue.count < FillJob.readyBytes, outcome == nil, !isWaiting {
            guard budget > 0 else {
                // After what others have to do, which the end of this turn is not.
                let box = LoopConfined(self)
                if queue.isEmpty { tape.loop.execute { box.value.wake() } }
                return
            }
            budget -= 1
            guard var search = range ?? beginNext() else { return finish() }
            advance(&search)
            range = search
            if search.progress.isDone {
                results.append(search.progress.result)
                range = nil
            }
        }
    }

    private func finish() {
        outcome = .completed
        wake()
    }

    private func beginNext() -> RangeSearch? {
        guard let next = waitingRanges.popLast() else { return nil }
        let place = tape.log.lastPlace(
            .ticksRaw, feed: next.feedHandlerId, exchange: next.exchange, symbol: next.symbol)
        return RangeSearch(next, newest: place, blocksMax: blocksMax)
    }

    private func advance(_ search: inout RangeSearch) {
        switch search.want {
        case .block(let place, let offset):
            switch tape.log.read(place, at: offset, .written) {
            case .block(let block, _): take(block, &search)
            case .onDisk: load(place, offset)
            case .atEnd, .expired, .damaged: search.cannotRead(offset)
            }
        case .store(let last):
            ask(&search, through: min(last, search.progress.next + FillJob.storeRunMax - 1))
        case .nothing: break
        }
    }

    private func take(_ block: Block, _ search: inout RangeSearch) {
        search.take(block) { frame in
            queue.append(frame)
            sentCount += 1
        }
    }

    private func load(_ place: TopicPartition, _ offset: UInt64) {
        isWaiting = true
        let box = LoopConfined(self)
        let loop = tape.loop
        tape.log.load(place, at: offset, .written) { result in
            loop.execute { box.value.loaded(offset, result) }
        }
    }

    private func loaded(_ offset: UInt64, _ result: Result<ReadResult, LogError>) {
        isWaiting = false
        guard outcome == nil, var search = range else { return }
        switch result {
        case .success(.block(let block, _)): take(block, &search)
        case .success: search.cannotRead(offset)
        case .failure(let error): return cancel(.failed, error.message)
        }
        range = search
        wake()
    }

    private func ask(_ search: inout RangeSearch, through last: UInt64) {
        guard let instrument = search.instrument else { return search.progress.miss(through: last, .gone) }
        isWaiting = true
        let request = StoreRequest(
            instrument: instrument, feed: search.progress.range.feedHandlerId, epoch: search.progress.range.epoch,
            sequences: search.progress.next...last)
        let box = LoopConfined(self)
        let loop = tape.loop
        store.read(request) { result in
            loop.execute { box.value.answered(request, result) }
        }
    }

    private func answered(_ request: StoreRequest, _ result: Result<StoreRows, StoreError>) {
        isWaiting = false
        guard outcome == nil, var search = range else { return }
        switch result {
        case .failure(let error): return cancel(.failed, error.message)
        case .success(let rows):
            search.take(rows, through: request.sequences.upperBound) { frame in
                queue.append(frame)
                sentCount += 1
            }
        }
        range = search
        if search.progress.isDone {
            results.append(search.progress.result)
            range = nil
        }
        wake()
    }
}
