import EventLoop
import GRPC
import MarketProto
import Protobuf
import Synchronization

/// What a ``PriceSession`` brings.
public enum SubscriptionEvent: Sendable {
    /// Updates of a subscription; with `isSnapshot` the last values where it begins.
    case ticks(subscription: UInt64, TickBatch, isSnapshot: Bool)
    /// Updates of a subscription that did not come and will not by themselves: comes before the batch with the update
    /// behind them. ``PriceSession/fill(_:)-(SequenceGap)`` asks for them.
    case gap(subscription: UInt64, SequenceGap)
    /// Updates that a fill brings, in the order of its ranges.
    case filled(fill: UInt64, TickBatch)
    /// A fill is over: how many of each range came, and why each of the others did not.
    case fillEnded(fill: UInt64, Proto.FillEnd)
    /// Records that a subscription should have gone on with are gone. Gaps say which sequences that are.
    case lost(subscription: UInt64, [Proto.LostRecords])
    /// The server refused what was asked for.
    case refused(SubscriptionRefusal)
    /// The server ended a subscription. With `goesOn` it is asked for again by itself, from where it ended.
    case ended(subscription: UInt64, Proto.SubscriptionEnd, goesOn: Bool)
    /// The stream ended and is begun again, with all subscriptions; the error says why.
    case interrupted(TapedeckError)
    /// The stream has begun again.
    case resumed
}

/// What a server would not do. Nothing was changed.
public struct SubscriptionRefusal: Hashable, Sendable {
    /// What was asked for.
    public enum Request: Hashable, Sendable {
        /// The subscription is none now.
        case add
        /// The subscription keeps the policy that it had.
        case changePolicy
        case fill
    }

    public let request: Request
    /// The subscription's or the fill's.
    public let id: UInt64
    public let error: Proto.SubscribeError
    /// For a person.
    public let message: String
}

/// Many subscriptions on one stream, to be changed while it runs, as an asynchronous sequence that survives
/// disconnects. Safe to use from any task; one task at a time reads. Nothing is sent before the first `next()`.
///
/// Commands return at once; a refusal comes as an event. After a disconnect every subscription goes on from its last
/// token and every fill is asked for again; what comes twice is left out, and what is missing is reported. Nothing is
/// read ahead but a bounded buffer. Ends with nil when its task is cancelled or ``cancel()`` called, and throws what
/// cannot be helped by trying again.
public final class PriceSession: AsyncSequence, Sendable {
    /// What the sequence brings.
    public typealias Element = SubscriptionEvent
    /// How it ends where it does not end well.
    public typealias Failure = TapedeckError

    private let channel: GRPCChannel
    private let state: Mutex<SessionState>

    init(channel: GRPCChannel, backoff: GRPCBackoff) {
        self.channel = channel
        state = Mutex(SessionState(backoff, seed: channel.options.seed))
    }

    // MARK: Commands

    /// Adds a subscription, the last value of each instrument first; without symbols, to all. Returns its id, which no
    /// other subscription or fill of the session has.
    @discardableResult
    public func add(
        _ symbols: [String] = [], exchange: String = "", policy: Proto.DeliveryPolicy = .all
    ) -> UInt64 {
        add(Proto.PriceSubscription(symbols, exchange: exchange, policy: policy))
    }

    /// Adds a subscription with a throttle, or one that goes on from a token. Returns its id.
    @discardableResult
    public func add(_ subscription: Proto.PriceSubscription) -> UInt64 { command { $0.add(subscription) } }

    /// Ends a subscription: nothing of it comes any more.
    public func remove(_ subscription: UInt64) { command { $0.remove(subscription) } }

    /// Gives a subscription another policy, without a gap. The times in milliseconds go with INTERVAL and
    /// MAX_STALENESS.
    public func changePolicy(
        of subscription: UInt64, to policy: Proto.DeliveryPolicy, throttleMilliseconds: Int32 = 0,
        maxStalenessMilliseconds: UInt32 = 0
    ) {
        command {
            $0.changePolicy(
                of: subscription, to: policy, throttleMs: throttleMilliseconds,
                maxStalenessMs: maxStalenessMilliseconds)
        }
    }

    /// Asks for updates that are past, in the order of the ranges. Returns the fill's id.
    @discardableResult
    public func fill(_ ranges: [Proto.FillRange]) -> UInt64 { command { $0.fill(ranges) } }

    /// Asks for what a gap left out. Returns the fill's id.
    @discardableResult
    public func fill(_ gap: SequenceGap) -> UInt64 { fill([gap.range]) }

    /// Ends the session; the server is told.
    public func cancel() { state.withLock { $0.finish() } }

    private func command<Result: Sendable>(_ body: (inout SessionMachine) -> Result) -> Result {
        state.withLock { state in
            defer { state.send() }
            return body(&state.machine)
        }
    }

    // MARK: Reading

    /// What comes. All iterators read from the one session.
    public func makeAsyncIterator() -> Iterator { Iterator(session: self) }

