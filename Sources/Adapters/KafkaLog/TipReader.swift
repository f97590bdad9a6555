import EventLog
import KafkaClient
import KafkaFrames
import TimeSource

/// Follows all partitions of some topics at their ends, as no member of any group, and keeps the newest blocks in a
/// ring for any number of readers. Blocks are assembled on the loop that reads.
final class TipReader: @unchecked Sendable {
    /// One partition's part of the ring.
    private final class Partition {
        let assembler: BlockAssembler
        let decoder: FetchDecoder
        /// The loop's own: what was not given out yet begins here.
        var next: UInt64
        /// The ring has everything from here to `end`.
        var coveredFrom: UInt64
        var end: UInt64
        /// Where the end was when following began.
        let goal: UInt64
        var isCaughtUp: Bool
        /// Consecutive but for gaps, oldest at `head`; what was let go before it is nil.
        var blocks: [Block?] = []
        var head = 0
        /// Why it is not followed any more.
        var stopped: LogError?

        init(_ place: TopicPartition, from start: UInt64, goal: UInt64) {
            assembler = BlockAssembler(place)
            decoder = FetchDecoder(place)
            next = start
            coveredFrom = start
            end = start
            self.goal = goal
            isCaughtUp = start >= goal
        }

        func find(_ offset: UInt64) -> Block? {
            guard head < blocks.count, let last = blocks[blocks.count - 1] else { return nil }
            if offset >= last.firstOffset { return offset < last.endOffset ? last : nil }
            var low = head
            var high = blocks.count - 1
            // The first block that ends after the offset: where there is a gap, that of the record behind it.
            while low < high {
                let middle = (low + high) / 2
                if let block = blocks[middle], block.endOffset > offset { high = middle } else { low = middle + 1 }
            }
            return blocks[low]
        }

        func dropOldest() {
            guard head < blocks.count else { return }
            coveredFrom = blocks[head]?.endOffset ?? coveredFrom
            blocks[head] = nil
            head += 1
            if head > 64, head * 2 > blocks.count {
                blocks.removeFirst(head)
                head = 0
            }
        }
    }

    private let fetching: FetchLoop
    private let configuration: KafkaConfiguration
    private let notify: KafkaReport
    private let time: any TimeSource
    private let monitor = Monitor()
    /// Guards the assemblers, `recordsRead` and `latency`; never taken with `monitor`.
    private let assembly = Monitor()
    /// The loop's own: what the answer brought that is handed on now.
    private var arrivals = Arrivals()
    private var partitions: [TopicPartition: Partition] = [:]
    // Guarded by `monitor`, as what is in the partitions but their assemblers.
    private var order: [(partition: Partition, bytes: Int)] = []
    private var orderHead = 0
    private var ringBytes = 0
    private var listeners: [(id: ListenerID, durability: DurabilityClass, notify: @Sendable () -> Void)] = []
    private var isStopping = false
    // Guarded by `assembly`.
    private var recordsRead: UInt64 = 0
    private var latency = LatencyHistogram()

    /// Begins to follow each place at an offset; `goal` is its end now.
    init(
        _ configuration: KafkaConfiguration, _ places: [(place: TopicPartition, from: UInt64, goal: UInt64)],
        time: any TimeSource, report: @escaping KafkaReport
    ) throws(LogError) {
        self.configuration = configuration
        self.time = time
        notify = report
        fetching = try FetchLoop("kafka-tip", configuration, bytesLeast: 1, intervalMs: 0...2, partitionsPerMs: 64)
        for (place, from, goal) in places {
            partitions[place] = Partition(place, from: from, goal: goal)
        }
        let followed = partitions.values.map { ($0, configuration.name(of: $0.assembler.place.topic)) }
        fetching.execute { [unowned self] fetcher in
            fetcher.delivered = { [unowned self] in handOn() }
            for (partition, topic) in followed {
                let number = Int32(partition.assembler.place.partition)
                _ = fetcher.add(topic: topic, partition: number, at: Int64(clamping: partition.next)) {
                    [unowned self] fetched in take(fetched, partition)
                }
            }
        }
    }

    /// Ends the loop. *Blocking.*
    func stop() {
        monitor.locked {
            isStopping = true
            monitor.wakeAll()
        }
        fetching.stop()
    }

    private func report(_ line: String) { notify("kafka.follow", line) }

    // MARK: Readers

    func follows(_ place: TopicPartition) -> Bool { monitor.locked { partitions[place] != nil } }

    func end(_ place: TopicPartition) -> UInt64? { monitor.locked { partitions[place]?.end } }

    /// nil for a place that is not followed.
    func read(_ place: TopicPartition, at offset: UInt64) -> ReadResult? {
        monitor.locked {
            guard let partition = partitions[place] else { return nil }
            if offset >= partition.end { return .atEnd }
            guard offset >= partition.coveredFrom else { return .onDisk }
            guard let block = partition.find(offset) else { return .atEnd }
            return .block(block, index: Int(max(offset, block.firstOffset) - block.firstOffset))
        }
    }

    /// Why a place is not followed any more; nil while it is.
    func failure(_ place: TopicPartition) -> LogError? { monitor.locked { partitions[place]?.stopped } }

    func wait(_ place: TopicPartition, at offset: UInt64, untilNs: Int64, time: any TimeSource) -> Bool {
        monitor.locked {
            while let partition = partitions[place], offset >= partition.end, !isStopping {
                let leftNs = untilNs - time.monotonicNs()
                guard leftNs > 0, monitor.wait(ns: leftNs) else { return false }
            }
            return !isStopping
        }
    }

