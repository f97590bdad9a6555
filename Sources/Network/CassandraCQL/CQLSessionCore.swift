import CQLFrames
import EventLoop

/// News of a cluster, for whoever watches a session.
public enum CQLSessionEvent: Sendable {
    /// A node has connections again, or none any more.
    case node(CQLNode, isUp: Bool, reason: String?)
    /// Nodes came, went or moved.
    case topology([CQLNode])
    case schema(CQLSchemaChange)
    /// The server warns of a request.
    case warning(String, CQLNode?)
}

/// What a session did since it was opened.
public struct CQLSessionCounters: Hashable, Sendable {
    public var requests: UInt64 = 0
    public var failures: UInt64 = 0
    public var retries: UInt64 = 0
    public var speculations: UInt64 = 0
    public var timeouts: UInt64 = 0
    public var preparations: UInt64 = 0
    /// Connections made, and those that ended.
    public var connections: UInt64 = 0
    public var connectionsLost: UInt64 = 0
    /// Requests sent to a node that keeps their partition.
    public var routed: UInt64 = 0
    public var warnings: UInt64 = 0
    /// Requests that waited for room, now and at most.
    public var queued = 0
    public var queuedMax = 0
}

/// A session on its loop: nodes, their connections, where requests go and what becomes of them. Confined to the loop.
public final class CQLSessionCore {
    let loop: any Loop
    let options: CQLSessionOptions
    private let transport: any CQLTransport
    let report: (CQLSessionEvent) -> Void
    private var random: SplitMix64
    /// What all connections speak; known once the session is open.
    public private(set) var version: CQLVersion
    public internal(set) var counters = CQLSessionCounters()
    private(set) var pools: [CQLNodePool] = []
    private var topology = CQLTopology(nodes: [], keyspaces: [:], hasMurmur3: false)
    private(set) var localDataCenter: String?
    private var poolCount = 0
    private(set) lazy var control = CQLControl(self)
    private var opened: ((Result<Void, CQLConnectionError>) -> Void)?
    private var openTimer: (any LoopTimer)?
    private var openError: CQLConnectionError?
    private(set) var isClosed = false
    /// Itself while it is open: connections and timers tell it of their ends, whoever has forgotten it.
    private var own: CQLSessionCore?
    private var deadlineTimer: (any LoopTimer)?
    /// Requests that wait for room, from `queueStart` on.
    private var queue: [CQLCall] = []
    private var queueStart = 0
    private var round = 0
    /// Replicas by keyspace and place on the ring, as pool indices.
    private var replicas: [String: [[Int]?]] = [:]
    /// Keyspaces of which every node keeps every row.
    private var keptEverywhere: Set<String> = []
    var prepared: [[UInt8]: CQLPrepared] = [:]
    /// Calls that wait until their statement is prepared anew on a connection.
    var preparing: [Preparing: [CQLCall]] = [:]

    struct Preparing: Hashable {
        let connection: ObjectIdentifier
        let id: [UInt8]
    }

    /// On the loop. `report` hears of the cluster; on the loop as well.
    public init(
        loop: any Loop, transport: any CQLTransport, options: CQLSessionOptions, seed: UInt64,
        report: @escaping (CQLSessionEvent) -> Void
    ) {
        self.loop = loop
        self.transport = transport
        self.options = options
        self.report = report
        version = options.connection.version
        random = SplitMix64(seed: options.seed ?? seed)
    }

    /// Finds the cluster; `done` is told once, when a node can be asked. From here on it lives until ``close()``.
    public func open(_ done: @escaping (Result<Void, CQLConnectionError>) -> Void) {
        opened = done
        own = self
        openTimer = loop.timer(afterMilliseconds: options.openMilliseconds) { [weak self] in
            guard let self else { return }
            let text = options.contactPoints.map(\.description).joined(separator: ", ")
            let last = openError.map { "; the last failure: \($0)" } ?? ""
            finishOpen(
                .failure(
                    CQLConnectionError(
                        openError?.code ?? .unreachable,
                        "none of \(text) answered within \(options.openMilliseconds) ms\(last)")))
        }
        control.connect()
    }

    private func finishOpen(_ result: Result<Void, CQLConnectionError>) {
        guard let done = opened else { return }
        opened = nil
        openTimer?.cancel()
        openTimer = nil
        if case .failure = result { close() }
        done(result)
    }

