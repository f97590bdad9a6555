// The writer: reads ticks.raw from the log, files every tick in the store, and moves its offset in the same
// transaction. What it cannot read goes to ticks.raw.dlq with the reason and the original bytes. Fed by the log, feeds
// the store.

import EventLog
import MarketModel
import Synchronization
import TickCodec
import TickStore
import TimeSource

/// Limits of the writer. Both limits of a batch grow under load and come back.
public struct WriterConfiguration: Sendable {
    /// A batch is applied when it has this many rows …
    public var batchRowsMin = 200
    /// … or its first row has waited this long.
    public var batchIntervalNs: Int64 = 50_000_000
    /// What the two may grow to while the writer is behind. Of few instruments a batch has no more rows than the first,
    /// so that it, and what is made of it, stays in a processor's caches; of many it has about so many of each, as a
    /// store takes the rows of an instrument together, and no more than the last.
    public var batchRowsOfFew = 4096
    public var batchRowsPerInstrument = 128
    public var batchRowsMax = 32_768
    public var batchIntervalNsMax: Int64 = 500_000_000
    /// Bytes of records in a batch, and in all batches that are not applied yet: this bounds the writer's memory.
    public var batchBytesMax = 8 << 20
    public var heldBytesMax = 32 << 20
    /// What a partition keeps of them while it waits to be tried again; it reads the rest once more.
    public var waitingBytesMax = 256 << 10
    /// Pause before a failed apply is tried again: doubles from the first to the second.
    public var retryIntervalNs: Int64 = 100_000_000
    public var retryIntervalNsMax: Int64 = 5_000_000_000
    /// The consumer group that writers of one store are members of, where the log is shared by processes.
    public var group = "cassandra-writer"
    /// How long a store that does not answer when the writer ends is asked again, nanoseconds.
    public var endNsMax: Int64 = 20_000_000_000
    /// Records that retention took before they were stored end the writer, so that somebody decides; otherwise they are
    /// counted and reported, and it goes on behind them.
    public var stopsAtLostRecords = false
    /// After ``WriterService/stop()`` it goes on until the log has no more; otherwise only what it has read is stored,
    /// as others go on with the rest.
    public var drainsLog = true

    public init() {}
}

/// Why a writer stopped.
public struct WriterError: Error, Sendable, CustomStringConvertible {
    /// What happened, to which partition, and what to do next.
    public let description: String
    init(_ description: String) { self.description = description }
}

/// What the writer did since it started.
public struct WriterCounters: Sendable, Hashable {
    public var batches: UInt64 = 0
    public var rows: UInt64 = 0
    public var deadLetters: UInt64 = 0
    /// Records that retention or damage took before the writer had them.
    public var recordsLost: UInt64 = 0
    public var retries: UInt64 = 0
    /// Bytes of records that were read and not applied: the most so far.
    public var heldBytesMost = 0
    /// Rows in the largest batch.
    public var batchRowsLargest = 0
    /// From a batch's first record to the store's having taken it, by batch.
    public var batchLatency = LatencyHistogram()
    /// Partitions that wait to be tried again, in their order; the others go on.
    public var waiting: [WaitingPartition] = []
    /// What it stopped at.
    public var stoppedBy: String?

    /// What it stopped at, or waits for; nil while it works.
    public var failure: String? {
        if let stoppedBy { return stoppedBy }
        guard let first = waiting.first else { return nil }
        let others = waiting.count > 1 ? " (and \(waiting.count - 1) more partitions)" : ""
        return "\(first.place) waits since \(CivilTime.text(ns: first.sinceNs))\(others): \(first.reason)"
    }
}

/// A partition of the log whose batch the store does not take now.
public struct WaitingPartition: Sendable, Hashable {
    public let place: TopicPartition
    /// What the last attempt came to.
    public var reason: String
    /// When the first attempt failed, nanoseconds since the epoch.
    public let sinceNs: Int64
    public var attempts: Int
}

