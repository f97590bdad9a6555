import CRdKafka
import EventLog
import Glibc
import Synchronization
import TimeSource

/// Sends blocks as records, one each, and hears of their acknowledgement. One thread owns the client: callers put
/// blocks into a bounded queue and, where they have to know, wait for a ticket.
///
/// Blocks are not copied: the client borrows their records until the broker has them.
final class KafkaProducer: @unchecked Sendable {
    private static let eventMessagesMax = 1024

    // Replaced by the thread alone, with the lock held; others read them with it.
    private var client: ProducerClient
    private let configuration: KafkaConfiguration
    private let durability: DurabilityClass
    private let time: any TimeSource
    private let notify: KafkaReport
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var pending: [Flight] = []
    private var pendingRecords = 0
    private var produced: [Topic: KafkaCounters.Produced] = [:]
    private var queuedTotal = 0
    private var isClosing = false
    private var isFlushing = false
    private var flightCount: UInt64 = 0
    /// Since when an append finds no room; nil while there is some.
    private var fullSinceNs: Int64?
    /// While everything is taken back: what was not acknowledged.
    private var takenBack: [(number: UInt64, block: Block)]?
    /// The thread is to replace the client.
    private var isRenewing = false
    private var stopped: LogError?
    // The thread's own.
    private var messages: [rd_kafka_message_t] = []
    private var keys = RecordKeys()
    private var finished: [Flight] = []
    private var linger = Linger()
    private var thread: WorkerThread?

    init(
        _ durability: DurabilityClass, _ configuration: KafkaConfiguration, time: any TimeSource,
        report: @escaping KafkaReport
    ) throws(LogError) {
        self.durability = durability
        self.configuration = configuration
        self.time = time
        notify = report
        client = try ProducerClient(configuration, report)
        linger = Linger(configuration.producer)
        thread = try WorkerThread(durability == .ticks ? "kafka-ticks" : "kafka-orders") { [unowned self] in run() }
    }

    private func report(_ line: String) { notify("kafka.produce", line) }

    // MARK: Callers

    /// Puts blocks into the queue, all of them or none. Throws `.tooLarge` for more than the queue takes, and a
    /// retryable error where there is no room in time.
    func enqueue(_ blocks: [Block], waitNs: Int64) throws(LogError) -> Ticket {
        var counts: [(topic: Topic, count: Int)] = []
        for block in blocks {
            let topic = block.topicPartition.topic
            if let at = counts.firstIndex(where: { $0.topic == topic }) {
                counts[at].count += block.recordCount
            } else {
                counts.append((topic, block.recordCount))
            }
        }
        for (topic, count) in counts where count > configuration.queuedMax(topic) {
            throw LogError(
                .tooLarge,
                "an append of \(count) records of \(topic); its queue takes \(configuration.queuedMax(topic))")
        }
        let ticket = Ticket(blocks.count)
        let nowNs = time.monotonicNs()
        try monitor.locked { () throws(LogError) in
            try waitForRoom(counts, untilNs: nowNs + waitNs)
            for (topic, count) in counts {
                var figures = produced[topic] ?? KafkaCounters.Produced()
                figures.queued += count
                figures.queuedMost = max(figures.queuedMost, figures.queued)
                produced[topic] = figures
                queuedTotal += count
            }
            let wasEmpty = pending.isEmpty
            for block in blocks {
                let flight = Flight(block, ticket, nowNs)
                flightCount += 1
                flight.number = flightCount
                pending.append(flight)
                pendingRecords += block.recordCount
            }
            if wasEmpty { client.wake() }
        }
        return ticket
    }

    /// With the lock held.
    private func waitForRoom(_ counts: [(topic: Topic, count: Int)], untilNs: Int64) throws(LogError) {
        while true {
            if let stopped { throw stopped }
            if isClosing { throw LogError(.closed, "the log is closed") }
            let full = counts.first { topic, count in
                (produced[topic]?.queued ?? 0) + count > configuration.queuedMax(topic)
            }
            guard let full else {
                fullSinceNs = nil
                return
            }
            if fullSinceNs == nil { fullSinceNs = time.monotonicNs() }
            let leftNs = untilNs - time.monotonicNs()
            guard leftNs > 0 else {
                produced[full.topic]?.full += 1
                let problem = client.handle.context.problem.withLock { $0 }
                let cause = problem.isEmpty ? "" : " (the latest problem: \(problem))"
                throw LogError(
                    .unavailable,
                    "the queue of \(full.topic) is full: \(produced[full.topic]?.queued ?? 0) records wait for the "
                        + "brokers \(configuration.brokers)\(cause)", retryable: true)
            }
            _ = monitor.wait(ns: leftNs)
        }
    }

