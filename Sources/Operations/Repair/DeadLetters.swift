import EventLog
import MarketProto
import Protobuf
import TickCodec
import TimeSource

/// A record that a consumer put aside.
public struct DeadLetterEntry: Sendable, Hashable {
    /// Where it lies in the dead-letter topic.
    public let place: TopicPartition
    public let offset: UInt64
    /// Where it came from.
    public let sourcePartition: Int32
    public let sourceOffset: UInt64
    public let reasonCode: String
    public let reason: String
    public let consumer: String
    public let failedTimeNs: Int64?
    /// The record's original bytes.
    public let value: [UInt8]
    /// Whether it was published again.
    public let isRedriven: Bool

    /// As it is named on the command line.
    public var position: DeadLetterPosition { DeadLetterPosition(partition: place.partition, offset: offset) }
}

/// A place in a dead-letter topic, written `PARTITION:OFFSET`.
public struct DeadLetterPosition: Sendable, Hashable, CustomStringConvertible {
    public let partition: UInt16
    public let offset: UInt64

    public init(partition: UInt16, offset: UInt64) {
        self.partition = partition
        self.offset = offset
    }

    /// nil where the text is none.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let partition = UInt16(parts[0]), let offset = UInt64(parts[1]) else { return nil }
        self.init(partition: partition, offset: offset)
    }

    public var description: String { "\(partition):\(offset)" }
}

/// What a redrive did. Every letter that was read is one of the others.
public struct RedriveCount: Sendable, Hashable {
    public var read = 0
    public var redriven = 0
    /// Published again before, by this or another process.
    public var skippedBefore = 0
    /// Not chosen.
    public var skippedOthers = 0
    public var failed = 0
    /// The first failure.
    public var failure: String?

    public init() {}

    public var skipped: Int { skippedBefore + skippedOthers }
    public var isBalanced: Bool { read == redriven + skipped + failed }
}

/// Reads the dead letters of a topic, and publishes them again.
///
/// That a letter was published again is a record of the dead-letter topic too: a receipt, of the reason code
/// ``receiptCode``, which names the letter. It goes into the log with what is published, in one transaction: either
/// both are there or none. It is younger than its letter, so retention takes it later. Whoever redrives reads all
/// receipts first. Used by one thread, which it blocks.
public final class DeadLetters {
    /// The reason code of receipts.
    public static let receiptCode = "REDRIVEN"
    /// The group under which a redrive commits, which makes its append a transaction.
    public static let group = "dlq.redrive"
    private static let batchMax = 100
    private static let batchBytesMax = 4 << 20

    private let log: any EventLog
    private let source: Topic
    private let time: any TimeSource

    /// `topic` is the source or its dead-letter topic; nil where it has none.
    public init?(_ log: any EventLog, topic: Topic, time: any TimeSource) {
        self.log = log
        self.time = time
        guard let source = Topic.sources.first(where: { $0 == topic || $0.deadLetter == topic }) else { return nil }
        self.source = source
    }

    private var places: [TopicPartition] {
        (0..<log.partitionCount(source.deadLetter)).map { TopicPartition(source.deadLetter, UInt16(clamping: $0)) }
    }

    /// Calls `body` with every letter, oldest first in each partition, until it returns false. Receipts are no letters.
    public func forEach(_ body: (DeadLetterEntry) throws -> Bool) throws {
        for place in places {
            let redriven = try receipts(place)
            var goesOn = true
            try forEachRecord(place) { offset, letter in
                guard goesOn, let letter, letter.reasonCode != DeadLetters.receiptCode else { return }
                goesOn = try body(entry(letter, place, offset, isRedriven: redriven.contains(offset)))
            }
            guard goesOn else { return }
        }
    }

    private func entry(
        _ letter: Proto.DeadLetter, _ place: TopicPartition, _ offset: UInt64, isRedriven: Bool
    ) -> DeadLetterEntry {
        DeadLetterEntry(
            place: place, offset: offset, sourcePartition: letter.sourcePartition, sourceOffset: letter.sourceOffset,
            reasonCode: letter.reasonCode, reason: letter.reason, consumer: letter.consumer,
            failedTimeNs: letter.failedTime?.ns, value: letter.value, isRedriven: isRedriven)
    }

    /// Offsets of letters that were published again.
    private func receipts(_ place: TopicPartition) throws -> Set<UInt64> {
        var offsets: Set<UInt64> = []
        try forEachRecord(place) { _, letter in
            guard let letter, letter.reasonCode == DeadLetters.receiptCode,
                letter.sourcePartition == Int32(place.partition)
            else { return }
            offsets.insert(letter.sourceOffset)
        }
        return offsets
    }

