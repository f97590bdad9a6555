import EventLog
import MarketModel
import MarketProto

/// Where in the log a range of an instrument's sequence lies, and how far it was sent. Pure: blocks and rows in.
struct RangeSearch {
    /// What is to be read next.
    enum Want: Equatable {
        case block(TopicPartition, offset: UInt64)
        /// Everything from the next sequence to this one.
        case store(through: UInt64)
        case nothing
    }

    var progress: FillRangeProgress
    let instrument: Instrument?

    private let place: TopicPartition?
    /// The newest sequence of the epoch; nothing after it exists yet.
    private let publishedThrough: UInt64
    private let keyHash: UInt64
    /// Offset of the block to look at on the way back; nil when the way back is over.
    private var back: UInt64?
    private var blocksLeft: Int
    private var hasSeenEpoch = false
    /// Blocks that have some of the range, the oldest last.
    private var blocks: [UInt64] = []
    /// The block to be sent next has nothing before this sequence.
    private var storeThrough: UInt64?

    init(_ range: Proto.FillRange, newest: LastPlace?, blocksMax: Int) {
        progress = FillRangeProgress(range)
        instrument = try? Instrument(exchange: range.exchange, symbol: range.symbol)
        keyHash = RecordKey.hash(exchange: range.exchange.utf8, symbol: range.symbol.utf8)
        place = newest?.place
        back = newest?.offset
        blocksLeft = blocksMax
        publishedThrough = newest.map { $0.epoch == range.epoch ? $0.sequence : .max } ?? .max
        settle()
    }

    private var lastWanted: UInt64 { min(progress.range.lastSequence, publishedThrough) }

    /// What is past the newest is missing.
    private mutating func settle() {
        if progress.next > lastWanted { progress.miss(through: .max, .notPublished) }
    }

    var want: Want {
        if progress.isDone { return .nothing }
        if let place, let back { return .block(place, offset: back) }
        if let storeThrough { return .store(through: storeThrough) }
        if let place, let oldest = blocks.last { return .block(place, offset: oldest) }
        return .store(through: lastWanted)
    }

    /// The block that was wanted.
    mutating func take(_ block: Block, send: (UnsafeRawBufferPointer) -> Void) {
        if back != nil { lookBack(block) } else { sendForward(block, send) }
        settle()
    }

    /// The block that was wanted cannot be had from the log.
    mutating func cannotRead(_ offset: UInt64) {
        if back != nil { back = nil } else { _ = blocks.popLast() }
    }

    /// What the store has of the sequences from the next one to `last`.
    mutating func take(_ rows: StoreRows, through last: UInt64, send: (UnsafeRawBufferPointer) -> Void) {
        rows.frames.withUnsafeBytes { frames in
            var position = 0
            for sequence in rows.sequences {
                let length = Frame.length(frames, at: position)
                let frame = UnsafeRawBufferPointer(rebasing: frames[position..<(position + length)])
                position += length
                guard sequence >= progress.next, sequence <= last else { continue }
                if sequence > progress.next { progress.miss(through: sequence - 1, .gone) }
                progress.send(UnsafeRawBufferPointer(rebasing: frame[Block.framePrefixLength...]))
                send(frame)
            }
        }
        var end = last
        if rows.isExhaustive {
            // Nothing before the next row that exists needs to be asked for.
            let wanted = storeThrough ?? lastWanted
            end = max(last, min(wanted, rows.nextExisting.map { $0 - 1 } ?? wanted))
        }
        progress.miss(through: end, .gone)
        if let through = storeThrough, progress.next > through { storeThrough = nil }
        settle()
    }

    // MARK: The way back

    private mutating func lookBack(_ block: Block) {
        back = nil
        var previous: UInt64?
        var isBegin = false
        var hasEpoch = false
        var isWanted = false
        for track in tracks(block) {
            previous = block.previousOffset(track: track)
            guard block.epoch(track: track) == progress.range.epoch else { continue }
            hasEpoch = true
            let base = block.baseSequence(track: track)
            if base <= lastWanted { isWanted = true }
            if base <= progress.range.firstSequence { isBegin = true }
        }
        if isWanted { blocks.append(block.firstOffset) }
        blocksLeft -= 1
        // Epochs are not mixed: past the wanted one there is nothing of it.
        guard let previous, previous != Block.noOffset, !isBegin, hasEpoch || !hasSeenEpoch, blocksLeft > 0 else {
            return
        }
        hasSeenEpoch = hasSeenEpoch || hasEpoch
        // The log's word, but a damaged one must not send us round in circles.
        if previous < block.firstOffset { back = previous }
    }

    private func tracks(_ block: Block) -> [Int] {
        (0..<block.trackCount).filter { track in
            block.keyHash(track: track) == keyHash
                && block.symbolBytes(track: track).elementsEqual(progress.range.symbol.utf8)
                && block.exchangeBytes(track: track).elementsEqual(progress.range.exchange.utf8)
                && block.feedBytes(track: track).elementsEqual(progress.range.feedHandlerId.utf8)
        }
    }

    // MARK: The way forward

    private mutating func sendForward(_ block: Block, _ send: (UnsafeRawBufferPointer) -> Void) {
        var isWanted = [Bool](repeating: false, count: block.trackCount)
        for track in tracks(block) { isWanted[track] = block.epoch(track: track) == progress.range.epoch }
        let records = block.records
        for record in 0..<block.recordCount where isWanted[block.track(of: record)] {
            let sequence = block.sequence(of: record)
            guard sequence >= progress.next, sequence <= progress.range.lastSequence else { continue }
            guard sequence == progress.next else {
                storeThrough = sequence - 1
                return
            }
            progress.send(block.payload(record))
            send(UnsafeRawBufferPointer(rebasing: records[block.frameRange(record)]))
        }
        _ = blocks.popLast()
    }
}
