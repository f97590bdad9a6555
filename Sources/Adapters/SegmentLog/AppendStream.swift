import Disk
import EventLog
import Synchronization
import TimeSource

/// The failure after which the whole log refuses appends: a disk that failed once is not trusted with the other stream.
final class Health: Sendable {
    private let stored = Mutex<LogError?>(nil)
    var failure: LogError? { stored.withLock { $0 } }
    func fail(_ error: LogError) { stored.withLock { if $0 == nil { $0 = error } } }
}

/// The appends of one durability class, one after the other in segment files.
///
/// Two locks. `writing` orders appends and is held over the write; readers never take it. `state` guards what is in
/// memory, is held for moments and never over I/O. `writing` is taken first.
final class AppendStream: @unchecked Sendable {
    let durability: DurabilityClass
    let configuration: SegmentLog.Configuration
    let disk: any Disk
    let time: any TimeSource
    let health: Health
    let logID: UInt64
    /// Set once, before the log is shared.
    var generation: UInt32
    /// Told of each new segment: another may be too much now. Set once, before the log is shared.
    var didBeginSegment: @Sendable () -> Void = {}

    let writing = Monitor()
    // Guarded by `writing`.
    private var headerWriter = ByteWriter()
    private var chain = WriterChain()
    /// The segment being written; `segments` belongs to `state`, since retention takes from its front.
    private var active: Segment?

    let state = Monitor()
    // Guarded by `state`; partitions, last places and numbers are changed only with `writing` held too, so that the
    // appending thread reads them without.
    var segments: [Segment] = []
    var partitions = PartitionTable()
    var tip: Tip
    let lastPlaces = LastPlaceTable()
    var groups: [GroupKey: (offset: UInt64, commitNumber: UInt64)] = [:]
    var writtenNumber: UInt64 = 0
    var durableNumber: UInt64 = 0
    var lastTimeNs: Int64 = 0
    var isSyncing = false
    var isClosing = false
    var listeners: [(id: ListenerID, visibility: Visibility, notify: @Sendable ([Block]?) -> Void)] = []
    /// Files of which nothing can be read.
    var lostFiles: [String] = []
    var holds: [Hold] = []
    /// Backups in progress, which keep every file.
    var pinCount = 0
    var holderLosses: [HolderLoss] = []

    struct GroupKey: Hashable {
        let group: String
        let place: TopicPartition
    }

    struct Hold {
        let reader: String
        let place: TopicPartition
        var offset: UInt64
    }

    init(
        _ durability: DurabilityClass, configuration: SegmentLog.Configuration, disk: any Disk, time: any TimeSource,
        health: Health, logID: UInt64, generation: UInt32
    ) {
        self.durability = durability
        self.configuration = configuration
        self.disk = disk
        self.time = time
        self.health = health
        self.logID = logID
        self.generation = generation
        tip = Tip(byteCountMax: configuration.tipBytes)
    }

    // MARK: Appending

    /// Writes blocks and group offsets as one append; visible to `.written` readers of ticks when it returns.
    func append(_ blocks: [Block], _ consumed: [GroupOffset], commitNumber: UInt64)
        throws(LogError) -> (receipt: AppendReceipt, number: UInt64)
    {
        let result = try writing.locked { () throws(LogError) in
            try write(blocks, consumed, commitNumber: commitNumber)
        }
        if durability == .ticks { notify(.written, blocks) }
        return result
    }

    private func write(_ blocks: [Block], _ consumed: [GroupOffset], commitNumber: UInt64)
        throws(LogError) -> (receipt: AppendReceipt, number: UInt64)
    {
        if let failure = health.failure { throw AppendStream.stopped(failure) }
        if isClosing { throw LogError(.closed, "the log is closed") }
        let imageBytes = blocks.reduce(0) { $0 + $1.image.count }
        let segment = try room(UInt64(imageBytes + AppendHeader.length(blocks: blocks.count, groups: consumed)))
        let nowNs = max(time.wallNs(), lastTimeNs)
        let number = writtenNumber + 1
        let firstOffsets = stamp(blocks, nowNs)
        let length = AppendHeader.encode(
            into: &headerWriter, blocks: blocks, groups: consumed, number: number,
            syncedNumber: state.locked { durableNumber }, commitNumber: commitNumber, appendTimeNs: nowNs,
            generation: generation)
        let position = segment.length
        do {
            try writeToFile(segment, blocks, position)
        } catch {
            chain.undo(lastPlaces)
            throw error
        }
        state.locked {
            segment.length = position + UInt64(length)
            show(
                blocks, consumed, segment, position: position, number: number, nowNs: nowNs, commitNumber: commitNumber)
        }
        return (AppendReceipt(firstOffsets: firstOffsets, appendTimeNs: nowNs), number)
    }