    /// `body` gets nil for a record that is no letter.
    private func forEachRecord(
        _ place: TopicPartition, _ body: (UInt64, Proto.DeadLetter?) throws -> Void
    ) throws {
        // Asked of the log, not remembered: receipts that were just written count.
        let end = try log.offset(of: .latest, in: place)
        var offset = try log.offset(of: .earliest, in: place)
        while offset < end {
            switch try log.readBlocking(place, at: offset, .durable) {
            case .block(let block, let first):
                for index in first..<block.recordCount {
                    let letter = try? Proto.DeadLetter(decoding: Array(block.payload(index)))
                    try body(block.firstOffset + UInt64(index), letter)
                }
                offset = max(block.endOffset, offset + 1)
            case .atEnd, .onDisk: return
            case .expired(let oldest): offset = max(oldest, offset + 1)
            case .damaged(let next, _): offset = max(next, offset + 1)
            }
        }
    }

    // MARK: Publishing again

    /// Publishes the letters that `isChosen` takes to their source topic, into the partitions that they came from.
    /// Where the log is shared by processes, a redrive ends those of others that are under way, before it reads.
    public func redrive(_ isChosen: (DeadLetterEntry) -> Bool) throws -> RedriveCount {
        var count = RedriveCount()
        try log.fence()
        for place in places {
            let redriven = try receipts(place)
            var batch: [DeadLetterEntry] = []
            var bytes = 0
            try forEachRecord(place) { offset, letter in
                guard let letter, letter.reasonCode != DeadLetters.receiptCode else { return }
                count.read += 1
                let entry = entry(letter, place, offset, isRedriven: redriven.contains(offset))
                if entry.isRedriven {
                    count.skippedBefore += 1
                } else if isChosen(entry) {
                    batch.append(entry)
                    bytes += entry.value.count
                    if batch.count >= DeadLetters.batchMax || bytes >= DeadLetters.batchBytesMax {
                        publish(&batch, &count)
                        bytes = 0
                    }
                } else {
                    count.skippedOthers += 1
                }
            }
            publish(&batch, &count)
        }
        return count
    }

    private func publish(_ batch: inout [DeadLetterEntry], _ count: inout RedriveCount) {
        defer { batch = [] }
        var sources: [UInt16: BlockBuilder] = [:]
        var published: [DeadLetterEntry] = []
        for entry in batch {
            guard let partition = UInt16(exactly: entry.sourcePartition), partition < log.partitionCount(source) else {
                count.failed += 1
                count.failure =
                    count.failure ?? "letter \(entry.position) came from partition \(entry.sourcePartition), which "
                    + "\(source) does not have"
                continue
            }
            let builder = sources[partition] ?? BlockBuilder(TopicPartition(source, partition))
            sources[partition] = builder
            add(entry, to: builder)
            published.append(entry)
        }
        guard let last = published.last else { return }
        let receipts = BlockBuilder(last.place)
        let key = receipts.register(BlockBuilder.Key(exchange: "", symbol: last.place.description, feed: "redrive"))
        for entry in published {
            receipt(entry).withUnsafeBytes { receipts.append(key: key, epoch: 0, sequence: entry.offset, payload: $0) }
        }
        let through = GroupOffset(group: DeadLetters.group, place: last.place, offset: last.offset + 1)
        do throws(LogError) {
            try log.append(
                sources.sorted { $0.key < $1.key }.map { $0.value.build() } + [receipts.build()], consumed: [through])
            try log.sync()
            count.redriven += published.count
        } catch {
            count.failed += published.count
            count.failure = count.failure ?? error.message
        }
    }

    /// The original bytes, under the names in them where they are a tick.
    private func add(_ entry: DeadLetterEntry, to builder: BlockBuilder) {
        entry.value.withUnsafeBytes { value in
            guard source == .ticksRaw, let reader = try? TickReader(value), !reader.exchange.isEmpty,
                max(reader.exchange.count, reader.symbol.count, reader.feed.count) <= Int(UInt16.max)
            else {
                let key = builder.register(BlockBuilder.Key(exchange: "", symbol: "", feed: ""))
                builder.append(key: key, epoch: 0, sequence: 0, payload: value)
                return
            }
            let (exchange, symbol) = (Array(reader.exchange), Array(reader.symbol))
            let key = builder.register(
                BlockBuilder.Key(
                    keyHash: RecordKey.hash(exchange: exchange, symbol: symbol), exchange: exchange, symbol: symbol,
                    feed: Array(reader.feed)))
            builder.append(key: key, epoch: reader.epoch, sequence: reader.sequence, payload: value)
        }
    }

    private func receipt(_ entry: DeadLetterEntry) -> [UInt8] {
        var letter = Proto.DeadLetter()
        letter.sourceTopic = source.deadLetter.name
        letter.sourcePartition = Int32(entry.place.partition)
        letter.sourceOffset = entry.offset
        letter.reasonCode = DeadLetters.receiptCode
        letter.reason = "published again to \(source.name)/\(entry.sourcePartition)"
        letter.failedTime = WellKnown.Timestamp(ns: time.wallNs())
        letter.consumer = DeadLetters.group
        return letter.encodedBytes()
    }
}
