import EventLog
import MarketModel
import TickCodec

/// Puts a partition's records, as the broker gives them, into blocks: the same that an embedded log has.
///
/// A record's instrument, feed, epoch and sequence are those of its bytes. One that is no message of its topic, or that
/// names no instrument, stands in its block under empty names with its bytes as they came, for the reader with effects
/// to put aside; it stops nothing. A gap in the offsets ends a block. Used by one thread at a time.
final class BlockAssembler {
    /// Records in a block at most, and bytes from which on it is ended.
    static let recordsMax = 4096
    static let bytesMax = 256 << 10
    /// A longer record is replaced by an empty one, which is malformed: brokers refuse such unless told otherwise.
    static let recordBytesMax = 16 << 20
    /// Keys remembered; garbage can make any number.
    static let keysMax = 200_000

    /// The newest record of a key.
    struct Latest {
        var offset = Block.noOffset
        var epoch: UInt64 = 0
        var sequence: UInt64 = 0
        /// Before the block that is being collected.
        var before = Block.noOffset
        /// Which block ``before`` is meant for.
        var block: UInt64 = 0
    }

    let place: TopicPartition
    // An assembler belongs to one thread at a time and no closure re-enters it.
    private let builder: BlockBuilder
    @exclusivity(unchecked) private var table = KeyTable()
    private let recent = RecentKeys()
    @exclusivity(unchecked) private(set) var latest: [Latest] = []
    private(set) var names: [(exchange: [UInt8], symbol: [UInt8], feed: [UInt8])] = []
    @exclusivity(unchecked) private var blockNumber: UInt64 = 1
    @exclusivity(unchecked) private var firstOffset: UInt64 = 0
    @exclusivity(unchecked) private var timestampNs: Int64 = 0
    @exclusivity(unchecked) private var nameBytes: [UInt8] = []
    @exclusivity(unchecked) private var ticks = TickReader()
    /// Offset that the next record has where there is no gap.
    @exclusivity(unchecked) private(set) var next: UInt64 = 0
    private(set) var malformed: UInt64 = 0

    init(_ place: TopicPartition) {
        self.place = place
        builder = BlockBuilder(place, capacity: 16 << 10)
    }

    var isEmpty: Bool { builder.isEmpty }

    /// Adds a record; returns a block that it ended. `timestampNs`: when the broker was given it.
    func add(
        _ payload: UnsafeRawBufferPointer, key: UnsafeRawBufferPointer, offset: UInt64, timestampNs: Int64
    ) -> Block? {
        let needsEnd =
            !builder.isEmpty
            && (offset != next || builder.recordCount >= BlockAssembler.recordsMax
                || builder.byteCount + payload.count > BlockAssembler.bytesMax)
        let ended = needsEnd ? end() : nil
        if builder.isEmpty { firstOffset = offset }
        self.timestampNs = timestampNs
        next = offset &+ 1
        let payload =
            payload.count <= BlockAssembler.recordBytesMax ? payload : UnsafeRawBufferPointer(start: nil, count: 0)
        let identity = identity(of: payload, key)
        let number = number(of: identity)
        var newest = latest[number]
        if newest.block != blockNumber {
            newest.before = newest.offset
            newest.block = blockNumber
        }
        newest.offset = offset
        newest.epoch = identity.epoch
        newest.sequence = identity.sequence
        latest[number] = newest
        builder.append(
            key: number, epoch: identity.epoch, sequence: identity.sequence, payload: payload,
            figures: identity.figures, isChecked: identity.isChecked)
        return ended
    }

    /// The block of what was collected; nil where there is nothing.
    func end() -> Block? {
        guard !builder.isEmpty else { return nil }
        let block = builder.build()
        block.stamp(firstOffset: firstOffset, appendTimeNs: timestampNs) { track in
            guard let number = table.find(block, track: track), latest[number].block == blockNumber else {
                return Block.noOffset
            }
            return latest[number].before
        }
        blockNumber += 1
        if latest.count > BlockAssembler.keysMax { forgetKeys() }
        return block
    }

