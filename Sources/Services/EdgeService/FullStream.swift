import EventLog
import GRPC
import HTTP2

/// A subscriber of everything: a cursor into the log's blocks, sent from where they lie.
///
/// A slow reader costs a cursor and nobody anything: behind the tip the blocks come from reader threads, and past the
/// bound the stream ends with its token. Confined to its loop.
final class FullStream: FrameSource, EdgeStream, TapeFollower {
    private let tape: Tape
    private let call: ServerCall
    private let limits: EdgeLimits
    private let cursors: TapeCursors
    private let tokens: TokenTimer?
    /// Frames to be sent before anything else.
    private var snapshot: PendingBytes
    private var block: Block?
    /// What of the block's records region is still to be copied: runs that leave out records that are no news.
    private var runs: [Range<Int>] = []
    /// The last record of the block with a token, to be sent after the runs; empty where it brings none.
    private var marked = PendingBytes()
    private var bytesPassed: UInt64
    private var repeatCount: UInt64 = 0
    private var failure: StreamEnd?
    private var isEnding = false

    init(
        tape: Tape, call: ServerCall, limits: EdgeLimits, snapshot: Tape.Snapshot, offsets: [UInt64],
        tokens: TokenTimer? = nil
    ) {
        self.tape = tape
        self.call = call
        self.limits = limits
        self.snapshot = snapshot.frames
        self.tokens = tokens
        bytesPassed = tape.bytesHandled
        cursors = TapeCursors(tape: tape, offsets: offsets, filter: InstrumentFilter.everything) { call.resume() }
        guard let tokens, snapshot.count > 0 else { return }
        let last = self.snapshot.peek {
            tokens.mark(UnsafeRawBufferPointer(rebasing: $0.suffix(snapshot.lastLength)), cursors.token)
        }
        self.snapshot.extendFrame(ofLength: snapshot.lastLength, by: last)
    }

    func start() {
        tape.follow(self)
        tokens?.start { [weak call] in call?.resume() }
        call.resume()
    }

    func stop() {
        tape.unfollow(self)
        tokens?.stop()
    }

    func end() {
        isEnding = true
        call.resume()
    }