/// One loop on one thread: batch out of the log, batch into the store.
public final class WriterService: Sendable {
    /// Its name as a reader of the log.
    public static let readerName = "writer"
    /// The group under which the log keeps how far corrupt records are dead-lettered.
    public static let deadLetterGroup = "writer.dlq"

    private let log: any EventLog
    private let store: any TickStore
    private let time: any TimeSource
    private let configuration: WriterConfiguration
    private let report: @Sendable (String) -> Void
    private let state = Mutex(WriterCounters())
    private let stopping = Atomic<Bool>(false)

    /// `report` takes a line for people when something went wrong; it is called on the writer's thread.
    public init(
        log: any EventLog, store: any TickStore, time: any TimeSource,
        configuration: WriterConfiguration = WriterConfiguration(), report: @escaping @Sendable (String) -> Void
    ) {
        self.log = log
        self.store = store
        self.time = time
        self.configuration = configuration
        self.report = report
    }

    /// May be read from any thread.
    public var counters: WriterCounters { state.withLock { $0 } }

    /// Asks ``run()`` to return once everything that is durable in the log is stored. From any thread.
    public func stop() { stopping.store(true, ordering: .releasing) }

    /// Runs until ``stop()``; blocks the calling thread. Throws when the store or the log fails for good: nothing is
    /// lost then, the next start goes on at the stored offset.
    public func run() throws {
        do {
            let group = try log.join(group: configuration.group, .ticksRaw)
            defer { group.leave() }
            try log.fence()
            var partitions: [Partition] = []
            var work = Work(configuration)
            var turn = 0
            while true {
                let isLast = stopping.load(ordering: .acquiring)
                try settle(&partitions, group)
                work.heldBytes = partitions.reduce(0) { $0 + $1.batch.bytes }
                var moved = false
                // Another one begins each time: where the store is slow, all have their turn.
                for count in partitions.indices {
                    let index = (turn + count) % partitions.count
                    moved = try step(&partitions[index], &work, group, isLast: isLast) || moved
                }
                turn &+= 1
                if isLast, !moved { break }
                if !moved { try idle(&partitions, work.size, group) }
            }
            try end(&partitions, group)
        } catch {
            state.withLock { $0.stoppedBy = "\(error)" }
            throw error
        }
    }

    /// What was applied is made durable, and the group told, before the partitions are given up. One that fails keeps
    /// no other from that.
    private func end(_ partitions: inout [Partition], _ group: any GroupMembership) throws {
        var failure: WriterError?
        let untilNs = time.monotonicNs() + configuration.endNsMax
        for index in partitions.indices {
            let (place, next) = (partitions[index].place, partitions[index].next)
            do throws(StoreError) {
                release(&partitions[index], try flush(place, untilNs: untilNs), group)
            } catch {
                failure = failure ?? WriterError("writer: \(place) is not stored up to \(next): \(error.message)")
            }
            guard let waiting = partitions[index].waiting else { continue }
            failure = WriterError("writer: \(place) is not stored from \(next) on: \(waiting.reason)")
        }
        if let failure { throw failure }
    }

    /// A store that does not answer at the moment is asked again until the time is over.
    private func flush(_ place: TopicPartition, untilNs: Int64) throws(StoreError) -> UInt64 {
        while true {
            do throws(StoreError) {
                return try store.flush(place)
            } catch {
                guard error.retryable, time.monotonicNs() < untilNs else { throw error }
                time.sleep(ns: 200_000_000)
            }
        }
    }

