import EventLoop

/// A call on a channel: finds a connection, makes further attempts where its options allow it, and passes the answer of
/// one attempt on. Confined to the channel's loop.
public final class ChannelCall {
    private unowned let core: GRPCChannelCore
    let path: String
    let options: GRPCCallOptions
    private var owner: (any GRPCCallOwner)?
    /// Framed messages, for attempts to come; empty once one is committed.
    private var replay: [[UInt8]] = []
    private var replayBytes = 0
    private var isHalfClosed = false
    private var isPaused = false
    private var wasFull = false
    private var attempts: [Attempt] = []
    /// The attempt whose answer the owner gets.
    private var committed: Attempt?
    private var retry: GRPCRetryMachine?
    private var hedging: GRPCHedgingMachine?
    private var refusals = 0
    private var previousAttempts = 0
    private var deadline: (any LoopTimer)?
    private var deadlineMilliseconds: UInt64 = .max
    /// Why the call waits for a connection.
    private var obstacle: GRPCStatus?
    /// Until the next attempt.
    private var timer: (any LoopTimer)?

    init(_ core: GRPCChannelCore, path: String, options: GRPCCallOptions, owner: any GRPCCallOwner) {
        self.core = core
        self.path = path
        self.options = options
        self.owner = owner
        if let policy = options.hedging {
            hedging = GRPCHedgingMachine(policy)
        } else if let policy = options.retry {
            retry = GRPCRetryMachine(policy)
        }
    }

    func start() {
        if let milliseconds = options.timeoutMilliseconds {
            deadlineMilliseconds = core.loop.nowMilliseconds + UInt64(max(0, milliseconds))
            deadline = core.loop.timer(afterMilliseconds: max(0, milliseconds)) { [weak self] in
                let why = self?.obstacle.map { "; \($0.message)" } ?? ""
                self?.end(GRPCStatus(.deadlineExceeded, "no answer within \(milliseconds) ms\(why)"))
            }
            // No server needs to hear of a call whose time is over already.
            guard milliseconds > 0 else { return }
        }
        startAttempt()
    }

    // MARK: The owner's side

    /// Whether more should be sent now; ``GRPCCallOwner/becameWritable()`` tells when, after it was not.
    public var isWritable: Bool {
        let calls = attempts.compactMap(\.call)
        let isReady =
            calls.isEmpty ? replayBytes < ClientCall.waitingBytesMax : calls.allSatisfy { $0.isWritable }
        if isReady { return true }
        wasFull = true
        return false
    }

    /// Sends a message; kept when the call is not writable. A message above the limit ends the call.
    public func send(_ message: [UInt8]) {
        guard owner != nil, !isHalfClosed else { return }
        guard message.count <= core.options.connection.messageBytesMax else {
            return end(GRPCStatus(.resourceExhausted, "a message of \(message.count) bytes is larger than the limit"))
        }
        let frame = frame(message)
        if let committed { return committed.call?.send(frame: frame) ?? () }
        replay.append(frame)
        replayBytes += frame.count
        for attempt in attempts { attempt.call?.send(frame: frame) }
        commitIfTooLarge()
    }

    /// Below this size, in bytes, compression costs more than it saves.
    private static let compressedBytesMin = 256

    private func frame(_ message: [UInt8]) -> [UInt8] {
        if let compression = options.compression, message.count >= ChannelCall.compressedBytesMin,
            let small = message.withUnsafeBytes({ core.compressors.compressor(compression).compress($0) }),
            small.count < message.count
        {
            return MessageFrame.make(small, isCompressed: true)
        }
        return MessageFrame.make(message)
    }

    /// Sends no more messages.
    public func halfClose() {
        guard owner != nil, !isHalfClosed else { return }
        isHalfClosed = true
        for attempt in attempts { attempt.call?.halfClose() }
    }

    /// No frames until reading is resumed; see ``ClientCall/pauseReading()``.
    public func pauseReading() {
        isPaused = true
        committed?.call?.pauseReading()
    }

