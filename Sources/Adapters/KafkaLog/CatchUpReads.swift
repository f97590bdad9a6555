import EventLog
import KafkaFrames
import Synchronization
import TimeSource

/// Reads behind the tip, of any number of readers that are members of no group.
///
/// A partition is read at a few places at once, a ``FetchLane`` each. Who goes on where a lane is waits for it there;
/// who is elsewhere gets a lane that nobody waits for, the one used least recently, or waits for its turn at one. What
/// a lane decodes goes into the cache for all: readers that are near each other are served by one fetch, and those
/// behind, who find all in memory, catch up with who is first. Threads are lent by `perform`; none waits.
final class CatchUpReads: @unchecked Sendable {
    /// Places at which a partition is read at once.
    static let lanesMax = 4
    /// Who is at most so many records ahead of a lane waits until it is there: those behind find what is decoded on
    /// the way in memory, and are read for together from then on.
    static let recordsAheadMax: UInt64 = 4 * UInt64(BlockAssembler.recordsMax)
    /// Bytes of blocks after which a lane that others wait for goes to them.
    private static let turnBytes = 4 << 20
    /// Blocks decoded before a thread sees to another lane, and those decoded before somebody asks.
    private static let blocksPerTurn = 4
    private static let blocksAhead = 1
    /// A lane that nobody reads by is closed after this.
    private static let idleNs: Int64 = 10_000_000_000

    typealias Answer = @Sendable (Result<PartitionCursor.Found, LogError>) -> Void

    /// Somebody waits for what is at an offset.
    struct Request {
        let id: UInt64
        let offset: UInt64
        /// That there is nothing is said when everything before was looked at.
        let through: UInt64
        let deadlineNs: Int64
        let answer: Answer
    }

    /// Guarded by the lock.
    private final class Partition: @unchecked Sendable {
        var lanes: [FetchLane] = []
        /// For whom there is no lane now, in their order.
        var waiting: [Request] = []

        var isUnused: Bool { lanes.isEmpty && waiting.isEmpty }
    }

    /// What was read, and how.
    struct Counters {
        var recordsRead: UInt64 = 0
        var malformed: UInt64 = 0
        /// How often a lane began at a place.
        var begins: UInt64 = 0
        var lanes = 0
    }

    private let lanes: any FetchLanes
    private let cache: BlockCache
    private let time: any TimeSource
    private let waitingMax: Int
    private let recordsAheadMax: UInt64
    private let name: @Sendable (Topic) -> String
    private let perform: @Sendable (@escaping @Sendable () -> Void) -> Bool
    /// Bytes in the lanes' queues.
    private let fetched = FetchQueue.Shared()
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var partitions: [TopicPartition: Partition] = [:]
    private var waitingCount = 0
    private var requestCount: UInt64 = 0
    private var counted = Counters()
    private var isClosed = false

    /// `name` is that of a topic on the brokers. `perform` has a thread do something soon; false where there are none
    /// any more.
    init(
        _ lanes: any FetchLanes, cache: BlockCache, time: any TimeSource, waitingMax: Int,
        recordsAheadMax: UInt64 = CatchUpReads.recordsAheadMax,
        name: @escaping @Sendable (Topic) -> String,
        perform: @escaping @Sendable (@escaping @Sendable () -> Void) -> Bool
    ) {
        self.lanes = lanes
        self.cache = cache
        self.time = time
        self.waitingMax = waitingMax
        self.recordsAheadMax = recordsAheadMax
        self.name = name
        self.perform = perform
    }

    var counters: Counters {
        monitor.locked {
            var counters = counted
            counters.lanes = partitions.values.reduce(0) { $0 + $1.lanes.count }
            return counters
        }
    }

    /// Where a partition ends, as far as a lane knows; 0 where none does.
    func highWatermark(_ place: TopicPartition) -> UInt64 {
        monitor.locked { partitions[place]?.lanes.map(\.highWatermark).max() ?? 0 }
    }

