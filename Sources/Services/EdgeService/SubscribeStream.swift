import EventLog
import EventLoop
import GRPC
import MarketModel
import MarketProto
import Protobuf
import TimeSource

/// One `Subscribe` stream: performs what ``SubscribeState`` decides, and sends what its subscriptions and fills have,
/// in turn. Confined to its loop.
final class SubscribeStream: FrameSource, EdgeStream {
    /// Bytes of updates in one message, about.
    private static let messageBytes = 16 << 10

    private enum Source {
        case prices(UInt64, PriceSubscriber)
        case fill(FillJob)
        case book(UInt64, BookSubscriber)
    }

    /// What the stream is given by its surroundings.
    struct Surroundings {
        let tape: Tape
        let books: BookTape
        let store: StoreReader
        let time: any TimeSource
        let limits: EdgeLimits
    }

    private let tape: Tape
    private let surroundings: Surroundings
    private let limits: EdgeLimits
    private let permissions: (any CallerPermissions)?
    private let wake: () -> Void
    private let backlog: Backlog
    private var state: SubscribeState
    private var output = ResponseOutput()
    private var sources: [Source] = []
    private var turn = 0
    private var sentCounts: [UInt64: UInt64] = [:]
    private var timer: (any LoopTimer)?
    /// A heartbeat that is sent once each subscription's queue was taken up to this place.
    private var heartbeat: (targets: [UInt64: UInt64], token: ResumeToken)?
    private var ending: StreamEnd?
    /// Where all subscriptions go on, as of when the stream was ended from outside.
    private var endToken: ResumeToken?
    private var isEndSent = false

    /// `wake` is called when there is something to read.
    init(_ surroundings: Surroundings, permissions: (any CallerPermissions)?, wake: @escaping () -> Void) {
        self.surroundings = surroundings
        tape = surroundings.tape
        limits = surroundings.limits
        self.permissions = permissions
        self.wake = wake
        backlog = Backlog(bytesMax: limits.queueBytesMax)
        state = SubscribeState(limits: limits)
    }

    func start() { startHeartbeat(limits.heartbeatMilliseconds) }

    func stop() {
        timer?.cancel()
        timer = nil
        for source in sources { stop(source) }
        sources = []
    }

    /// Ends once the reader has what the tape has.
    func end() { end(.shutdown) }

    /// The call's headers say where it began: as good as a token of its first heartbeat.
    var startToken: ResumeToken { tape.token(tape.next) }

    /// Bytes that wait for the reader, in whichever form.
    var waitingBytes: Int { output.count + backlog.bytes }

    var usage: StreamUsage {
        var usage = StreamUsage(heldBytes: output.heldBytes, queuedBytes: waitingBytes)
        for source in sources {
            switch source {
            case .prices(_, let subscriber):
                let one = subscriber.usage
                usage.heldBytes += one.heldBytes
                usage.conflatedInstruments += one.conflatedInstruments
                usage.lagBytes = max(usage.lagBytes, one.lagBytes)
            case .fill(let fill): usage.heldBytes += fill.heldBytes
            case .book: break
            }
        }
        return usage
    }

    private func end(_ reason: StreamEnd) {
        guard ending == nil else { return }
        ending = reason
        for source in sources {
            switch source {
            case .prices(_, let subscriber): subscriber.end()
            case .fill(let fill): fill.cancel()
            case .book(_, let book): book.stop()
            }
        }
        wake()
    }

    private func stop(_ source: Source) {
        switch source {
        case .prices(_, let subscriber): subscriber.stop()
        case .fill(let fill): fill.cancel()
        case .book(_, let book): book.stop()
        }
    }

    // MARK: What is read

