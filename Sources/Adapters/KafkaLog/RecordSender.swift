import EventLog
import EventLoop
import KafkaClient
import KafkaFrames

/// Sends what a ``ProduceMachine`` has to the brokers that lead it: a request has a batch for every partition that has
/// something, and while one is on its way what comes is gathered for the next. Confined to its loop.
final class RecordSender {
    /// Requests on their way to one broker: a second one where so many records wait.
    private static let requestsMax = 4
    private static let waitingLeast = 4096
    private static let idRetryMs: UInt64 = 100
    private static let answerMs = 30_000

    let machine: ProduceMachine
    let brokers: KafkaBrokers
    /// Called before it looks for what to send: adds to the machine what waits elsewhere.
    var gather: () -> Void = {}
    /// Called after something was acknowledged or given up.
    var settled: () -> Void = {}
    /// Told when it waits for more to go together, and looks again by itself; and when that is over.
    var lingers: (Bool) -> Void = { _ in }
    /// Called when the brokers refuse this producer for good.
    var refused: (KafkaError) -> Void = { _ in }
    private let loop: any Loop
    private let name: (Topic) -> String
    private let clock: () -> (monotonicNs: Int64, wallMs: Int64)
    private var linger: Linger
    private var lingerEnd: (any LoopAlarm)?
    private var isLingering = false
    private var requests: [Int32: Int] = [:]
    private var isAskingForID = false
    private var askedAt: UInt64 = 0
    private var encoder = RecordBatchEncoder()
    private var keys = RecordKeys()

    /// `name`: of a topic on the brokers.
    init(
        _ machine: ProduceMachine, _ brokers: KafkaBrokers, linger: Linger, name: @escaping (Topic) -> String,
        clock: @escaping () -> (monotonicNs: Int64, wallMs: Int64)
    ) {
        self.machine = machine
        self.brokers = brokers
        self.linger = linger
        self.name = name
        self.clock = clock
        loop = brokers.loop
        brokers.changed = { [weak self] in
            self?.learnLeaders()
            self?.send()
        }
    }

    /// Looks for what is late: leaders, answers, records past their deadline.
    func tick() {
        brokers.tick()
        machine.expire(nowNs: clock().monotonicNs)
        settled()
        send()
    }

    func close() {
        endLingering()
        lingerEnd?.close()
        lingerEnd = nil
        brokers.close()
    }

    private func learnLeaders() {
        machine.lead { [brokers, name] place in
            let topic = name(place.topic)
            brokers.want(topic)
            return brokers.leader(topic, Int32(place.partition))
        }
    }

    /// Sends what can go now, or soon.
    func send() {
        gather()
        guard machine.waitingCount > 0 else { return }
        if machine.hasNewLanes {
            learnLeaders()
            brokers.tick()
        }
        askForID()
        let waitNs = linger.waitNs(
            nowNs: clock().monotonicNs, pending: machine.waitingCount, partitions: machine.partitionCount)
        guard waitNs <= 0 else { return sendLater(waitNs) }
        for node in machine.leaders {
            while mayHaveOneMore(node), let connection = brokers.connection(to: node) {
                let (nowNs, wallMs) = clock()
                let batches = machine.next(for: node, nowNs: nowNs, wallMs: wallMs)
                guard !batches.isEmpty else { break }
                send(batches, to: node, connection)
                linger.sent(nowNs: nowNs)
            }
        }
    }

    private func sendLater(_ ns: Int64) {
        guard !isLingering else { return }
        isLingering = true
        lingers(true)
        let alarm =
            lingerEnd
            ?? loop.makeAlarm { [weak self] in
                self?.endLingering()
                self?.send()
            }
        lingerEnd = alarm
        alarm.set(afterNs: ns)
    }

    private func endLingering() {
        guard isLingering else { return }
        isLingering = false
        lingers(false)
    }

    private func mayHaveOneMore(_ node: Int32) -> Bool {
        let count = requests[node] ?? 0
        return count == 0 || count < RecordSender.requestsMax && machine.waitingCount >= RecordSender.waitingLeast
    }

