import EventLog
import TimeSource

/// Where ticks and books go while the brokers do not take them: a bounded log on this machine's disk, drained in order,
/// before anything newer, when they do again.
///
/// A record keeps its identity and its bytes on this way. One that the brokers had already, without having said so, is
/// in the log twice, and readers drop the second by its sequence.
final class TickSpill: @unchecked Sendable {
    /// Its name as a reader of the spill's log.
    static let group = "spill"
    /// Blocks on their way to the brokers at once while draining.
    private static let blocksAtOnceMax = 64

    private let log: any EventLog
    private let producer: KafkaProducer
    private let configuration: KafkaConfiguration
    private let time: any TimeSource
    private let notify: KafkaReport
    private let places: [TopicPartition]
    private let monitor = Monitor()
    private var thread: WorkerThread?
    // Guarded by `monitor`.
    private(set) var isSpilling = false
    private var spilled: UInt64 = 0
    private var lost: UInt64 = 0
    private var drained: UInt64 = 0
    private var isStopping = false
    /// Bytes of blocks that are in the spill and not drained.
    private var bytes = 0
    // The thread's own.
    private var next: [TopicPartition: UInt64] = [:]

    /// Goes on where an earlier process left off. *Blocking.*
    init(
        _ log: any EventLog, _ producer: KafkaProducer, _ configuration: KafkaConfiguration, time: any TimeSource,
        report: @escaping KafkaReport
    ) throws(LogError) {
        self.log = log
        self.producer = producer
        self.configuration = configuration
        self.time = time
        notify = report
        places = [Topic.ticksRaw, .booksDeltas].flatMap { topic in
            (0..<log.partitionCount(topic)).map { TopicPartition(topic, UInt16(clamping: $0)) }
        }
        for place in places {
            next[place] = try log.committedOffset(group: TickSpill.group, place) ?? log.startOffset(place)
            log.hold(reader: TickSpill.group, place, from: next[place] ?? 0)
        }
        isSpilling = places.contains { (next[$0] ?? 0) < log.endOffset($0, .written) }
        if isSpilling { notify("kafka.spill.begin", "what an earlier process could not send is sent first") }
        thread = try WorkerThread("kafka-spill") { [unowned self] in drain() }
    }

    private func report(_ line: String) { notify("kafka.spill", line) }

    /// Takes everything that the brokers have not acknowledged back, and puts it and `blocks` here.
    func begin(with blocks: [Block]) throws(LogError) {
        try monitor.locked { () throws(LogError) in
            guard !isSpilling else { return try put(blocks) }
            let back = producer.takeBack()
            let count = back.reduce(0) { $0 + $1.recordCount }
            isSpilling = true
            notify(
                "kafka.spill.begin",
                "the brokers \(configuration.brokers) do not take ticks: \(count) that waited and what comes now "
                    + "go to the spill")
            try put(back + blocks)
            monitor.wakeAll()
        }
    }

    /// False where ticks go to the brokers now.
    func append(_ blocks: [Block]) throws(LogError) -> Bool {
        try monitor.locked { () throws(LogError) in
            guard isSpilling else { return false }
            try put(blocks)
            return true
        }
    }

    /// With the lock held. Past the bound ticks are lost, by name.
    private func put(_ blocks: [Block]) throws(LogError) {
        var kept: [Block] = []
        for block in blocks {
            guard bytes + block.image.count <= configuration.spillBytesMax else {
                lose(block)
                continue
            }
            bytes += block.image.count
            spilled += UInt64(block.recordCount)
            kept.append(block)
        }
        if !kept.isEmpty { try log.append(kept, consumed: []) }
    }

    private func lose(_ block: Block) {
        if lost == 0 {
            notify(
                "kafka.spill.full",
                "the spill is full (\(configuration.spillBytesMax >> 20) MiB): ticks are lost from here on")
        }
        lost += UInt64(block.recordCount)
        let last = block.recordCount - 1
        let (first, end) = (block.track(of: 0), block.track(of: last))
        report(
            "\(block.recordCount) records of \(block.topicPartition) are lost, from "
                + "\(block.exchange(track: first))|\(block.symbol(track: first)) \(block.sequence(of: 0)) to "
                + "\(block.symbol(track: end)) \(block.sequence(of: last))")
    }