    // MARK: Asking

    /// Has `answer` be called, from any thread, with the block that has the first record at or after `offset`, or told
    /// that there is none yet. Returns what ``cancel(_:)`` takes.
    @discardableResult
    func ask(
        _ place: TopicPartition, at offset: UInt64, through: UInt64 = 0, timeoutNs: Int64, _ answer: @escaping Answer
    ) -> UInt64 {
        let deadlineNs = time.monotonicNs().addingReportingOverflow(timeoutNs)
        let (id, known) = monitor.locked { () -> (UInt64, Result<PartitionCursor.Found, LogError>?) in
            if isClosed { return (0, .failure(LogError(.closed, "the log is closed"))) }
            guard waitingCount < waitingMax else {
                return (
                    0,
                    .failure(
                        LogError(.io, "\(waitingCount) reads are waiting already; try again later", retryable: true))
                )
            }
            requestCount += 1
            let request = Request(
                id: requestCount, offset: offset, through: through,
                deadlineNs: deadlineNs.overflow ? .max : deadlineNs.partialValue, answer: answer)
            let partition = partitions[place] ?? Partition()
            if let block = find(place, offset, partition) { return (0, .success(.block(block))) }
            partitions[place] = partition
            waitingCount += 1
            assign(request, place, partition)
            return (request.id, nil)
        }
        if let known { deliver(known, to: answer) }
        return id
    }

    /// As ``ask(_:at:through:timeoutNs:_:)``. *Blocking.*
    func read(
        _ place: TopicPartition, at offset: UInt64, through: UInt64 = 0, timeoutNs: Int64
    ) throws(LogError) -> PartitionCursor.Found {
        let known = monitor.locked { isClosed ? nil : partitions[place].flatMap { find(place, offset, $0) } }
        if let known { return .block(known) }
        let waiter = Waiter()
        let id = ask(place, at: offset, through: through, timeoutNs: .max) { waiter.set($0) }
        if let result = waiter.wait(untilNs: time.monotonicNs() + timeoutNs, time) { return try result.get() }
        cancel(place, id)
        // It may have come meanwhile.
        guard let result = waiter.wait(untilNs: 0, time) else { throw timedOut(place, offset) }
        return try result.get()
    }

    private final class Waiter: @unchecked Sendable {
        private let monitor = Monitor()
        private var result: Result<PartitionCursor.Found, LogError>?

        func set(_ result: Result<PartitionCursor.Found, LogError>) {
            monitor.locked {
                self.result = result
                monitor.wakeAll()
            }
        }

        func wait(untilNs: Int64, _ time: any TimeSource) -> Result<PartitionCursor.Found, LogError>? {
            monitor.locked {
                while result == nil {
                    let leftNs = untilNs == 0 ? 0 : untilNs - time.monotonicNs()
                    guard leftNs > 0, monitor.wait(ns: leftNs) || result != nil else { return result }
                }
                return result
            }
        }
    }

    /// The answer may be on its way all the same.
    func cancel(_ place: TopicPartition, _ id: UInt64) {
        monitor.locked {
            guard let partition = partitions[place] else { return }
            _ = remove(from: partition) { $0.id == id }
        }
    }

    /// As a code of librdkafka, which has words for it.
    private static let timedOutCode: Int32 = -185

    private func timedOut(_ place: TopicPartition, _ offset: UInt64) -> LogError {
        lanes.error("reading \(place) at offset \(offset)", code: CatchUpReads.timedOutCode)
    }

    /// On a thread that may wait, since who hears that there is nothing asks the brokers.
    private func deliver(_ result: Result<PartitionCursor.Found, LogError>, to answer: @escaping Answer) {
        if !perform({ answer(result) }) { answer(result) }
    }

