import EventLog
import KafkaFrames

/// What goes to which partition, in which order and under which sequences; without I/O, on one thread.
///
/// Each partition is a lane: batches go out in their order, several at once where there is much, and stay until they
/// are acknowledged. One that has to go again goes with all behind it, once those on their way came back, under the
/// sequence that it had: a broker that has it already says so. A batch that is given up leaves a hole in the
/// sequences, and the lane goes on under another producer id.
final class ProduceMachine {
    typealias Flight = KafkaProducer.Flight

    /// Records of one block.
    struct Part {
        let flight: Flight
        let records: Range<Int>
    }

    final class Batch {
        fileprivate enum State { case waiting, sent, done, givenUp }

        let lane: Lane
        private(set) var parts: [Part] = []
        private(set) var recordCount = 0
        private(set) var byteCount = 0
        /// When its oldest record was appended.
        let startedNs: Int64
        /// The records' time: when the oldest of them was appended, milliseconds since the epoch.
        let timestampMs: Int64
        /// Given when it goes out first.
        fileprivate(set) var sequence: Int32?
        fileprivate(set) var producer = KafkaProducerID(id: -1, epoch: -1)
        fileprivate var state = State.waiting
        /// A broker may have it, though none said so.
        fileprivate var mayBeStored = false

        fileprivate init(_ lane: Lane, startedNs: Int64, timestampMs: Int64) {
            self.lane = lane
            self.startedNs = startedNs
            self.timestampMs = timestampMs
        }

        fileprivate func add(_ part: Part, bytes: Int) {
            parts.append(part)
            recordCount += part.records.count
            byteCount += bytes
        }
    }

    /// A partition's way.
    final class Lane {
        let place: TopicPartition
        /// Not acknowledged, in order; those at the front are on their way.
        fileprivate var batches: [Batch] = []
        /// Blocks that are in no batch yet, the first of them from `firstRecord` on.
        fileprivate var flights: [Flight] = []
        fileprivate var head = 0
        fileprivate var firstRecord = 0
        fileprivate var producer: KafkaProducerID?
        fileprivate var sequence: Int32 = 0
        /// On their way, given up or not.
        fileprivate var sentCount = 0
        /// Where those went.
        fileprivate var node: Int32 = -1
        /// Who leads it now.
        fileprivate var leader: Int32?
        /// Something has to go again when all have come back.
        fileprivate var isReturning = false
        /// The producer id is of no use here any more.
        fileprivate var needsProducer = false
        fileprivate var notBeforeNs = Int64.min

        fileprivate init(_ place: TopicPartition) { self.place = place }

        fileprivate var isIdle: Bool { batches.isEmpty && head == flights.count }
    }

    /// Bytes of records in one batch, before compression: brokers refuse more than a mebibyte unless told otherwise.
    static let batchBytesMax = 900_000
    /// Bytes in one request.
    static let requestBytesMax = 8 << 20
    private static let retryNs: Int64 = 50_000_000

    private let recordsMax: Int
    private let deadlineNs: (TopicPartition) -> Int64
    private var lanes: [TopicPartition: Lane] = [:]
    /// That records went to so far.
    var partitionCount: Int { lanes.count }
    private var order: [Lane] = []
    /// Partitions whose leader was not asked for yet.
    private(set) var hasNewLanes = false
    /// The brokers that lead what is sent to.
    private(set) var leaders: [Int32] = []
    private var producer: KafkaProducerID?
    /// Records that are not on their way.
    private(set) var waitingCount = 0
    /// Blocks whose records are all acknowledged or given up, until they are taken.
    private var finished: [Flight] = []

    /// `deadlineNs`: how long a record may take to be acknowledged, 0 for ever.
    init(recordsMax: Int, deadlineNs: @escaping (TopicPartition) -> Int64) {
        self.recordsMax = max(recordsMax, 1)
        self.deadlineNs = deadlineNs
    }

    /// Whether something waits for a producer id that this machine does not have.
    var needsProducer: Bool { producer == nil || order.contains { $0.needsProducer && $0.producer == producer } }

    func take(producer: KafkaProducerID) { self.producer = producer }

    func add(_ flight: Flight) {
        let place = flight.block.topicPartition
        let lane: Lane
        if let known = lanes[place] {
            lane = known
        } else {
            lane = Lane(place)
            lanes[place] = lane
            order.append(lane)
            hasNewLanes = true
        }
        lane.flights.append(flight)
        waitingCount += flight.block.recordCount
    }