    /// Ends all connections; what is open fails.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        defer { own = nil }
        control.close()
        for pool in pools { pool.close("the session is closed") }
        let waiting = queue[queueStart...]
        queue = []
        queueStart = 0
        for call in waiting { fail(call, CQLRequestError(.closed, "the session is closed")) }
        finishOpen(.failure(CQLConnectionError(.closed, "the session was closed")))
    }

    /// The cluster as it is known, and whether each node has a connection.
    public var nodes: [(node: CQLNode, isUp: Bool)] { pools.map { ($0.node, $0.isUp) } }

    func backoffMilliseconds(_ failures: Int) -> Int {
        options.backoff.milliseconds(afterFailures: failures, using: &random)
    }
}

// MARK: Connections

extension CQLSessionCore {
    /// Where the control connection may go: known nodes of the local data centre, the others, the contact points.
    func places() -> [CQLAddress] {
        var places: [CQLAddress] = []
        let known = pools.filter { $0.node.dataCenter == localDataCenter }.shuffled(using: &random)
        for address in known.map(\.node.address) + options.contactPoints.shuffled(using: &random)
        where !places.contains(address) { places.append(address) }
        return places
    }

    /// Connects to a place; `done` is told once, later: of a connection that is ready, or of the failure.
    func connect(
        _ address: CQLAddress, isControl: Bool = false,
        _ done: @escaping (Result<CQLConnection, CQLConnectionError>) -> Void
    ) {
        let version = version
        var pending: ((Result<CQLConnection, CQLConnectionError>) -> Void)? = done
        let timer = loop.timer(afterMilliseconds: options.connection.handshakeMilliseconds) {
            pending?(.failure(CQLConnectionError(.unreachable, "\(address) did not take the connection in its time")))
            pending = nil
        }
        transport.connect(address, loop: loop) { [weak self] result in
            timer.cancel()
            guard let self, let done = pending else {
                if case .success(let stream) = result { stream.close() }
                return
            }
            pending = nil
            switch result {
            case .failure(let error):
                done(.failure(CQLConnectionError(.unreachable, "\(address) cannot be reached: \(error)")))
            case .success(let stream):
                handshake(stream, address, version, isControl, done)
            }
        }
    }

    private func handshake(
        _ stream: any ByteStream, _ address: CQLAddress, _ version: CQLVersion, _ isControl: Bool,
        _ done: @escaping (Result<CQLConnection, CQLConnectionError>) -> Void
    ) {
        var pending: ((Result<CQLConnection, CQLConnectionError>) -> Void)? = done
        // The closure keeps the connection until it has ended.
        var kept: CQLConnection?
        kept = CQLConnection(over: stream, options: options.connection, version: version) {
            [weak self] connection, event in
            switch event {
            case .ready:
                self?.counters.connections += 1
                pending?(.success(connection))
                pending = nil
            case .ended(let error, let calls):
                kept = nil
                if let done = pending {
                    pending = nil
                    self?.downgrade(error, version)
                    done(.failure(CQLConnectionError(error.code, "\(address): \(error)")))
                } else {
                    self?.ended(connection, error, calls, isControl)
                }
            default: self?.happened(connection, event)
            }
        }
        _ = kept
    }

    /// A server that does not know the version is asked with the one before.
    private func downgrade(_ error: CQLConnectionError, _ tried: CQLVersion) {
        guard error.code == .unsupportedVersion, tried == version, opened != nil, tried > .v4 else { return }
        version = .v4
    }

    private func ended(_ connection: CQLConnection, _ error: CQLConnectionError, _ calls: [CQLCall], _ isControl: Bool)
    {
        counters.connectionsLost += 1
        if isControl {
            control.ended(connection, error)
        } else if let pool = pools.first(where: { $0.connections.contains { $0 === connection } }) {
            pool.ended(connection, error)
        }
        let waiting = preparing.keys.filter { $0.connection == ObjectIdentifier(connection) }
        for key in waiting { for call in preparing.removeValue(forKey: key) ?? [] { lost(call, error) } }
        for call in calls { lost(call, error) }
    }

    /// A connection of a pool came or went.
    func poolChanged(_ pool: CQLNodePool) {
        if pool.isUp, pool.connections.count == 1 {
            report(.node(pool.node, isUp: true, reason: nil))
        } else if pool.connections.isEmpty, pool.failures == 1 {
            report(.node(pool.node, isUp: false, reason: pool.lastError?.message))
        }
        if pool.isUp { finishOpen(.success(())) } else { openError = pool.lastError ?? openError }
        drainQueue()
    }

