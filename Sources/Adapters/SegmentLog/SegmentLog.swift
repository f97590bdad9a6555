import Disk
import EventLog
import Synchronization
import TimeSource

/// The embedded log: two append streams (ticks and books; orders, trades and audit) in segment files of one directory.
///
/// Fed by every service through the EventLog port. An append is written by the caller in one go, and what it holds is
/// byte for byte what is kept in memory, so that a reader at the tip costs no copy and no decoding.
///
/// Files: `log.meta` (which log, its generations, how it stopped), `ticks-N.seg` and `orders-N.seg`
/// (``SegmentFormat``), and per closed segment an `.idx` that can be made again from it.
public final class SegmentLog: EventLog, @unchecked Sendable {
    public let configuration: Configuration
    public let identity: LogIdentity
    public let isContinuous: Bool

    let disk: any Disk
    let time: any TimeSource
    let health: Health
    let ticks: AppendStream
    let orders: AppendStream
    let cache: BlockCache
    let isReadOnly: Bool
    private(set) var metadata: Metadata
    private let commitNumber = Atomic<UInt64>(0)
    private let listenerNumber = Atomic<UInt64>(0)
    private let closed = Mutex(false)
    private var workers: LogWorkers?

    /// Opens the log in a disk's directory, making a new one where there is none. *Blocking.*
    ///
    /// A torn tail is cut; what else was found is in ``identity``, ``isContinuous`` and ``damage``. `onProgress` gets
    /// bytes scanned and to scan, at most every 4 MiB, so a caller that has waited for a second can say so. Throws
    /// `.damaged`, `.unknownFormat`, `.readOnly`, `.diskFull`, `.io`.
    public convenience init(
        disk: any Disk, time: any TimeSource, configuration: Configuration = Configuration(),
        onProgress: (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void = { _, _ in }
    ) throws(LogError) {
        try self.init(disk, time, configuration, isReadOnly: false, onProgress)
    }

    /// Opens a log to look at it, also while a process has it open: nothing is changed on disk, appends are refused,
    /// and what that process appends later is not seen. A torn tail is left out. *Blocking.* Throws as
    /// ``init(disk:time:configuration:onProgress:)``, and `.damaged` where there is no log.
    public convenience init(
        reading disk: any Disk, time: any TimeSource, configuration: Configuration = Configuration(),
        onProgress: (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void = { _, _ in }
    ) throws(LogError) {
        var configuration = configuration
        configuration.work = .manual
        try self.init(disk, time, configuration, isReadOnly: true, onProgress)
    }

    private init(
        _ disk: any Disk, _ time: any TimeSource, _ configuration: Configuration, isReadOnly: Bool,
        _ onProgress: (_ doneBytes: UInt64, _ totalBytes: UInt64) -> Void
    ) throws(LogError) {
        self.disk = disk
        self.isReadOnly = isReadOnly
        self.time = time
        self.configuration = configuration
        cache = BlockCache(byteCountMax: configuration.cacheBytes)
        let bootID = disk.bootID() ?? ""
        let found = try Metadata.read(disk)
        if found == nil { try SegmentLog.requireNoSegments(disk) }
        if found == nil, isReadOnly {
            throw LogError(.damaged, "there is no log here (\(Metadata.fileName) is missing)")
        }
        var metadata = found ?? Metadata(id: SegmentLog.newID(bootID, time), generation: 1, bootID: bootID)
        let isClean = metadata.isClean || found == nil
        let isSameBoot = !bootID.isEmpty && metadata.bootID == bootID

        let health = Health()
        let made = DurabilityClass.allCases.map { [metadata] durability in
            AppendStream(
                durability, configuration: configuration, disk: disk, time: time, health: health, logID: metadata.id,
                generation: metadata.generation)
        }
        self.health = health
        ticks = made[0]
        orders = made[1]
        var findings: [(AppendStream, StreamFinding)] = []
        for stream in [ticks, orders] {
            let tail = metadata.tails.first { $0.stream == stream.durability }
            findings.append((stream, try stream.recover(tail, progress: onProgress)))
        }
        // A clean stop that the files do not match is none.
        let wasAsLeft = isClean && !findings.contains { $0.1.wasScanned }
        let wasCut = findings.contains { $0.1.cut != nil || $0.1.lostAtTail }
        let isIntact = wasAsLeft || (isSameBoot && !wasCut && (!isClean || found == nil))
        isContinuous = isIntact && SegmentLog.isSettled(ticks, metadata.generation)
        if !isIntact, !isReadOnly {
            metadata.generation += 1
            var ends: [TopicPartition: UInt64] = [:]
            for (stream, _) in findings {
                for partition in stream.partitions.all { ends[partition.place] = partition.writtenEnd }
            }
            metadata.cuts.append(LogIdentity.Cut(generation: metadata.generation, ends: ends))
        }
        metadata.bootID = bootID
        metadata.isClean = false
        metadata.tails = []
        identity = LogIdentity(id: metadata.id, generation: metadata.generation, cuts: metadata.cuts)
        self.metadata = metadata
        ticks.generation = metadata.generation
        orders.generation = metadata.generation
        for stream in made {
            stream.clampGroups { place in
                made.lazy.compactMap { $0.partitions.find(place)?.writtenEnd }.first ?? 0
            }
        }
        if !isReadOnly { try SegmentLog.settle(findings, metadata, disk) }
        let commit = [ticks, orders].flatMap { $0.groups.values }.map(\.commitNumber).max() ?? 0
        commitNumber.store(commit, ordering: .relaxed)
        // Retention waits for the first interval: readers that hold records have to say so first.
        if isReadOnly { return }
        if configuration.work == .threads { workers = try LogWorkers(ticks: ticks, orders: orders) }
    }

    /// A log let go without ``close()`` stops as if its process had been killed.
    deinit { workers?.stop() }

    /// Whether all instruments published in this generation: one that did not may have lost records before it.
    private static func isSettled(_ ticks: AppendStream, _ generation: UInt32) -> Bool {
        if generation == 1 { return true }
        let places = ticks.lastPlaces.entries
        return !places.isEmpty && places.allSatisfy { $0.generation == generation }
    }

    /// The generation is on disk before a torn tail goes, so that a stop between the two loses no word of the cut.
    private static func settle(_ findings: [(AppendStream, StreamFinding)], _ metadata: Metadata, _ disk: any Disk)
        throws(LogError)
    {
        do throws(DiskError) {
            try metadata.write(disk)
            for (stream, finding) in findings {
                try stream.settle(finding)
            }
            try disk.syncDirectory("")
        } catch {
            throw LogError.from(error)
        }
    }

    private static func requireNoSegments(_ disk: any Disk) throws(LogError) {
        let names: [String]
        do throws(DiskError) {
            names = try disk.list("")
        } catch {
            throw LogError.from(error)
        }
        // A new log's metadata is durable before its first segment is made.
        if let name = names.first(where: { name in
            DurabilityClass.allCases.contains { Segment.ordinal(name, of: $0) != nil }
        }) {
            throw LogError(
                .damaged,
                "\(name) is there but \(Metadata.fileName) is missing; restore it from a backup, or use an empty "
                    + "directory"
            )
        }
    }

    /// Unique enough without randomness: two logs would have to be made on one machine in the same nanosecond.
    private static func newID(_ bootID: String, _ time: any TimeSource) -> UInt64 {
        var writer = ByteWriter()
        writer.put(bootID)
        writer.put(time.wallNs())
        writer.put(time.monotonicNs())
        return RecordKey.hash(exchange: writer.bytes, symbol: writer.bytes.reversed())
    }

    func stream(_ durability: DurabilityClass) -> AppendStream { durability == .ticks ? ticks : orders }

    // MARK: EventLog

    public var failure: LogError? { health.failure }

    /// Damage met so far, by the start and by readers: file, byte and reason.
    /// ``describeSegments(verifying:onProgress:)`` looks for all.
    public var damage: [String] {
        [ticks, orders].flatMap { stream in
            stream.state.locked { stream.lostFiles + stream.segments.flatMap(\.damaged) }
        }
    }

    public func partitionCount(_ topic: Topic) -> Int { configuration.partitionCount(topic) }

    @discardableResult
    public func append(_ blocks: [Block], consumed: [GroupOffset]) throws(LogError) -> AppendReceipt {
        if isReadOnly { throw LogError(.readOnly, "the log was opened for reading only") }
        let durability = blocks.first?.topicPartition.topic.durability ?? .orders
        var imageBytes = 0
        for block in blocks {
            let place = block.topicPartition
            guard place.topic.durability == durability else {
                throw LogError(
                    .invalid, "one append holds blocks of \(blocks[0].topicPartition) and \(place): append them apart")
            }
            guard Int(place.partition) < partitionCount(place.topic) else {
                throw LogError(
                    .invalid, "\(place) does not exist: the topic has \(partitionCount(place.topic)) partitions")
            }
            imageBytes += block.image.count
        }
        guard imageBytes <= configuration.appendBytesMax, blocks.count <= 65_536, consumed.count <= 4096 else {
            throw LogError(
                .tooLarge,
                "an append of \(imageBytes) bytes in \(blocks.count) blocks; at most \(configuration.appendBytesMax) "
                    + "bytes, 65536 blocks and 4096 group offsets are taken")
        }
        guard !blocks.isEmpty || !consumed.isEmpty else {
            return AppendReceipt(firstOffsets: [], appendTimeNs: time.wallNs())
        }
        try requireExisting(consumed)
        let stream = stream(durability)
        let commit = consumed.isEmpty ? 0 : commitNumber.add(1, ordering: .relaxed).newValue
        let (receipt, number) = try stream.append(blocks, consumed, commitNumber: commit)
        if durability == .orders { try stream.waitDurable(number) }
        return receipt
    }

    /// No group offset becomes durable before what it covers.
    private func requireExisting(_ consumed: [GroupOffset]) throws(LogError) {
        for group in consumed {
            guard group.group.utf8.count <= 255, !group.group.isEmpty else {
                throw LogError(.invalid, "a group's name has 1 to 255 bytes, not \(group.group.utf8.count)")
            }
            guard group.offset <= endOffset(group.place, .written) else {
                throw LogError(.invalid, "group \(group.group) commits \(group.place) \(group.offset), past its end")
            }
            if group.offset > endOffset(group.place, .durable) { try stream(group.place.topic.durability).sync() }
        }
    }

    public func sync() throws(LogError) {
        try ticks.sync()
        try orders.sync()
    }

    public func startOffset(_ place: TopicPartition) -> UInt64 {
        let stream = stream(place.topic.durability)
        return stream.state.locked { stream.partitions.find(place)?.start ?? 0 }
    }

    public func endOffset(_ place: TopicPartition, _ visibility: Visibility) -> UInt64 {
        let stream = stream(place.topic.durability)
        return stream.state.locked { stream.partitions.find(place).map { stream.visibleEnd($0, visibility) } ?? 0 }
    }

    public func offset(of start: StartPosition, in place: TopicPartition) throws(LogError) -> UInt64 {
        switch start {
        case .earliest: return startOffset(place)
        case .latest: return endOffset(place, .durable)
        case .offset(let offset): return offset
        case .time(let timeNs):
            do throws(DiskError) {
                return try stream(place.topic.durability).offset(of: place, atOrAfter: timeNs)
            } catch {
                throw LogError.from(error)
            }
        }
    }

    public func read(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility) -> ReadResult {
        stream(place.topic.durability).read(place, at: offset, visibility, cache)
    }

    public func readBlocking(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility)
        throws(LogError) -> ReadResult
    {
        try stream(place.topic.durability).readBlocking(place, at: offset, visibility, cache)
    }

    public func load(
        _ place: TopicPartition, at offset: UInt64, _ visibility: Visibility,
        completion: @escaping @Sendable (Result<ReadResult, LogError>) -> Void
    ) {
        let read: @Sendable () -> Void = { [self] in
            do throws(LogError) {
                completion(.success(try readBlocking(place, at: offset, visibility)))
            } catch {
                completion(.failure(error))
            }
        }
        guard let workers else { return read() }
        if let refusal = workers.submit(read) { completion(.failure(refusal)) }
    }

    public func wait(_ place: TopicPartition, at offset: UInt64, _ visibility: Visibility, timeoutNs: Int64) -> Bool {
        let stream = stream(place.topic.durability)
        return stream.wait(place, at: offset, visibility, timeoutNs: timeoutNs)
    }

    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, _ notify: @escaping @Sendable () -> Void
    ) -> ListenerID { addListener(durability, visibility, ofBlocks: { _ in notify() }) }

    public func addListener(
        _ durability: DurabilityClass, _ visibility: Visibility, ofBlocks notify: @escaping @Sendable ([Block]?) -> Void
    ) -> ListenerID {
        let id = ListenerID(listenerNumber.add(1, ordering: .relaxed).newValue)
        let stream = stream(durability)
        stream.state.locked { stream.listeners.append((id, visibility, notify)) }
        return id
    }

    public func removeListener(_ id: ListenerID) {
        for stream in [ticks, orders] { stream.state.locked { stream.listeners.removeAll { $0.id == id } } }
    }

    public func lastPlace(_ topic: Topic, feed: String, exchange: String, symbol: String) -> LastPlace? {
        let stream = stream(topic.durability)
        return stream.state.locked {
            stream.lastPlaces.latest(
                topic, partitions: stream.partitions.count(topic), feed: feed, exchange: exchange, symbol: symbol)?
                .lastPlace
        }
    }

    public func lastPlaces(_ topic: Topic) -> [LastPlace] {
        let stream = stream(topic.durability)
        let entries = stream.state.locked {
            stream.lastPlaces.entries.filter { $0.place.topic == topic && $0.offset != Block.noOffset }
        }
        let sorted = entries.map { (place: $0.lastPlace, number: $0.appendNumber) }.sorted {
            ($0.place.exchange, $0.place.symbol, $0.place.feed, $0.number)
                < ($1.place.exchange, $1.place.symbol, $1.place.feed, $1.number)
        }
        // Of an instrument that was in several partitions the newest stands last.
        var places: [LastPlace] = []
        for (place, _) in sorted {
            if let last = places.last, last.exchange == place.exchange, last.symbol == place.symbol,
                last.feed == place.feed
            {
                places[places.count - 1] = place
            } else {
                places.append(place)
            }
        }
        return places
    }

    public func committedOffset(group: String, _ place: TopicPartition) -> UInt64? {
        let key = AppendStream.GroupKey(group: group, place: place)
        let found = [ticks, orders].compactMap { stream in stream.state.locked { stream.groups[key] } }
        return found.max { $0.commitNumber < $1.commitNumber }?.offset
    }

    /// The directory's lock is the fence, and recovery has ended what was unfinished.
    public func fence() {}

    public func commit(_ offsets: [GroupOffset]) throws(LogError) { try append([], consumed: offsets) }

    public func hold(reader: String, _ place: TopicPartition, from offset: UInt64) {
        stream(place.topic.durability).hold(reader: reader, place, from: offset)
    }

    public func close() throws(LogError) {
        let wasClosed = closed.withLock { closed in
            defer { closed = true }
            return closed
        }
        if wasClosed || isReadOnly { return }
        for stream in [ticks, orders] {
            stream.writing.locked { stream.state.locked { stream.isClosing = true } }
            stream.wakeAll()
        }
        workers?.stop()
        defer { disk.close() }
        if let failure = health.failure { throw AppendStream.stopped(failure) }
        try sync()
        do throws(DiskError) {
            var stopped = metadata
            stopped.isClean = true
            for stream in [ticks, orders] {
                try stream.writeIndexFiles(includingLast: true)
                if let tail = stream.tail() { stopped.tails.append(tail) }
            }
            try disk.syncDirectory("")
            try stopped.write(disk)
        } catch {
            throw LogError.from(error)
        }
    }

    /// Under ``Configuration/Work/manual``: does what the log's threads would do now: syncs ticks and enforces
    /// retention.
    public func pump() throws(LogError) {
        try ticks.sync()
        enforceRetention()
    }
}
