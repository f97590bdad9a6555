import GRPC
import MarketProto
import Protobuf
import TickCodec

/// The subscriptions and fills of a ``PriceSession``, and what its stream is to be asked: commands and messages in,
/// requests and events out. Pure.
struct SessionMachine {
    private struct Subscription {
        /// As asked for, with the policy that it has now.
        var asked: Proto.PriceSubscription
        var tracker = SequenceTracker()
        /// Goes on behind what came; empty: as asked for.
        var token: [UInt8]
        /// Whether there may be a snapshot of which not everything came.
        var wantsSnapshot: Bool
        var snapshotLeft = 0
        /// Whether this stream was asked for it, and has said yes.
        var isAsked = false
        var isConfirmed = false
        /// Whether any stream has said yes.
        var hasBegun = false

        init(_ asked: Proto.PriceSubscription) {
            self.asked = asked
            token = asked.resumeToken
            wantsSnapshot = asked.resumeToken.isEmpty ? !asked.skipSnapshot : asked.resumeSnapshot
        }
    }

    /// What a request was for whose answer is not there yet.
    private enum Pending {
        case add(UInt64)
        case change(UInt64, former: Policy, new: Policy)
        case fill(UInt64)
    }

    private struct Policy: Equatable {
        var policy: Proto.DeliveryPolicy
        var throttleMs: Int32
        var maxStalenessMs: UInt32

        init(_ subscription: Proto.PriceSubscription) {
            policy = subscription.policy
            throttleMs = subscription.throttleMs
            maxStalenessMs = subscription.maxStalenessMs
        }

        func set(in subscription: inout Proto.PriceSubscription) {
            subscription.policy = policy
            subscription.throttleMs = throttleMs
            subscription.maxStalenessMs = maxStalenessMs
        }
    }

    /// How often the server is to say where the subscriptions go on: what was sent since then comes again after a cut.
    private static let heartbeatMilliseconds: UInt32 = 2000

    private var subscriptions: [UInt64: Subscription] = [:]
    private var fills: [UInt64: FillProgress] = [:]
    private var pending: [UInt64: Pending] = [:]
    private var lastID: UInt64 = 0
    private var isOpen = false
    private var requests: [Proto.SubscribeRequest] = []
    private var events: [SubscriptionEvent] = []

    /// What is to be sent, in order.
    mutating func takeRequests() -> [Proto.SubscribeRequest] {
        defer { requests = [] }
        return requests
    }

    /// What is to be told, in order.
    mutating func takeEvents() -> [SubscriptionEvent] {
        defer { events = [] }
        return events
    }

    private mutating func nextID() -> UInt64 {
        lastID += 1
        return lastID
    }

    private mutating func request(_ id: UInt64, _ body: Proto.SubscribeRequest.OneOf_Request) {
        var request = Proto.SubscribeRequest()
        request.requestId = id
        request.request = body
        requests.append(request)
    }

    // MARK: The stream

    /// A stream begins: everything is asked for, from where it is.
    mutating func begin() {
        isOpen = true
        pending = [:]
        requests = []
        var options = Proto.SubscribeOptions()
        options.heartbeatMs = SessionMachine.heartbeatMilliseconds
        request(nextID(), .options(options))
        for id in subscriptions.keys.sorted() { ask(id) }
        for id in fills.keys.sorted() {
            fills[id]?.begin()
            askFill(id)
        }
    }

    /// The stream is over.
    mutating func interrupted() {
        isOpen = false
        requests = []
        for id in subscriptions.keys {
            subscriptions[id]?.isAsked = false
            subscriptions[id]?.isConfirmed = false
        }
    }

    private mutating func ask(_ id: UInt64) {
        guard isOpen, var subscription = subscriptions[id], !subscription.isAsked else { return }
        subscription.isAsked = true
        subscription.isConfirmed = false
        subscriptions[id] = subscription
        var add = Proto.AddSubscription()
        add.subscriptionId = id
        var asked = subscription.asked
        asked.resumeToken = subscription.token
        asked.resumeSnapshot = !subscription.token.isEmpty && subscription.wantsSnapshot
        add.subscription = asked
        let number = nextID()
        pending[number] = .add(id)
        request(number, .add(add))
    }

    private mutating func askFill(_ id: UInt64) {
        guard isOpen, let fill = fills[id] else { return }
        pending[id] = .fill(id)
        request(id, .fill(fill.request))
    }

    // MARK: Commands

    mutating func add(_ subscription: Proto.PriceSubscription) -> UInt64 {
        let id = nextID()
        subscriptions[id] = Subscription(subscription)
        ask(id)
        return id
    }

    mutating func remove(_ id: UInt64) {
        guard let subscription = subscriptions.removeValue(forKey: id), isOpen, subscription.isAsked else { return }
        var remove = Proto.RemoveSubscription()
        remove.subscriptionId = id
        request(nextID(), .remove(remove))
    }

    mutating func changePolicy(
        of id: UInt64, to policy: Proto.DeliveryPolicy, throttleMs: Int32, maxStalenessMs: UInt32
    ) {
        guard var subscription = subscriptions[id] else { return }
        let former = Policy(subscription.asked)
        subscription.asked.policy = policy
        subscription.asked.throttleMs = throttleMs
        subscription.asked.maxStalenessMs = maxStalenessMs
        subscriptions[id] = subscription
        guard isOpen, subscription.isAsked else { return }
        var change = Proto.ChangeSubscription()
        change.subscriptionId = id
        // Unspecified would leave it as it is.
        change.policy = policy == .unspecified ? .all : policy
        change.throttleMs = throttleMs
        change.maxStalenessMs = maxStalenessMs
        let number = nextID()
        pending[number] = .change(id, former: former, new: Policy(subscription.asked))
        request(number, .change(change))
    }