    /// Waits until the broker has all of it, or has not within the deadline; or somebody says that it is over.
    /// *Blocking.*
    func wait(for ticket: Ticket, isOver: () -> Bool = { false }) throws(LogError) {
        try monitor.locked { () throws(LogError) in
            while ticket.blocksLeft > 0, stopped == nil {
                if isOver() { throw LogError(.closed, "the log is closed") }
                _ = monitor.wait(ns: 100_000_000)
            }
            if let failure = ticket.failure ?? (ticket.blocksLeft > 0 ? stopped : nil) { throw failure }
        }
    }

    /// Waits until nothing is queued any more. Throws where records failed that nobody waited for. *Blocking.*
    func flush(timeoutNs: Int64) throws(LogError) {
        let untilNs = time.monotonicNs() + timeoutNs
        try monitor.locked { () throws(LogError) in
            isFlushing = true
            client.wake()
            defer { isFlushing = false }
            while queuedTotal > 0, stopped == nil {
                let leftNs = untilNs - time.monotonicNs()
                guard leftNs > 0 else {
                    throw LogError(
                        .unavailable,
                        "\(queuedTotal) records are not acknowledged by the brokers \(configuration.brokers)",
                        retryable: true)
                }
                _ = monitor.wait(ns: leftNs)
            }
            if let stopped { throw stopped }
        }
    }

    /// How long the queue has been full for those who append.
    var fullNs: Int64 { monitor.locked { fullSinceNs.map { time.monotonicNs() - $0 } ?? 0 } }

    /// Gives back what the brokers have not acknowledged, in the order in which it was appended, and forgets it. What
    /// is on its way may arrive all the same. Nobody may append meanwhile. *Blocking.*
    func takeBack() -> [Block] {
        monitor.locked {
            takenBack = pending.map { ($0.number, $0.block) }
            for flight in pending { forget(flight) }
            pending = []
            pendingRecords = 0
        }
        return monitor.locked {
            let untilNs = time.monotonicNs() + KafkaProducer.takeBackNsMax
            while queuedTotal > 0, time.monotonicNs() < untilNs {
                // Again and again: the thread may have been about to hand some over.
                client.purge()
                _ = monitor.wait(ns: 50_000_000)
            }
            isRenewing = queuedTotal == 0
            client.wake()
            while isRenewing, !isClosing { _ = monitor.wait(ns: 50_000_000) }
            defer {
                takenBack = nil
                fullSinceNs = nil
                monitor.wakeAll()
            }
            return (takenBack ?? []).sorted { $0.number < $1.number }.map(\.block)
        }
    }

    /// With the lock held.
    private func forget(_ flight: Flight) {
        produced[flight.block.topicPartition.topic]?.queued -= flight.block.recordCount
        queuedTotal -= flight.block.recordCount
        flight.ticket.blocksLeft -= 1
    }

    private static let takeBackNsMax: Int64 = 10_000_000_000

    var failure: LogError? { monitor.locked { stopped } }

    func add(to counters: inout KafkaCounters) {
        let figures = monitor.locked { produced }
        counters.produced.merge(figures) { $1 }
    }

    /// Ends the thread once what is queued is sent, or the time is over, and lets the client go.
    func close(timeoutNs: Int64) throws(LogError) {
        var failure: LogError?
        do throws(LogError) { try flush(timeoutNs: timeoutNs) } catch { failure = error }
        monitor.locked {
            isClosing = true
            monitor.wakeAll()
            client.wake()
        }
        thread?.join()
        thread = nil
        // What was not delivered is given back, so that its blocks are let go.
        client.purge()
        for _ in 0..<50 where rd_kafka_outq_len(client.handle.rk) > 0 {
            if let event = rd_kafka_queue_poll(client.queue, 100) { serve(event) }
        }
        client.destroy()
        if let failure { throw failure }
    }

    // MARK: The thread

    /// A client whose records were purged on their way to the brokers is out of step with them: once they answer again,
    /// librdkafka gives up with a fatal error (a sequence that is not the next). A new one takes its place.
    private func renew() {
        do throws(LogError) {
            let made = try ProducerClient(configuration, notify)
            let old = client
            monitor.locked {
                client = made
                stopped = nil
                isRenewing = false
                monitor.wakeAll()
            }
            old.destroy()
        } catch {
            report("the client is not replaced: \(error.message)")
            monitor.locked {
                isRenewing = false
                monitor.wakeAll()
            }
        }
    }

