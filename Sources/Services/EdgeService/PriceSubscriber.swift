import Conflation
import EventLog
import EventLoop
import MarketModel
import TickCodec

/// One subscription to prices: which instruments, under which policy, and what waits for its reader.
///
/// - ALL: past the backlog's bound the subscription fails, with its token.
/// - LATEST: when more than `pressureBytes` wait, later records of a line replace each other, and the one delivered
///   says which it stands for.
/// - INTERVAL: records replace each other until the window is over.
/// - MAX_STALENESS: records wait singly until the oldest has waited half of what is allowed; then those that wait
///   replace each other. One that is handed over too late says so.
///
/// A subscription that was resumed first reads the log through its filter and then joins the tape: at its reader's pace
/// under ALL, else at its own (PriceCatchUp.swift). One to everything under ALL may go on reading the log for ever
/// (`followsLog`). Confined to its loop.
final class PriceSubscriber: TapeFollower {
    /// Blocks searched in one go while reading the log; then the loop's other work gets a turn.
    static let blocksPerReadMax = 64
    /// Bytes that are made ready at once from what waits in other forms.
    private static let readyBytes = 16 << 10

    private(set) var filter: InstrumentFilter
    private(set) var policy: StreamPolicy
    /// Why it cannot go on, and where another one can; what is queued is still to be delivered.
    private(set) var failure: (end: StreamEnd, token: ResumeToken)?
    var repeatCount: UInt64 = 0
    /// Updates that were left out and accounted for.
    private(set) var conflatedCount: UInt64 = 0
    /// It was pushed to in this turn of the tape.
    var isTouched = false

    let tape: Tape
    let limits: EdgeLimits
    let backlog: Backlog
    private let followsLog: Bool
    /// Has updates bring resume tokens.
    private let tokens: TokenTimer?
    /// Bytes of the frame that was queued last.
    var lastLength = 0
    let wake: () -> Void
    private(set) var queue = FrameQueue()
    /// Lines whose updates replace each other. The latest record of a pending line is what the tape keeps of it, or
    /// what `kept` has; a place matters only while `waiting` is conflated.
    private(set) var conflator = ConflationSlots<Int, UpdateOrigin>()
    /// Latest records of pending lines that the tape is past: those that were read from the log.
    private(set) var kept = KeptFrames()
    private(set) var waiting = WaitingUpdates()
    /// How many pending lines the window has released; unused but under INTERVAL.
    private var released = 0
    private var window: (any LoopTimer)?
    var cursors: TapeCursors?
    /// Under `cursors`: of the bytes that the tape has handled, those it has passed too.
    var bytesPassed: UInt64
    /// The log is read on at the end of this turn.
    var isCatchUpScheduled = false
    /// Since that was looked at last.
    var hasReaderAsked = false
    private var isEnding = false
    private var scratch: [UInt8] = []

    /// `wake` is called when there is something to take, or when it has failed.
    init(
        tape: Tape, limits: EdgeLimits, filter: InstrumentFilter, policy: StreamPolicy, backlog: Backlog,
        followsLog: Bool, tokens: TokenTimer? = nil, wake: @escaping () -> Void
    ) {
        self.tape = tape
        self.limits = limits
        self.filter = filter
        self.policy = policy
        self.backlog = backlog
        self.followsLog = followsLog
        self.tokens = tokens
        self.wake = wake
        bytesPassed = tape.bytesHandled
    }

    /// Begins at the tape, or at the offsets of a token.
    func start(from offsets: [UInt64]?, snapshot: Tape.Snapshot) {
        backlog.bytes += snapshot.frames.count
        queue.append(snapshot: snapshot.frames)
        lastLength = snapshot.lastLength
        if offsets != nil || staysBehind { followLog(from: offsets ?? tape.next) } else { tape.subscribe(self) }
        startWindow()
        // A token is to be as new as the log, also for who hears of nothing.
        tokens?.start { [tape, wake] in
            tape.catchUp()
            wake()
        }
        markLast()
        wake()
    }

    func stop() {
        tape.unfollow(self)
        tape.unsubscribe(self)
        window?.cancel()
        window = nil
        tokens?.stop()
        backlog.bytes -= queue.count + waiting.byteCount
        queue = FrameQueue()
        waiting = WaitingUpdates()
        kept = KeptFrames()
        cursors = nil
    }

    /// Nothing new is waited for: what is pending is released.
    func end() {
        isEnding = true
        released = conflator.count
        wake()
    }

