import EventLoop
import KafkaClient
import Simulation

@testable import KafkaFrames

/// Brokers that keep partitions between them, in virtual time and by seed: connections that are refused, slow, cut or
/// silent, leaders that move, errors before and after a batch was written, answers that are cut off or changed on the
/// way, sessions that are forgotten. Confined to the loop.
final class SimulatedBrokers: KafkaTransport, @unchecked Sendable {
    struct Weather {
        /// In percent of the connections.
        var cut = 0
        var silent = 0
        /// In percent of the batches, and of the requests.
        var errors = 0
        var cutOff = 0
        var changed = 0
        var forgets = 0
        /// Of the requests to read: a quota is used up.
        var throttled = 0
        var delayMillisecondsMax = 5
        var isTiny = false
    }

    /// What becomes of an answer on its way.
    enum Fault: CaseIterable {
        case otherNumber, flippedLength, hugeLength, negativeLength, twice
        /// In a batch, where its checksum is for: of answers that have one.
        case flippedRecord
    }

    struct Place: Hashable {
        let topic: String
        let partition: Int32
    }

    /// A partition as the brokers keep it.
    final class Log {
        struct Written {
            let sequence: Int32
            let count: Int32
            let base: Int64
        }

        var leader: Int32
        /// Batches with their offsets in, back to back.
        var batches: [(base: Int64, end: Int64, bytes: [UInt8])] = []
        var start: Int64 = 0
        var end: Int64 = 0
        /// With the offset of the marker of each one's end.
        var aborted: [(transaction: KafkaAbortedTransaction, last: Int64)] = []
        /// The newest batches of each producer.
        var producers: [Int64: [Written]] = [:]

        init(leader: Int32) { self.leader = leader }

        func append(_ bytes: [UInt8], count: Int64) {
            var bytes = bytes
            withUnsafeBytes(of: end.bigEndian) { bytes.replaceSubrange(0..<8, with: $0) }
            batches.append((end, end + count, bytes))
            end += count
        }

        /// What a broker answers to a batch of an idempotent producer.
        func take(_ bytes: [UInt8]) -> (KafkaError, Int64) {
            let (id, sequence, count) = bytes.withUnsafeBytes { raw in
                (
                    Int64(bigEndian: raw.loadUnaligned(fromByteOffset: 43, as: Int64.self)),
                    Int32(bigEndian: raw.loadUnaligned(fromByteOffset: 53, as: Int32.self)),
                    Int32(bigEndian: raw.loadUnaligned(fromByteOffset: 57, as: Int32.self))
                )
            }
            let written = producers[id] ?? []
            if let same = written.first(where: { $0.sequence == sequence && $0.count == count }) {
                return (.none, same.base)
            }
            if let last = written.last {
                let next = RecordBatchEncoder.sequence(last.sequence, after: Int(last.count))
                guard sequence == next else { return (sequence < next ? .duplicateSequence : .outOfOrderSequence, -1) }
            } else if sequence != 0 {
                return (.outOfOrderSequence, -1)
            }
            producers[id] = (written + [Log.Written(sequence: sequence, count: count, base: end)]).suffix(5)
            append(bytes, count: Int64(count))
            return (.none, end - Int64(count))
        }
    }

    let loop: SimulatedLoop
    let random: SimulatedStream.SharedRandom
    var weather: Weather
    private(set) var logs: [Place: Log] = [:]
    var isDown: Set<Int32> = []
    private var open: [SimulatedBrokerConnection] = []
    private(set) var connections = 0
    fileprivate var nextProducer: Int64 = 100
    var sessions: [Int32: SimulatedBrokerConnection.Session] = [:]
    /// Partitions of all sessions, for each request to read.
    var lookedAt = 0
    fileprivate(set) var requests: [Int16: Int] = [:]
    let nodes: [Int32] = [1, 2, 3]
    /// For the next answer to a request of this kind.
    var fault: (fault: Fault, api: Int16)?
    /// Faults that were made.
    private(set) var faults = 0

    init(_ loop: SimulatedLoop, seed: UInt64, topics: [String: Int32], weather: Weather = Weather()) {
        self.loop = loop
        random = SimulatedStream.SharedRandom(seed: seed)
        self.weather = weather
        for (topic, count) in topics.sorted(by: { $0.key < $1.key }) {
            for partition in 0..<count {
                logs[Place(topic: topic, partition: partition)] = Log(leader: nodes[int(0...2)])
            }
        }
    }