    func read(into buffer: UnsafeMutableRawBufferPointer) -> FrameRead {
        var filled = 0
        while filled < buffer.count {
            let taken = output.take(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
            filled += taken
            if taken == 0, !refill() { break }
        }
        if filled > 0 { return .bytes(filled) }
        guard isEndSent, let ending else { return .wait }
        stop()
        tape.tally.ended(ending.reason)
        return ending.read(token: endToken ?? tape.token(tape.next), repeats: 0)
    }

    /// Puts more into the empty output; false when there is nothing now.
    private func refill() -> Bool {
        guard !isEndSent else { return false }
        sendHeartbeatIfDue()
        for _ in 0..<sources.count where output.count == 0 && !sources.isEmpty {
            if turn >= sources.count { turn = 0 }
            if takeFrom(sources[turn]) {
                turn += 1
            } else if isOver(sources[turn]) {
                remove(sources[turn])
            } else {
                turn += 1
            }
        }
        if output.count == 0 { sendHeartbeatIfDue() }
        if output.count == 0 { sendEndIfDue() }
        return output.count > 0
    }

    private func takeFrom(_ source: Source) -> Bool {
        switch source {
        case .prices(let id, let subscriber):
            // A heartbeat that is due stands for what was queued when it became due, no less and no more.
            let left = heartbeat?.targets[id].map { Int(clamping: $0 - min($0, subscriber.queueTaken)) }
            if left == 0 { return false }
            return subscriber.takeFrames(about: min(left ?? .max, SubscribeStream.messageBytes)) { frames, isSnapshot in
                sentCounts[id, default: 0] += UInt64(
                    output.append(updates: frames, subscription: id, fill: 0, isSnapshot: isSnapshot))
            }
        case .fill(let fill):
            return fill.takeFrames(about: SubscribeStream.messageBytes) { frames in
                _ = output.append(updates: frames, subscription: 0, fill: fill.id, isSnapshot: false)
            }
        case .book(let id, let book):
            guard let update = book.take() else { return false }
            sentCounts[id, default: 0] += 1
            send(id) { $0.event = .book(update) }
            return true
        }
    }

    private func isOver(_ source: Source) -> Bool {
        switch source {
        case .prices(_, let subscriber): subscriber.failure != nil && subscriber.isDrained
        case .fill(let fill): fill.isDrained
        case .book: false
        }
    }

    /// A source that has nothing more says why.
    private func remove(_ source: Source) {
        sources.remove(at: turn)
        switch source {
        case .prices(let id, let subscriber):
            if let failure = subscriber.failure {
                tape.tally.ended(failure.end.reason)
                send(id) { $0.event = .subscriptionEnd(failure.end.subscriptionEnd(token: failure.token)) }
            }
            state.subscriptionEnded(id)
            sentCounts[id] = nil
        case .fill(let fill):
            send(0) { $0.event = .fillEnd(fill.end) }
            state.fillEnded(fill.id)
        case .book: break
        }
        stop(source)
    }

    private func sendEndIfDue() {
        if ending == nil, state.isHalfClosed, state.isIdle { ending = .completed }
        guard let ending else { return }
        for source in sources {
            if case .prices(_, let subscriber) = source, !subscriber.isDrained { return }
            if case .fill = source { return }
        }
        isEndSent = true
        send(0) { $0.event = .streamEnd(ending.streamEnd(token: endToken ?? tape.token(tape.next))) }
    }

    private func send(_ subscription: UInt64, _ fill: (inout Proto.SubscribeResponse) -> Void) {
        var response = Proto.SubscribeResponse()
        response.subscriptionId = subscription
        fill(&response)
        output.append(response)
    }

    // MARK: Heartbeats

    private func startHeartbeat(_ milliseconds: Int) {
        timer?.cancel()
        timer = tape.loop.repeatTimer(everyMilliseconds: milliseconds) { [weak self] in self?.heartbeatIsDue() }
    }

    /// At most one waits for a reader.
    func heartbeatIsDue() {
        guard heartbeat == nil, !isEndSent else { return }
        tape.catchUp()
        var targets: [UInt64: UInt64] = [:]
        for case .prices(let id, let subscriber) in sources where subscriber.failure == nil {
            targets[id] = subscriber.queueAppended
        }
        heartbeat = (targets, resumeToken)
        wake()
    }

    /// Stands for what is queued for all subscriptions now.
    private var resumeToken: ResumeToken {
        var offsets = tape.next
        for case .prices(_, let subscriber) in sources where subscriber.failure == nil {
            for (partition, offset) in subscriber.resumeOffsets.enumerated() {
                offsets[partition] = min(offsets[partition], offset)
            }
        }
        return tape.token(offsets)
    }

    private func sendHeartbeatIfDue() {
        guard let due = heartbeat else { return }
        for case .prices(let id, let subscriber) in sources {
            if let target = due.targets[id], subscriber.queueTaken < target { return }
        }
        heartbeat = nil
        var message = Proto.Heartbeat()
        let time = TimestampParts.split(surroundings.time.wallNs())
        message.time = WellKnown.Timestamp()
        message.time?.seconds = time.seconds
        message.time?.nanos = time.nanos
        message.resumeToken = due.token.encoded()
        send(0) { $0.event = .heartbeat(message) }
    }
}

// MARK: Requests

extension SubscribeStream {
    /// A message of the client.
    func received(_ message: UnsafeRawBufferPointer) {
        guard ending == nil else { return }
        guard output.count <= limits.answerBytesMax else {
            return end(.tooManyRequests("more than \(limits.answerBytesMax >> 10) KiB of answers wait for the reader"))
        }
        tape.catchUp()
        do {
            let request = try Proto.SubscribeRequest(decoding: message)
            perform(state.receive(request, self), request.requestId)
        } catch {
            end(.badRequest("the message is no SubscribeRequest: \(error)"))
        }
        wake()
    }