    func controlFailed(_ error: CQLConnectionError, _ place: CQLAddress) {
        openError = error
        // Whoever is not let in need not knock on other doors.
        if error.code == .authentication { finishOpen(.failure(error)) }
    }

    /// The cluster was read: pools follow it.
    func learned(_ new: CQLTopology) {
        if localDataCenter == nil {
            let centers = Set(new.nodes.map(\.dataCenter))
            if let wanted = options.localDataCenter, !centers.contains(wanted) {
                let known = centers.sorted().joined(separator: ", ")
                return finishOpen(
                    .failure(
                        CQLConnectionError(
                            .unreachable, "there is no data centre \(wanted) in the cluster; there are: \(known)")))
            }
            localDataCenter = options.localDataCenter ?? new.nodes[0].dataCenter
        }
        guard !isClosed, new != topology else { return }
        let isOther = new.nodes != topology.nodes
        var pools: [CQLNodePool] = []
        for node in new.nodes {
            let known = self.pools.first { $0.node.hostID == node.hostID && $0.node.address == node.address }
            known?.node = node
            pools.append(known ?? makePool(node))
        }
        for gone in self.pools where !pools.contains(where: { $0 === gone }) {
            gone.close("the node has left the cluster")
        }
        self.pools = pools
        topology = new
        replicas = [:]
        keptEverywhere = Set(new.keyspaces.filter { new.isOnEveryNode($0.value) }.keys)
        for pool in pools where isUsed(pool) { pool.fill() }
        if isOther { report(.topology(new.nodes)) }
    }

    private func makePool(_ node: CQLNode) -> CQLNodePool {
        poolCount += 1
        return CQLNodePool(node, number: poolCount, session: self)
    }

    func isUsed(_ pool: CQLNodePool) -> Bool {
        options.usesRemoteDataCenters || pool.node.dataCenter == localDataCenter
    }

    func pool(of connection: CQLConnection) -> CQLNodePool? {
        pools.first { $0.connections.contains { $0 === connection } }
    }
}

// MARK: Requests

extension CQLSessionCore {
    /// Sends a request where it belongs, or keeps it until there is room.
    public func submit(_ call: CQLCall) {
        counters.requests += 1
        let timeout = call.options.timeoutMilliseconds ?? options.requestMilliseconds
        call.deadlineMilliseconds = loop.nowMilliseconds &+ UInt64(max(1, timeout))
        guard !isClosed else { return fail(call, CQLRequestError(.closed, "the session is closed")) }
        guard call.frame.count - CQLFrameHeader.byteCount <= options.connection.limits.frameBytesMax else {
            return fail(
                call, CQLRequestError(.value, "a request of \(call.frame.count) bytes is larger than a frame"))
        }
        watchDeadlines()
        if queueStart < queue.count { return enqueue(call) }
        dispatch(call)
    }

    private enum Choice {
        case connection(CQLConnection, CQLNodePool)
        case busy
        case none
    }

    func dispatch(_ call: CQLCall) {
        switch choose(call) {
        case .connection(let connection, let pool): send(call, connection, pool)
        case .busy: enqueue(call)
        case .none:
            let why = pools.compactMap(\.lastError).first.map { ": \($0)" } ?? ""
            fail(call, call.lastError ?? CQLRequestError(.noNode, "no node can be asked\(why)"))
        }
    }

    private func send(_ call: CQLCall, _ connection: CQLConnection, _ pool: CQLNodePool) {
        guard connection.send(call) else { return enqueue(call) }
        if !call.tried.contains(pool.number) { call.tried.append(pool.number) }
        guard let delay = call.options.speculativeDelayMilliseconds, call.options.isIdempotent else { return }
        _ = loop.timer(afterMilliseconds: delay) { [weak self] in self?.speculate(call) }
    }

    private func speculate(_ call: CQLCall) {
        guard !call.isDone, call.attempts > 0, !isClosed,
            case .connection(let connection, let pool) = choose(call), connection.send(call)
        else { return }
        call.tried.append(pool.number)
        counters.speculations += 1
    }