    var openConnections: Int { open.count { !$0.isClosed } }
    func int(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random.numbers) }
    func happens(_ percent: Int) -> Bool { percent > 0 && int(0...99) < percent }

    static func address(_ node: Int32) -> KafkaAddress { KafkaAddress(host: "10.0.0.\(node)", port: 9092) }

    func anyPlace() -> Place {
        let places = logs.keys.sorted { ($0.topic, $0.partition) < ($1.topic, $1.partition) }
        return places[int(0...(places.count - 1))]
    }

    /// A partition goes to another broker.
    func move(_ place: Place) { logs[place]?.leader = nodes[int(0...2)] }

    func crash(_ node: Int32) {
        isDown.insert(node)
        for connection in open where connection.node == node { connection.close() }
        open.removeAll { $0.node == node }
        for log in logs.values where log.leader == node { log.leader = nodes.first { !isDown.contains($0) } ?? -1 }
    }

    func connect(
        _ address: KafkaAddress, loop: any Loop, _ done: @escaping (Result<any ByteStream, StreamError>) -> Void
    ) {
        _ = self.loop.timer(afterMilliseconds: int(0...weather.delayMillisecondsMax)) { [self] in
            guard let node = nodes.first(where: { Self.address($0) == address }), !isDown.contains(node) else {
                return done(.failure(StreamError("refused")))
            }
            connections += 1
            var link = SimulatedLink()
            link.delayMillisecondsMax = weather.delayMillisecondsMax
            link.pieceBytesMax = weather.isTiny ? [1, 3, 100][int(0...2)] : 20_000
            link.bufferBytes = weather.isTiny ? [1, 50, 5000][int(0...2)] : 100_000
            var breaks = SimulatedBreaks()
            let place = int(1...9000)
            if happens(weather.cut) {
                if int(0...1) == 0 { breaks.cutAfter = place } else { breaks.cutAfterReplies = place }
            } else if happens(weather.silent) {
                breaks.silentAfter = place
            }
            let ends = SimulatedStream.pair(self.loop, link, random, breaks: breaks)
            open.append(SimulatedBrokerConnection(self, node, ends.server))
            done(.success(ends.client))
        }
    }

    /// Whether an answer is spoilt, and how.
    fileprivate func takeFault(_ api: Int16, hasRecords: Bool) -> Fault? {
        if let planned = fault, planned.api == api, planned.fault != .flippedRecord || hasRecords {
            fault = nil
            faults += 1
            return planned.fault
        }
        guard happens(weather.changed) else { return nil }
        faults += 1
        return Fault.allCases[int(0...(hasRecords ? 5 : 4))]
    }

    fileprivate func count(_ api: Int16) { requests[api, default: 0] += 1 }
}

/// A connection from the broker's side: one request after the other.
final class SimulatedBrokerConnection: ByteStreamOwner {
    /// What a client reads by one session.
    final class Session {
        var epoch: Int32 = 1
        var offsets: [SimulatedBrokers.Place: (offset: Int64, toldEnd: Int64)] = [:]
    }

    let node: Int32
    unowned let brokers: SimulatedBrokers
    private let stream: SimulatedStream
    private var input: [UInt8] = []
    private var isBusy = false
    /// Where the answer that is being made has a batch.
    var batch: Range<Int>?

    fileprivate init(_ brokers: SimulatedBrokers, _ node: Int32, _ stream: SimulatedStream) {
        self.brokers = brokers
        self.node = node
        self.stream = stream
        stream.owner = self
        stream.startReading()
    }

    var isClosed: Bool { stream.isClosed }
    func close() { stream.close(StreamError("crash")) }
    func drained() {}
    func closed(_ error: StreamError?) {}

    func received(_ bytes: UnsafeRawBufferPointer) {
        input += bytes
        goOn()
    }

    private func goOn() {
        while !isBusy, !stream.isClosed, input.count >= 4 {
            let length = input.withUnsafeBytes { Int(Int32(bigEndian: $0.loadUnaligned(as: Int32.self))) }
            guard input.count >= 4 + length else { return }
            let request = Array(input[4..<(4 + length)])
            input.removeFirst(4 + length)
            do {
                try request.withUnsafeBytes { try take($0) }
            } catch {
                fatalError("the client sent what is no request: \(error)")
            }
        }
    }

