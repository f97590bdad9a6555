import EventLog
import EventLoop
import MarketModel
import TickStore

/// What the store has of records that the log has no more, for one subscription: read ahead by one piece, at its
/// reader's pace. Confined to its loop.
///
/// The rows are all those that the records made and the subscription wants, and perhaps some that were filed near them.
final class StoredRows {
    let place: TopicPartition
    /// The records that the rows are of.
    let offsets: Range<UInt64>
    private(set) var failure: StoreError?
    private let store: StoreReader
    private let loop: any Loop
    private let filter: (Instrument) -> Bool
    private let wake: () -> Void
    private var walk: StoreWalk?
    private var ready: [UInt8] = []
    private var isAsking = false

    /// `wake` is called when there is something to take, and when it is done or has failed.
    init(
        _ place: TopicPartition, _ offsets: Range<UInt64>, filter: @escaping (Instrument) -> Bool, store: StoreReader,
        loop: any Loop, wake: @escaping () -> Void
    ) {
        self.place = place
        self.offsets = offsets
        self.filter = filter
        self.store = store
        self.loop = loop
        self.wake = wake
    }

    /// Everything was taken.
    var isDone: Bool { ready.isEmpty && !isAsking && (walk?.isDone ?? false) }

    /// Bytes of memory that hold what was read and not taken.
    var heldBytes: Int { ready.count }

    /// Finds out which instruments there are and where their rows lie.
    func begin() {
        isAsking = true
        let (place, offsets) = (place, offsets)
        ask { store throws(StoreError) in
            var times = FilingTimes()
            for run in try store.filed(place, offsets) { times.add(run.times) }
            return (try store.instruments(), times)
        } then: { rows, answer in
            rows.walk = StoreWalk(instruments: answer.0.filter { rows.filter($0) }, times: answer.1)
            rows.readOn()
        }
    }

    /// Whole gRPC frames; nil when there are none now.
    func take() -> [UInt8]? {
        guard !ready.isEmpty else { return nil }
        defer { ready = [] }
        readOn()
        return ready
    }

    private func readOn() {
        guard !isAsking, let walk, !walk.isDone else { return }
        ask { store throws(StoreError) in
            var walk = walk
            let frames = try walk.next(store)
            return (walk, frames)
        } then: { rows, answer in
            rows.walk = answer.0
            rows.ready += answer.1
            if rows.ready.isEmpty { rows.readOn() }
        }
    }

    private func ask<Answer: Sendable>(
        _ question: @escaping @Sendable (any TickStore) throws(StoreError) -> Answer,
        then use: @escaping @Sendable (StoredRows, Answer) -> Void
    ) {
        isAsking = true
        let box = LoopConfined(self)
        let loop = loop
        store.perform(question) { result in
            loop.execute {
                let rows = box.value
                rows.isAsking = false
                switch result {
                case .success(let answer): use(rows, answer)
                case .failure(let error): rows.failure = error
                }
                rows.wake()
            }
        }
    }
}
