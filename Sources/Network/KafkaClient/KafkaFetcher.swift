import EventLoop
import KafkaFrames

/// Reads partitions from wherever it is told to, each from the broker that leads it, in two sessions with each broker:
/// a request names what changed, and is answered by what has something. For each request the broker looks at all
/// partitions of the session, so those where nothing came for a while are in a session of their own, whose requests
/// wait. One request of a session is on its way at a time, and what is read is handed on before the next one is sent.
/// Confined to its loop; ``tick()`` is called now and then.
public final class KafkaFetcher {
    /// Bytes and times of requests, as in ``KafkaFetchRequest``.
    public struct Limits: Sendable {
        public var waitMs: Int32 = 100
        public var bytesLeast: Int32 = 1
        public var bytesMax: Int32 = 10 << 20
        public var partitionBytesMax: Int32 = 1 << 20
        /// The least time between two requests of a session that has read all there was, milliseconds: one for each so
        /// many partitions that the broker has to look at, within these.
        public var intervalMs = 0...0
        public var partitionsPerMs = 64

        public init() {}
    }

    /// What was read of one partition. Records are borrowed for the call.
    public struct Fetched {
        public let error: KafkaError
        /// Batches that are what their checksums say, but for the one at ``damagedOffset``.
        public let records: UnsafeRawBufferPointer
        /// A batch that came damaged in the same way before: for its reader to refuse.
        public let damagedOffset: Int64?
        public let aborted: [KafkaAbortedTransaction]
        /// The offset after those that were read.
        public let next: Int64
        /// Where what can be read ends now.
        public let end: Int64
        public let highWatermark: Int64

        /// Without records.
        fileprivate init(_ stream: Stream, error: KafkaError = .none, end: Int64, highWatermark: Int64) {
            self.init(
                error: error, records: UnsafeRawBufferPointer(start: nil, count: 0), damagedOffset: nil, aborted: [],
                next: stream.next, end: end, highWatermark: highWatermark)
        }

        fileprivate init(
            error: KafkaError, records: UnsafeRawBufferPointer, damagedOffset: Int64?,
            aborted: [KafkaAbortedTransaction], next: Int64, end: Int64, highWatermark: Int64
        ) {
            self.error = error
            self.records = records
            self.damagedOffset = damagedOffset
            self.aborted = aborted
            self.next = next
            self.end = end
            self.highWatermark = highWatermark
        }
    }

    /// A partition that is read.
    public final class Stream {
        public let topic: String
        public let partition: Int32
        public fileprivate(set) var next: Int64
        /// False: nothing is asked for until ``KafkaFetcher/resume()`` after it is true again.
        public var isWanted = true
        /// Bytes of its records in an answer; nil: as ``Limits`` say.
        public var bytesMax: Int32?
        fileprivate let take: (Fetched) -> Void
        fileprivate var leader: Int32?
        /// Whose session has it, and what that was told.
        fileprivate weak var session: Session?
        fileprivate var toldOffset: Int64?
        fileprivate var notBefore: UInt64 = 0
        fileprivate var isRemoved = false
        /// Where the partition ended when its session said so last.
        fileprivate var ends: (end: Int64, highWatermark: Int64)?
        fileprivate var isBehind: Bool { ends.map { next < $0.end } ?? false }
        fileprivate var isTold = false
        /// In the session of those where little comes.
        fileprivate var isQuiet = false
        /// When it began, or records came last, and whether some came shortly before.
        fileprivate var recordsAt: UInt64
        fileprivate var isReviving = false

        fileprivate init(
            _ topic: String, _ partition: Int32, _ next: Int64, _ now: UInt64, _ take: @escaping (Fetched) -> Void
        ) {
            self.topic = topic
            self.partition = partition
            self.next = next
            self.take = take
            recordsAt = now
        }