    /// Goes on with the partitions that are this member's now. What was read of others and is not stored yet is theirs.
    private func settle(_ partitions: inout [Partition], _ group: any GroupMembership) throws {
        let places = try group.partitions()
        guard places != partitions.map(\.place) else { return }
        // What the store knows of them by heart is old when they come back.
        for partition in partitions where !places.contains(partition.place) {
            do throws(StoreError) {
                try store.release(partition.place)
            } catch {
                // What of its rows is not stored is its new owner's to read again.
                report("writer: letting go of \(partition.place): \(error.message)")
            }
        }
        defer { tellWaiting(partitions) }
        partitions = try places.compactMap { place in
            if let known = partitions.first(where: { $0.place == place }) { return known }
            do {
                let partition = try Partition(place, log: log, store: store, group: configuration.group)
                group.begin(place, at: partition.next)
                return partition
            } catch let error as LogError where error.retryable {
                // It is asked again in the next pass.
                report("writer: where it goes on in \(place) is not known yet: \(error.message)")
                return nil
            }
        }
    }

    /// Everything below is durable in the store, so the log may let it go.
    private func release(_ partition: inout Partition, _ durable: UInt64, _ group: any GroupMembership) {
        log.hold(reader: WriterService.readerName, partition.place, from: durable)
        guard durable > partition.released else { return }
        group.finish(partition.released..<durable, of: partition.place)
        partition.released = durable
    }

    /// A writer that nothing comes for looks around so often: whatever comes wakes it.
    static let idleNsMax: Int64 = 500_000_000

    /// Waits for more, or until the oldest batch has waited long enough, or until one is to be tried again.
    private func idle(_ partitions: inout [Partition], _ size: BatchSize, _ group: any GroupMembership) throws {
        let nowNs = time.monotonicNs()
        var waitNs = WriterService.idleNsMax
        for partition in partitions {
            // What is durable in the store a little later is told to the log.
            if partition.released < partition.next { waitNs = min(waitNs, 50_000_000) }
            if partition.waiting != nil {
                waitNs = min(waitNs, partition.retryAtNs - nowNs)
            } else if let firstNs = partition.firstNs {
                waitNs = min(waitNs, firstNs + size.intervalNs - nowNs)
            }
        }
        if waitNs > 0 {
            // One that waits has something to read all the time.
            let next = partitions.filter { $0.waiting == nil }.map { (place: $0.place, offset: $0.batch.next) }
            if next.isEmpty { time.sleep(ns: waitNs) } else { group.wait(next, timeoutNs: waitNs) }
        }
        for index in partitions.indices where partitions[index].firstNs == nil {
            // What nothing was applied to since has nothing to make durable.
            guard partitions[index].released < partitions[index].next else { continue }
            if let durable = try? store.sync(partitions[index].place) { release(&partitions[index], durable, group) }
        }
    }

    /// Reads what there is of one partition, and applies it when it is enough or has waited long enough. False when
    /// there was nothing to do.
    private func step(
        _ partition: inout Partition, _ work: inout Work, _ group: any GroupMembership, isLast: Bool
    ) throws -> Bool {
        let place = partition.place
        var isTriedAgain = false
        if partition.waiting != nil {
            // The last time everything was tried that could be.
            guard !isLast, partition.retryAtNs <= time.monotonicNs() else { return false }
            isTriedAgain = true
        }
        let rowsMax = isTriedAgain ? configuration.batchRowsMin : work.size.rows
        let bytesMax = isTriedAgain ? configuration.waitingBytesMax : configuration.batchBytesMax
        var moved = false
        while partition.batch.rowCount < rowsMax, partition.batch.bytes < bytesMax,
            work.heldBytes < configuration.heldBytesMax || (isTriedAgain && partition.batch.bytes == 0),
            !isLast || configuration.drainsLog
        {
            switch try log.readBlocking(place, at: partition.batch.next, .durable) {
            case .block(let block, let index):
                if partition.firstNs == nil { partition.firstNs = time.monotonicNs() }
                let before = partition.batch.bytes
                partition.batch.add(block, from: index, place, deadLetteredThrough: partition.deadLetteredThrough)
                work.heldBytes += partition.batch.bytes - before
                let held = work.heldBytes
                state.withLock { $0.heldBytesMost = max($0.heldBytesMost, held) }
                moved = true
            case .atEnd, .onDisk:
                if isTriedAgain, partition.batch.next == partition.next {
                    // What it let go of is being fetched again.
                    partition.retryAtNs = time.monotonicNs() + configuration.retryIntervalNs
                    return moved
                }
                if !isLast, !isTriedAgain, let firstNs = partition.firstNs,
                    firstNs + work.size.intervalNs > time.monotonicNs()
                {
                    return moved
                }
                return try finish(&partition, &work, group, full: false) || moved
            case .expired(let oldest):
                try lose(place, partition.batch.next, oldest, "retention removed them before they were stored")
                partition.batch.next = oldest
            case .damaged(let next, let reason):
                try lose(place, partition.batch.next, next, reason)
                partition.batch.next = next
            }
        }
        return try finish(&partition, &work, group, full: true) || moved
    }