    /// What was collected is dropped, and what comes next links to nothing before it: it is from elsewhere.
    func restart() {
        _ = end()
        for number in latest.indices { latest[number] = Latest() }
    }

    /// The number of a key, in ``latest`` and ``names``.
    func find(exchange: [UInt8], symbol: [UInt8], feed: [UInt8]) -> Int? {
        table.find(exchange: exchange, symbol: symbol, feed: feed)
    }

    private func forgetKeys() {
        builder.forgetKeys()
        table = KeyTable()
        recent.forget()
        latest = []
        names = []
    }

    // MARK: Whose record it is

    private struct Identity {
        var exchange = UnsafeRawBufferPointer(start: nil, count: 0)
        var symbol = UnsafeRawBufferPointer(start: nil, count: 0)
        var feed = UnsafeRawBufferPointer(start: nil, count: 0)
        var epoch: UInt64 = 0
        var sequence: UInt64 = 0
        var figures: RecordFigures?
        var isChecked = false
    }

    private func identity(of payload: UnsafeRawBufferPointer, _ key: UnsafeRawBufferPointer) -> Identity {
        var identity = Identity()
        switch place.topic {
        case .ticksRaw:
            guard (try? ticks.read(payload)) != nil else { return bad() }
            identity.exchange = ticks.exchange
            identity.symbol = ticks.symbol
            identity.feed = ticks.feed
            identity.epoch = ticks.epoch
            identity.sequence = ticks.sequence
            identity.figures = RecordFigures(
                filingTimeNs: ticks.filingTimeNs, tradePrice: ticks.kind == .trade ? ticks.last : nil,
                tradeSize: ticks.lastSize ?? 0)
            identity.isChecked = (try? ticks.check()) != nil
        case .booksDeltas:
            guard let book = try? BookIdentity(payload) else { return bad() }
            identity.exchange = book.exchange
            identity.symbol = book.symbol
            identity.feed = book.feed
            identity.epoch = book.epoch
            identity.sequence = book.sequence
        default:
            identity.symbol = key.count <= Int(UInt16.max) ? key : identity.symbol
            return identity
        }
        let longest = max(identity.exchange.count, identity.symbol.count, identity.feed.count)
        guard !identity.exchange.isEmpty, !identity.symbol.isEmpty, longest <= Int(UInt16.max) else { return bad() }
        return identity
    }

    private func bad() -> Identity {
        malformed += 1
        return Identity()
    }

    private func number(of identity: Identity) -> Int {
        if let known = recent.find(identity.exchange, identity.symbol, identity.feed) { return known }
        let number = findOrAdd(identity)
        recent.note(number, identity.exchange, identity.symbol, identity.feed)
        return number
    }

    private func findOrAdd(_ identity: Identity) -> Int {
        nameBytes.removeAll(keepingCapacity: true)
        nameBytes.append(contentsOf: identity.exchange)
        nameBytes.append(contentsOf: identity.symbol)
        nameBytes.append(contentsOf: identity.feed)
        let lengths =
            UInt64(identity.exchange.count) | UInt64(identity.symbol.count) << 16 | UInt64(identity.feed.count) << 32
        let hash = RecordKey.hash(exchange: identity.exchange, symbol: identity.symbol)
        if let known = nameBytes.withUnsafeBytes({ table.find($0, lengths, hash) }) { return known }
        let exchange = Array(identity.exchange)
        let symbol = Array(identity.symbol)
        let feed = Array(identity.feed)
        let number = table.add(exchange: exchange, symbol: symbol, feed: feed)
        names.append((exchange, symbol, feed))
        latest.append(Latest())
        let registered = builder.register(
            BlockBuilder.Key(keyHash: hash, exchange: exchange, symbol: symbol, feed: feed))
        assert(registered == number)
        return number
    }
}