    mutating func fill(_ ranges: [Proto.FillRange]) -> UInt64 {
        let id = nextID()
        fills[id] = FillProgress(ranges)
        askFill(id)
        return id
    }

    // MARK: Messages

    /// Takes a message of the stream. Refuses what is none.
    mutating func receive(_ message: UnsafeRawBufferPointer) throws(GRPCStatus) {
        guard let message = SubscribeFrames(message) else {
            throw GRPCStatus(.internalError, "the server sent what is no SubscribeResponse")
        }
        if !message.frames.isEmpty {
            do throws(TickCodecError) {
                try receive(updates: message)
            } catch {
                throw GRPCStatus(.internalError, "the server sent what is no PriceUpdate: \(error)")
            }
        }
        switch message.rest.event {
        case .result(let result): receive(result)
        case .heartbeat(let heartbeat): receive(heartbeat)
        case .subscriptionEnd(let end): receive(end, of: message.rest.subscriptionId)
        case .fillEnd(let end):
            guard fills.removeValue(forKey: end.fillRequestId) != nil else { break }
            events.append(.fillEnded(fill: end.fillRequestId, end))
        // Books are none of a session's; the trailers say how the stream ended.
        case .book, .streamEnd, nil: break
        }
    }

    private mutating func receive(updates message: SubscribeFrames) throws(TickCodecError) {
        let fill = message.rest.fillRequestId
        guard fill == 0 else {
            if let batch = try fills[fill]?.take(message.frames) { events.append(.filled(fill: fill, batch)) }
            return
        }
        let id = message.rest.subscriptionId
        // What was on its way when it was removed.
        guard var subscription = subscriptions[id] else { return }
        let isSnapshot = message.rest.snapshot
        let checked = try CheckedFrames(message.frames, &subscription.tracker)
        if isSnapshot {
            subscription.snapshotLeft -= message.frames.withUnsafeBytes {
                MessageSequence(frames: $0).count { _ in true }
            }
            if subscription.snapshotLeft <= 0 { subscription.wantsSnapshot = false }
        }
        subscriptions[id] = subscription
        events += checked.gaps.map { .gap(subscription: id, $0) }
        if let batch = checked.batch { events.append(.ticks(subscription: id, batch, isSnapshot: isSnapshot)) }
    }

    /// Everything that came before it need not come again.
    private mutating func receive(_ heartbeat: Proto.Heartbeat) {
        for id in subscriptions.keys.sorted() {
            if subscriptions[id]?.isConfirmed == true, !heartbeat.resumeToken.isEmpty {
                subscriptions[id]?.token = heartbeat.resumeToken
            }
            // What could not begin, or ended by itself, begins again: no oftener than this.
            ask(id)
        }
    }

    private mutating func receive(_ end: Proto.SubscriptionEnd, of id: UInt64) {
        guard var subscription = subscriptions[id] else { return }
        let goesOn = end.reason != .logFailed
        subscription.isAsked = false
        subscription.isConfirmed = false
        if !end.resumeToken.isEmpty { subscription.token = end.resumeToken }
        subscriptions[id] = goesOn ? subscription : nil
        if !end.lost.isEmpty { events.append(.lost(subscription: id, end.lost)) }
        events.append(.ended(subscription: id, end, goesOn: goesOn))
    }

    private mutating func receive(_ result: Proto.RequestResult) {
        guard let answered = pending.removeValue(forKey: result.requestId) else { return }
        let isRefused = result.error != .none
        switch answered {
        case .add(let id): isRefused ? refused(add: id, result) : confirmed(id, result)
        case .change(let id, let former, let new):
            guard isRefused, var subscription = subscriptions[id] else { return }
            // Unless it was changed again meanwhile.
            if Policy(subscription.asked) == new { former.set(in: &subscription.asked) }
            subscriptions[id] = subscription
            refuse(.changePolicy, id, result)
        case .fill(let id):
            // Another server may take it.
            guard isRefused, result.error != .serverStopping, fills.removeValue(forKey: id) != nil else { return }
            refuse(.fill, id, result)
        }
    }

    private mutating func refuse(_ what: SubscriptionRefusal.Request, _ id: UInt64, _ result: Proto.RequestResult) {
        events.append(
            .refused(SubscriptionRefusal(request: what, id: id, error: result.error, message: result.message)))
    }

    private mutating func confirmed(_ id: UInt64, _ result: Proto.RequestResult) {
        guard var subscription = subscriptions[id] else { return }
        subscription.isConfirmed = true
        subscription.hasBegun = true
        if !result.resumeToken.isEmpty { subscription.token = result.resumeToken }
        subscription.snapshotLeft = Int(result.snapshotCount)
        if result.snapshotCount == 0 { subscription.wantsSnapshot = false }
        subscriptions[id] = subscription
        if !result.lost.isEmpty { events.append(.lost(subscription: id, result.lost)) }
    }

    private mutating func refused(add id: UInt64, _ result: Proto.RequestResult) {
        guard var subscription = subscriptions[id] else { return }
        subscription.isAsked = false
        switch result.error {
        case .serverStopping, .readerTooSlow: subscriptions[id] = subscription
        case .tokenInvalid where subscription.hasBegun && !subscription.token.isEmpty:
            // Another log, after a failover: from its latest values on; the tracker says what is missing.
            subscription.token = []
            subscription.asked.skipSnapshot = false
            subscription.wantsSnapshot = true
            subscriptions[id] = subscription
            ask(id)
        default:
            subscriptions[id] = nil
            refuse(.add, id, result)
        }
    }
}