    /// Nothing more is read meanwhile.
    func rest(milliseconds: Int, then: @escaping () -> Void) {
        isBusy = true
        _ = brokers.loop.timer(afterMilliseconds: milliseconds) { [self] in
            isBusy = false
            then()
            goOn()
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) throws(KafkaFormatError) {
        var reader = KafkaReader(bytes)
        let key = try reader.integer(Int16.self)
        let version = try reader.integer(Int16.self)
        let correlation = try reader.integer(Int32.self)
        guard try reader.string() == "test" else { fatalError("another client") }
        brokers.count(key)
        batch = nil
        let answer = KafkaBuffer()
        answer.append(Int32(0))
        answer.append(correlation)
        switch (key, version) {
        case (18, 0): versions(answer)
        case (3, 5): try metadata(&reader, answer)
        case (22, 1):
            guard try reader.optionalString() == nil else { fatalError("a transaction") }
            try reader.skip(4)
            answer.append(Int32(0))
            answer.append(Int16(brokers.happens(brokers.weather.errors) ? 15 : 0))
            answer.append(brokers.nextProducer)
            answer.append(Int16(0))
            brokers.nextProducer += 1
        case (0, 7): try produce(&reader, answer)
        case (1, 10): return try fetch(&reader, answer)
        default: fatalError("request \(key) version \(version)")
        }
        guard reader.left == 0 else { fatalError("\(reader.left) bytes behind request \(key)") }
        send(answer, key)
    }

    func send(_ answer: KafkaBuffer, _ api: Int16) {
        if brokers.happens(brokers.weather.cutOff), answer.count > 10 {
            answer.truncate(to: brokers.int(9...(answer.count - 1)))
            batch = nil
        }
        KafkaAPI.finish(answer, at: 0)
        guard let fault = brokers.takeFault(api, hasRecords: batch != nil) else { return stream.write(answer.bytes) }
        var bytes = [UInt8](answer.bytes)
        func flip(_ places: Range<Int>) {
            bytes[brokers.int(places.lowerBound...(places.upperBound - 1))] ^= 1 << UInt8(brokers.int(0...7))
        }
        switch fault {
        case .otherNumber: flip(4..<8)
        case .flippedLength: flip(2..<4)
        case .hugeLength: bytes[1] ^= 1
        case .negativeLength: bytes[0] ^= 0x80
        case .twice: bytes += bytes
        // Its format, its checksum and what that is for; not its place and length, which no checksum is for.
        case .flippedRecord: if let batch { flip((batch.lowerBound + 16)..<batch.upperBound) }
        }
        bytes.withUnsafeBytes { stream.write($0) }
    }

    private func versions(_ answer: KafkaBuffer) {
        answer.append(Int16(0))
        answer.append(Int32(4))
        for key: Int16 in [0, 1, 3, 22] {
            answer.append(key)
            answer.append(Int16(0))
            answer.append(Int16(12))
        }
    }

    private func metadata(_ reader: inout KafkaReader, _ answer: KafkaBuffer) throws(KafkaFormatError) {
        var topics: [String] = []
        for _ in 0..<(try reader.count(least: 2)) { topics.append(try reader.string()) }
        _ = try reader.integer(UInt8.self)
        answer.append(Int32(0))
        let nodes = brokers.nodes.filter { !brokers.isDown.contains($0) }
        answer.append(Int32(nodes.count))
        for node in nodes {
            answer.append(node)
            answer.append(string: SimulatedBrokers.address(node).host)
            answer.append(Int32(9092))
            answer.append(string: nil)
        }
        answer.append(string: "cluster")
        answer.append(Int32(1))
        answer.append(Int32(topics.count))
        for topic in topics {
            let partitions = brokers.logs.filter { $0.key.topic == topic }
            answer.append(Int16(partitions.isEmpty ? 3 : 0))
            answer.append(string: topic)
            answer.append(UInt8(0))
            answer.append(Int32(partitions.count))
            for (place, log) in partitions.sorted(by: { $0.key.partition < $1.key.partition }) {
                let isLed = log.leader >= 0 && !brokers.happens(brokers.weather.errors)
                answer.append(Int16(isLed ? 0 : 5))
                answer.append(place.partition)
                answer.append(isLed ? log.leader : -1)
                for _ in 0..<3 {
                    answer.append(Int32(1))
                    answer.append(Int32(7))
                }
            }
        }
    }

    private func produce(_ reader: inout KafkaReader, _ answer: KafkaBuffer) throws(KafkaFormatError) {
        guard try reader.optionalString() == nil, try reader.integer(Int16.self) == -1 else { fatalError("acks") }
        try reader.skip(4)
        let topics = try reader.count(least: 6)
        answer.append(Int32(topics))
        for _ in 0..<topics {
            let topic = try reader.string()
            answer.append(string: topic)
            let partitions = try reader.count(least: 8)
            answer.append(Int32(partitions))
            for _ in 0..<partitions {
                let place = SimulatedBrokers.Place(topic: topic, partition: try reader.integer())
                let bytes = [UInt8](try reader.optionalBytes()!)
                let (error, base) = take(bytes, place)
                answer.append(place.partition)
                answer.append(error.code)
                answer.append(base)
                answer.append(Int64(-1))
                answer.append(Int64(0))
            }
        }
        answer.append(Int32(0))
    }

    private func take(
        _ bytes: [UInt8], _ place: SimulatedBrokers.Place
    ) -> (KafkaError, Int64) {
        var count = 0
        bytes.withUnsafeBytes { raw in
            var rest = raw
            do {
                while let batch = try RecordBatch.next(of: &rest) {
                    try batch.check()
                    count += 1
                }
            } catch {
                fatalError("no batch for \(place): \(error)")
            }
            guard rest.isEmpty, count == 1 else { fatalError("\(count) batches for \(place)") }
        }
        guard let log = brokers.logs[place] else { return (KafkaError(3), -1) }
        guard log.leader == node else { return (KafkaError(6), -1) }
        guard brokers.happens(brokers.weather.errors) else { return log.take(bytes) }
        // Refused, or written without enough replicas to say so.
        guard brokers.happens(50) else { return (KafkaError(19), -1) }
        let (error, base) = log.take(bytes)
        return (error == .none ? KafkaError(20) : error, base)
    }
}
