import EventLog

/// What a stream keeps in memory of one partition. Guarded by the stream's state lock.
final class Partition {
    let place: TopicPartition
    /// The oldest offset that exists.
    var start: UInt64 = 0
    var writtenEnd: UInt64 = 0
    var durableEnd: UInt64 = 0
    /// What `durableEnd` becomes when the sync in progress succeeds.
    var syncingEnd: UInt64 = 0
    /// Its blocks in the tip: consecutive, oldest at `tipHead`.
    var tip: [Block] = []
    var tipHead = 0

    init(_ place: TopicPartition) { self.place = place }

    /// The block in memory that holds the offset.
    func inTip(_ offset: UInt64) -> Block? {
        guard tipHead < tip.count, offset >= tip[tipHead].firstOffset else { return nil }
        // Most readers are at the newest block.
        if let last = tip.last, offset >= last.firstOffset { return offset < last.endOffset ? last : nil }
        var low = tipHead
        var high = tip.count - 1
        while low < high {
            let middle = (low + high + 1) / 2
            if tip[middle].firstOffset <= offset { low = middle } else { high = middle - 1 }
        }
        return offset < tip[low].endOffset ? tip[low] : nil
    }

    func dropOldest() {
        tip[tipHead] = Partition.nothing
        tipHead += 1
        if tipHead * 2 > tip.count, tipHead > 64 || tipHead == tip.count {
            tip.removeFirst(tipHead)
            tipHead = 0
        }
    }

    /// Stands where a block was, so that the block is let go at once.
    private static let nothing: Block = {
        let builder = BlockBuilder(TopicPartition(.ticksRaw, 0))
        let key = builder.register(BlockBuilder.Key(exchange: "", symbol: "", feed: ""))
        builder.append(key: key, epoch: 0, sequence: 0, payload: UnsafeRawBufferPointer(start: nil, count: 0))
        return builder.build()
    }()
}

/// Partitions by place, found without hashing. Guarded by the stream's state lock.
struct PartitionTable {
    /// In the order in which they came to exist.
    private(set) var all: [Partition] = []
    private var numbers = [[Int32]](repeating: [], count: 2 * Topic.sources.count)

    @inline(__always)
    func find(_ place: TopicPartition) -> Partition? {
        let row = numbers[PartitionTable.slot(place.topic)]
        let partition = Int(place.partition)
        guard partition < row.count, row[partition] >= 0 else { return nil }
        return all[Int(row[partition])]
    }

    mutating func findOrMake(_ place: TopicPartition) -> Partition {
        if let found = find(place) { return found }
        let slot = PartitionTable.slot(place.topic)
        while numbers[slot].count <= Int(place.partition) { numbers[slot].append(-1) }
        numbers[slot][Int(place.partition)] = Int32(all.count)
        let partition = Partition(place)
        all.append(partition)
        return partition
    }

    /// How many partitions of a topic may exist: one more than the largest number met.
    func count(_ topic: Topic) -> Int { numbers[PartitionTable.slot(topic)].count }

    private static func slot(_ topic: Topic) -> Int {
        Int(topic.number & 0x7fff) - 1 + (topic.isDeadLetter ? Topic.sources.count : 0)
    }
}

/// The newest blocks of a stream, in memory up to a number of bytes; the oldest of any partition goes first.
struct Tip {
    let byteCountMax: Int
    private(set) var byteCount = 0
    private var order: [(partition: Partition, byteCount: Int)] = []
    private var head = 0

    init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

    mutating func add(_ block: Block, to partition: Partition) {
        // A hole before the block (damage met at a start) ends what can be found by position.
        if let last = partition.tip.last, last.endOffset != block.firstOffset { clear(partition) }
        partition.tip.append(block)
        order.append((partition, block.image.count))
        byteCount += block.image.count
        while byteCount > byteCountMax, head + 1 < order.count { dropOldest() }
    }

    private mutating func dropOldest() {
        let oldest = order[head]
        head += 1
        byteCount -= oldest.byteCount
        if oldest.partition.tipHead < oldest.partition.tip.count { oldest.partition.dropOldest() }
        if head > 1024, head * 2 > order.count {
            order.removeFirst(head)
            head = 0
        }
    }

    private mutating func clear(_ partition: Partition) {
        partition.tip.removeAll()
        partition.tipHead = 0
        var kept = order[head...].filter { $0.partition !== partition }
        swap(&kept, &order)
        head = 0
        byteCount = order.reduce(0) { $0 + $1.byteCount }
    }
}