    /// Waits until every partition has what it had when following began. False when the time is over.
    func waitUntilCaughtUp(untilNs: Int64, time: any TimeSource) -> Bool {
        monitor.locked {
            while partitions.values.contains(where: { !$0.isCaughtUp && $0.stopped == nil }) {
                let leftNs = untilNs - time.monotonicNs()
                guard leftNs > 0, !isStopping, monitor.wait(ns: leftNs) else { return false }
            }
            return true
        }
    }

    func addListener(_ id: ListenerID, _ durability: DurabilityClass, _ notify: @escaping @Sendable () -> Void) {
        monitor.locked { listeners.append((id, durability, notify)) }
    }

    func removeListener(_ id: ListenerID) { monitor.locked { listeners.removeAll { $0.id == id } } }

    /// The newest records of instruments of a topic, as far as they were read.
    func lastPlaces(_ topic: Topic) -> [LastPlace] {
        assembly.locked {
            partitions.values.filter { $0.assembler.place.topic == topic }.flatMap { $0.assembler.lastPlaces }
        }
    }

    func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String, count: Int) -> LastPlace? {
        let key = KafkaLog.key(exchange: exchange, symbol: symbol)
        let number = key.withUnsafeBytes { Murmur2.partition($0, count: count) }
        return assembly.locked {
            partitions[TopicPartition(topic, UInt16(clamping: number))]?.assembler.lastPlace(
                feed: feed, exchange: exchange, symbol: symbol)
        }
    }

    func add(to counters: inout KafkaCounters) {
        assembly.locked {
            counters.recordsRead += recordsRead
            counters.readLatency.add(latency)
            counters.recordsMalformed += partitions.values.reduce(0) { $0 + $1.assembler.malformed }
        }
    }

    // MARK: The loop

    /// What an answer brought, before readers see it.
    private struct Arrivals {
        var blocks: [(partition: Partition, block: Block)] = []
        var caughtUp: [Partition] = []
        var stopped: [(partition: Partition, error: LogError)] = []
    }

    /// Assembles without readers' lock.
    private func take(_ fetched: KafkaFetcher.Fetched, _ partition: Partition) {
        guard monitor.locked({ partition.stopped == nil }) else { return }
        let place = partition.assembler.place
        guard fetched.error == .none else {
            guard fetched.error == .offsetOutOfRange else {
                return report(fetching.error("following \(place)", code: Int32(fetched.error.code)).message)
            }
            arrivals.stopped.append(
                (
                    partition,
                    LogError(
                        .lost,
                        "\(place) has no offset \(partition.next) any more: it was cut, or made anew; start "
                            + "this process again")
                ))
            return
        }
        assembly.locked {
            do throws(LogError) {
                let batches = FetchedBatches(fetched.records, fetched.aborted, damagedOffset: fetched.damagedOffset)
                try partition.decoder.read(batches, from: partition.next) { record, timestampNs in
                    let block = partition.assembler.add(
                        record.value, key: record.key, offset: UInt64(record.offset), timestampNs: timestampNs)
                    if let block { arrivals.blocks.append((partition, block)) }
                    recordsRead += 1
                }
                partition.next = UInt64(max(fetched.next, 0))
            } catch {
                arrivals.stopped.append((partition, error))
            }
            if let block = partition.assembler.end() { arrivals.blocks.append((partition, block)) }
        }
        if fetched.next >= fetched.end { arrivals.caughtUp.append(partition) }
    }

    private func handOn() {
        let arrived = arrivals
        arrivals = Arrivals()
        for (_, error) in arrived.stopped { report(error.message) }
        let nowNs = time.wallNs()
        assembly.locked { for (_, block) in arrived.blocks { latency.add(nowNs - block.appendTimeNs) } }
        let notify = monitor.locked { () -> [@Sendable () -> Void] in
            for (partition, block) in arrived.blocks { add(block, to: partition) }
            for partition in arrived.caughtUp { partition.isCaughtUp = true }
            for (partition, error) in arrived.stopped where partition.stopped == nil { partition.stopped = error }
            monitor.wakeAll()
            let heard = Set(arrived.blocks.map { $0.partition.assembler.place.topic.durability })
            return listeners.filter { heard.contains($0.durability) }.map(\.notify)
        }
        for listener in notify { listener() }
    }

    private func add(_ block: Block, to partition: Partition) {
        partition.blocks.append(block)
        partition.end = block.endOffset
        if partition.end >= partition.goal { partition.isCaughtUp = true }
        order.append((partition, block.image.count))
        ringBytes += block.image.count
        while ringBytes > configuration.tipBytes, orderHead + 1 < order.count {
            let oldest = order[orderHead]
            orderHead += 1
            ringBytes -= oldest.bytes
            oldest.partition.dropOldest()
        }
        if orderHead > 1024, orderHead * 2 > order.count {
            order.removeFirst(orderHead)
            orderHead = 0
        }
    }
}

extension BlockAssembler {
    /// The newest record of each instrument.
    var lastPlaces: [LastPlace] {
        zip(names, latest).compactMap { names, latest in
            guard !names.symbol.isEmpty else { return nil }
            return LastPlace(
                feed: String(decoding: names.feed, as: UTF8.self),
                exchange: String(decoding: names.exchange, as: UTF8.self),
                symbol: String(decoding: names.symbol, as: UTF8.self), place: place, offset: latest.offset,
                epoch: latest.epoch, sequence: latest.sequence)
        }
    }

    func lastPlace(feed: String, exchange: String, symbol: String) -> LastPlace? {
        guard let number = find(exchange: Array(exchange.utf8), symbol: Array(symbol.utf8), feed: Array(feed.utf8))
        else { return nil }
        return LastPlace(
            feed: feed, exchange: exchange, symbol: symbol, place: place, offset: latest[number].offset,
            epoch: latest[number].epoch, sequence: latest[number].sequence)
    }
}
