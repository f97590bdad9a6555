import EventLog
import Synchronization
import TimeSource

extension KafkaLog {
    public func startOffset(_ place: TopicPartition) -> UInt64 {
        if let known = state.withLock({ $0.starts[place] }) { return known }
        return (try? cluster.offsets([place], at: KafkaCluster.earliest)[place]) ?? 0
    }

    public func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64 {
        if let end = tip?.end(place) { return end }
        if let cursor = state.withLock({ $0.cursors[place] }) {
            // 0 where nothing was read yet.
            let end = cursor.highWatermark
            if end > 0 { return end }
        }
        if let end = state.withLock({ $0.catchUp })?.highWatermark(place), end > 0 { return end }
        return (try? cluster.offsets([place], at: KafkaCluster.latest)[place]) ?? 0
    }

    public func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64 {
        switch start {
        case .earliest: return try oldest(place)
        case .latest: return try cluster.offsets([place], at: KafkaCluster.latest)[place] ?? 0
        case .offset(let offset): return offset
        case .time(let timeNs):
            let timeMs = timeNs / 1_000_000 + (timeNs % 1_000_000 > 0 ? 1 : 0)
            if let found = try cluster.offsets([place], at: max(timeMs, 0))[place] { return found }
            return try cluster.offsets([place], at: KafkaCluster.latest)[place] ?? 0
        }
    }

    /// Asks the brokers.
    private func oldest(_ place: TopicPartition) throws(LogError) -> UInt64 {
        let start = try cluster.offsets([place], at: KafkaCluster.earliest)[place] ?? 0
        state.withLock { $0.starts[place] = start }
        return start
    }

    func refreshStarts() {
        let places = state.withLock { Array($0.starts.keys) }
        guard !places.isEmpty, let starts = try? cluster.offsets(places, at: KafkaCluster.earliest) else { return }
        state.withLock { $0.starts.merge(starts) { $1 } }
    }