    /// Gives the blocks their offsets; nothing outside this append changes.
    private func stamp(_ blocks: [Block], _ nowNs: Int64) -> [UInt64] {
        var firstOffsets: [UInt64] = []
        firstOffsets.reserveCapacity(blocks.count)
        chain.begin(lastPlaces)
        for (number, block) in blocks.enumerated() {
            var offset = partitions.find(block.topicPartition)?.writtenEnd ?? 0
            for earlier in blocks[..<number] where earlier.topicPartition == block.topicPartition {
                offset = earlier.endOffset
            }
            chain.resolve(block, lastPlaces) { entry in state.locked { lastPlaces.insert(entry) } }
            block.stamp(firstOffset: offset, appendTimeNs: nowNs) { chain.previousOffset(track: $0) }
            chain.advance(block)
            firstOffsets.append(offset)
        }
        return firstOffsets
    }

    private func writeToFile(_ segment: Segment, _ blocks: [Block], _ position: UInt64) throws(LogError) {
        do throws(DiskError) {
            let file = try segment.file(on: disk)
            do throws(DiskError) {
                try file.write(at: position, headerWriter.bytes, blocks.map(\.image))
            } catch {
                guard error.kind == .full else { throw error }
                // What was written of it must not stay, or the next start would take it for a torn tail.
                try file.truncate(to: position)
                throw error
            }
        } catch {
            if error.kind == .full { throw LogError.from(error) }
            let failure = LogError.from(error)
            health.fail(failure)
            wakeAll()
            throw failure
        }
    }

    /// With both locks: the append is written, so readers of `.written` may see it.
    private func show(
        _ blocks: [Block], _ consumed: [GroupOffset], _ segment: Segment, position: UInt64, number: UInt64,
        nowNs: Int64,
        commitNumber: UInt64
    ) {
        for block in blocks {
            let partition = partitions.findOrMake(block.topicPartition)
            partition.writtenEnd = block.endOffset
            tip.add(block, to: partition)
            segment.index?.add(
                block.topicPartition, block.firstOffset..<block.endOffset, position: position, timeNs: nowNs,
                byteCount: block.image.count)
        }
        for change in chain.changes {
            lastPlaces.update(
                change.entry, offset: change.offset, epoch: change.epoch, sequence: change.sequence,
                appendNumber: number, generation: generation)
        }
        for group in consumed {
            groups[GroupKey(group: group.group, place: group.place)] = (group.offset, commitNumber)
        }
        writtenNumber = number
        lastTimeNs = nowNs
        state.wake(.written)
    }

    // MARK: Syncing

    /// Returns when every append up to `number` is synced. Callers share syncs: one leads, those that come meanwhile
    /// wait.
    func waitDurable(_ number: UInt64) throws(LogError) {
        while true {
            enum Step {
                case done
                case again
                case failed(LogError)
                case lead(Segment, UInt64)
            }
            let step: Step = state.locked {
                if durableNumber >= number { return .done }
                if let failure = health.failure { return .failed(AppendStream.stopped(failure)) }
                if isSyncing {
                    _ = state.wait(.durable)
                    return .again
                }
                isSyncing = true
                for partition in partitions.all { partition.syncingEnd = partition.writtenEnd }
                return .lead(segments[segments.count - 1], writtenNumber)
            }
            switch step {
            case .done: return
            case .again: continue
            case .failed(let error): throw error
            case .lead(let segment, let target): try lead(segment, target)
            }
        }
    }

    private func lead(_ segment: Segment, _ target: UInt64) throws(LogError) {
        var failure: LogError?
        do throws(DiskError) {
            try segment.file(on: disk).sync()
        } catch {
            failure = LogError(
                .stopped,
                "\(error): the sync failed, so what was not synced may be lost and nothing more is accepted; check the "
                    + "disk, then restart")
        }
        if let failure { health.fail(failure) }
        state.locked {
            isSyncing = false
            if failure == nil, target > durableNumber {
                durableNumber = target
                for partition in partitions.all where partition.syncingEnd > partition.durableEnd {
                    partition.durableEnd = partition.syncingEnd
                }
            }
            state.wake(.durable)
            if failure != nil || durability == .orders { state.wake(.written) }
        }
        if let failure { throw failure }
        notify(.durable)
    }