    // MARK: What there is to take

    /// It has a failure or was told to end, and everything was taken.
    var isDrained: Bool {
        guard queue.isEmpty else { return false }
        return failure != nil
            || (isEnding && conflator.isEmpty && waiting.byteCount == 0 && (cursors?.isAtTape ?? true))
    }

    /// It reads what its token left open.
    var isCatchingUp: Bool { cursors != nil && !staysBehind }
    /// It wants everything, and reads the log instead of the tape.
    var staysBehind: Bool { followsLog && filter.isEverything && policy == .all }

    var waitingBytes: Int { queue.count + waiting.byteCount }

    var usage: StreamUsage {
        let handled = tape.bytesHandled
        return StreamUsage(
            heldBytes: queue.heldBytes + waiting.heldBytes + kept.byteCount + (cursors?.heldBytes ?? 0),
            queuedBytes: waitingBytes,
            conflatedInstruments: conflator.count,
            lagBytes: staysBehind && handled > bytesPassed ? handled - bytesPassed : 0)
    }

    var queueAppended: UInt64 { queue.appended }
    var queueTaken: UInt64 { queue.taken }

    /// Where a reader that has everything queued goes on without missing anything.
    var resumeOffsets: [UInt64] {
        var offsets = cursors?.offsets ?? tape.next
        conflator.forEachOrigin { $0.lower(&offsets) }
        waiting.forEachOrigin { $0.lower(&offsets) }
        return offsets
    }

