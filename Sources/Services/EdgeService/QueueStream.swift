import Conflation
import DayFigures
import EventLog
import EventLoop
import GRPC
import MarketModel
import TickCodec

/// A subscriber that is handed the records of its own: filtered, or conflated. Its frames wait in a bounded queue.
///
/// - ALL: past the queue's bound the stream ends with its token.
/// - LATEST: when more than `pressureBytes` wait, later records of a line replace each other, and the one delivered
///   says which it stands for.
/// - INTERVAL: records replace each other until the window is over.
///
/// A resumed stream first reads the log through its filter and then joins the tape. Confined to its loop.
final class QueueStream: FrameSource, EdgeStream, IndexedSubscriber, TapeFollower {
    /// Blocks searched in one go while catching up; then the loop's other work gets a turn.
    private static let blocksPerReadMax = 64

    let filter: InstrumentFilter

    private let tape: Tape
    private let call: ServerCall
    private let limits: EdgeLimits
    private let policy: StreamPolicy
    private var queue: PendingBytes
    /// The latest record of a pending line is what the tape keeps of it, so a place says nothing.
    private var conflator = ConflationSlots<Void>()
    /// How many pending lines the window has released; unused but under INTERVAL.
    private var released = 0
    private var window: (any LoopTimer)?
    private var catchUp: TapeCursors?
    /// Set at the end: the stream is over after the queue.
    private var failure: (end: StreamEnd, token: ResumeToken)?
    private var repeatCount: UInt64 = 0
    private var isEnding = false
    private var scratch: [UInt8] = []

    init(
        tape: Tape, call: ServerCall, limits: EdgeLimits, filter: InstrumentFilter, policy: StreamPolicy,
        snapshot: PendingBytes
    ) {
        self.tape = tape
        self.call = call
        self.limits = limits
        self.filter = filter
        self.policy = policy
        queue = snapshot
    }

    /// Begins at the tape, or at the offsets of a token.
    func start(from offsets: [UInt64]?) {
        if let offsets {
            let call = call
            catchUp = TapeCursors(tape: tape, offsets: offsets) { call.resume() }
            tape.follow(self)
        } else {
            tape.subscribe(self)
        }
        if case .interval(let milliseconds) = policy {
            window = tape.loop.repeatTimer(everyMilliseconds: milliseconds) { [unowned self] in windowEnded() }
        }
        call.resume()
    }

    func stop() {
        tape.unfollow(self)
        tape.unsubscribe(self)
        window?.cancel()
        window = nil
    }

    func end() {
        isEnding = true
        released = conflator.count
        call.resume()
    }

    /// While it catches up: the tape may have come to where the token stands.
    func tapeMoved() { call.resume() }

    func repeatDropped() { repeatCount += 1 }

    func turnEnded() {
        if !queue.isEmpty || (!conflator.isEmpty && isReleasing) || failure != nil { call.resume() }
    }

    func push(_ record: TapeRecord) {
        guard failure == nil else { return }
        switch policy {
        case .all:
            if queue.count + record.frame.count > limits.queueBytesMax {
                fail(
                    .tooSlow("more than \(limits.queueBytesMax >> 20) MiB wait for the reader"),
                    tape.token(before: record))
            } else {
                queue.append(record.frame)
            }
        case .latest:
            if queue.count < limits.pressureBytes, !conflator.isPending(record.line) {
                queue.append(record.frame)
            } else {
                conflate(record)
            }
        case .interval: conflate(record)
        }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        var filled = 0
        while filled < buffer.count {
            let taken = queue.take(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
            filled += taken
            if taken == 0, !refill() { break }
        }
        if filled > 0 { return .bytes(filled) }
        if let failure {
            stop()
            return failure.end.read(token: failure.token, repeats: repeatCount)
        }
        if isEnding, conflator.isEmpty, catchUp == nil {
            stop()
            return StreamEnd.shutdown.read(token: tape.token(tape.next), repeats: repeatCount)
        }
        return .wait
    }

    /// Puts more into an empty queue; false when there is nothing now.
    private func refill() -> Bool {
        if let catchUp { return readThroughFilter(catchUp) }
        while queue.count < limits.pressureBytes, isReleasing, let pending = conflator.popFirst() {
            if case .interval = policy { released -= 1 }
            enqueue(pending)
        }
        return !queue.isEmpty
    }

    private var isReleasing: Bool {
        if case .interval = policy { return released > 0 }
        return true
    }

    private func windowEnded() {
        released = conflator.count
        if released > 0 { call.resume() }
    }

    // MARK: Conflation

    private func conflate(_ record: TapeRecord) {
        conflator.add(
            instrument: record.line, place: (), epoch: record.epoch, sequence: record.sequence,
            trade: record.trade.map { ConflationTrade(price: $0.price, size: $0.size) })
        // Ranges span neither epochs nor holes: what was pending goes out now, while the tape still has it.
        while conflator.displacedCount > 0, let older = conflator.popFirst() { enqueue(older) }
    }

    /// The latest record of a line with what it stands for.
    private func enqueue(_ pending: ConflationSlots<Void>.Item) {
        tape.lines[pending.instrument].frame.withBytes { frame in
            guard let range = pending.replaced else { return queue.append(frame) }
            scratch.removeAll(keepingCapacity: true)
            scratch.append(contentsOf: frame)
            TickCodec.appendConflation(range, to: &scratch)
            let length = UInt32(scratch.count - Block.framePrefixLength)
            scratch.withUnsafeMutableBytes { $0.storeBytes(of: length.bigEndian, toByteOffset: 1, as: UInt32.self) }
            scratch.withUnsafeBytes { queue.append($0) }
        }
    }

    // MARK: Catching up

    private func readThroughFilter(_ cursors: TapeCursors) -> Bool {
        var budget = QueueStream.blocksPerReadMax
        while queue.isEmpty {
            guard budget > 0 else {
                tape.loop.afterTurn { [call] in call.resume() }
                return false
            }
            budget -= 1
            guard let (block, index) = cursors.next() else { break }
            let records = block.records
            let wanted = (0..<block.trackCount).map { track in
                tape.line(block, track).map { filter.matches(tape.lines[$0].instrument) } ?? false
            }
            let repeated = Set(tape.repeats(in: block) ?? [])
            for record in index..<block.recordCount where wanted[block.track(of: record)] {
                guard !repeated.contains(record) else {
                    repeatCount += 1
                    continue
                }
                queue.append(UnsafeRawBufferPointer(rebasing: records[block.frameRange(record)]))
            }
            cursors.pass(block)
        }
        if let end = cursors.failure, queue.isEmpty {
            fail(end, cursors.token)
            endCatchUp()
        } else if cursors.isAtTape {
            endCatchUp()
            tape.subscribe(self)
        }
        return !queue.isEmpty
    }

    private func endCatchUp() {
        catchUp = nil
        tape.unfollow(self)
    }

    private func fail(_ end: StreamEnd, _ token: ResumeToken) {
        failure = (end, token)
        tape.unsubscribe(self)
        // Outside the index nobody says that there is something to read: the end.
        tape.loop.afterTurn { [call] in call.resume() }
    }
}

/// How a stream treats a reader that is slower than the market, as resolved from the request.
enum StreamPolicy {
    case all
    case latest
    case interval(milliseconds: Int)
}
