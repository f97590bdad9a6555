import EventLog
import GRPC

/// A subscriber of everything: a cursor into the log's blocks, copied from there straight into the connection's output.
///
/// A slow reader costs a cursor and nobody anything: behind the tip the blocks come from reader threads, and past the
/// bound the stream ends with its token. Confined to its loop.
final class FullStream: FrameSource, EdgeStream, TapeFollower {
    private let tape: Tape
    private let call: ServerCall
    private let limits: EdgeLimits
    private let cursors: TapeCursors
    private var snapshot: PendingBytes
    private var block: Block?
    /// What of the block's records region is still to be copied: runs that leave out records that are no news.
    private var runs: [Range<Int>] = []
    private var bytesPassed: UInt64
    private var repeatCount: UInt64 = 0
    private var failure: StreamEnd?
    private var isEnding = false

    init(tape: Tape, call: ServerCall, limits: EdgeLimits, snapshot: PendingBytes, offsets: [UInt64]) {
        self.tape = tape
        self.call = call
        self.limits = limits
        self.snapshot = snapshot
        bytesPassed = tape.bytesHandled
        cursors = TapeCursors(tape: tape, offsets: offsets) { call.resume() }
    }

    func start() {
        tape.follow(self)
        call.resume()
    }

    func stop() { tape.unfollow(self) }

    func end() {
        isEnding = true
        call.resume()
    }

    func tapeMoved() {
        let handled = tape.bytesHandled
        if handled > bytesPassed, handled - bytesPassed > limits.cursorLagBytesMax, failure == nil {
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
        var filled = 0
        var ended = 0
        while filled < buffer.count {
            if block == nil, failure != nil || !openNext() { break }
            filled += copy(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]), &ended)
        }
        if filled > 0 { return .frames(bytes: filled, ended: ended) }
        if let end = failure ?? cursors.failure { return finish(end) }
        return isEnding && cursors.isAtTape ? finish(.shutdown) : .wait
    }

    var usage: StreamUsage {
        StreamUsage(
            heldBytes: snapshot.heldBytes + cursors.heldBytes + (block?.image.count ?? 0), queuedBytes: snapshot.count,
            lagBytes: lagBytes)
    }

    /// Copies what fits of the run in turn, and counts the records that end in it.
    private func copy(into buffer: UnsafeMutableRawBufferPointer, _ ended: inout Int) -> Int {
        guard let block, let run = runs.first else { return 0 }
        let count = min(run.count, buffer.count)
        buffer.baseAddress!.copyMemory(
            from: block.image.baseAddress! + block.recordsPosition + run.lowerBound, byteCount: count)
        ended += block.recordsEnded(by: run.lowerBound + count) - block.recordsEnded(by: run.lowerBound)
        if count < run.count {
            runs[0] = (run.lowerBound + count)..<run.upperBound
        } else {
            runs.removeFirst()
            if runs.isEmpty { pass(block) }
        }
        return count
    }

    private func openNext() -> Bool {
        while let (next, index) = cursors.next() {
            runs = newsRuns(next, from: index)
            if !runs.isEmpty {
                block = next
                return true
            }
            pass(next)
        }
        return false
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

    func endByOperator() {
        failure = failure ?? .endedByOperator
        call.resume()
    }
}