    /// Reads the session's events.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let session: PriceSession

        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(TapedeckError) -> SubscriptionEvent? {
            try await session.next()
        }
    }

    nonisolated(nonsending) private func next() async throws(TapedeckError) -> SubscriptionEvent? {
        while true {
            if Task.isCancelled { cancel() }
            switch state.withLock({ $0.next(channel) }) {
            case .event(let event): return event
            case .end: return nil
            case .wait(let milliseconds): await wait(milliseconds: milliseconds)
            case .read(let stream):
                do throws(GRPCStatus) {
                    let frames = try await stream.nextFrames()
                    try SessionState.result { state.withLock { $0.received(frames, stream) } }
                } catch {
                    let failure = TapedeckError(error, trailers: stream.end?.trailers ?? GRPCMetadata())
                    let isCancelled = Task.isCancelled
                    let isClosed = channel.isClosed
                    let isOver = state.withLock { $0.ended(failure, isCancelled: isCancelled, isClosed: isClosed) }
                    if isOver { throw failure }
                }
            }
        }
    }
}

extension PriceSession {
    /// Until the stream is to begin again, or the session is over.
    nonisolated(nonsending) private func wait(milliseconds: Int) async {
        let pause = Task { [channel] in await channel.wait(milliseconds: milliseconds) }
        state.withLock { $0.waits(pause) }
        await withTaskCancellationHandler {
            await pause.value
        } onCancel: {
            pause.cancel()
        }
    }
}

/// A session's stream now, and how it goes on.
private struct SessionState {
    /// What the reader does next.
    enum Step {
        case event(SubscriptionEvent)
        case read(GRPCClientStream)
        case wait(milliseconds: Int)
        case end
    }

    var machine = SessionMachine()
    private var resume: PriceResume
    private var random: SplitMix64
    private var stream: GRPCClientStream?
    private var hasBegun = false
    private var isInterrupted = false
    private var isFinished = false
    /// Before the stream begins again.
    private var waitMilliseconds = 0
    private var pause: Task<Void, Never>?
    /// To be handed out before more is read, the next one last.
    private var pending: [SubscriptionEvent] = []

    init(_ backoff: GRPCBackoff, seed: UInt64) {
        resume = PriceResume(token: nil, backoff: backoff)
        random = SplitMix64(seed: seed)
    }

    mutating func next(_ channel: GRPCChannel) -> Step {
        if isFinished { return .end }
        if let event = pending.popLast() { return .event(event) }
        if waitMilliseconds > 0 {
            defer { waitMilliseconds = 0 }
            return .wait(milliseconds: waitMilliseconds)
        }
        return .read(stream ?? begin(channel))
    }

    private mutating func begin(_ channel: GRPCChannel) -> GRPCClientStream {
        let stream = channel.stream(path: Proto.MarketDataService.subscribe.path)
        self.stream = stream
        hasBegun = false
        machine.begin()
        send()
        return stream
    }

    /// Sends what the machine has to ask; while there is no stream, the next one is asked for it.
    mutating func send() {
        guard let stream else { return }
        for request in machine.takeRequests() { stream.sendWithoutWaiting(request.encodedBytes()) }
    }

    mutating func waits(_ pause: Task<Void, Never>) {
        self.pause = pause
        if isFinished { pause.cancel() }
    }

    mutating func finish() {
        isFinished = true
        pause?.cancel()
        pending = []
        machine.interrupted()
        stream?.cancel()
        stream = nil
    }

    /// Frames came, or the stream's end; a status where they are none of its messages.
    mutating func received(_ frames: [UInt8]?, _ source: GRPCClientStream) -> GRPCStatus? {
        guard source === stream else { return nil }
        noteBeginning()
        guard let frames else {
            finish()
            return nil
        }
        let problem = frames.withUnsafeBytes { bytes -> GRPCStatus? in
            for message in MessageSequence(frames: bytes) {
                do throws(GRPCStatus) {
                    try machine.receive(message)
                } catch {
                    return error
                }
            }
            return nil
        }
        if let problem {
            source.cancel()
            return problem
        }
        resume.delivered()
        pending = machine.takeEvents().reversed()
        if isInterrupted {
            isInterrupted = false
            pending.append(.resumed)
        }
        send()
        return nil
    }

    static func result(_ problem: () -> GRPCStatus?) throws(GRPCStatus) {
        if let problem = problem() { throw problem }
    }

    private mutating func noteBeginning() {
        guard !hasBegun, stream?.receivedMetadata != nil else { return }
        hasBegun = true
        resume.began(token: nil)
    }

    /// The stream ended; whether the session is over with this error.
    mutating func ended(_ error: TapedeckError, isCancelled: Bool, isClosed: Bool) -> Bool {
        noteBeginning()
        stream = nil
        machine.interrupted()
        if isFinished || isCancelled {
            finish()
            return false
        }
        // Requests are this client's own: another try would end as this one did.
        guard !isClosed, error.code != .invalidArgument else {
            finish()
            return true
        }
        switch resume.ended(error, using: &random) {
        case .finish: finish()
        case .fail:
            finish()
            return true
        case .resume(_, let milliseconds):
            waitMilliseconds = milliseconds
            if !isInterrupted { pending.append(.interrupted(error)) }
            isInterrupted = true
        }
        return false
    }
}
