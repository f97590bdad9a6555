import CRdKafka
import EventLog
import TimeSource

/// Reads one partition forward from wherever it is asked to, for readers that are not at the tip and for members of
/// groups. It keeps its fetch open, so that who goes on where it was pays no more than the fetch. One caller at a time.
final class PartitionCursor: @unchecked Sendable {
    let place: TopicPartition
    /// Held by whoever uses it.
    let monitor = Monitor()
    private let handle: KafkaHandle
    private let topic: OpaquePointer
    private let queue: OpaquePointer
    private let time: any TimeSource
    private var assembler: BlockAssembler
    /// Blocks fetched and not asked for yet, ascending.
    private var blocks: [Block] = []
    /// What the client fetches next; nil while it does not.
    private var next: UInt64?
    /// The client has given out all there was.
    private var isAtEnd = false
    private var failure: LogError?
    /// With the lock held: it must not be used any more.
    private(set) var isClosed = false
    private(set) var recordsRead: UInt64 = 0
    var malformed: UInt64 { assembler.malformed }

    /// `becameReady` is called from threads of the library when something has come after there was nothing.
    init(
        _ place: TopicPartition, _ handle: KafkaHandle, topic: OpaquePointer, time: any TimeSource,
        ready: UnsafeMutableRawPointer
    ) {
        self.place = place
        self.handle = handle
        self.topic = topic
        self.time = time
        assembler = BlockAssembler(place)
        queue = rd_kafka_queue_new(handle.rk)
        rd_kafka_queue_cb_event_enable(
            queue,
            { _, raw in
                guard let raw else { return }
                Unmanaged<ReadySignal>.fromOpaque(raw).takeUnretainedValue().set()
            }, ready)
    }

    /// With the lock held. Nothing may use it afterwards.
    func close() {
        guard !isClosed else { return }
        isClosed = true
        stop()
        rd_kafka_queue_cb_event_enable(queue, nil, nil)
        rd_kafka_queue_destroy(queue)
    }

    /// With the lock held: has the client fetch from here on.
    func begin(at offset: UInt64) throws(LogError) { try goOn(at: offset) }

    /// With the lock held: the block with the first record at or after `offset`, or that there is none yet. Where
    /// `isPatient`, waits for what exists and has to be fetched, at most the given time; with `through`, until
    /// everything before that offset was looked at.
    func read(
        at offset: UInt64, timeoutNs: Int64, isPatient: Bool, through: UInt64 = 0
    ) throws(LogError) -> Found {
        if let block = find(offset) { return .block(block) }
        try goOn(at: offset)
        let untilNs = time.monotonicNs() + timeoutNs
        while true {
            let isOver = isAtEnd && (next ?? 0) >= through
            try fetch(timeoutNs: isOver || !isPatient ? 0 : min(untilNs - time.monotonicNs(), 100_000_000))
            if let block = find(offset) { return .block(block) }
            if failure?.code == .lost {
                stop()
                return .outOfRange
            }
            if !isPatient || isAtEnd && (next ?? 0) >= through { return .end }
            guard time.monotonicNs() < untilNs else {
                throw handle.fail("reading \(place) at offset \(offset)", RD_KAFKA_RESP_ERR__TIMED_OUT)
            }
        }
    }

    enum Found {
        case block(Block)
        case end
        /// The log does not have the offset.
        case outOfRange
    }

    /// With the lock held: whether something is there or comes within the time.
    func wait(at offset: UInt64, timeoutNs: Int64) throws(LogError) -> Bool {
        if find(offset) != nil { return true }
        try goOn(at: offset)
        try fetch(timeoutNs: timeoutNs)
        return find(offset) != nil || failure != nil
    }

    /// Has the client fetch from the offset on. Where it is already past it, by records that do not exist, it stays.
    private func goOn(at offset: UInt64) throws(LogError) {
        if let next, let reached, offset >= reached, offset <= next { return }
        stop()
        try start(at: offset)
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

    private func start(at offset: UInt64) throws(LogError) {
        guard
            rd_kafka_consume_start_queue(topic, Int32(place.partition), Int64(clamping: offset), queue) == 0
        else { throw handle.fail("reading \(place)", rd_kafka_last_error()) }
        next = offset
        reached = offset
        blocks = []
        isAtEnd = false
        failure = nil
    }

    /// The next read begins anew.
    private func stop() {
        guard next != nil else { return }
        rd_kafka_consume_stop(topic, Int32(place.partition))
        next = nil
        reached = nil
        blocks = []
        isAtEnd = false
        failure = nil
        // What is collected belongs to the way that is left.
        _ = assembler.end()
    }

    private func fetch(timeoutNs: Int64) throws(LogError) {
        RecordQueue.take(from: queue, timeoutMs: Int32(clamping: max(timeoutNs, 0) / 1_000_000)) { take($0) }
        if let block = assembler.end() { blocks.append(block) }
        // Blocks that came before what failed are given out first.
        if let failure, failure.code != .lost, blocks.isEmpty {
            stop()
            throw failure
        }
    }

    private func take(_ message: UnsafeMutablePointer<rd_kafka_message_t>) {
        guard failure == nil else { return }
        switch RecordQueue.content(of: message) {
        case .record(let payload, let key, let offset, let timestampNs):
            if let block = assembler.add(payload, key: key, offset: offset, timestampNs: timestampNs) {
                blocks.append(block)
            }
            next = offset + 1
            isAtEnd = false
            recordsRead += 1
        case .end(let offset):
            next = max(next ?? offset, offset)
            isAtEnd = true
        case .unknownSchema(let offset, let major): failure = RecordQueue.unknownSchema(place, offset, major)
        case .failed(RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET):
            failure = LogError(.lost, "\(place) has no offset \(next ?? 0)")
        case .failed(let code): failure = handle.fail("reading \(place)", code)
        }
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