    private func askForID() {
        let now = loop.nowMilliseconds
        guard machine.needsProducer, !isAskingForID, now &- askedAt >= RecordSender.idRetryMs,
            let connection = brokers.anyConnection()
        else { return }
        isAskingForID = true
        askedAt = now
        connection.send(.initProducerID, milliseconds: RecordSender.answerMs, { KafkaRequest.initProducerID($0) }) {
            [weak self] result in
            guard let self else { return }
            self.isAskingForID = false
            guard case .success(let bytes) = result else { return }
            var reader = KafkaReader(bytes)
            do throws(KafkaFormatError) {
                let (error, id) = try KafkaProducerID.read(&reader)
                guard error == .none else { return error.isRetriable ? () : self.refused(error) }
                self.machine.take(producer: id)
                self.send()
            } catch {
                connection.refuse(.initProducerID, error)
            }
        }
    }

    private func send(_ batches: [ProduceMachine.Batch], to node: Int32, _ connection: KafkaConnection) {
        requests[node, default: 0] += 1
        // Those of a topic together, in the order in which it comes first.
        var topics: [(topic: Topic, batches: [ProduceMachine.Batch])] = []
        for batch in batches {
            let topic = batch.lane.place.topic
            if let at = topics.firstIndex(where: { $0.topic == topic }) {
                topics[at].batches.append(batch)
            } else {
                topics.append((topic, [batch]))
            }
        }
        connection.send(
            .produce, milliseconds: RecordSender.answerMs,
            { buffer in
                KafkaRequest.produce(
                    buffer, timeoutMs: Int32(RecordSender.answerMs),
                    topics: topics.map { (name($0.topic), $0.batches.count) }
                ) { for batch in topics[$0].batches { write(batch, buffer) } }
            },
            answered: { [weak self] in
                self?.answered(topics.flatMap(\.batches), from: node, connection, $0)
            })
    }

    private func write(_ batch: ProduceMachine.Batch, _ buffer: KafkaBuffer) {
        let start = KafkaRequest.beginPartition(buffer, Int32(batch.lane.place.partition))
        encoder.begin()
        for part in batch.parts {
            let block = part.flight.block
            keys.clear()
            keys.append(block)
            keys.withKeys { bytes, ranges in
                for record in part.records {
                    encoder.add(
                        key: UnsafeRawBufferPointer(rebasing: bytes[ranges[block.track(of: record)]]),
                        value: block.payload(record))
                }
            }
        }
        encoder.end(
            into: buffer, timestampMs: batch.timestampMs, producer: batch.producer, sequence: batch.sequence ?? 0)
        KafkaRequest.endPartition(buffer, at: start)
    }

    private func answered(
        _ batches: [ProduceMachine.Batch], from node: Int32, _ connection: KafkaConnection,
        _ result: Result<UnsafeRawBufferPointer, KafkaFailure>
    ) {
        requests[node, default: 1] -= 1
        var produced: KafkaProduced?
        if case .success(let bytes) = result {
            var reader = KafkaReader(bytes)
            do throws(KafkaFormatError) {
                produced = try KafkaProduced(&reader)
            } catch {
                connection.refuse(.produce, error)
            }
        } else {
            brokers.distrust()
        }
        let nowNs = clock().monotonicNs
        for (index, batch) in batches.enumerated() {
            if let error = RecordSender.answer(produced, index, name(batch.lane.place.topic), batch) {
                if machine.answered(batch, error, nowNs: nowNs) { brokers.distrust() }
            } else {
                machine.lost(batch, nowNs: nowNs)
            }
        }
        settled()
        send()
    }

    /// What an answer says of a batch: most have the order of their request.
    private static func answer(
        _ produced: KafkaProduced?, _ index: Int, _ topic: String, _ batch: ProduceMachine.Batch
    ) -> KafkaError? {
        guard let partitions = produced?.partitions else { return nil }
        func isOf(_ answer: KafkaProduced.Partition) -> Bool {
            answer.index == Int32(batch.lane.place.partition) && answer.topic == topic
        }
        if index < partitions.count, isOf(partitions[index]) { return partitions[index].error }
        return partitions.first(where: isOf)?.error
    }
}