    /// Replicas of the local data centre first, then its other nodes, then those of others where they are used.
    private func choose(_ call: CQLCall) -> Choice {
        guard !pools.isEmpty else { return .none }
        round = round &+ 1 & 0xff_ffff
        var isBusy = false
        if let token = call.token, let keyspace = call.keyspace, let places = replicaPools(token, keyspace) {
            for step in places.indices {
                let pool = pools[places[(round + step) % places.count]]
                guard pool.node.dataCenter == localDataCenter, !call.tried.contains(pool.number) else { continue }
                if let connection = pool.choose(&isBusy) {
                    counters.routed += 1
                    return .connection(connection, pool)
                }
            }
            // A replica that is full is better waited for than gone round.
            if isBusy { return .busy }
        }
        for isLocal in options.usesRemoteDataCenters ? [true, false] : [true] {
            for step in pools.indices {
                let pool = pools[(round + step) % pools.count]
                guard (pool.node.dataCenter == localDataCenter) == isLocal, !call.tried.contains(pool.number) else {
                    continue
                }
                if let connection = pool.choose(&isBusy) { return .connection(connection, pool) }
            }
            if isBusy { return .busy }
        }
        return pools.contains { $0.isReturning && !call.tried.contains($0.number) } ? .busy : .none
    }

    func isOnEveryNode(_ keyspace: String) -> Bool { keptEverywhere.contains(keyspace) }

    private func replicaPools(_ token: Int64, _ keyspace: String) -> [Int]? {
        guard let place = topology.place(of: token) else { return nil }
        if replicas[keyspace] == nil {
            guard topology.keyspaces[keyspace] != nil else { return nil }
            replicas[keyspace] = [[Int]?](repeating: nil, count: topology.ring.count)
        }
        if let known = replicas[keyspace]?[place] { return known.isEmpty ? nil : known }
        guard let replication = topology.keyspaces[keyspace] else { return nil }
        // Pools lie in the order of the topology's nodes.
        let found = topology.replicas(at: place, replication)
        replicas[keyspace]?[place] = found
        return found.isEmpty ? nil : found
    }

    private func enqueue(_ call: CQLCall) {
        guard queue.count - queueStart < options.queueMax else {
            return fail(
                call, CQLRequestError(.overloaded, "\(options.queueMax) requests wait for room on a connection already")
            )
        }
        queue.append(call)
        counters.queued = queue.count - queueStart
        counters.queuedMax = max(counters.queuedMax, counters.queued)
    }

    func drainQueue() {
        guard queueStart < queue.count else { return }
        while queueStart < queue.count {
            let call = queue[queueStart]
            if !call.isDone {
                switch choose(call) {
                case .connection(let connection, let pool): send(call, connection, pool)
                case .busy:
                    compactQueue()
                    return
                case .none: fail(call, call.lastError ?? CQLRequestError(.noNode, "no node can be asked"))
                }
            }
            queueStart += 1
        }
        compactQueue()
    }

    private func compactQueue() {
        if queueStart == queue.count {
            queue.removeAll(keepingCapacity: true)
            queueStart = 0
        } else if queueStart > 1024, queueStart > queue.count / 2 {
            queue.removeFirst(queueStart)
            queueStart = 0
        }
        counters.queued = queue.count - queueStart
    }

    func fail(_ call: CQLCall, _ error: CQLRequestError) {
        guard !call.isDone else { return }
        counters.failures += 1
        call.finish(.failure(error))
    }

    /// Looks for requests past their time while there are any.
    func watchDeadlines() {
        guard deadlineTimer == nil, !isClosed else { return }
        deadlineTimer = loop.repeatTimer(everyMilliseconds: 50) { [weak self] in self?.expire() }
    }

    private func expire() {
        control.expire()
        for pool in pools { for connection in pool.connections { connection.expire() } }
        let now = loop.nowMilliseconds
        for call in queue[queueStart...] where call.deadlineMilliseconds <= now { late(call) }
        drainQueue()
        let isBusy =
            control.openCalls > 0 || queueStart < queue.count
            || pools.contains { $0.connections.contains { $0.openCalls > 0 } }
        guard !isBusy else { return }
        deadlineTimer?.cancel()
        deadlineTimer = nil
    }

    func late(_ call: CQLCall) {
        guard !call.isDone else { return }
        counters.timeouts += 1
        let limit = call.options.timeoutMilliseconds ?? options.requestMilliseconds
        fail(
            call,
            CQLRequestError(
                .timeout, "no answer within \(limit) ms", mayHaveBeenDone: call.wasSent))
    }
}
