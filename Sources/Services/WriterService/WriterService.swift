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
    /// What the two may grow to while the writer is behind.
    public var batchRowsMax = 32_768
    public var batchIntervalNsMax: Int64 = 500_000_000
    /// Bytes of records in a batch; with one batch at a time this bounds the writer's memory.
    public var batchBytesMax = 8 << 20
    /// Pause before a failed apply is tried again: doubles from the first to the second.
    public var retryIntervalNs: Int64 = 100_000_000
    public var retryIntervalNsMax: Int64 = 5_000_000_000
    /// The consumer group that writers of one store are members of, where the log is shared by processes.
    public var group = "cassandra-writer"
    /// Records that retention took before they were stored end the writer, so that somebody decides; otherwise they are
    /// counted and reported, and it goes on behind them.
    public var stopsAtLostRecords = false

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
    /// Rows in the largest batch.
    public var batchRowsLargest = 0
    /// The failure it is retrying, or stopped at; nil while it works.
    public var failure: String?
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
            var partitions: [Partition] = []
            var size = BatchSize(configuration)
            while true {
                let isLast = stopping.load(ordering: .acquiring)
                try settle(&partitions, group)
                var moved = false
                for index in partitions.indices {
                    moved = try step(&partitions[index], &size, group, drain: isLast) || moved
                }
                if isLast, !moved { break }
                if !moved { try idle(&partitions, size, group) }
            }
            for index in partitions.indices { try sync(&partitions[index], group) }
        } catch {
            state.withLock { $0.failure = "\(error)" }
            throw error
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
        partitions = try places.map { place in
            if let known = partitions.first(where: { $0.place == place }) { return known }
            let partition = try Partition(place, log: log, store: store, group: configuration.group)
            group.begin(place, at: partition.next)
            return partition
        }
    }

    /// Everything below is durable in the store, so the log may let it go.
    private func release(_ partition: inout Partition, _ durable: UInt64, _ group: any GroupMembership) {
        log.hold(reader: WriterService.readerName, partition.place, from: durable)
        guard durable > partition.released else { return }
        group.finish(partition.released..<durable, of: partition.place)
        partition.released = durable
    }

    private func sync(_ partition: inout Partition, _ group: any GroupMembership) throws {
        release(&partition, try store.sync(partition.place), group)
    }

    /// Waits for more, or until the oldest batch has waited long enough.
    private func idle(_ partitions: inout [Partition], _ size: BatchSize, _ group: any GroupMembership) throws {
        let nowNs = time.monotonicNs()
        var waitNs: Int64 = 50_000_000
        for case let firstNs? in partitions.map(\.firstNs) { waitNs = min(waitNs, firstNs + size.intervalNs - nowNs) }
        if waitNs > 0 {
            group.wait(partitions.map { ($0.place, $0.batch.next) }, timeoutNs: waitNs)
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
        _ partition: inout Partition, _ size: inout BatchSize, _ group: any GroupMembership, drain: Bool
    ) throws -> Bool {
        let place = partition.place
        var moved = false
        while partition.batch.rowCount < size.rows, partition.batch.bytes < configuration.batchBytesMax {
            switch try log.readBlocking(place, at: partition.batch.next, .durable) {
            case .block(let block, let index):
                if partition.firstNs == nil { partition.firstNs = time.monotonicNs() }
                partition.batch.add(block, from: index, place, deadLetteredThrough: partition.deadLetteredThrough)
                moved = true
            case .atEnd, .onDisk:
                if !drain, let firstNs = partition.firstNs, firstNs + size.intervalNs > time.monotonicNs() {
                    return moved
                }
                return try finish(&partition, &size, group, full: false) || moved
            case .expired(let oldest):
                try lose(place, partition.batch.next, oldest, "retention removed them before they were stored")
                partition.batch.next = oldest
            case .damaged(let next, let reason):
                try lose(place, partition.batch.next, next, reason)
                partition.batch.next = next
            }
        }
        return try finish(&partition, &size, group, full: true) || moved
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
        _ partition: inout Partition, _ size: inout BatchSize, _ group: any GroupMembership, full: Bool
    ) throws -> Bool {
        let batch = partition.batch
        guard batch.next > partition.next else { return false }
        if !batch.corrupt.isEmpty {
            try deadLetter(partition.place, batch.corrupt)
            partition.deadLetteredThrough = batch.corrupt[batch.corrupt.count - 1].offset + 1
        }
        let started = time.monotonicNs()
        let durable = try apply(batch, partition.place)
        size.adapt(full: full, applyNs: time.monotonicNs() - started)
        partition.next = batch.next
        partition.batch = Batch(next: batch.next)
        partition.firstNs = nil
        release(&partition, durable, group)
        state.withLock {
            $0.batches += 1
            $0.rows += UInt64(batch.rows.rows.count)
            $0.batchRowsLargest = max($0.batchRowsLargest, batch.rows.rows.count)
        }
        return true
    }

    private func apply(_ batch: Batch, _ place: TopicPartition) throws -> UInt64 {
        var pause = configuration.retryIntervalNs
        while true {
            do {
                let durable = try store.apply(batch.rows, through: batch.next, of: place)
                state.withLock { $0.failure = nil }
                return durable
            } catch {
                guard error.retryable, !stopping.load(ordering: .acquiring) else { throw error }
                let message = error.message
                let isNew = state.withLock { state in
                    state.retries += 1
                    defer { state.failure = message }
                    return state.failure != message
                }
                if isNew { report("writer: \(message); it holds one batch and tries again") }
                time.sleep(ns: pause)
                pause = min(pause * 2, configuration.retryIntervalNsMax)
            }
        }
    }

    /// Corrupt records first go to the dead-letter topic, with the offset they go through in the same append, and are
    /// synced; only then may the store's offset pass them. A crash between makes neither a loss nor a second letter.
    private func deadLetter(_ place: TopicPartition, _ corrupt: [Batch.Corrupt]) throws(LogError) {
        let builder = BlockBuilder(TopicPartition(place.topic.deadLetter, place.partition))
        let key = builder.register(BlockBuilder.Key(exchange: "", symbol: place.description, feed: "writer"))
        let nowNs = time.wallNs()
        for record in corrupt {
            let letter = DeadLetterRecord.encode(record, place, failedTimeNs: nowNs)
            letter.withUnsafeBytes { builder.append(key: key, epoch: 0, sequence: record.offset, payload: $0) }
        }
        let through = GroupOffset(
            group: WriterService.deadLetterGroup, place: place, offset: corrupt[corrupt.count - 1].offset + 1)
        try log.append([builder.build()], consumed: [through])
        try log.sync()
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

    init(_ place: TopicPartition, log: any EventLog, store: any TickStore, group: String) throws {
        self.place = place
        // The store's own offset comes first, then the group's. A writer that never ran begins with the first record
        // there is.
        next =
            try store.nextOffset(place) ?? log.committedOffset(group: group, place)
            ?? log.offset(of: .earliest, in: place)
        released = next
        batch = Batch(next: next)
        deadLetteredThrough = log.committedOffset(group: WriterService.deadLetterGroup, place) ?? 0
        log.hold(reader: WriterService.readerName, place, from: next)
    }
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

    mutating func adapt(full: Bool, applyNs: Int64) {
        rows = full ? min(rows * 2, configuration.batchRowsMax) : max(rows / 2, configuration.batchRowsMin)
        // A store that takes longer than the interval gets fewer, larger batches.
        intervalNs = min(max(configuration.batchIntervalNs, 2 * applyNs), configuration.batchIntervalNsMax)
    }
}
