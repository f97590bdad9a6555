import EventLog
import Glibc
import MarketModel
import Synchronization
import TickCodec
import TickStore

/// Asks the store on a thread of its own: it may wait for files, which a loop must not.
final class StoreReader: Sendable {
    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var isStopping = false
    }

    private let store: any TickStore
    private let state = Mutex(State())
    private let wakeUp: WakeUp
    private let thread = Mutex<pthread_t?>(nil)

    init(store: any TickStore) {
        self.store = store
        wakeUp = WakeUp()
        let box = Unmanaged.passRetained(self)
        var id = pthread_t()
        let error = pthread_create(
            &id, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<StoreReader>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, box.toOpaque())
        if error == 0 { thread.withLock { $0 = id } } else { box.release() }
    }

    /// Ends the thread after what is queued. Waits; never on a loop.
    func stop() {
        state.withLock { $0.isStopping = true }
        wakeUp.signal()
        let id = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        if let id { pthread_join(id, nil) }
    }

    /// Reads rows; `completion` is called on the thread, or at once where there is none.
    func read(
        _ request: StoreRequest, completion: @escaping @Sendable (Result<StoreRows, StoreError>) -> Void
    ) {
        perform({ store throws(StoreError) in try request.read(store) }, completion: completion)
    }

    /// Which records of a place the store holds. Never waits.
    func heldOffsets(_ place: TopicPartition) -> HeldOffsets { store.heldOffsets(place) }

    /// Asks something of the store; `completion` is called on the thread, or at once where there is none.
    func perform<Answer: Sendable>(
        _ question: @escaping @Sendable (any TickStore) throws(StoreError) -> Answer,
        completion: @escaping @Sendable (Result<Answer, StoreError>) -> Void
    ) {
        let isQueued = state.withLock { state in
            guard !state.isStopping else { return false }
            state.jobs.append { [store] in
                do throws(StoreError) {
                    completion(.success(try question(store)))
                } catch {
                    completion(.failure(error))
                }
            }
            return true
        }
        guard isQueued, thread.withLock({ $0 }) != nil else {
            return completion(.failure(StoreError(.closed, "the server is stopping")))
        }
        wakeUp.signal()
    }

    private func run() {
        while true {
            let (job, isOver) = state.withLock { state in
                (state.jobs.isEmpty ? nil : state.jobs.removeFirst(), state.isStopping && state.jobs.isEmpty)
            }
            if let job { job() } else if isOver { return } else { wakeUp.wait() }
        }
    }
}

/// A counting semaphore.
private final class WakeUp: @unchecked Sendable {
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() { sem_init(semaphore, 0, 0) }

    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }

    func signal() { sem_post(semaphore) }
    func wait() { while sem_wait(semaphore) != 0 {} }
}

/// Rows of one feed's epoch of an instrument, by sequence.
struct StoreRequest: Sendable {
    /// Rows that are looked at to find out where a time lies.
    private static let probeRowsMax = 4096
    /// How far from its neighbours in sequence a row is looked for at first, and how exactly its time is found out.
    private static let slackNs: Int64 = 60_000_000_000
    private static let exactNs: Int64 = 1_000_000_000

    let instrument: Instrument
    let feed: String
    let epoch: UInt64
    let sequences: ClosedRange<UInt64>

    /// Reads near the time where the first sequence lies; where rows are missing there, everything: rows lie by the
    /// venue's time, which follows the sequence only loosely.
    func read(_ store: any TickStore) throws(StoreError) -> StoreRows {
        var rows = Collected(self)
        let start = try startTime(store)
        try store.scan(instrument, from: start, to: .max) { rows.add($0, stopsEarly: true) }
        guard !rows.isComplete else { return rows.result(isExhaustive: false) }
        try store.scan(instrument, from: .min, to: .max) { rows.add($0, stopsEarly: false) }
        return rows.result(isExhaustive: true)
    }

    /// A filing time at which rows have lower sequences than the first wanted, found by halving.
    private func startTime(_ store: any TickStore) throws(StoreError) -> Int64 {
        guard let latest = try store.latest(instrument),
            let newest = latest.update.withUnsafeBytes({ try? TickReader($0).filingTimeNs })
        else { return .min }
        var low: Int64 = 0
        var high = max(newest, 0)
        while high - low > StoreRequest.exactNs {
            let middle = low + (high - low) / 2
            if let sequence = try firstSequence(store, from: middle), sequence < sequences.lowerBound {
                low = middle
            } else {
                high = middle
            }
        }
        return low - StoreRequest.slackNs
    }

    private func firstSequence(_ store: any TickStore, from time: Int64) throws(StoreError) -> UInt64? {
        var found: UInt64?
        var left = StoreRequest.probeRowsMax
        try store.scan(instrument, from: time, to: .max) { batch in
            StoreRequest.forEachFrame(batch) { frame in
                left -= 1
                if let reader = reader(of: frame) { found = reader.sequence }
                return found == nil && left > 0
            }
        }
        return found
    }

    /// nil for rows of another feed or epoch.
    private func reader(of frame: UnsafeRawBufferPointer) -> TickReader? {
        guard let reader = try? TickReader(UnsafeRawBufferPointer(rebasing: frame[5...])), reader.epoch == epoch,
            reader.feed.elementsEqual(feed.utf8)
        else { return nil }
        return reader
    }

    /// Until `body` returns false; returns whether it never did.
    static func forEachFrame(_ batch: RowBatch, _ body: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        var position = 0
        while position < batch.frames.count {
            let length = Frame.length(batch.frames, at: position)
            let frame = UnsafeRawBufferPointer(rebasing: batch.frames[position..<(position + length)])
            guard body(frame) else { return false }
            position += length
        }
        return true
    }

    private struct Collected {
        let request: StoreRequest
        var frames: [UInt64: [UInt8]] = [:]
        var nextExisting: UInt64?
        /// Filing time of the first row past the range.
        var pastTime: Int64?

        init(_ request: StoreRequest) { self.request = request }

        var isComplete: Bool { frames.count == request.sequences.count }

        /// Whether more rows are wanted.
        mutating func add(_ batch: RowBatch, stopsEarly: Bool) -> Bool {
            StoreRequest.forEachFrame(batch) { frame in
                guard let reader = request.reader(of: frame) else { return true }
                let sequence = reader.sequence
                if request.sequences.contains(sequence) {
                    if frames[sequence] == nil { frames[sequence] = Array(frame) }
                } else if sequence > request.sequences.upperBound {
                    nextExisting = min(nextExisting ?? sequence, sequence)
                    let past = pastTime ?? reader.filingTimeNs
                    pastTime = past
                    if stopsEarly, reader.filingTimeNs &- past > StoreRequest.slackNs { return false }
                }
                return !isComplete
            }
        }

        func result(isExhaustive: Bool) -> StoreRows {
            let sequences = frames.keys.sorted()
            return StoreRows(
                sequences: sequences, frames: sequences.flatMap { frames[$0] ?? [] },
                nextExisting: isExhaustive ? nextExisting : nil, isExhaustive: isExhaustive)
        }
    }
}

/// What the store has of a request.
struct StoreRows: Sendable {
    /// Ascending, one frame each.
    let sequences: [UInt64]
    let frames: [UInt8]
    /// Where it is exhaustive: the lowest sequence past the request that exists; nil where none does.
    let nextExisting: UInt64?
    /// All rows of the instrument were looked at.
    let isExhaustive: Bool
}