    func tapeMoved() {
        let handled = tape.bytesHandled
        if handled > bytesPassed, handled - bytesPassed > limits.cursorLagBytesMax, failure == nil,
            cursors.stored == nil
        {
            failure = .tooSlow("the reader is more than \(limits.cursorLagBytesMax >> 20) MiB behind")
        }
        call.resume()
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        if !snapshot.isEmpty {
            let taken = snapshot.take(into: buffer)
            // Its memory is not needed again.
            if snapshot.isEmpty { snapshot = PendingBytes() }
            return .bytes(taken)
        }
        if cursors.stored != nil, failure == nil {
            if let rows = cursors.takeStored() {
                rows.frames.withUnsafeBytes { snapshot.append($0) }
                return .bytes(snapshot.take(into: buffer))
            }
            // What the tape has brought meanwhile is not the reader's lag.
            if cursors.stored == nil { bytesPassed = tape.bytesHandled }
        }
        var filled = 0
        var ended = 0
        while filled < buffer.count {
            if block == nil, failure != nil || !openNext() { break }
            let room = UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])
            filled +=
                runs.isEmpty ? takeMarked(into: room, &ended) : takeRun(room.count, &ended, room.copyMemory(from:))
        }
        if filled > 0 { return .frames(bytes: filled, ended: ended) }
        if let end = failure ?? cursors.failure { return finish(end) }
        if isEnding, cursors.isAtTape { return finish(.shutdown) }
        guard let tokens, tokens.isDue, cursors.isAtTape, let again = tokens.again(cursors.token) else { return .wait }
        again.withUnsafeBytes { snapshot.append($0) }
        return .bytes(snapshot.take(into: buffer))
    }

    var usage: StreamUsage {
        StreamUsage(
            heldBytes: snapshot.heldBytes + cursors.heldBytes + (block?.image.count ?? 0), queuedBytes: snapshot.count,
            lagBytes: lagBytes)
    }

    func lend(_ countMax: Int, to output: HTTP2Output) -> (bytes: Int, ended: Int) {
        guard snapshot.isEmpty, cursors.stored == nil else { return (0, 0) }
        var (lent, ended) = (0, 0)
        while lent < countMax {
            if block == nil, failure != nil || !openNext() { break }
            guard let block, !runs.isEmpty else { break }
            lent += takeRun(countMax - lent, &ended) { output.lend($0, of: block) }
        }
        return (lent, ended)
    }

    /// Takes at most `countMax` bytes of the run in turn, and counts the records that end in them.
    private func takeRun(_ countMax: Int, _ ended: inout Int, _ use: (UnsafeRawBufferPointer) -> Void) -> Int {
        guard let block else { return 0 }
        let run = runs[0]
        let end = run.lowerBound + min(run.count, countMax)
        use(UnsafeRawBufferPointer(rebasing: block.records[run.lowerBound..<end]))
        ended += block.recordsEnded(by: end) - block.recordsEnded(by: run.lowerBound)
        if end < run.upperBound {
            runs[0] = end..<run.upperBound
        } else {
            runs.removeFirst()
            if runs.isEmpty, marked.isEmpty { pass(block) }
        }
        return end - run.lowerBound
    }

    private func takeMarked(into buffer: UnsafeMutableRawBufferPointer, _ ended: inout Int) -> Int {
        let count = marked.take(into: buffer)
        if marked.isEmpty {
            ended += 1
            if let block { pass(block) }
        }
        return count
    }

    private func openNext() -> Bool {
        while let (next, index) = cursors.next() {
            runs = newsRuns(next, from: index)
            if !runs.isEmpty {
                block = next
                if let tokens, tokens.isDue { mark(next, tokens) }
                return true
            }
            pass(next)
        }
        return false
    }

    /// Has the last record of the block in turn bring a token that goes on behind the block.
    private func mark(_ block: Block, _ tokens: TokenTimer) {
        guard let run = runs.popLast() else { return }
        let frame = block.frameRange(block.recordsEnded(by: run.upperBound) - 1)
        if run.lowerBound < frame.lowerBound { runs.append(run.lowerBound..<frame.lowerBound) }
        var offsets = cursors.offsets
        offsets[Int(block.topicPartition.partition)] = block.endOffset
        let record = UnsafeRawBufferPointer(rebasing: block.records[frame])
        marked.append(record)
        marked.extendFrame(ofLength: record.count, by: tokens.mark(record, tape.token(offsets)))
    }

    private func pass(_ passed: Block) {
        cursors.pass(passed)
        bytesPassed += UInt64(passed.recordsLength)
        block = nil
    }

    private func newsRuns(_ block: Block, from first: Int) -> [Range<Int>] {
        let start = block.frameRange(first).lowerBound
        guard let repeated = tape.repeats(in: block) else { return [start..<block.recordsLength] }
        var runs: [Range<Int>] = []
        var position = start
        for record in repeated where record >= first {
            let frame = block.frameRange(record)
            if frame.lowerBound > position { runs.append(position..<frame.lowerBound) }
            position = frame.upperBound
            repeatCount += 1
        }
        if position < block.recordsLength { runs.append(position..<block.recordsLength) }
        return runs
    }

    private func finish(_ end: StreamEnd) -> FrameRead {
        stop()
        tape.tally.ended(end.reason)
        return end.read(token: cursors.token, repeats: repeatCount)
    }
}

extension FullStream: StreamStatusProvider {
    /// What the tape has and the reader has not.
    var lagBytes: UInt64 { tape.bytesHandled > bytesPassed ? tape.bytesHandled - bytesPassed : 0 }

    var streamStatus: StreamStatus { StreamStatus(policy: "ALL", lagBytes: lagBytes) }

    func end(_ ending: CallEnding) {
        failure = failure ?? .imposed(ending)
        call.resume()
    }
}
