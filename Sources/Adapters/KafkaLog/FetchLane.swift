import EventLog
import KafkaClient
import KafkaFrames
import Synchronization

/// Connections to fetch by, in numbered lanes: what is read by one is not held up by what is read by another.
protocol FetchLanes: Sendable {
    /// Does something with the lane's fetcher, on its loop, soon.
    func execute(lane: Int, _ body: @escaping (KafkaFetcher) -> Void)
    /// What a code of the protocol means to a caller.
    func error(_ what: String, code: Int32) -> LogError
}

/// One place at which a partition is read for whoever asks there: goes forward, and as far as it is asked to.
///
/// What is marked so is guarded by the lock of ``CatchUpReads``; the rest belongs to the thread that has ``isServed``
/// set, and to the lock while nobody has.
final class FetchLane: @unchecked Sendable {
    /// Blocks kept for those who come a moment later.
    private static let recentMax = 2

    let place: TopicPartition
    let number: Int
    private let topic: String
    private let lanes: any FetchLanes
    private let waiting: FetchQueue.Shared
    private let ready: @Sendable (FetchLane) -> Void
    private let end = FetchQueue.Shared()
    private let decoder: FetchDecoder
    private var assembler: BlockAssembler
    // Guarded by the lock.
    var requests: [CatchUpReads.Request] = []
    /// A thread decodes.
    var isServed = false
    var usedNs: Int64 = 0
    /// Bytes of blocks since it began where it is.
    private(set) var bytesRead = 0
    /// Everything from where it began up to here was given out.
    private(set) var reached: UInt64 = 0
    private var queue: FetchQueue?
    private var recent: [(from: UInt64, block: Block)] = []
    // Of the thread that serves it.
    private var chunk: FetchQueue.Chunk?
    private var batches: FetchedBatches?
    private var blocks: [Block] = []
    private var failure: LogError?
    private var isOutOfRange = false
    /// After what was decoded.
    private(set) var next: UInt64 = 0
    /// All there was is decoded.
    private(set) var isAtEnd = false
    private var recordsRead: UInt64 = 0
    private var malformedCounted: UInt64 = 0

    /// `topic`: its name on the brokers. `ready` is called on the lane's loop when something came after there was
    /// nothing.
    init(
        _ place: TopicPartition, number: Int, _ lanes: any FetchLanes, topic: String, waiting: FetchQueue.Shared,
        ready: @escaping @Sendable (FetchLane) -> Void
    ) {
        self.place = place
        self.number = number
        self.lanes = lanes
        self.topic = topic
        self.waiting = waiting
        self.ready = ready
        decoder = FetchDecoder(place)
        assembler = BlockAssembler(place)
    }

    /// Where the partition ends, as far as it is known; 0 where it is not. From any thread.
    var highWatermark: UInt64 { UInt64(max(end.value.load(ordering: .relaxed), 0)) }

    // MARK: With the lock held

    /// Reads from here on, and nowhere else.
    func begin(at offset: UInt64) {
        stop()
        let made = FetchQueue(total: waiting, end: end, isCautious: true) { [weak self] in
            if let self { self.ready(self) }
        }
        lanes.execute(lane: number) { [topic, place] fetcher in
            made.begin(fetcher, topic: topic, partition: Int32(place.partition), at: offset)
        }
        queue = made
        next = offset
        reached = offset
    }

    /// Fetches nothing any more.
    func stop() {
        if let queue { lanes.execute(lane: number) { queue.end($0) } }
        queue = nil
        recent = []
        chunk = nil
        batches = nil
        blocks = []
        failure = nil
        isOutOfRange = false
        isAtEnd = false
        bytesRead = 0
        assembler.restart()
    }

    /// Whether it comes to an offset soon: it was fetched, or is at most so many records ahead.
    func leads(to offset: UInt64, recordsAhead: UInt64) -> Bool {
        guard let queue, offset >= reached else { return false }
        return offset - reached <= recordsAhead || offset <= queue.fetchedThrough
    }

    /// One of the last blocks.
    func find(_ offset: UInt64) -> Block? {
        recent.first { offset >= $0.from && offset < $0.block.endOffset }?.block
    }

    /// More has come, or is left from before.
    var hasMore: Bool { chunk != nil || !blocks.isEmpty || queue.map { !$0.isEmpty } ?? false }

    /// A block was decoded: gives where there is nothing between it and what came before.
    func passed(_ block: Block) -> UInt64 {
        let from = reached
        reached = block.endOffset
        bytesRead += block.image.count
        recent.append((from, block))
        if recent.count > FetchLane.recentMax { recent.removeFirst() }
        return from
    }

    // MARK: On the thread that serves it

    /// What comes next.
    enum Step {
        case block(Block)
        /// Nothing now.
        case nothing
        /// The log does not have the offset.
        case outOfRange
        case failed(LogError)
    }

    /// What was read since it was asked last.
    func addCounts(to counters: inout CatchUpReads.Counters) {
        counters.recordsRead += recordsRead
        counters.malformed += assembler.malformed - malformedCounted
        recordsRead = 0
        malformedCounted = assembler.malformed
    }

    func step() -> Step {
        while true {
            if !blocks.isEmpty { return .block(blocks.removeFirst()) }
            if isOutOfRange { return .outOfRange }
            if let failure { return .failed(failure) }
            if chunk == nil {
                guard let queue else { return .nothing }
                let (taken, resumes) = queue.take()
                if resumes { lanes.execute(lane: number) { queue.resume($0) } }
                guard let taken else { return .nothing }
                guard open(taken) else { continue }
            }
            decode()
        }
    }

    private func open(_ taken: FetchQueue.Chunk) -> Bool {
        guard taken.error == .none else {
            isOutOfRange = taken.error == .offsetOutOfRange
            if !isOutOfRange { failure = lanes.error("reading \(place)", code: Int32(taken.error.code)) }
            return false
        }
        chunk = taken
        batches = taken.batches
        return true
    }

    private func decode() {
        guard let chunk, var batches else { return }
        let first = next
        do throws(LogError) {
            try decoder.readNext(&batches, from: first) { record, timestampNs in
                let block = assembler.add(
                    record.value, key: record.key, offset: UInt64(record.offset), timestampNs: timestampNs)
                if let block { blocks.append(block) }
                next = UInt64(record.offset) + 1
                recordsRead += 1
            }
            self.batches = batches
            guard batches.isDone else { return }
            next = chunk.next
            isAtEnd = chunk.next >= chunk.end
        } catch {
            failure = error
        }
        self.chunk = nil
        self.batches = nil
        if let block = assembler.end() { blocks.append(block) }
    }
}