    private func lose(_ place: TopicPartition, _ from: UInt64, _ to: UInt64, _ reason: String) throws(WriterError) {
        if configuration.stopsAtLostRecords {
            throw WriterError(
                "writer: records \(from)..<\(to) of \(place) are gone: \(reason). Somebody must decide: "
                    + "`--lost-records skip` goes on behind them")
        }
        state.withLock { $0.recordsLost += to - from }
        report("writer: records \(from)..<\(to) of \(place) are lost to the store: \(reason)")
    }

    private func finish(
        _ partition: inout Partition, _ work: inout Work, _ group: any GroupMembership, full: Bool
    ) throws -> Bool {
        let batch = partition.batch
        guard batch.next > partition.next else { return false }
        if !batch.corrupt.isEmpty {
            try deadLetter(partition.place, batch.corrupt)
            partition.deadLetteredThrough = batch.corrupt[batch.corrupt.count - 1].offset + 1
        }
        let started = time.monotonicNs()
        let durable: UInt64
        do throws(StoreError) {
            durable = try store.apply(batch.rows, through: batch.next, of: partition.place)
        } catch {
            guard error.retryable else { throw error }
            postpone(&partition, error)
            work.heldBytes += partition.batch.bytes - batch.bytes
            return false
        }
        let nowNs = time.monotonicNs()
        work.size.adapt(full: full, tracks: batch.tracks, applyNs: nowNs - started)
        let latencyNs = nowNs - (partition.firstNs ?? started)
        work.heldBytes -= batch.bytes
        partition.next = batch.next
        partition.batch = Batch(next: batch.next)
        partition.firstNs = nil
        if partition.waiting != nil { resume(&partition) }
        release(&partition, durable, group)
        state.withLock {
            $0.batches += 1
            $0.rows += UInt64(batch.rows.rows.count)
            $0.batchRowsLargest = max($0.batchRowsLargest, batch.rows.rows.count)
            $0.batchLatency.add(latencyNs)
        }
        return true
    }

    /// The store does not take the partition's batch now: it waits, and the others go on. A large batch is read again,
    /// so that those that wait hold little.
    private func postpone(_ partition: inout Partition, _ error: StoreError) {
        let place = partition.place
        let nowNs = time.wallNs()
        var waiting =
            partition.waiting ?? WaitingPartition(place: place, reason: error.message, sinceNs: nowNs, attempts: 0)
        waiting.attempts += 1
        waiting.reason = error.message
        partition.pauseNs = min(
            max(partition.pauseNs * 2, configuration.retryIntervalNs), configuration.retryIntervalNsMax)
        partition.retryAtNs = time.monotonicNs() + partition.pauseNs
        if partition.batch.bytes > configuration.waitingBytesMax {
            partition.batch = Batch(next: partition.next)
            partition.firstNs = nil
        }
        partition.waiting = waiting
        let known = waiting
        state.withLock { state in
            state.retries += 1
            state.waiting.removeAll { $0.place == place }
            let index = state.waiting.firstIndex { $0.place.partition > place.partition } ?? state.waiting.count
            state.waiting.insert(known, at: index)
        }
        if waiting.attempts == 1 {
            report("writer: \(place) waits and is tried again, the others go on: \(error.message)")
        }
    }