    /// The client sends no more: what it asked for goes on.
    func receivedEnd() {
        state.halfClose()
        wake()
    }

    private func perform(_ action: SubscribeState.Action, _ request: UInt64) {
        switch action {
        case .refuse(let refusal): answer(request, refusal)
        case .addPrices(let id, let prices): add(id, prices, request)
        case .changePrices(let id, let change): self.change(id, change, request)
        case .addBook(let id, let instrument, let shape): add(id, instrument, shape, request)
        case .changeBook(let id, let shape):
            for case .book(id, let book) in sources { book.change(shape) }
            answer(request)
        case .remove(let id): remove(id, request)
        case .fill(let ranges): fill(ranges, request)
        case .cancelFill(let id):
            for case .fill(let fill) in sources where fill.id == id { fill.cancel() }
            answer(request)
        case .list:
            let list = self.list
            answer(request) { $0.list = list }
        case .heartbeat(let milliseconds):
            startHeartbeat(milliseconds)
            answer(request) { $0.heartbeatMs = UInt32(clamping: milliseconds) }
        case .end(let message): end(.badRequest(message))
        }
    }

    private func answer(_ request: UInt64, _ fill: (inout Proto.RequestResult) -> Void = { _ in }) {
        var result = Proto.RequestResult()
        result.requestId = request
        fill(&result)
        send(0) { $0.event = .result(result) }
    }

    private func answer(_ request: UInt64, _ refusal: SubscribeState.Refusal) {
        answer(request) {
            $0.error = refusal.error
            $0.message = refusal.message
        }
    }

    private func add(_ id: UInt64, _ prices: SubscribeState.Prices, _ request: UInt64) {
        var offsets: [UInt64]?
        var lost: [MissingRange] = []
        if !prices.token.isEmpty {
            do throws(TokenError) {
                offsets = try ResumeToken(decoding: prices.token).offsets(in: tape.log, store: tape.store)
            } catch {
                switch error {
                case .missing(let ranges, let next):
                    offsets = next
                    lost = ranges
                case .malformed(let what):
                    state.subscriptionEnded(id)
                    let message = "resume_token is not one of this service: \(what)"
                    return answer(request, SubscribeState.Refusal(.tokenInvalid, message))
                }
            }
        }
        let filter = InstrumentFilter(exchange: prices.exchange, symbols: prices.symbols, permissions: permissions)
        let snapshot = tape.snapshot(
            filter, from: offsets, isWanted: offsets == nil ? !prices.skipSnapshot : prices.resumesSnapshot)
        let subscriber = PriceSubscriber(
            tape: tape, limits: limits, filter: filter, policy: prices.policy, backlog: backlog, followsLog: true,
            wake: { [weak self] in self?.wake() })
        let token = tape.token(offsets ?? tape.next)
        answer(request) {
            $0.resumeToken = token.encoded()
            $0.snapshotCount = UInt32(snapshot.count)
            $0.lost = lost.map(\.message)
            $0.fromStore = tape.stored(from: offsets ?? tape.next).map(\.message)
        }
        sources.append(.prices(id, subscriber))
        subscriber.start(from: offsets, snapshot: snapshot)
    }

    private func change(_ id: UInt64, _ change: SubscribeState.Change, _ request: UInt64) {
        for case .prices(id, let subscriber) in sources {
            if let policy = change.policy { subscriber.change(policy: policy) }
            var count = 0
            if let symbols = change.symbols {
                let filter = InstrumentFilter(
                    exchange: subscriber.filter.exchange, symbols: symbols, permissions: permissions)
                let snapshot = change.skipSnapshot ? Tape.Snapshot() : tape.snapshot(filter, of: change.added)
                count = snapshot.count
                subscriber.change(filter: filter, snapshot: snapshot.frames)
            }
            answer(request) { $0.snapshotCount = UInt32(count) }
        }
    }