    private func run() {
        while true {
            if monitor.locked({ isRenewing }) { renew() }
            let nowNs = time.monotonicNs()
            let (batch, isOver, waitNs) = monitor.locked { () -> ([Flight], Bool, Int64) in
                guard !pending.isEmpty else { return ([], isClosing, 100_000_000) }
                let waitNs = isFlushing || isClosing ? 0 : linger.waitNs(nowNs: nowNs, pending: pendingRecords)
                guard waitNs <= 0 else { return ([], false, waitNs) }
                defer {
                    pending = []
                    pendingRecords = 0
                }
                return (pending, false, 0)
            }
            if isOver { return }
            if !batch.isEmpty {
                linger.sent(nowNs: nowNs, partitions: send(batch))
                continue
            }
            // Milliseconds are the library's grain: shorter waits are slept here, with events served between.
            if waitNs < 1_000_000 {
                time.sleep(ns: waitNs)
                if let event = rd_kafka_queue_poll(client.queue, 0) { serve(event) }
            } else if let event = rd_kafka_queue_poll(client.queue, Int32(clamping: waitNs / 1_000_000)) {
                serve(event)
                while let more = rd_kafka_queue_poll(client.queue, 0) { serve(more) }
            }
        }
    }

    /// Returns how many partitions it went to. The blocks of a partition go together, in their order: what a call costs
    /// the client, and each request the brokers, is divided by the records in it.
    private func send(_ batch: [Flight]) -> Int {
        var runs: [(place: TopicPartition, flights: [Flight])] = []
        var numbers: [TopicPartition: Int] = [:]
        for flight in batch {
            let place = flight.block.topicPartition
            if let number = numbers[place] {
                runs[number].flights.append(flight)
            } else {
                numbers[place] = runs.count
                runs.append((place, [flight]))
            }
        }
        for (place, flights) in runs {
            do throws(LogError) {
                try send(flights, to: place)
            } catch {
                for flight in flights {
                    monitor.locked { flight.ticket.failure = error }
                    flight.failed = flight.left
                    flight.failureCode = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                }
                finish(flights)
            }
        }
        return runs.count
    }

    private func send(_ flights: [Flight], to place: TopicPartition) throws(LogError) {
        let producer = configuration.producer
        let deadlineNs =
            durability == .ticks && !place.topic.isDeadLetter ? producer.ticksDeadlineNs : producer.othersDeadlineNs
        let topic = try client.handle.topic(configuration.name(of: place.topic), deadlineMs: deadlineNs / 1_000_000)
        keys.clear()
        var count = 0
        for flight in flights {
            keys.append(flight.block)
            count += flight.block.recordCount
        }
        if messages.count < count { messages = [rd_kafka_message_t](repeating: rd_kafka_message_t(), count: count) }
        messages.withUnsafeMutableBufferPointer { messages in
            keys.withKeys { bytes, ranges in
                var number = 0
                var firstKey = 0
                for flight in flights {
                    let block = flight.block
                    let raw = Unmanaged.passRetained(flight).toOpaque()
                    for index in 0..<block.recordCount {
                        let payload = block.payload(index)
                        let range = ranges[firstKey + block.track(of: index)]
                        messages[number].payload = UnsafeMutableRawPointer(mutating: payload.baseAddress)
                        messages[number].len = payload.count
                        messages[number].key = bytes.baseAddress.map { $0 + range.lowerBound }
                        messages[number].key_len = range.count
                        messages[number]._private = raw
                        messages[number].err = RD_KAFKA_RESP_ERR_NO_ERROR
                        number += 1
                    }
                    firstKey += block.trackCount
                }
                // Payloads are borrowed from the blocks; keys are copied by the library.
                let taken = rd_kafka_produce_batch(
                    topic, Int32(place.partition), 0, messages.baseAddress, Int32(clamping: count))
                if Int(taken) < count { refuse(flights, UnsafeMutableBufferPointer(rebasing: messages[..<count])) }
            }
        }
    }

    /// What the library did not take of blocks that were handed over together.
    private func refuse(_ flights: [Flight], _ messages: UnsafeMutableBufferPointer<rd_kafka_message_t>) {
        var first = 0
        var finished: [Flight] = []
        for flight in flights {
            for index in 0..<flight.block.recordCount {
                let code = messages[first + index].err
                guard code != RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
                flight.fail(index, code)
                flight.left -= 1
            }
            first += flight.block.recordCount
            guard flight.left == 0 else { continue }
            Unmanaged.passUnretained(flight).release()
            finished.append(flight)
        }
        finish(finished)
    }

    private func serve(_ event: OpaquePointer) {
        defer { rd_kafka_event_destroy(event) }
        switch rd_kafka_event_type(event) {
        case RD_KAFKA_EVENT_DR: serveDeliveries(event)
        case RD_KAFKA_EVENT_ERROR where rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__FATAL:
            let error = client.handle.fail("producing", RD_KAFKA_RESP_ERR__FATAL)
            monitor.locked {
                stopped = error
                monitor.wakeAll()
            }
            report(error.message)
        default: break
        }
    }