    /// Moves bytes of whole frames, cut anywhere; 0 when there is nothing now.
    func take(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        var filled = 0
        while filled < buffer.count {
            let taken = queue.take(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
            backlog.bytes -= taken
            filled += taken
            if taken == 0, !refill(), filled > 0 || !bringsToken() { break }
        }
        return filled
    }

    /// Hands over whole frames that are alike, about as many bytes as asked for; false when there is nothing now.
    func takeFrames(
        about bytesWanted: Int, _ body: (_ frames: UnsafeRawBufferPointer, _ isSnapshot: Bool) -> Void
    ) -> Bool {
        if queue.isEmpty, !refill() { return false }
        backlog.bytes -= queue.takeFrames(about: bytesWanted, body)
        return true
    }

    /// Puts more into an empty queue; false when there is nothing now.
    private func refill() -> Bool {
        guard queueMore() else { return false }
        markLast()
        return true
    }

    /// Has the update that was queued last bring a token, if one is due and nothing of it was taken. Between turns of
    /// the tape only: then everything that is before the token is queued.
    private func markLast() {
        guard let tokens, tokens.isDue, lastLength > 0, queue.count >= lastLength, failure == nil else { return }
        let field = queue.peek {
            tokens.mark(UnsafeRawBufferPointer(rebasing: $0.suffix(lastLength)), tape.token(resumeOffsets))
        }
        queue.extendFrame(ofLength: lastLength, by: field)
        backlog.bytes += field.count
        lastLength = 0
    }

    /// Queues a token where there is nothing else to send.
    private func bringsToken() -> Bool {
        guard let tokens, tokens.isDue, failure == nil, !isEnding,
            let again = tokens.again(tape.token(resumeOffsets))
        else { return false }
        again.withUnsafeBytes { append($0) }
        lastLength = 0
        return true
    }

    private func queueMore() -> Bool {
        guard failure == nil else { return false }
        if policy == .all {
            guard let cursors else { return false }
            return readLog(cursors)
        }
        catchUp(isReaderWaiting: true)
        if isEnding { released = conflator.count }
        switch policy {
        case .all: return false
        case .latest: while queue.count < limits.pressureBytes, enqueuePending() {}
        case .interval: while queue.count < limits.pressureBytes, released > 0, enqueuePending() { released -= 1 }
        case .maxStaleness(let bound): enqueueWaiting(bound)
        }
        if queue.isEmpty, conflator.isEmpty, waiting.byteCount == 0, let cursors, let end = cursors.failure {
            fail(end, cursors.token)
        }
        return !queue.isEmpty
    }

    // MARK: What the tape brings

    func push(_ record: TapeRecord) {
        guard failure == nil else { return }
        switch policy {
        case .all: enqueue(record)
        case .latest:
            let isFree = queue.count < limits.pressureBytes && backlog.hasRoom(for: record.frame.count)
            if isFree, !conflator.isPending(record.line) { enqueue(record) } else { conflate(record) }
        case .interval: conflate(record)
        case .maxStaleness: wait(record)
        }
    }

    /// A record that is no news was left out.
    func repeatDropped() { repeatCount += 1 }

    /// All records of this turn were pushed.
    func turnEnded() {
        isTouched = false
        markLast()
        if case .interval = policy, queue.isEmpty, released == 0, failure == nil { return }
        wake()
    }

    /// While it reads the log: there may be more of it.
    func tapeMoved() {
        let handled = tape.bytesHandled
        if staysBehind, handled > bytesPassed, handled - bytesPassed > limits.cursorLagBytesMax, failure == nil {
            if let cursors, cursors.stored == nil {
                fail(.tooSlow("the reader is more than \(limits.cursorLagBytesMax >> 20) MiB behind"), cursors.token)
            }
        }
        wake()
    }

    private func enqueue(_ record: TapeRecord) {
        guard backlog.hasRoom(for: record.frame.count) else { return overflow(record) }
        append(record.frame)
    }

    private func overflow(_ record: TapeRecord?) {
        var offsets = cursors?.offsets ?? tape.next
        if let record { offsets[Int(record.place.partition)] = record.offset }
        conflator.forEachOrigin { $0.lower(&offsets) }
        waiting.forEachOrigin { $0.lower(&offsets) }
        fail(.tooSlow("more than \(backlog.bytesMax >> 20) MiB wait for the reader"), tape.token(offsets))
    }

    func append(_ frame: UnsafeRawBufferPointer) {
        queue.append(frame)
        backlog.bytes += frame.count
        lastLength = frame.count
    }

    func fail(_ end: StreamEnd, _ token: ResumeToken) {
        failure = (end, token)
        backlog.bytes -= waiting.byteCount
        waiting = WaitingUpdates()
        conflator.removeAll()
        kept = KeptFrames()
        cursors = nil
        // Not from within a turn of the tape, which is walking its lists; and outside them nobody says that there is
        // something to read: the end.
        tape.loop.afterTurn { [self] in
            tape.unfollow(self)
            tape.unsubscribe(self)
            wake()
        }
    }

    /// It is over for a reason of the server's; a reader that has what is queued goes on from the token.
    func fail(_ end: StreamEnd) {
        if failure == nil { fail(end, tape.token(resumeOffsets)) }
    }

    private func windowEnded() {
        released = conflator.count
        if released > 0 { wake() }
    }

    private func startWindow() {
        window?.cancel()
        window = nil
        if case .interval(let milliseconds) = policy {
            window = tape.loop.repeatTimer(everyMilliseconds: milliseconds) { [unowned self] in windowEnded() }
        }
    }

    // MARK: Conflation

    private func origin(_ record: TapeRecord) -> UpdateOrigin {
        UpdateOrigin(
            partition: Int(record.place.partition), offset: record.offset,
            sinceMilliseconds: tape.loop.nowMilliseconds)
    }

    /// Of a record that the tape is delivering, the tape will have the frame; one from the log is kept.
    private func conflate(_ record: TapeRecord) {
        let numbers = TapeRecordNumbers(record)
        conflator.add(
            instrument: numbers.line, place: 0, origin: origin(record), epoch: numbers.epoch,
            sequence: numbers.sequence, trade: numbers.trade)
        // Ranges span neither epochs nor holes: what was pending goes out now, while the tape still has it.
        while conflator.displacedCount > 0, let older = conflator.popFirst() {
            withLatestFrame(older.instrument) { frame in
                guard backlog.hasRoom(for: frame.count) else { return overflow(record) }
                enqueue(older, frame)
            }
            if failure != nil { return }
        }
        if cursors != nil { kept.set(record.line, record.frame) } else { kept.remove(record.line) }
    }

    /// The latest record of a pending line.
    private func withLatestFrame(_ line: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
        if let frame = kept.take(line) { return frame.withUnsafeBytes(body) }
        tape.lines[line].frame.withBytes(body)
    }

    /// The latest record of a line with what it stands for; false when none is pending.
    private func enqueuePending() -> Bool {
        guard let pending = conflator.popFirst() else { return false }
        withLatestFrame(pending.instrument) { enqueue(pending, $0) }
        return true
    }

    private func enqueue(_ item: ConflationSlots<Int, UpdateOrigin>.Item, _ frame: UnsafeRawBufferPointer) {
        if let count = item.replaced?.count {
            conflatedCount += count
            tape.tally.conflated(count, policy)
        }
        append(frame, item.replaced, lateMilliseconds(item.origin))
    }

    /// How long an update has waited, if that is longer than its policy allows.
    private func lateMilliseconds(_ origin: UpdateOrigin) -> UInt32? {
        guard case .maxStaleness(let bound) = policy else { return nil }
        let waited = tape.loop.nowMilliseconds &- origin.sinceMilliseconds
        return waited > UInt64(bound) ? UInt32(clamping: waited) : nil
    }

    private func append(_ frame: UnsafeRawBufferPointer, _ range: ConflatedRange?, _ late: UInt32?) {
        if range == nil, late == nil { return append(frame) }
        if late != nil { tape.tally.wasLate() }
        scratch.removeAll(keepingCapacity: true)
        scratch.append(contentsOf: frame)
        if let range { TickCodec.appendConflation(range, to: &scratch) }
        if let late { TickCodec.appendStalenessViolation(milliseconds: late, to: &scratch) }
        let length = UInt32(scratch.count - Block.framePrefixLength)
        scratch.withUnsafeMutableBytes { $0.storeBytes(of: length.bigEndian, toByteOffset: 1, as: UInt32.self) }
        scratch.withUnsafeBytes { append($0) }
    }
}

// MARK: A bound on staleness

extension PriceSubscriber {
    private func wait(_ record: TapeRecord) {
        let count = record.frame.count
        if waiting.byteCount + count > limits.stalenessBytesMax || !backlog.hasRoom(for: count) { conflateWaiting() }
        if conflator.isPending(record.line) || !backlog.hasRoom(for: count) { return conflate(record) }
        waiting.append(record, origin(record))
        backlog.bytes += count
    }

