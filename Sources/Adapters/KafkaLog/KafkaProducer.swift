import EventLog
import EventLoop
import KafkaClient
import KafkaFrames
import TimeSource

/// Sends blocks as records, one each, and hears of their acknowledgement. A loop of its own has the connections:
/// callers put blocks into a bounded queue and, where they have to know, wait for a ticket.
///
/// It speaks to the brokers itself: a request has a batch for every partition that has something, where librdkafka
/// sends one for each partition (its issue 1700), and while one is on its way what comes is gathered for the next.
/// Blocks are kept and not copied until the brokers have them.
final class KafkaProducer: @unchecked Sendable {
    private static let tickMs = 50

    private let configuration: KafkaConfiguration
    private let durability: DurabilityClass
    private let time: any TimeSource
    private let notify: KafkaReport
    private let monitor = Monitor()
    // Guarded by `monitor`.
    private var pending: [Flight] = []
    private var pendingCount = 0
    private var produced: [Topic: KafkaCounters.Produced] = [:]
    private var queuedTotal = 0
    private var isClosing = false
    private var isClosed = false
    private var flightCount: UInt64 = 0
    /// The loop looks for what is pending by itself, soon.
    private var isLingering = false
    /// Since when an append finds no room; nil while there is some.
    private var fullSinceNs: Int64?
    /// The latest thing that went wrong with the brokers.
    private var problem: KafkaFailure?
    // The loop's own.
    private let loop: EventLoop
    private let sender: RecordSender
    private var waker: Waker?
    private var timer: (any LoopTimer)?