    public func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        guard let found = tip?.read(place, at: offset) else { return .onDisk }
        guard case .onDisk = found else { return found }
        let start = state.withLock { $0.starts[place] ?? 0 }
        return offset < start ? .expired(oldest: start) : cache.find(place, offset) ?? .onDisk
    }

    public func readBlocking(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) throws(LogError)
        -> ReadResult
    {
        let known = read(place, at: offset, visibility)
        if case .atEnd = known, let failure = tip?.failure(place) { throw failure }
        guard case .onDisk = known else { return known }
        if let member = member(of: place) {
            let found = try with(place) { cursor throws(LogError) in try cursor.read(at: offset) }
            guard case .block(let block) = found else { return try result(found, place, offset) }
            member.took(place, through: block.endOffset)
            if tip?.follows(place) == true { cache.add(block, from: min(offset, block.firstOffset)) }
            return try result(found, place, offset)
        }
        let reads = try catchUp()
        var found = try reads.read(place, at: offset, timeoutNs: configuration.requestTimeoutNs)
        if case .end = found {
            // A member comes again and again; whoever else asks is told for certain.
            found = try reads.read(
                place, at: offset, through: try self.offset(of: .latest, in: place),
                timeoutNs: configuration.requestTimeoutNs)
        }
        return try result(found, place, offset)
    }

    private func member(of place: TopicPartition) -> KafkaMembership? {
        state.withLock { $0.memberships.first { $0.isMember(of: place) } }
    }

    private func result(
        _ found: PartitionCursor.Found, _ place: TopicPartition, _ offset: UInt64
    ) throws(LogError) -> ReadResult {
        switch found {
        case .block(let block):
            return .block(block, index: Int(max(offset, block.firstOffset) - block.firstOffset))
        case .end: return .atEnd
        case .outOfRange:
            let oldest = try oldest(place)
            if offset < oldest { return .expired(oldest: oldest) }
            let end = try self.offset(of: .latest, in: place)
            guard offset > end else { return .atEnd }
            throw LogError(
                .lost,
                "\(place) ends at offset \(end), before \(offset) where its reader is to go on: the topic was cut or "
                    + "made anew. `tapedeck groups reset` decides where the group goes on")
        }
    }

    /// The place's cursor, with its lock held. One that was closed meanwhile, because the partition went to another
    /// member, is replaced.
    private func with<R>(
        _ place: TopicPartition, _ body: (PartitionCursor) throws(LogError) -> R
    ) throws(LogError) -> R {
        while true {
            let cursor = try cursor(place)
            let result = try cursor.monitor.locked { () throws(LogError) -> R? in
                cursor.isClosed ? nil : try body(cursor)
            }
            if let result { return result }
        }
    }

    private func cursor(_ place: TopicPartition) throws(LogError) -> PartitionCursor {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.cursors[place] { return known }
            let made = PartitionCursor(
                place, try fetching(&state), topic: configuration.name(of: place.topic), time: time, ready: ready,
                waiting: waiting)
            state.cursors[place] = made
            return made
        }
    }

    private func catchUp() throws(LogError) -> CatchUpReads {
        try state.withLock { state throws(LogError) in
            if state.isClosed { throw LogError(.closed, "the log is closed") }
            if let known = state.catchUp { return known }
            let made = CatchUpReads(
                try fetching(&state), cache: cache, time: time, waitingMax: configuration.queuedLoadsMax,
                name: { [configuration] in configuration.name(of: $0) },
                perform: { [weak loads] job in loads?.perform(job) ?? false })
            state.catchUp = made
            return made
        }
    }

    /// The loop of all cursors. Who reads here gathers what comes into batches, which these fetches do for it: each
    /// wakes the broker, its reader and the store once for all partitions.
    private func fetching(_ state: inout State) throws(LogError) -> FetchLoop {
        if let known = state.fetching { return known }
        let made = try FetchLoop(
            "kafka-fetch", configuration, bytesLeast: 1024, intervalMs: 7...10, partitionsPerMs: 12)
        state.fetching = made
        return made
    }

    /// A member goes on with a partition: its fetch is begun, so that many begin at once.
    func beginReading(_ place: TopicPartition, at offset: UInt64) {
        do throws(LogError) {
            try with(place) { cursor throws(LogError) in cursor.begin(at: offset) }
        } catch {
            report(error.message)
        }
    }

    /// A partition went to another member: nothing of it is fetched any more.
    func endReading(_ place: TopicPartition) {
        guard let cursor = state.withLock({ $0.cursors.removeValue(forKey: place) }) else { return }
        cursor.monitor.locked { cursor.close() }
    }

    public func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) {
        // Of a member of a group this would take its cursor from it.
        let known = read(place, at: offset, visibility)
        do throws(LogError) {
            let reads = try catchUp()
            if case .onDisk = known {
                reads.ask(place, at: offset, timeoutNs: configuration.requestTimeoutNs) { [self] found in
                    loaded(found, place, offset, reads, completion)
                }
                return
            }
            if case .atEnd = known, let failure = tip?.failure(place) { throw failure }
            // On a thread of its own, as all others.
            if loads?.perform({ completion(.success(known)) }) != true { completion(.success(known)) }
        } catch {
            completion(.failure(error))
        }
    }

    private func loaded(
        _ found: Result<PartitionCursor.Found, LogError>, _ place: TopicPartition, _ offset: UInt64,
        _ reads: CatchUpReads, _ completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) {
        do throws(LogError) {
            let found = try found.get()
            guard case .end = found else { return completion(.success(try result(found, place, offset))) }
            reads.ask(
                place, at: offset, through: try self.offset(of: .latest, in: place),
                timeoutNs: configuration.requestTimeoutNs
            ) { [self] found in
                do throws(LogError) {
                    completion(.success(try result(try found.get(), place, offset)))
                } catch {
                    completion(.failure(error))
                }
            }
        } catch {
            completion(.failure(error))
        }
    }

    public func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        let untilNs = time.monotonicNs() + timeoutNs
        if let tip, tip.follows(place) { return tip.wait(place, at: offset, untilNs: untilNs, time: time) }
        // Answered when something comes, or says that it cannot be read: who reads then hears of it.
        guard let found = try? catchUp().read(place, at: offset, through: .max, timeoutNs: timeoutNs) else {
            return false
        }
        if case .end = found { return false }
        return true
    }

    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void
    ) -> ListenerID {
        let id = ListenerID(listenerNumber.add(1, ordering: .relaxed).newValue)
        tip?.addListener(id, durability, notify)
        return id
    }

    public func removeListener(_ id: ListenerID) { tip?.removeListener(id) }

    /// Waits until what the followed topics had when this log was opened is in memory. False when the time is over.
    public func waitUntilCaughtUp(timeoutNs: Int64) -> Bool {
        tip?.waitUntilCaughtUp(untilNs: time.monotonicNs() + timeoutNs, time: time) ?? true
    }
}