    private func remove(_ id: UInt64, _ request: UInt64) {
        sources.removeAll { source in
            switch source {
            case .prices(id, let subscriber): subscriber.stop()
            case .book(id, let book): book.stop()
            default: return false
            }
            return true
        }
        sentCounts[id] = nil
        answer(request)
    }

    private func add(
        _ id: UInt64, _ instrument: Instrument, _ shape: SubscribeState.BookShape, _ request: UInt64
    ) {
        guard let primary = tape.lines.primary(instrument) else {
            state.subscriptionEnded(id)
            let message = "no tick of \(instrument.symbol) on \(instrument.exchange) yet"
            return answer(request, SubscribeState.Refusal(.instrumentUnknown, message))
        }
        answer(request)
        let book = BookSubscriber(
            books: surroundings.books, instrument: instrument, feed: tape.lines[primary].feed, shape: shape
        ) { [weak self] in self?.wake() }
        sources.append(.book(id, book))
        book.start()
    }

    private func fill(_ ranges: [Proto.FillRange], _ request: UInt64) {
        var resolved: [Proto.FillRange] = []
        for range in ranges {
            guard let known = tape.resolve(range) else {
                state.fillEnded(request)
                let feed = range.feedHandlerId.isEmpty ? "" : " of feed \(range.feedHandlerId)"
                return answer(
                    request,
                    SubscribeState.Refusal(
                        .instrumentUnknown, "no tick of \(range.symbol) on \(range.exchange)\(feed) yet"))
            }
            resolved.append(known)
        }
        answer(request)
        sources.append(
            .fill(
                FillJob(
                    id: request, ranges: resolved, tape: tape, store: surroundings.store,
                    blocksMax: limits.fillBlocksMax
                ) { [weak self] in self?.wake() }))
    }

    private var list: Proto.SubscriptionList {
        var list = Proto.SubscriptionList()
        for source in sources {
            switch source {
            case .prices(let id, let subscriber):
                var info = Proto.SubscriptionInfo()
                info.subscriptionId = id
                info.subscription = subscriber.description
                info.sentCount = sentCounts[id] ?? 0
                info.conflatedCount = subscriber.conflatedCount
                info.waitingBytes = UInt64(subscriber.waitingBytes)
                info.catchingUp = subscriber.isCatchingUp
                list.subscriptions.append(info)
            case .book(let id, let book):
                var info = Proto.SubscriptionInfo()
                info.subscriptionId = id
                info.book = book.description
                info.book?.subscriptionId = id
                info.sentCount = sentCounts[id] ?? 0
                list.subscriptions.append(info)
            case .fill(let fill):
                var info = Proto.FillInfo()
                info.fillRequestId = fill.id
                info.sentCount = fill.sentCount
                list.fills.append(info)
            }
        }
        list.subscriptions.sort { $0.subscriptionId < $1.subscriptionId }
        list.fills.sort { $0.fillRequestId < $1.fillRequestId }
        return list
    }
}

extension SubscribeStream: SubscribeState.World {
    var isStopping: Bool { ending != nil }
    /// One snapshot fits on top of the bound.
    var hasRoom: Bool { backlog.bytes <= backlog.bytesMax / 2 }

    func isCatchingUp(_ id: UInt64) -> Bool {
        for case .prices(id, let subscriber) in sources { return subscriber.isCatchingUp }
        return false
    }

    func isDenied(exchange: String, symbol: String) -> Bool { tape.denies(permissions, exchange, symbol) }
}

// MARK: Operators

extension SubscribeStream: StreamStatusProvider {
    var streamStatus: StreamStatus {
        var policies: [String] = []
        var bytes = 0
        for case .prices(_, let subscriber) in sources {
            bytes += subscriber.waitingBytes
            if !policies.contains(subscriber.policy.name) { policies.append(subscriber.policy.name) }
        }
        return StreamStatus(policy: policies.joined(separator: ", "), lagBytes: UInt64(bytes))
    }

    /// What is queued is sent, and nothing that comes after.
    func end(_ ending: CallEnding) {
        guard self.ending == nil else { return }
        endToken = resumeToken
        for case .prices(_, let subscriber) in sources { subscriber.fail(.imposed(ending)) }
        end(.imposed(ending))
    }
}