        /// Whether the next request of that session is to have it. It changes over when the one that it goes to asks,
        /// so that one of both has always asked for it.
        fileprivate func belongs(toQuiet isOfQuiet: Bool, _ now: UInt64) -> Bool {
            if isOfQuiet { return isQuiet || isTold && now &- recordsAt >= KafkaFetcher.quietMilliseconds }
            return !isQuiet || isReviving
        }
    }

    fileprivate struct SessionKey: Hashable {
        let node: Int32
        let isQuiet: Bool
    }

    fileprivate final class Session {
        let key: SessionKey
        var id: Int32 = 0
        var epoch: Int32 = 0
        var members: [String: [Int32: Stream]] = [:]
        var isOut = false
        var notBefore: UInt64 = 0
        var isPausing = false

        init(_ key: SessionKey) { self.key = key }

        /// Nothing of it is known to the broker any more.
        func forget() {
            for stream in members.values.lazy.flatMap(\.values) {
                stream.session = nil
                stream.toldOffset = nil
            }
            members = [:]
            id = 0
            epoch = 0
        }
    }

    private static let retryMilliseconds: UInt64 = 100
    private static let refusedMilliseconds: UInt64 = 1000
    /// A partition is quiet after this long without records, and no more where some come twice within it.
    private static let quietMilliseconds: UInt64 = 1000
    /// What the broker may wait for records of those. One byte is enough: a lone record need not wait for others.
    private static let quietWaitMs: Int32 = 500
    /// Beyond what the broker may wait.
    private static let answerMilliseconds = 30_000

    /// Called on the loop after all that an answer brought was handed on.
    public var delivered: () -> Void = {}
    private let brokers: KafkaBrokers
    private let limits: Limits
    private var streams: [Stream] = []
    private var sessions: [SessionKey: Session] = [:]
    private var isSending = false
    /// The latest batch of a partition that was not what its checksum says.
    private var damaged: [Place: Damage] = [:]

    private struct Place: Hashable {
        let topic: String
        let partition: Int32
    }

    private struct Damage: Equatable {
        let offset: Int64
        let carried: UInt32
        let actual: UInt32
    }

    public init(_ brokers: KafkaBrokers, limits: Limits) {
        self.brokers = brokers
        self.limits = limits
        brokers.changed = { [weak self] in
            self?.learnLeaders()
            self?.resume()
        }
    }

    /// Begins to read; `take` is called on the loop, never inside this call. Where the offset is not there (error 1),
    /// nothing more is read of it.
    public func add(topic: String, partition: Int32, at offset: Int64, _ take: @escaping (Fetched) -> Void) -> Stream {
        let stream = Stream(topic, partition, offset, brokers.loop.nowMilliseconds, take)
        brokers.want(topic)
        stream.leader = brokers.leader(topic, partition)
        streams.append(stream)
        if stream.leader == nil { brokers.tick() }
        resume()
        return stream
    }

    /// Nothing is read.
    public var isIdle: Bool { streams.isEmpty }

    /// Nothing is handed on any more.
    public func remove(_ stream: Stream) {
        stream.isRemoved = true
        streams.removeAll { $0 === stream }
    }

    private func learnLeaders() {
        for stream in streams { stream.leader = brokers.leader(stream.topic, stream.partition) }
    }

    /// Asks for leaders and goes on after errors, where it is time.
    public func tick() {
        brokers.tick()
        // Whose request is out hears of everything by its answer.
        if sessions.isEmpty || sessions.contains(where: { !$0.value.isOut }) { resume() }
    }

    /// Ends all connections; nothing is handed on any more.
    public func close() {
        for stream in streams { stream.isRemoved = true }
        streams = []
        brokers.close()
    }

    /// Sends what can be sent, where no request is on its way.
    public func resume() {
        // Once a turn: many begin together.
        guard !isSending else { return }
        isSending = true
        brokers.loop.afterTurn { [weak self] in
            guard let self else { return }
            self.isSending = false
            for node in Set(self.streams.compactMap(\.leader)).sorted() {
                self.send(SessionKey(node: node, isQuiet: false))
                self.send(SessionKey(node: node, isQuiet: true))
            }
        }
    }