    /// Who leads each partition now; nil where nobody is known to.
    func lead(by leader: (TopicPartition) -> Int32?) {
        for lane in order { lane.leader = leader(lane.place) }
        leaders = Set(order.compactMap(\.leader)).sorted()
        hasNewLanes = false
    }

    func takeFinished() -> [Flight] {
        defer { finished.removeAll(keepingCapacity: true) }
        return finished
    }

    // MARK: Out

    /// The next batch of each partition that `node` leads, together one request; empty where there is none.
    func next(for node: Int32, nowNs: Int64, wallMs: Int64) -> [Batch] {
        guard let producer else { return [] }
        var request: [Batch] = []
        var bytes = 0
        for lane in order where !lane.isIdle && bytes < ProduceMachine.requestBytesMax {
            guard lane.leader == node, lane.sentCount == 0 || lane.node == node, lane.notBeforeNs <= nowNs else {
                continue
            }
            if lane.needsProducer { begin(lane, producer) }
            if lane.isReturning, lane.sentCount == 0 { lane.isReturning = false }
            guard !lane.isReturning, !lane.needsProducer, let batch = nextBatch(lane, nowNs, wallMs) else { continue }
            if batch.sequence == nil {
                if lane.producer == nil { lane.producer = producer }
                batch.sequence = lane.sequence
                batch.producer = lane.producer ?? producer
                lane.sequence = RecordBatchEncoder.sequence(lane.sequence, after: batch.recordCount)
            }
            batch.state = .sent
            lane.sentCount += 1
            lane.node = node
            waitingCount -= batch.recordCount
            bytes += batch.byteCount
            request.append(batch)
        }
        return request
    }

    /// Under another producer id the sequences begin anew.
    private func begin(_ lane: Lane, _ producer: KafkaProducerID) {
        guard lane.sentCount == 0, lane.producer != producer else { return }
        lane.needsProducer = false
        lane.isReturning = false
        lane.producer = producer
        lane.sequence = 0
        for batch in lane.batches { batch.sequence = nil }
    }

    private func nextBatch(_ lane: Lane, _ nowNs: Int64, _ wallMs: Int64) -> Batch? {
        if let waiting = lane.batches.first(where: { $0.state == .waiting }) { return waiting }
        guard lane.head < lane.flights.count else { return nil }
        let startedNs = lane.flights[lane.head].startedNs
        let batch = Batch(lane, startedNs: startedNs, timestampMs: wallMs - max(nowNs - startedNs, 0) / 1_000_000)
        while lane.head < lane.flights.count, batch.recordCount < recordsMax {
            let flight = lane.flights[lane.head]
            let block = flight.block
            let first = lane.firstRecord
            var end = min(block.recordCount, first + recordsMax - batch.recordCount)
            let start = block.frameRange(first).lowerBound
            let room = ProduceMachine.batchBytesMax - batch.byteCount
            while end > first, block.frameRange(end - 1).upperBound - start > room {
                // One that is too long for any batch goes alone.
                if end - first == 1, batch.recordCount == 0 { break }
                end -= 1
            }
            guard end > first else { break }
            batch.add(
                Part(flight: flight, records: first..<end), bytes: block.frameRange(end - 1).upperBound - start)
            if end < block.recordCount {
                lane.firstRecord = end
                break
            }
            lane.head += 1
            lane.firstRecord = 0
        }
        trim(lane)
        lane.batches.append(batch)
        return batch
    }

    private func trim(_ lane: Lane) {
        if lane.head == lane.flights.count {
            lane.flights.removeAll(keepingCapacity: lane.head <= 1024)
            lane.head = 0
        } else if lane.head > 1024 {
            lane.flights.removeFirst(lane.head)
            lane.head = 0
        }
    }

    // MARK: Back