    /// Answers who has waited too long, and closes what nobody reads by. Called now and then.
    func tick() {
        let nowNs = time.monotonicNs()
        let (late, answered) = monitor.locked { () -> ([(place: TopicPartition, request: Request)], [Answered]) in
            var late: [(TopicPartition, Request)] = []
            var answered: [Answered] = []
            for (place, partition) in partitions where !isClosed {
                late += remove(from: partition) { $0.deadlineNs <= nowNs }.map { (place, $0) }
                answered += assignWaiting(place, partition)
                for lane in partition.lanes
                where lane.requests.isEmpty && !lane.isServed && nowNs - lane.usedNs >= CatchUpReads.idleNs {
                    close(lane, partition)
                }
                if partition.isUnused { partitions[place] = nil }
            }
            return (late, answered)
        }
        for (request, result) in answered { request.answer(result) }
        for (place, request) in late { request.answer(.failure(timedOut(place, request.offset))) }
    }

    /// Nobody is answered afterwards but those who ask, that it is closed.
    func close() {
        let open = monitor.locked { () -> [Request] in
            isClosed = true
            var open: [Request] = []
            for partition in partitions.values {
                open += remove(from: partition) { _ in true }
                // One that is served stops by itself.
                for lane in partition.lanes where !lane.isServed { close(lane, partition) }
            }
            return open
        }
        for request in open { request.answer(.failure(LogError(.closed, "the log is closed"))) }
    }

    // MARK: With the lock held

    private func find(_ place: TopicPartition, _ offset: UInt64, _ partition: Partition) -> Block? {
        if case .block(let block, _)? = cache.find(place, offset) { return block }
        return partition.lanes.lazy.compactMap { $0.find(offset) }.first
    }

    private func remove(from partition: Partition, where condition: (Request) -> Bool) -> [Request] {
        var removed = partition.waiting.filter(condition)
        partition.waiting.removeAll(where: condition)
        for lane in partition.lanes {
            removed += lane.requests.filter(condition)
            lane.requests.removeAll(where: condition)
        }
        waitingCount -= removed.count
        return removed
    }

    private func close(_ lane: FetchLane, _ partition: Partition) {
        lane.stop()
        partition.lanes.removeAll { $0 === lane }
    }

    private func assign(_ request: Request, _ place: TopicPartition, _ partition: Partition) {
        let lane: FetchLane
        if let leading = partition.lanes.filter({ $0.leads(to: request.offset, recordsAhead: recordsAheadMax) }).max(
            by: { $0.reached < $1.reached })
        {
            lane = leading
        } else if let free = free(place, partition) {
            lane = free
            begin(lane, at: request.offset)
        } else {
            return partition.waiting.append(request)
        }
        lane.requests.append(request)
        lane.usedNs = time.monotonicNs()
        if !lane.isServed, lane.hasMore || lane.isAtEnd { serveSoon(lane, partition) }
    }

    /// A new lane, or the one that nobody waits for and that was used least recently; nil where all are waited for.
    private func free(_ place: TopicPartition, _ partition: Partition) -> FetchLane? {
        if partition.lanes.count < CatchUpReads.lanesMax {
            let taken = partition.lanes.map(\.number)
            let number = (1...CatchUpReads.lanesMax).first { !taken.contains($0) } ?? 1
            let made = FetchLane(
                place, number: number, lanes, topic: name(place.topic), waiting: fetched
            ) { [weak self] lane in self?.arrived(lane) }
            partition.lanes.append(made)
            return made
        }
        return partition.lanes.filter { $0.requests.isEmpty && !$0.isServed }.min { $0.usedNs < $1.usedNs }
    }

    private func begin(_ lane: FetchLane, at offset: UInt64) {
        lane.begin(at: offset)
        counted.begins += 1
    }

    private func serveSoon(_ lane: FetchLane, _ partition: Partition) {
        guard !lane.isServed, !isClosed else { return }
        lane.isServed = true
        if !perform({ [weak self] in self?.serve(lane, partition) }) { lane.isServed = false }
    }