    /// Frames come again.
    public func resumeReading() {
        isPaused = false
        committed?.call?.resumeReading()
    }

    /// Ends the call and its attempts; the servers are told.
    public func cancel() { end(GRPCStatus(.cancelled, "cancelled by the client")) }

    func end(_ status: GRPCStatus, trailers: GRPCMetadata = GRPCMetadata()) {
        guard let owner else { return }
        self.owner = nil
        deadline?.cancel()
        timer?.cancel()
        let running = attempts
        attempts = []
        committed = nil
        replay = []
        core.ended(self)
        for attempt in running {
            if attempt.call == nil { core.forget(attempt) }
            attempt.abandon()
        }
        owner.ended(status, trailers: trailers)
    }

    // MARK: Attempts

    private func startAttempt() {
        let attempt = Attempt(self)
        attempts.append(attempt)
        retry?.attemptBegan()
        if let delay = hedging?.attemptBegan() { startTimer(delay) { $0.hedge() } }
        pick(attempt)
    }

    private func hedge() {
        guard let hedging, hedging.mayBegin(core.throttle), committed == nil else { return }
        // One that waits for a connection would not be overtaken by another that does.
        guard attempts.allSatisfy({ $0.call != nil }) else {
            return startTimer(hedging.policy.delayMilliseconds) { $0.hedge() }
        }
        previousAttempts += 1
        startAttempt()
    }

    private func startTimer(_ milliseconds: Int, _ body: @escaping (ChannelCall) -> Void) {
        timer?.cancel()
        timer = core.loop.timer(afterMilliseconds: milliseconds) { [weak self] in self.map(body) }
    }

    /// Gives an attempt a connection, lets it wait for one, or ends it.
    func pick(_ attempt: Attempt) {
        switch core.pick() {
        case .connection(let connection): begin(attempt, on: connection)
        case .wait: core.wait(attempt)
        case .fail(let status):
            if options.waitsForReady {
                obstacle = status
                return core.wait(attempt)
            }
            ended(attempt, status, GRPCMetadata(), isUnprocessed: false)
        }
    }

    private func begin(_ attempt: Attempt, on connection: GRPCClientConnection) {
        var metadata = options.metadata
        if metadata.value("authorization") == nil, let token = options.token?() {
            metadata.add("authorization", "Bearer \(token)")
        }
        if previousAttempts > 0 { metadata.add("grpc-previous-rpc-attempts", "\(previousAttempts)") }
        var rest: Int?
        if deadlineMilliseconds != .max {
            let now = core.loop.nowMilliseconds
            rest = Int(deadlineMilliseconds > now ? deadlineMilliseconds - now : 1)
        }
        let call = connection.call(
            path: path, metadata: metadata, timeoutMilliseconds: rest, compression: options.compression, owner: attempt)
        guard !call.isEnded else { return }
        attempt.call = call
        obstacle = nil
        for frame in replay { call.send(frame: frame) }
        if isHalfClosed { call.halfClose() }
        commitIfTooLarge()
        if wasFull { becameWritable(attempt) }
    }

    private func commitIfTooLarge() {
        guard replayBytes > core.options.retryBytesMax, let attempt = attempts.first(where: { $0.call != nil }) else {
            return
        }
        commit(attempt)
    }

    private func commit(_ attempt: Attempt) {
        guard committed == nil else { return }
        committed = attempt
        replay = []
        replayBytes = 0
        timer?.cancel()
        timer = nil
        let others = attempts.filter { $0 !== attempt }
        attempts = [attempt]
        for other in others {
            core.forget(other)
            other.abandon()
        }
        if isPaused { attempt.call?.pauseReading() }
        tellWhenWritable()
    }

    /// Attempts are gone, perhaps the one that took no more: nobody else would tell the owner that it may send.
    private func tellWhenWritable() {
        guard wasFull else { return }
        core.loop.afterTurn { [weak self] in
            guard let self, wasFull, owner != nil, isWritable else { return }
            wasFull = false
            owner?.becameWritable()
        }
    }

