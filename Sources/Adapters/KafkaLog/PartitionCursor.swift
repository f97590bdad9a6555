import EventLog
import KafkaFrames
import Synchronization
import TimeSource

/// Reads one partition forward from wherever it is asked to, for a member of a group: the only one of its process that
/// has the partition. It keeps its fetch open, so that who goes on where it was pays no more than the fetch.
final class PartitionCursor: @unchecked Sendable {
    let place: TopicPartition
    /// Held by whoever uses it.
    let monitor = Monitor()
    private let fetching: FetchLoop
    private let topic: String
    private let time: any TimeSource
    private let ready: ReadySignal
    private let waiting: FetchQueue.Shared
    /// What is read now; nil while nothing is.
    private var queue: FetchQueue?
    private let end = FetchQueue.Shared()
    private let decoder: FetchDecoder
    private let assembler: BlockAssembler
    /// What was fetched and is not decoded yet: no more is than makes a block, which a processor's caches still have
    /// when it is read.
    private var rest: (chunk: FetchQueue.Chunk, batches: FetchedBatches)?
    /// Blocks decoded and not asked for yet, ascending.
    private var blocks: [Block] = []
    /// After what was decoded; nil while nothing is read.
    private var next: UInt64?
    private var failure: LogError?
    /// With the lock held: it must not be used any more.
    private(set) var isClosed = false
    private(set) var recordsRead: UInt64 = 0
    private(set) var latency = LatencyHistogram()
    var malformed: UInt64 { assembler.malformed }

    /// `topic`: its name on the brokers. `ready` is set when something has come after there was nothing; `waiting`
    /// counts what waits in all cursors.
    init(
        _ place: TopicPartition, _ fetching: FetchLoop, topic: String, time: any TimeSource, ready: ReadySignal,
        waiting: FetchQueue.Shared
    ) {
        self.place = place
        self.fetching = fetching
        self.topic = topic
        self.time = time
        self.ready = ready
        self.waiting = waiting
        decoder = FetchDecoder(place)
        assembler = BlockAssembler(place)
    }

    /// Where the partition ends, as far as it is known; 0 where it is not. From any thread.
    var highWatermark: UInt64 { UInt64(max(end.value.load(ordering: .relaxed), 0)) }

    /// With the lock held. Nothing may use it afterwards.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        stop()
    }

    /// With the lock held: reads from here on.
    func begin(at offset: UInt64) { goOn(at: offset) }

    /// With the lock held: the block with the first record at or after `offset`, or that there is none yet.
    func read(at offset: UInt64) throws(LogError) -> Found {
        if let block = find(offset) { return .block(block) }
        goOn(at: offset)
        try fetch()
        if let block = find(offset) { return .block(block) }
        guard failure?.code == .lost else { return .end }
        stop()
        return .outOfRange
    }

    enum Found {
        case block(Block)
        case end
        /// The log does not have the offset.
        case outOfRange
    }

    /// Reads from the offset on. Where that is already past it, by records that do not exist, it stays.
    private func goOn(at offset: UInt64) {
        if let next, let reached, offset >= reached, offset <= next { return }
        stop()
        start(at: offset)
    }

    /// Up to here what was fetched was asked for.
    private var reached: UInt64?

    private func find(_ offset: UInt64) -> Block? {
        while let first = blocks.first {
            if offset < first.firstOffset {
                // In the gap before it, or somewhere else altogether.
                return reached.map { offset >= $0 } == true ? first : nil
            }
            if offset < first.endOffset { return first }
            reached = first.endOffset
            blocks.removeFirst()
        }
        return nil
    }

    private func start(at offset: UInt64) {
        let made = FetchQueue(total: waiting, end: end) { [ready] in ready.set() }
        fetching.execute { [topic, place] fetcher in
            made.begin(fetcher, topic: topic, partition: Int32(place.partition), at: offset)
        }
        queue = made
        next = offset
        reached = offset
        rest = nil
        blocks = []
        failure = nil
    }

    /// The next read begins anew.
    private func stop() {
        guard let queue else { return }
        fetching.execute { queue.end($0) }
        self.queue = nil
        next = nil
        reached = nil
        rest = nil
        blocks = []
        failure = nil
        assembler.restart()
    }

    /// Decodes until there is a block more, or nothing is left that was fetched.
    private func fetch() throws(LogError) {
        guard let queue else { return }
        let known = blocks.count
        while blocks.count == known, failure == nil {
            if rest == nil {
                let (chunk, resumes) = queue.take()
                if resumes { fetching.execute { queue.resume($0) } }
                guard let chunk else { break }
                open(chunk)
            }
            decode()
        }
        if rest == nil, let block = assembler.end() { blocks.append(block) }
        if blocks.count > known {
            let nowNs = time.wallNs()
            for block in blocks[known...] { latency.add(nowNs - block.appendTimeNs) }
        }
        // Blocks that came before what failed are given out first.
        if let failure, failure.code != .lost, blocks.isEmpty {
            stop()
            throw failure
        }
    }

    private func open(_ chunk: FetchQueue.Chunk) {
        if chunk.error == .none {
            rest = (chunk, chunk.batches)
        } else {
            failure =
                chunk.error == .offsetOutOfRange
                ? LogError(.lost, "\(place) has no offset \(next ?? 0)")
                : fetching.error("reading \(place)", code: Int32(chunk.error.code))
        }
    }

    /// The next batch of what is left.
    private func decode() {
        guard var rest else { return }
        // The cursor's own would be retained, or grown, for each record.
        let assembler = assembler
        let first = next ?? 0
        var (goesOn, count) = (first, UInt64(0))
        var ended: [Block] = []
        do throws(LogError) {
            try decoder.readNext(&rest.batches, from: first) { record, timestampNs in
                let block = assembler.add(
                    record.value, key: record.key, offset: UInt64(record.offset), timestampNs: timestampNs)
                if let block { ended.append(block) }
                goesOn = UInt64(record.offset) + 1
                count += 1
            }
            if rest.batches.isDone { goesOn = rest.chunk.next }
            self.rest = rest.batches.isDone ? nil : rest
        } catch {
            failure = error
            self.rest = nil
        }
        next = goesOn
        blocks += ended
        recordsRead += count
    }
}

/// Says that something came for any of the cursors of a log; waited for by those who read several, each of whom hears
/// of all of it.
final class ReadySignal: Sendable {
    private let monitor = Monitor()
    nonisolated(unsafe) private var count: UInt64 = 0

    func set() {
        monitor.locked {
            count &+= 1
            monitor.wakeAll()
        }
    }

    /// Returns when it was set more often than `seen`, or the time is over; how often it was.
    func wait(beyond seen: UInt64, ns: Int64) -> UInt64 {
        monitor.locked {
            if count == seen { _ = monitor.wait(ns: ns) }
            return count
        }
    }
}