    /// Those who wait for a lane look again: one may be free by now, or come to where they are.
    private func assignWaiting(_ place: TopicPartition, _ partition: Partition) -> [Answered] {
        guard !partition.waiting.isEmpty else { return [] }
        let waiting = partition.waiting
        partition.waiting = []
        var answered: [Answered] = []
        for request in waiting {
            if let block = find(place, request.offset, partition) {
                waitingCount -= 1
                answered.append((request, .success(.block(block))))
            } else {
                assign(request, place, partition)
            }
        }
        return answered
    }

    // MARK: Serving

    private typealias Answered = (request: Request, result: Result<PartitionCursor.Found, LogError>)

    private func arrived(_ lane: FetchLane) {
        monitor.locked {
            guard !lane.requests.isEmpty, let partition = partitions[lane.place] else { return }
            serveSoon(lane, partition)
        }
    }

    /// Decodes for those who wait for a lane, until there is nobody or nothing.
    private func serve(_ lane: FetchLane, _ partition: Partition) {
        var blocks = 0
        var ahead = 0
        while true {
            let step = lane.step()
            let (answered, goesOn) = monitor.locked { () -> ([Answered], Bool) in
                lane.addCounts(to: &counted)
                var answered = answers(to: step, lane)
                var mayHaveMore = lane.hasMore
                if case .block = step {
                    blocks += 1
                    mayHaveMore = true
                }
                if lane.requests.isEmpty { ahead += 1 }
                let isDone = lane.requests.isEmpty && (ahead > CatchUpReads.blocksAhead || !partition.waiting.isEmpty)
                let goesOn = mayHaveMore && !isDone && !isClosed && !isOver(step)
                if goesOn, blocks < CatchUpReads.blocksPerTurn { return (answered, true) }
                lane.isServed = false
                if isClosed || isOver(step) { close(lane, partition) }
                answered += giveWay(lane, partition)
                if goesOn, !lane.requests.isEmpty { serveSoon(lane, partition) }
                return (answered, false)
            }
            for (request, result) in answered {
                if case .success(.block) = result {
                    request.answer(result)
                } else {
                    deliver(result, to: request.answer)
                }
            }
            guard goesOn else { return }
        }
    }

    private func isOver(_ step: FetchLane.Step) -> Bool {
        switch step {
        case .block, .nothing: false
        case .outOfRange, .failed: true
        }
    }

    private func answers(to step: FetchLane.Step, _ lane: FetchLane) -> [Answered] {
        func take(_ result: Result<PartitionCursor.Found, LogError>, where condition: (Request) -> Bool) -> [Answered] {
            let taken = lane.requests.filter(condition)
            lane.requests.removeAll(where: condition)
            waitingCount -= taken.count
            return taken.map { ($0, result) }
        }
        lane.usedNs = time.monotonicNs()
        switch step {
        case .block(let block):
            cache.add(block, from: lane.passed(block))
            return take(.success(.block(block))) { $0.offset < block.endOffset }
        case .nothing:
            guard lane.isAtEnd, !lane.hasMore else { return [] }
            // Whose offset is past the end learns whether there is one.
            return take(.success(.end)) { $0.offset <= lane.next && $0.through <= lane.next }
                + take(.success(.outOfRange)) { $0.offset > lane.next && $0.through <= lane.next }
        case .outOfRange: return take(.success(.outOfRange)) { _ in true }
        case .failed(let error): return take(.failure(error)) { _ in true }
        }
    }

    /// Lets those who wait for a lane have this one, where nobody reads by it, or others had their turn.
    private func giveWay(_ lane: FetchLane, _ partition: Partition) -> [Answered] {
        guard !isClosed, !partition.waiting.isEmpty else { return [] }
        if lane.bytesRead >= CatchUpReads.turnBytes {
            partition.waiting += lane.requests
            lane.requests = []
        }
        return assignWaiting(lane.place, partition)
    }
}