    init(
        _ durability: DurabilityClass, _ configuration: KafkaConfiguration, time: any TimeSource,
        report: @escaping KafkaReport
    ) throws(LogError) {
        self.durability = durability
        self.configuration = configuration
        self.time = time
        notify = report
        let producer = configuration.producer
        let machine = ProduceMachine(recordsMax: producer.batchRecordsMax) { place in
            durability == .ticks && !place.topic.isDeadLetter ? producer.ticksDeadlineNs : producer.othersDeadlineNs
        }
        let transport = try KafkaSockets(configuration)
        loop = EventLoop(name: durability == .ticks ? "kafka-ticks" : "kafka-orders")
        let brokers = KafkaBrokers(
            KafkaAddress.list(configuration.brokers), options: configuration.clientOptions, transport: transport,
            loop: loop)
        // Orders are waited for one by one: what comes while one is on its way goes together all the same.
        let linger = Linger(durability == .ticks ? producer.lingerNsMax : 0, recordsMax: producer.batchRecordsMax)
        sender = RecordSender(machine, brokers, linger: linger, name: configuration.name(of:)) {
            (time.monotonicNs(), time.wallNs() / 1_000_000)
        }
        loop.runAndWait { [unowned self] loop in
            waker = loop.makeWaker { [unowned self] in sender.send() }
            timer = loop.repeatTimer(everyMilliseconds: KafkaProducer.tickMs) { [unowned self] in tick() }
            sender.gather = { [unowned self] in absorb() }
            sender.settled = { [unowned self] in finish(sender.machine.takeFinished()) }
            sender.lingers = { [unowned self] lingers in monitor.locked { isLingering = lingers } }
            sender.refused = { [unowned self] in refuse($0) }
        }
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
            let wasFew = pendingCount < configuration.producer.batchRecordsMax
            for block in blocks {
                let flight = Flight(block, ticket, nowNs)
                flightCount += 1
                flight.number = flightCount
                pending.append(flight)
                pendingCount += block.recordCount
            }
            let isMany = pendingCount >= configuration.producer.batchRecordsMax
            if isLingering ? wasFew && isMany : wasEmpty { waker?.wake() }
        }
        return ticket
    }

    /// With the lock held.
    private func waitForRoom(_ counts: [(topic: Topic, count: Int)], untilNs: Int64) throws(LogError) {
        while true {
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
                let cause = problem.map { " (the latest problem: \($0))" } ?? ""
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
            while ticket.blocksLeft > 0 {
                if isClosed || isOver() { throw LogError(.closed, "the log is closed") }
                _ = monitor.wait(ns: 100_000_000)
            }
            if let failure = ticket.failure { throw failure }
        }
    }

    /// Waits until nothing is queued any more. Throws where records failed that nobody waited for. *Blocking.*
    func flush(timeoutNs: Int64) throws(LogError) {
        let untilNs = time.monotonicNs() + timeoutNs
        try monitor.locked { () throws(LogError) in
            while queuedTotal > 0 {
                let leftNs = untilNs - time.monotonicNs()
                guard leftNs > 0 else {
                    throw LogError(
                        .unavailable,
                        "\(queuedTotal) records are not acknowledged by the brokers \(configuration.brokers)",
                        retryable: true)
                }
                _ = monitor.wait(ns: leftNs)
            }
        }
    }

    /// How long the queue has been full for those who append.
    var fullNs: Int64 { monitor.locked { fullSinceNs.map { time.monotonicNs() - $0 } ?? 0 } }

    /// Gives back what the brokers have not acknowledged, in the order in which it was appended, and forgets it. What
    /// is on its way may arrive all the same. Nobody may append meanwhile. *Blocking.*
    func takeBack() -> [Block] {
        loop.runAndWait { [self] _ in
            absorb()
            let taken = sender.machine.takeBack().sorted { $0.flight.number < $1.flight.number }
            return monitor.locked {
                for (flight, first) in taken {
                    let topic = flight.block.topicPartition.topic
                    produced[topic]?.queued -= flight.block.recordCount
                    produced[topic]?.acknowledged += UInt64(first)
                    queuedTotal -= flight.block.recordCount
                    flight.ticket.blocksLeft -= 1
                }
                fullSinceNs = nil
                monitor.wakeAll()
                return taken.map {
                    $0.firstRecord == 0 ? $0.flight.block : $0.flight.block.suffix(from: $0.firstRecord)
                }
            }
        }
    }

    func add(to counters: inout KafkaCounters) {
        let figures = monitor.locked { produced }
        counters.produced.merge(figures) { $1 }
    }

    /// Ends the loop once what is queued is sent, or the time is over.
    func close(timeoutNs: Int64) throws(LogError) {
        var failure: LogError?
        do throws(LogError) { try flush(timeoutNs: timeoutNs) } catch { failure = error }
        monitor.locked {
            isClosing = true
            monitor.wakeAll()
        }
        loop.runAndWait { [self] _ in
            timer?.cancel()
            timer = nil
            waker?.close()
            sender.close()
        }
        loop.stop()
        monitor.locked {
            isClosed = true
            monitor.wakeAll()
        }
        if let failure { throw failure }
    }

    // MARK: The loop

    private func absorb() {
        let flights = monitor.locked {
            defer {
                pending.removeAll(keepingCapacity: pending.capacity <= 4096)
                pendingCount = 0
            }
            return pending
        }
        for flight in flights { sender.machine.add(flight) }
    }

    private func tick() {
        sender.tick()
        let latest = sender.brokers.problem
        monitor.locked { problem = latest }
    }

    private func refuse(_ error: KafkaError) {
        let failure = errors.error("asking for a producer's id", code: Int32(error.code))
        monitor.locked { problem = KafkaFailure(.refused, failure.message) }
        report(failure.message)
    }

    private var errors: KafkaErrors {
        KafkaErrors(brokers: configuration.brokers, problem: monitor.locked { problem })
    }

    /// All records of these blocks are acknowledged or given up. Many at once: whoever waits is woken once.
    private func finish(_ flights: [Flight]) {
        guard !flights.isEmpty else { return }
        let nowNs = time.monotonicNs()
        var errors: [Int: LogError] = [:]
        for (index, flight) in flights.enumerated() where flight.failed > 0 { errors[index] = failure(of: flight) }
        monitor.locked {
            for (index, flight) in flights.enumerated() {
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
        figures.latency.add(latencyNs)
        figures.latencyNsMost = max(figures.latencyNsMost, latencyNs)
    }

    /// Names what is lost.
    private func failure(of flight: Flight) -> LogError {
        let block = flight.block
        let first = flight.firstFailed ?? 0
        let track = block.track(of: first)
        let what =
            "\(flight.failed) of \(block.recordCount) records of \(block.topicPartition) "
            + (flight.mayBeStored ? "may be in the log or not" : "are not in the log") + ", from "
            + "\(block.exchange(track: track))|\(block.symbol(track: track)) \(block.sequence(of: first)) to "
            + "\(block.symbol(track: block.track(of: flight.lastFailed))) \(block.sequence(of: flight.lastFailed))"
        let error = errors.error(what, code: Int32(flight.failureCode))
        return flight.mayBeStored ? LogError(.uncertain, error.message) : error
    }
}