    /// What a broker says of a batch. Whether leaders have to be learned anew.
    func answered(_ batch: Batch, _ error: KafkaError, nowNs: Int64) -> Bool {
        let lane = batch.lane
        lane.sentCount -= 1
        guard batch.state == .sent else {
            dropDone(lane)
            return false
        }
        if error == .none || error == .duplicateSequence {
            batch.state = .done
            for part in batch.parts { settle(part, failed: nil) }
            dropDone(lane)
            return false
        }
        batch.state = .waiting
        if error.mayBeStored { batch.mayBeStored = true }
        waitingCount += batch.recordCount
        let isFirst = lane.batches.first(where: { $0.state != .done }) === batch
        if error.isRetriable {
            sendAgain(lane, nowNs)
        } else if error == .outOfOrderSequence, lane.isReturning || !isFirst {
            // One before it did not arrive.
            sendAgain(lane, nowNs)
        } else if [.outOfOrderSequence, .unknownProducerID, .invalidProducerEpoch].contains(error) {
            lane.needsProducer = true
            sendAgain(lane, nowNs)
        } else {
            giveUp(batch, error.code)
        }
        return error.isOfLeadership
    }

    /// No answer comes any more: the broker may have the batch or not.
    func lost(_ batch: Batch, nowNs: Int64) {
        let lane = batch.lane
        lane.sentCount -= 1
        guard batch.state == .sent else { return dropDone(lane) }
        batch.state = .waiting
        batch.mayBeStored = true
        waitingCount += batch.recordCount
        sendAgain(lane, nowNs)
    }

    private func sendAgain(_ lane: Lane, _ nowNs: Int64) {
        lane.isReturning = true
        lane.notBeforeNs = nowNs + ProduceMachine.retryNs
    }

    /// Gives up what is past its deadline.
    func expire(nowNs: Int64) {
        for lane in order where !lane.isIdle {
            let deadlineNs = deadlineNs(lane.place)
            guard deadlineNs > 0 else { continue }
            let bornBefore = nowNs - deadlineNs
            while let batch = lane.batches.first, batch.state != .done, batch.startedNs <= bornBefore {
                giveUp(batch, ProduceMachine.timedOut)
                dropDone(lane)
            }
            guard lane.batches.isEmpty else { continue }
            while lane.head < lane.flights.count, lane.flights[lane.head].startedNs <= bornBefore {
                let flight = lane.flights[lane.head]
                waitingCount -= flight.block.recordCount - lane.firstRecord
                settle(
                    Part(flight: flight, records: lane.firstRecord..<flight.block.recordCount),
                    failed: ProduceMachine.timedOut)
                lane.head += 1
                lane.firstRecord = 0
            }
            trim(lane)
        }
    }

    /// As a code of the protocol: nothing came within the deadline. No broker says so.
    static let timedOut: Int16 = -192

    private func giveUp(_ batch: Batch, _ code: Int16) {
        let lane = batch.lane
        let mayBeStored = batch.mayBeStored || batch.state == .sent && code == ProduceMachine.timedOut
        if batch.state == .waiting { waitingCount -= batch.recordCount }
        if batch.sequence != nil { lane.needsProducer = true }
        batch.state = .givenUp
        for part in batch.parts { settle(part, failed: code, mayBeStored: mayBeStored) }
        lane.batches.removeAll { $0 === batch }
    }

    private func dropDone(_ lane: Lane) {
        while let first = lane.batches.first, first.state == .done { lane.batches.removeFirst() }
    }

    private func settle(_ part: Part, failed code: Int16?, mayBeStored: Bool = false) {
        let flight = part.flight
        if let code { for record in part.records { flight.fail(record, code) } }
        if mayBeStored { flight.mayBeStored = true }
        flight.left -= part.records.count
        if flight.left == 0 { finished.append(flight) }
    }

    /// Forgets all that is not acknowledged: each block with the first of its records that is not. What is on its way
    /// may arrive all the same.
    func takeBack() -> [(flight: Flight, firstRecord: Int)] {
        var taken: [(flight: Flight, firstRecord: Int)] = []
        for lane in order {
            let batches = lane.batches.filter { $0.state != .done }
            for batch in batches {
                if batch.sequence != nil { lane.needsProducer = true }
                batch.state = .givenUp
                for part in batch.parts where taken.last?.flight !== part.flight {
                    taken.append((part.flight, part.records.lowerBound))
                }
            }
            lane.batches = []
            for index in lane.head..<lane.flights.count where taken.last?.flight !== lane.flights[index] {
                taken.append((lane.flights[index], index == lane.head ? lane.firstRecord : 0))
            }
            lane.flights = []
            lane.head = 0
            lane.firstRecord = 0
        }
        waitingCount = 0
        return taken
    }
}