    /// Waits until everything that is here went to the brokers. *Blocking.*
    func waitUntilDrained(timeoutNs: Int64) throws(LogError) {
        let untilNs = time.monotonicNs() + timeoutNs
        try monitor.locked { () throws(LogError) in
            while isSpilling {
                let leftNs = untilNs - time.monotonicNs()
                guard leftNs > 0, !isStopping else {
                    throw LogError(.unavailable, "ticks wait in the spill for the brokers", retryable: true)
                }
                _ = monitor.wait(ns: min(leftNs, 100_000_000))
            }
        }
    }

    /// Ends the thread. What is not drained stays for the next process.
    func stop() {
        monitor.locked {
            isStopping = true
            monitor.wakeAll()
        }
        thread?.join()
        thread = nil
    }

    func add(to counters: inout KafkaCounters) {
        monitor.locked {
            counters.spilled += spilled
            counters.drained += drained
            counters.spillLost += lost
            counters.isSpilling = isSpilling
        }
    }

    // MARK: The thread

    private func drain() {
        while true {
            let isOver = monitor.locked { () -> Bool in
                while !isSpilling, !isStopping { _ = monitor.wait(ns: 1_000_000_000) }
                return isStopping
            }
            if isOver { return }
            do throws(LogError) {
                guard try drainSome() == false else { continue }
                try endIfEmpty()
            } catch {
                if error.code == .closed { return }
                report("draining the spill: \(error.message)")
                time.sleep(ns: 100_000_000)
            }
        }
    }

    /// Sends some blocks and waits until the brokers have them. False when there are none.
    private func drainSome() throws(LogError) -> Bool {
        var sent: [(place: TopicPartition, end: UInt64, records: Int, bytes: Int)] = []
        var tickets: [KafkaProducer.Ticket] = []
        for place in places {
            var offset = next[place] ?? 0
            while sent.count < TickSpill.blocksAtOnceMax {
                guard case .block(let found, let index) = try log.readBlocking(place, at: offset, .written) else {
                    break
                }
                let block = index == 0 ? found : found.suffix(from: index)
                tickets.append(try enqueue(block))
                sent.append((place, found.endOffset, block.recordCount, found.image.count))
                offset = found.endOffset
            }
        }
        guard !sent.isEmpty else { return false }
        for ticket in tickets { try producer.wait(for: ticket) { monitor.locked { isStopping } } }
        for (place, end, _, _) in sent { next[place] = end }
        let ends = Dictionary(sent.map { ($0.place, $0.end) }) { max($0, $1) }
        // A stop between here and the commit sends some twice.
        try log.commit(ends.map { GroupOffset(group: TickSpill.group, place: $0.key, offset: $0.value) })
        for (place, end) in ends { log.hold(reader: TickSpill.group, place, from: end) }
        monitor.locked {
            for block in sent {
                drained += UInt64(block.records)
                bytes = max(0, bytes - block.bytes)
            }
        }
        return true
    }

    private func enqueue(_ block: Block) throws(LogError) -> KafkaProducer.Ticket {
        while true {
            do throws(LogError) {
                return try producer.enqueue([block], waitNs: 1_000_000_000)
            } catch {
                guard error.retryable, !monitor.locked({ isStopping }) else { throw error }
            }
        }
    }

    private func endIfEmpty() throws(LogError) {
        monitor.locked {
            guard places.allSatisfy({ (next[$0] ?? 0) >= log.endOffset($0, .written) }) else { return }
            isSpilling = false
            bytes = 0
            notify("kafka.spill.end", "the brokers have what was spilled: \(drained) records")
            monitor.wakeAll()
        }
    }
}

extension Block {
    /// The same records from one on, as a new block.
    func suffix(from first: Int) -> Block {
        let builder = BlockBuilder(topicPartition, capacity: recordsLength)
        let keys = (0..<trackCount).map { track in
            builder.register(
                BlockBuilder.Key(
                    keyHash: keyHash(track: track), exchange: Array(exchangeBytes(track: track)),
                    symbol: Array(symbolBytes(track: track)), feed: Array(feedBytes(track: track))))
        }
        for record in first..<recordCount {
            let track = track(of: record)
            builder.append(
                key: keys[track], epoch: epoch(track: track), sequence: sequence(of: record), payload: payload(record))
        }
        return builder.build()
    }
}