    // MARK: What attempts bring

    func received(_ attempt: Attempt, metadata: GRPCMetadata) {
        // Of hedged attempts the first with an answer counts, not the first with headers.
        if hedging != nil, committed == nil {
            attempt.metadata = metadata
            return
        }
        commit(attempt)
        owner?.received(metadata: metadata)
    }

    func received(_ attempt: Attempt, frames: UnsafeRawBufferPointer) {
        commit(attempt)
        passMetadata(attempt)
        owner?.received(frames: frames)
    }

    private func passMetadata(_ attempt: Attempt) {
        guard let metadata = attempt.metadata else { return }
        attempt.metadata = nil
        owner?.received(metadata: metadata)
    }

    func becameWritable(_ attempt: Attempt) {
        guard committed == nil || committed === attempt, isWritable else { return }
        wasFull = false
        owner?.becameWritable()
    }

    func ended(_ attempt: Attempt, _ status: GRPCStatus, _ trailers: GRPCMetadata, isUnprocessed: Bool) {
        guard owner != nil, attempts.contains(where: { $0 === attempt }) else { return }
        // The server's clock may be ahead by the timer's grain: its reset is the deadline's doing all the same.
        if status.code == .cancelled, core.loop.nowMilliseconds &+ 1 >= deadlineMilliseconds {
            return end(GRPCStatus(.deadlineExceeded, "the deadline of the call is over"))
        }
        attempts.removeAll { $0 === attempt }
        if committed === attempt { return finish(attempt, status, trailers) }
        // A server that refuses a call has not begun it: once more elsewhere, whatever the method is.
        if isUnprocessed, refusals < ChannelCall.refusalsMax {
            refusals += 1
            let again = Attempt(self)
            attempts.append(again)
            return core.loop.afterTurn { [weak self] in
                if self?.owner != nil { self?.pick(again) }
            }
        }
        let pushback = GRPCPushback(trailers)
        var decision = GRPCRetryDecision.finish
        if var machine = hedging {
            decision = machine.ended(status, pushback: pushback, throttle: &core.throttle)
            hedging = machine
        } else if let retry {
            decision = retry.ended(status, pushback: pushback, throttle: &core.throttle, using: &core.random)
        }
        switch decision {
        case .finish: finish(attempt, status, trailers)
        case .waitForOthers: tellWhenWritable()
        case .retry(let milliseconds):
            previousAttempts += 1
            startTimer(milliseconds) { $0.startAttempt() }
        }
    }

    /// Refusals of one call that are answered by another try at once.
    private static let refusalsMax = 3

    private func finish(_ attempt: Attempt, _ status: GRPCStatus, _ trailers: GRPCMetadata) {
        // Whatever was called (gRFC A6); of what has a policy and did not commit, the policy's machine has counted.
        if status.isOK, committed != nil || (retry == nil && hedging == nil) { core.throttle.succeeded() }
        passMetadata(attempt)
        end(status, trailers: trailers)
    }
}

/// One try of a call. Confined to the loop.
final class Attempt: GRPCCallOwner {
    /// Weak: an abandoned attempt tells nobody anything.
    private weak var parent: ChannelCall?
    var call: ClientCall?
    /// Headers that wait for the attempt to be the one that counts.
    var metadata: GRPCMetadata?

    init(_ parent: ChannelCall) { self.parent = parent }

    func abandon() {
        parent = nil
        call?.cancel()
        call = nil
    }

    /// Something changed: a connection may be there now.
    func pickAgain() { parent?.pick(self) }

    func received(metadata: GRPCMetadata) { parent?.received(self, metadata: metadata) }
    func received(frames: UnsafeRawBufferPointer) { parent?.received(self, frames: frames) }
    func becameWritable() { parent?.becameWritable(self) }
    func ended(_ status: GRPCStatus, trailers: GRPCMetadata) {
        parent?.ended(self, status, trailers, isUnprocessed: call?.isUnprocessed ?? true)
    }
}