    private func send(_ key: SessionKey) {
        let session = sessions[key] ?? Session(key)
        sessions[key] = session
        guard !session.isOut else { return }
        let now = brokers.loop.nowMilliseconds
        let wanted = streams.filter {
            $0.leader == key.node && $0.isWanted && $0.notBefore <= now && $0.belongs(toQuiet: key.isQuiet, now)
        }
        // Who is known to be behind waits for nothing to come.
        if session.notBefore > now, !wanted.contains(where: \.isBehind) {
            return pause(session, Int(session.notBefore - now))
        }
        guard !wanted.isEmpty, let connection = brokers.connection(to: key.node, number: key.isQuiet ? 1 : 0) else {
            return
        }
        for stream in wanted {
            stream.isQuiet = key.isQuiet
            stream.isReviving = stream.isReviving && key.isQuiet
        }
        var request = KafkaFetchRequest()
        request.bytesLeast = key.isQuiet ? 1 : limits.bytesLeast
        request.bytesMax = limits.bytesMax
        request.partitionBytesMax = limits.partitionBytesMax
        request.session = session.id
        request.epoch = session.epoch
        let isNew = fill(&request, session, wanted)
        // Who is new is told at once where it stands.
        request.waitMs = isNew ? 0 : key.isQuiet ? KafkaFetcher.quietWaitMs : limits.waitMs
        let interval = limits.intervalMs
        session.notBefore =
            now + UInt64(min(max(wanted.count / limits.partitionsPerMs, interval.lowerBound), interval.upperBound))
        session.isOut = true
        connection.send(.fetch, milliseconds: KafkaFetcher.answerMilliseconds, { request.append(to: $0) }) {
            [weak self] result in
            session.isOut = false
            self?.answered(session, connection, result, isNew)
        }
    }

    private func pause(_ session: Session, _ milliseconds: Int) {
        guard !session.isPausing else { return }
        session.isPausing = true
        _ = brokers.loop.timer(afterMilliseconds: milliseconds) { [weak self] in
            session.isPausing = false
            self?.send(session.key)
        }
    }

    /// Names what the session does not know, and what it is to forget. Whether one waits to hear where it stands.
    private func fill(_ request: inout KafkaFetchRequest, _ session: Session, _ wanted: [Stream]) -> Bool {
        var isNew = false
        var named: [String: [KafkaFetchPartition]] = [:]
        var members: [String: [Int32: Stream]] = [:]
        for stream in wanted {
            let isKnown = stream.session === session && session.epoch > 0
            if !isKnown || stream.toldOffset != stream.next {
                named[stream.topic, default: []].append(
                    KafkaFetchPartition(index: stream.partition, offset: stream.next, bytesMax: stream.bytesMax))
            }
            // A broker that has no place for a session gets all of them each time: those are not new.
            isNew = isNew || !stream.isTold
            // The session had it for an earlier reader, and says of it only what is new.
            if let earlier = session.members[stream.topic]?[stream.partition], earlier !== stream {
                stream.ends = earlier.ends
            }
            stream.session = session
            stream.toldOffset = stream.next
            members[stream.topic, default: [:]][stream.partition] = stream
        }
        request.topics = named.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
        if session.epoch > 0 {
            for (topic, partitions) in session.members.sorted(by: { $0.key < $1.key }) {
                let left = partitions.keys.filter { members[topic]?[$0] == nil }
                if !left.isEmpty { request.forgotten.append((topic, left.sorted())) }
                for partition in left {
                    guard let stream = partitions[partition], stream.session === session else { continue }
                    stream.session = nil
                    stream.toldOffset = nil
                }
            }
        }
        session.members = members
        return isNew
    }