    func sync() throws(LogError) { try waitDurable(state.locked { writtenNumber }) }

    // MARK: Segments

    /// With `writing`: the segment to append to, a new one when the append would not fit the current one.
    private func room(_ length: UInt64) throws(LogError) -> Segment {
        if active == nil { active = state.locked { segments.last } }
        if let active {
            if active.length == active.headerLength || active.length + length <= configuration.segmentBytes {
                return active
            }
            try sync()
        }
        let next = try beginSegment()
        active = next
        return next
    }

    /// With `writing`: everything before is synced, so a start need only look at this segment for a torn tail.
    private func beginSegment() throws(LogError) -> Segment {
        let (header, checkpoint) = state.locked { (nextHeader(), self.checkpoint()) }
        let bytes = header.encode(checkpoint: checkpoint)
        let name = Segment.name(durability, header.ordinal)
        do throws(DiskError) {
            let file = try disk.open(name, create: true)
            do throws(DiskError) {
                try file.truncate(to: 0)
                try file.write(at: 0, bytes)
                try file.sync()
                try disk.syncDirectory("")
            } catch {
                try disk.remove(name)
                throw error
            }
            var placed = header
            placed.headerLength = bytes.count
            let segment = Segment(placed, length: UInt64(bytes.count), file: file)
            segment.index = SegmentIndex()
            state.locked { segments.append(segment) }
            didBeginSegment()
            return segment
        } catch {
            let failure = LogError.from(error)
            if error.kind != .full { health.fail(failure) }
            throw failure
        }
    }

    private func nextHeader() -> SegmentHeader {
        SegmentHeader(
            generation: generation, logID: logID, ordinal: (segments.last?.ordinal ?? 0) + 1,
            firstAppendNumber: writtenNumber + 1, startTimeNs: lastTimeNs,
            commitNumber: groups.values.map(\.commitNumber).max() ?? 0, stream: durability,
            starts: partitions.all.map { SegmentHeader.PlaceOffset(place: $0.place, offset: $0.writtenEnd) })
    }

    /// With `state`: what the next segment, or a clean stop, records of everything before.
    func checkpoint() -> Checkpoint {
        var checkpoint = Checkpoint()
        checkpoint.lastPlaces = lastPlaces.entries.filter { $0.offset != Block.noOffset }
        for (key, value) in groups {
            let offset = GroupOffset(group: key.group, place: key.place, offset: value.offset)
            checkpoint.groups.append(Checkpoint.GroupEntry(offset: offset, commitNumber: value.commitNumber))
        }
        checkpoint.groups.sort {
            ($0.commitNumber, $0.offset.group, $0.offset.place.topic.number, $0.offset.place.partition)
                < ($1.commitNumber, $1.offset.group, $1.offset.place.topic.number, $1.offset.place.partition)
        }
        return checkpoint
    }

    // MARK: Waking readers

    /// `blocks`: those that became visible, where these are known.
    func notify(_ visibility: Visibility, _ blocks: [Block]? = nil) {
        let all = state.locked { listeners }
        for listener in all where listener.visibility == visibility || durability == .orders { listener.notify(blocks) }
    }

    func wakeAll() {
        state.locked {
            state.wake(.written)
            state.wake(.durable)
        }
    }

    static func stopped(_ failure: LogError) -> LogError {
        LogError(.stopped, "the log accepts nothing more since: \(failure.message)")
    }
}

extension LogError {
    static func from(_ error: DiskError) -> LogError {
        switch error.kind {
        case .full:
            LogError(
                .diskFull, "\(error): the disk is full; nothing was appended; free space and try again", retryable: true
            )
        case .readOnly: LogError(.readOnly, "\(error): make the directory writable for this user and start again")
        case .locked: LogError(.locked, error.description)
        case .notFound: LogError(.damaged, "\(error): a file of the log is missing; restore it from a backup")
        case .io: LogError(.io, "\(error): check the disk, then restart")
        }
    }
}