    /// What is pending is older than what waits singly.
    private func enqueueWaiting(_ bound: Int) {
        while queue.count < PriceSubscriber.readyBytes {
            if enqueuePending() { continue }
            guard let oldest = waiting.first else { return }
            if tape.loop.nowMilliseconds &- oldest.origin.sinceMilliseconds > UInt64(bound / 2) {
                conflateWaiting()
                continue
            }
            waiting.removeFirst { update, frame in
                backlog.bytes -= frame.count
                append(frame, nil, lateMilliseconds(update.origin))
            }
        }
    }

    /// Everything that waits singly becomes the latest of each line. The tape has these, unless they were read from the
    /// log: nothing was pushed since.
    private func conflateWaiting() {
        backlog.bytes -= waiting.byteCount
        waiting.takeAll { update, place, frames in
            let record = update.record
            conflator.add(
                instrument: record.line, place: place, origin: update.origin, epoch: record.epoch,
                sequence: record.sequence, trade: record.trade)
            while conflator.displacedCount > 0, let older = conflator.popFirst() {
                let end = older.place + Frame.length(frames, at: older.place)
                enqueue(older, UnsafeRawBufferPointer(rebasing: frames[older.place..<end]))
            }
            if cursors != nil {
                kept.set(record.line, UnsafeRawBufferPointer(rebasing: frames[place..<(place + update.length)]))
            }
        }
    }
}

// MARK: Changes in flight

extension PriceSubscriber {
    /// What waits under the old policy is queued before anything new.
    func change(policy new: StreamPolicy) {
        guard failure == nil else { return }
        while waiting.first != nil {
            waiting.removeFirst { update, frame in
                backlog.bytes -= frame.count
                append(frame, nil, lateMilliseconds(update.origin))
            }
        }
        while backlog.hasRoom(for: 0), enqueuePending() {}
        if !conflator.isEmpty { return overflow(nil) }
        released = 0
        policy = new
        startWindow()
        if staysBehind, cursors == nil {
            // Everything before the tape's place is queued; from here on it reads the log.
            tape.unsubscribe(self)
            followLog(from: tape.next)
        }
        wake()
    }

    /// Other symbols than before; what waits of those that are no longer wanted is dropped, unless it is queued.
    func change(filter new: InstrumentFilter, snapshot: PendingBytes) {
        guard failure == nil else { return }
        tape.unsubscribe(self)
        filter = new
        let isUnwanted = { [tape] (line: Int) in !new.matches(tape.lines[line].instrument) }
        conflator.removeAll(where: isUnwanted)
        kept.removeAll(where: isUnwanted)
        released = min(released, conflator.count)
        let before = waiting.byteCount
        waiting.removeAll(where: isUnwanted)
        backlog.bytes += waiting.byteCount - before + snapshot.count
        queue.append(snapshot: snapshot)
        tape.subscribe(self)
        wake()
    }
}
