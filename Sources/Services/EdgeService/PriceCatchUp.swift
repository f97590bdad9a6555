import DayFigures
import EventLog
import EventLoop
import MarketModel
import TickCodec

// Catching up with the tape under a policy that may leave updates out.
//
// While the reader takes what is read, updates are queued singly. When it does not, reading goes on all the same, and
// later updates replace earlier ones as they would have if the subscription had been there all the time: so it joins
// the tape whatever the reader's pace, which is what these policies promise.

extension PriceSubscriber {
    /// Reads on in the log, a bounded way; with `isReaderWaiting` only until there is something to take.
    func catchUp(isReaderWaiting: Bool) {
        guard let cursors, policy != .all, failure == nil else { return }
        if isReaderWaiting { hasReaderAsked = true }
        var budget = PriceSubscriber.blocksPerReadMax
        while budget > 0 {
            budget -= 1
            if let rows = takeStored(cursors) {
                pushStored(rows.frames, rows.place, rows.offset)
                guard failure == nil else { return }
                if isReaderWaiting, queue.count >= limits.pressureBytes { break }
                continue
            }
            guard let (block, index) = cursors.next() else { break }
            pushWanted(block, from: index)
            guard failure == nil else { return }
            cursors.pass(block)
            bytesPassed += UInt64(block.recordsLength)
            if isReaderWaiting, queue.count >= limits.pressureBytes { break }
        }
        if cursors.failure != nil { return }
        if cursors.isAtTape { join() } else if !cursors.isWaiting { scheduleCatchUp() }
    }

    /// A block had to be loaded: nobody but the reader may be waiting for it, and the reader may not.
    func blocksAreThere() {
        scheduleCatchUp()
        wake()
    }

    private func scheduleCatchUp() {
        guard policy != .all, cursors != nil, !isCatchUpScheduled else { return }
        isCatchUpScheduled = true
        nextTurn { subscriber in
            subscriber.isCatchUpScheduled = false
            // A reader that keeps up has asked for more by now, and is served by that.
            if subscriber.policy == .latest, subscriber.hasReaderAsked {
                subscriber.hasReaderAsked = false
                subscriber.scheduleCatchUp()
            } else {
                subscriber.catchUp(isReaderWaiting: false)
            }
            subscriber.wake()
        }
    }

    private func pushWanted(_ block: Block, from first: Int) {
        let lines = wantedLines(block)
        let repeated = tape.repeats(in: block).map { Set($0) }
        for record in first..<block.recordCount where lines[block.track(of: record)] >= 0 {
            if let repeated, repeated.contains(record) {
                repeatCount += 1
                continue
            }
            let track = block.track(of: record)
            let payload = block.payload(record)
            guard let reader = try? TickReader(payload) else { continue }
            var trade: DayTrade?
            if reader.kind == .trade, let price = reader.last {
                trade = DayTrade(price: price, size: reader.lastSize ?? 0)
            }
            push(
                TapeRecord(
                    line: lines[track], epoch: block.epoch(track: track), sequence: block.sequence(of: record),
                    frame: UnsafeRawBufferPointer(rebasing: block.records[block.frameRange(record)]), trade: trade,
                    place: block.topicPartition, offset: block.firstOffset + UInt64(record)))
            if failure != nil { return }
        }
    }

    /// Rows of the store. Their places are not known: that of the first record which they stand for is none too late.
    private func pushStored(_ frames: [UInt8], _ place: TopicPartition, _ offset: UInt64) {
        frames.withUnsafeBytes { frames in
            var position = 0
            while position < frames.count, failure == nil {
                let length = Frame.length(frames, at: position)
                let frame = UnsafeRawBufferPointer(rebasing: frames[position..<(position + length)])
                position += length
                guard let reader = try? TickReader(UnsafeRawBufferPointer(rebasing: frame[5...])),
                    let line = tape.line(reader)
                else { continue }
                push(
                    TapeRecord(
                        line: line, epoch: reader.epoch, sequence: reader.sequence, frame: frame,
                        trade: reader.dayTrade, place: place, offset: offset))
            }
        }
    }

    /// The line of each track that the filter wants; -1 of the others.
    func wantedLines(_ block: Block) -> [Int] {
        (0..<block.trackCount).map { track in
            guard let line = tape.line(block, track), filter.matches(tape.lines[line].instrument) else { return -1 }
            return line
        }
    }
}

/// Frames by line, one each.
struct KeptFrames {
    private var frames: [Int: [UInt8]] = [:]
    private(set) var byteCount = 0

    mutating func set(_ line: Int, _ frame: UnsafeRawBufferPointer) {
        byteCount += frame.count - (frames[line]?.count ?? 0)
        frames[line] = Array(frame)
    }

    mutating func remove(_ line: Int) {
        guard !frames.isEmpty, let frame = frames.removeValue(forKey: line) else { return }
        byteCount -= frame.count
    }

    /// Gives the frame away; nil where there is none.
    mutating func take(_ line: Int) -> [UInt8]? {
        guard !frames.isEmpty, let frame = frames.removeValue(forKey: line) else { return nil }
        byteCount -= frame.count
        return frame
    }

    mutating func removeAll(where condition: (_ line: Int) -> Bool) {
        for line in frames.keys.filter(condition) { remove(line) }
    }
}