    private func answered(
        _ session: Session, _ connection: KafkaConnection, _ result: Result<UnsafeRawBufferPointer, KafkaFailure>,
        _ isNew: Bool
    ) {
        guard case .success(let bytes) = result else {
            session.forget()
            brokers.distrust()
            return
        }
        if isNew { session.notBefore = 0 }
        var reader = KafkaReader(bytes)
        do throws(KafkaFormatError) {
            let fetched = try KafkaFetched(&reader)
            guard fetched.error == .none else {
                // The broker has forgotten the session, or this client has lost count: it begins anew.
                session.forget()
                return resume()
            }
            for topic in fetched.topics {
                let members = session.members[topic.name]
                for partition in topic.partitions {
                    // Not one that is read from another broker since.
                    guard let stream = members?[partition.index], stream.session === session else { continue }
                    try take(partition, stream)
                }
            }
            if isNew { tellEnds(session) }
            if isNew || !fetched.topics.isEmpty { delivered() }
            if fetched.session == 0 {
                session.forget()
            } else {
                session.id = fetched.session
                session.epoch = session.epoch == .max ? 1 : session.epoch + 1
            }
        } catch {
            session.forget()
            return connection.refuse(.fetch, error)
        }
        resume()
    }

    /// Who begins where an earlier reader has learned the end hears of it.
    private func tellEnds(_ session: Session) {
        for stream in session.members.values.flatMap(\.values) where !stream.isTold && !stream.isRemoved {
            guard let (end, highWatermark) = stream.ends, stream.session === session else { continue }
            stream.isTold = true
            stream.take(Fetched(stream, end: end, highWatermark: highWatermark))
        }
    }

    /// A bit may have flipped on the way: the connection is left, and the records are asked for again. What is wrong in
    /// the same way a second time lies so at the broker, and is its reader's to refuse, without harm to others: false.
    private func check(_ batch: RecordBatch, _ stream: Stream) throws(KafkaFormatError) -> Bool {
        let (carried, actual) = batch.checksums
        guard carried != actual else { return true }
        let place = Place(topic: stream.topic, partition: stream.partition)
        let found = Damage(offset: batch.baseOffset, carried: carried, actual: actual)
        guard damaged.updateValue(found, forKey: place) != found else { return false }
        try batch.check()
        return true
    }

    private func take(_ partition: KafkaFetched.Partition, _ stream: Stream) throws(KafkaFormatError) {
        let now = brokers.loop.nowMilliseconds
        guard partition.error == .none else {
            guard !stream.isRemoved else { return }
            if partition.error.isOfLeadership {
                brokers.distrust()
                stream.leader = nil
                stream.notBefore = now + KafkaFetcher.retryMilliseconds
            } else if partition.error.isRetriable {
                stream.notBefore = now + KafkaFetcher.retryMilliseconds
            } else {
                stream.notBefore = partition.error == .offsetOutOfRange ? .max : now + KafkaFetcher.refusedMilliseconds
                stream.take(
                    Fetched(
                        stream, error: partition.error, end: stream.next, highWatermark: partition.highWatermark))
            }
            return
        }
        var rest = partition.records
        var next = stream.next
        var damagedOffset: Int64?
        while let batch = try RecordBatch.next(of: &rest) {
            if try !check(batch, stream), damagedOffset == nil { damagedOffset = batch.baseOffset }
            next = max(next, batch.lastOffset + 1)
        }
        // Only now: of what is refused nothing was read.
        stream.next = next
        let whole = UnsafeRawBufferPointer(rebasing: partition.records.dropLast(rest.count))
        let end = partition.lastStableOffset < 0 ? partition.highWatermark : partition.lastStableOffset
        stream.ends = (end, partition.highWatermark)
        if !whole.isEmpty {
            stream.isReviving = stream.isQuiet && now &- stream.recordsAt < KafkaFetcher.quietMilliseconds
            stream.recordsAt = now
        }
        guard !stream.isRemoved else { return }
        stream.isTold = true
        stream.take(
            Fetched(
                error: .none, records: whole, damagedOffset: damagedOffset, aborted: partition.aborted,
                next: stream.next, end: end, highWatermark: partition.highWatermark))
    }
}