    private func serveDeliveries(_ event: OpaquePointer) {
        withUnsafeTemporaryAllocation(
            of: UnsafePointer<rd_kafka_message_t>?.self, capacity: KafkaProducer.eventMessagesMax
        ) { buffer in
            while true {
                let count = rd_kafka_event_message_array(event, buffer.baseAddress, buffer.count)
                guard count > 0 else { break }
                serveDeliveries(buffer, count)
            }
        }
        finish(finished)
        finished.removeAll(keepingCapacity: true)
    }

    /// Records of a block come together: each run of them costs one look.
    private func serveDeliveries(
        _ messages: UnsafeMutableBufferPointer<UnsafePointer<rd_kafka_message_t>?>, _ count: Int
    ) {
        var index = 0
        while index < count {
            guard let first = messages[index], let raw = first.pointee._private else {
                index += 1
                continue
            }
            let flight = Unmanaged<Flight>.fromOpaque(raw).takeUnretainedValue()
            var run = 0
            var delivered = 0
            while index < count, let message = messages[index], message.pointee._private == raw {
                if message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR {
                    delivered += 1
                } else {
                    flight.fail(record(of: message, in: flight.block), message.pointee.err)
                }
                run += 1
                index += 1
            }
            flight.left -= run
            if flight.left == 0 {
                Unmanaged<Flight>.fromOpaque(raw).release()
                finished.append(flight)
            }
        }
    }

    /// Which record of the block a message was.
    private func record(of message: UnsafePointer<rd_kafka_message_t>, in block: Block) -> Int {
        guard let payload = message.pointee.payload, let base = block.records.baseAddress else { return 0 }
        return min(block.recordsEnded(by: max(UnsafeRawPointer(payload) - base, 0)), block.recordCount - 1)
    }

    /// All records of these blocks are acknowledged or given up. Many at once: whoever waits is woken once.
    private func finish(_ flights: [Flight]) {
        guard !flights.isEmpty else { return }
        let nowNs = time.monotonicNs()
        var errors: [Int: LogError] = [:]
        var isTaken: Set<Int> = []
        for (index, flight) in flights.enumerated() where flight.failed > 0 {
            if isTakenBack(flight) { isTaken.insert(index) } else { errors[index] = failure(of: flight) }
        }
        monitor.locked {
            for (index, flight) in flights.enumerated() where isTaken.isEmpty || !isTaken.contains(index) {
                let topic = flight.block.topicPartition.topic
                KafkaProducer.count(flight, nowNs, &produced[topic, default: KafkaCounters.Produced()])
                queuedTotal -= flight.block.recordCount
                flight.ticket.blocksLeft -= 1
                if flight.failed > 0, flight.ticket.failure == nil { flight.ticket.failure = errors[index] }
            }
            monitor.wakeAll()
        }
        for (_, error) in errors.sorted(by: { $0.key < $1.key }) { report(error.message) }
    }

    private static func count(_ flight: Flight, _ nowNs: Int64, _ figures: inout KafkaCounters.Produced) {
        figures.queued -= flight.block.recordCount
        figures.acknowledged += UInt64(flight.block.recordCount - flight.failed)
        figures.failed += UInt64(flight.failed)
        guard flight.failed == 0 else { return }
        let latencyNs = max(nowNs - flight.startedNs, 0)
        figures.latencyNsSum += UInt64(latencyNs)
        figures.latencyNsMost = max(figures.latencyNsMost, latencyNs)
        let bucket =
            KafkaCounters.latencyBoundsNs.firstIndex { latencyNs <= $0 } ?? KafkaCounters.latencyBoundsNs.count
        figures.latencyCounts[bucket] += 1
    }

    /// Whether it was purged to be taken back. Of a block's records the brokers may have the first.
    private func isTakenBack(_ flight: Flight) -> Bool {
        guard [RD_KAFKA_RESP_ERR__PURGE_QUEUE, RD_KAFKA_RESP_ERR__PURGE_INFLIGHT].contains(flight.failureCode) else {
            return false
        }
        return monitor.locked {
            guard takenBack != nil else { return false }
            let first = flight.firstFailed ?? 0
            takenBack?.append((flight.number, first == 0 ? flight.block : flight.block.suffix(from: first)))
            produced[flight.block.topicPartition.topic]?.acknowledged += UInt64(
                flight.block.recordCount - flight.failed)
            forget(flight)
            monitor.wakeAll()
            return true
        }
    }

    /// Names what is lost.
    private func failure(of flight: Flight) -> LogError {
        let block = flight.block
        let first = flight.firstFailed ?? 0
        let track = block.track(of: first)
        let what =
            "\(flight.failed) of \(block.recordCount) records of \(block.topicPartition) are not in the log, from "
            + "\(block.exchange(track: track))|\(block.symbol(track: track)) \(block.sequence(of: first)) to "
            + "\(block.symbol(track: block.track(of: flight.lastFailed))) \(block.sequence(of: flight.lastFailed))"
        return client.handle.fail(what, flight.failureCode)
    }
}
