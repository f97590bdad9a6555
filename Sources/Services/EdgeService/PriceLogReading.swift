import EventLog
import EventLoop

// Reading the log where it is not the tape that hands out records.

extension PriceSubscriber {
    func followLog(from offsets: [UInt64]) {
        bytesPassed = tape.bytesHandled
        cursors = TapeCursors(tape: tape, offsets: offsets, filter: filter) { [weak self] in self?.blocksAreThere() }
        tape.follow(self)
    }

    func readLog(_ cursors: TapeCursors) -> Bool {
        var budget = PriceSubscriber.blocksPerReadMax
        while queue.isEmpty {
            guard budget > 0 else {
                nextTurn { $0.wake() }
                return false
            }
            budget -= 1
            if let rows = takeStored(cursors) {
                rows.frames.withUnsafeBytes { append($0) }
                lastLength = 0
                break
            }
            guard let (block, index) = cursors.next() else { break }
            queueWanted(block, from: index)
            cursors.pass(block)
            bytesPassed += UInt64(block.recordsLength)
        }
        if let end = cursors.failure, queue.isEmpty {
            fail(end, cursors.token)
        } else if cursors.isAtTape, !staysBehind {
            join()
        }
        return !queue.isEmpty
    }

    /// Rows that the store has in place of records; nil when there are none now.
    func takeStored(_ cursors: TapeCursors) -> (frames: [UInt8], place: TopicPartition, offset: UInt64)? {
        guard cursors.stored != nil else { return nil }
        let rows = cursors.takeStored()
        // What the tape has brought meanwhile is not the reader's lag.
        if cursors.stored == nil { bytesPassed = tape.bytesHandled }
        return rows
    }

    /// What is left for another turn of the loop: after what others have to do, which the end of this turn is not.
    func nextTurn(_ body: @escaping @Sendable (PriceSubscriber) -> Void) {
        let box = LoopConfined(self)
        tape.loop.execute { body(box.value) }
    }

    /// Everything that the tape has handled was read.
    func join() {
        cursors = nil
        tape.unfollow(self)
        tape.subscribe(self)
    }

    /// Queues what the filter wants of a block, in runs.
    private func queueWanted(_ block: Block, from first: Int) {
        let records = block.records
        let wanted = wantedLines(block).map { $0 >= 0 }
        let repeated = tape.repeats(in: block).map { Set($0) }
        var run = 0..<0
        var last = 0
        func flush() {
            if !run.isEmpty { append(UnsafeRawBufferPointer(rebasing: records[run])) }
            lastLength = last
        }
        for record in first..<block.recordCount where wanted[block.track(of: record)] {
            if let repeated, repeated.contains(record) {
                repeatCount += 1
                continue
            }
            let frame = block.frameRange(record)
            if run.upperBound == frame.lowerBound {
                run = run.lowerBound..<frame.upperBound
            } else {
                flush()
                run = frame
            }
            last = frame.count
        }
        flush()
    }
}
