import KafkaClient

@testable import KafkaFrames

/// How a simulated broker answers who reads.
extension SimulatedBrokerConnection {
    func fetch(_ reader: inout KafkaReader, _ answer: KafkaBuffer) throws(KafkaFormatError) {
        guard try reader.integer(Int32.self) == -1 else { fatalError("a replica") }
        let waitMs = try reader.integer(Int32.self)
        try reader.skip(8)
        guard try reader.integer(UInt8.self) == 1 else { fatalError("not read_committed") }
        let id = try reader.integer(Int32.self)
        let epoch = try reader.integer(Int32.self)
        var named: [(SimulatedBrokers.Place, Int64)] = []
        for _ in 0..<(try reader.count(least: 6)) {
            let topic = try reader.string()
            for _ in 0..<(try reader.count(least: 28)) {
                let place = SimulatedBrokers.Place(topic: topic, partition: try reader.integer())
                try reader.skip(4)
                named.append((place, try reader.integer()))
                try reader.skip(12)
            }
        }
        var forgotten: [SimulatedBrokers.Place] = []
        for _ in 0..<(try reader.count(least: 6)) {
            let topic = try reader.string()
            for _ in 0..<(try reader.count(least: 4)) {
                forgotten.append(SimulatedBrokers.Place(topic: topic, partition: try reader.integer()))
            }
        }
        guard reader.left == 0 else { fatalError("\(reader.left) bytes behind a fetch") }
        guard let (number, session) = session(id, epoch) else {
            return nothing(error: brokers.sessions[id] == nil ? 70 : 71, session: 0, answer)
        }
        for place in forgotten { session.offsets[place] = nil }
        defer { brokers.lookedAt += session.offsets.count }
        for (place, offset) in named { session.offsets[place] = (offset, session.offsets[place]?.toldEnd ?? -1) }
        if brokers.happens(brokers.weather.throttled) { return throttle(id, answer) }
        let isDue = session.offsets.contains { place, now in
            guard let log = brokers.logs[place] else { return true }
            return log.leader != node || now.offset < log.start || now.offset != log.end
        }
        if isDue || waitMs == 0 { return send(read(number, session, answer), 1) }
        rest(milliseconds: Int(waitMs)) { [self] in send(read(number, session, answer), 1) }
    }

    /// Answers with nothing and how long nothing more is read; a session that would begin does not.
    private func throttle(_ id: Int32, _ answer: KafkaBuffer) {
        let milliseconds = brokers.int(1...2000)
        nothing(throttleMs: Int32(milliseconds), error: 0, session: id, answer)
        rest(milliseconds: milliseconds) {}
    }

    private func nothing(throttleMs: Int32 = 0, error: Int16, session: Int32, _ answer: KafkaBuffer) {
        answer.append(throttleMs)
        answer.append(error)
        answer.append(session)
        answer.append(Int32(0))
        send(answer, 1)
    }

    private func session(_ id: Int32, _ epoch: Int32) -> (Int32, Session)? {
        if id == 0 {
            guard epoch == 0 else { fatalError("a session without its number") }
            guard !brokers.happens(brokers.weather.forgets) else { return (0, Session()) }
            let number = Int32(brokers.sessions.count + 1)
            let made = Session()
            brokers.sessions[number] = made
            return (number, made)
        }
        if brokers.happens(brokers.weather.forgets) { brokers.sessions[id]?.epoch = -1 }
        guard let session = brokers.sessions[id], session.epoch == epoch else { return nil }
        session.epoch += 1
        return (id, session)
    }

    private func read(_ number: Int32, _ session: Session, _ answer: KafkaBuffer) -> KafkaBuffer {
        answer.append(Int32(0))
        answer.append(Int16(0))
        answer.append(number)
        var parts: [String: [(SimulatedBrokers.Place, Int64)]] = [:]
        for (place, now) in session.offsets.sorted(by: {
            ($0.key.topic, $0.key.partition) < ($1.key.topic, $1.key.partition)
        }) {
            guard let log = brokers.logs[place] else { continue }
            let hasNews = now.offset < log.end || now.toldEnd != log.end || log.leader != node || now.offset > log.end
            if hasNews || number == 0 { parts[place.topic, default: []].append((place, now.offset)) }
        }
        answer.append(Int32(parts.count))
        for (topic, partitions) in parts.sorted(by: { $0.key < $1.key }) {
            answer.append(string: topic)
            answer.append(Int32(partitions.count))
            for (place, offset) in partitions { read(place, offset, session, answer) }
        }
        return answer
    }

    private func read(_ place: SimulatedBrokers.Place, _ offset: Int64, _ session: Session, _ answer: KafkaBuffer) {
        guard let log = brokers.logs[place] else { return }
        answer.append(place.partition)
        var error: Int16 = log.leader == node ? 0 : 6
        if error == 0, offset < log.start || offset > log.end { error = 1 }
        if error == 0, brokers.happens(brokers.weather.errors) { error = 56 }
        answer.append(error)
        answer.append(log.end)
        answer.append(log.end)
        answer.append(log.start)
        let aborted = log.aborted.filter { $0.last >= offset }
        answer.append(Int32(aborted.count))
        for (transaction, _) in aborted {
            answer.append(transaction.producerID)
            answer.append(transaction.firstOffset)
        }
        guard error == 0 else { return answer.append(Int32(-1)) }
        session.offsets[place]?.toldEnd = log.end
        var bytes: [UInt8] = []
        for batch in log.batches where batch.end > offset && bytes.count < 3000 { bytes += batch.bytes }
        // The last one may be cut off, but not the only one.
        if bytes.count > 3000, let first = log.batches.first(where: { $0.end > offset }), first.bytes.count <= 3000 {
            bytes.removeLast(bytes.count - 3000)
        }
        answer.append(bytes: bytes)
        // The last of those that come whole.
        let whole = log.batches.filter { $0.end > offset }.reduce(into: [Range<Int>]()) { found, batch in
            let start = found.last?.upperBound ?? answer.count - bytes.count
            if start + batch.bytes.count <= answer.count { found.append(start..<(start + batch.bytes.count)) }
        }
        batch = whole.last ?? batch
    }
}