    private func resume(_ partition: inout Partition) {
        guard let waiting = partition.waiting else { return }
        partition.waiting = nil
        partition.pauseNs = 0
        state.withLock { $0.waiting.removeAll { $0.place == waiting.place } }
        let seconds = max(0, time.wallNs() - waiting.sinceNs) / 1_000_000_000
        report("writer: \(waiting.place) goes on after \(seconds) s and \(waiting.attempts) attempts")
    }

    /// Those that went to another member do not wait here any more.
    private func tellWaiting(_ partitions: [Partition]) {
        let waiting = partitions.compactMap(\.waiting)
        state.withLock { $0.waiting = waiting }
    }

    /// Corrupt records first go to the dead-letter topic; only then may the store's offset pass them.
    private func deadLetter(_ place: TopicPartition, _ corrupt: [Batch.Corrupt]) throws(LogError) {
        try DeadLetterRecord.append(
            corrupt, of: place, to: log, group: WriterService.deadLetterGroup, failedTimeNs: time.wallNs())
        state.withLock { $0.deadLetters += UInt64(corrupt.count) }
        report("writer: \(corrupt.count) records of \(place) went to \(place.topic.deadLetter): \(corrupt[0].reason)")
    }
}

/// Where the writer is in one partition.
private struct Partition {
    let place: TopicPartition
    /// The first offset that is not applied.
    var next: UInt64
    /// The group was told of everything below.
    var released: UInt64
    /// Corrupt records below this are dead-lettered already.
    var deadLetteredThrough: UInt64
    /// What was read and is not applied yet, and since when it waits.
    var batch: Batch
    var firstNs: Int64?
    /// Set while the store does not take its batch: since when and why, and when it is tried again.
    var waiting: WaitingPartition?
    var pauseNs: Int64 = 0
    var retryAtNs: Int64 = 0

    init(_ place: TopicPartition, log: any EventLog, store: any TickStore, group: String) throws {
        self.place = place
        // The store's own offset comes first, then the group's. A writer that never ran begins with the first record
        // there is.
        next =
            try store.nextOffset(place) ?? log.committedOffset(group: group, place)
            ?? log.offset(of: .earliest, in: place)
        released = next
        batch = Batch(next: next)
        deadLetteredThrough = try log.committedOffset(group: WriterService.deadLetterGroup, place) ?? 0
        log.hold(reader: WriterService.readerName, place, from: next)
    }
}

/// What a pass over the partitions goes by.
private struct Work {
    var size: BatchSize
    /// Bytes of records that were read and not applied, of all partitions.
    var heldBytes = 0

    init(_ configuration: WriterConfiguration) { size = BatchSize(configuration) }
}

/// The two limits of a batch, which grow while batches come in full and come back when they do not.
struct BatchSize {
    private(set) var rows: Int
    private(set) var intervalNs: Int64
    private let configuration: WriterConfiguration

    init(_ configuration: WriterConfiguration) {
        self.configuration = configuration
        rows = configuration.batchRowsMin
        intervalNs = configuration.batchIntervalNs
    }

    /// `tracks`: instruments of a feed in the batch.
    mutating func adapt(full: Bool, tracks: Int, applyNs: Int64) {
        let most = min(
            max(configuration.batchRowsOfFew, tracks * configuration.batchRowsPerInstrument), configuration.batchRowsMax
        )
        rows = full ? min(rows * 2, most) : max(rows / 2, configuration.batchRowsMin)
        // A store that takes longer than the interval gets fewer, larger batches.
        intervalNs = min(max(configuration.batchIntervalNs, 2 * applyNs), configuration.batchIntervalNsMax)
    }
}
