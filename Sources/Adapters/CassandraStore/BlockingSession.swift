import CQLFrames
import CassandraCQL
import EventLoop
import Synchronization
import TickStore

/// A session for threads that wait: each call returns when the cluster has answered. Never on an event loop.
final class BlockingSession: @unchecked Sendable {
    let session: CassandraSession
    private let loop: EventLoop
    private let place: String
    private let isClosed = Mutex(false)

    /// Opens a session on a loop of its own. `report` hears of the cluster, on the loop.
    init(
        _ configuration: CassandraStoreConfiguration, report: @escaping @Sendable (CQLSessionEvent) -> Void = { _ in }
    ) throws(StoreError) {
        var options = CQLSessionOptions(contactPoints: configuration.contactPoints)
        options.localDataCenter = configuration.localDataCenter
        options.connection.version = configuration.version
        options.connection.compression = configuration.compression
        options.connection.credentials = configuration.credentials
        options.connection.applicationName = "tapedeck"
        options.connectionsPerNode = configuration.connectionsPerNode
        options.requestMilliseconds = configuration.limits.requestMilliseconds
        options.openMilliseconds = configuration.limits.openMilliseconds
        options.backoff.maxMilliseconds = 2000
        place = configuration.contactPoints.map(\.description).joined(separator: ", ")
        loop = EventLoop(name: "cassandra")
        let monitor = Monitor()
        let result = Mutex<Result<CassandraSession, CQLConnectionError>?>(nil)
        CassandraSession.open(
            options, on: loop, transport: configuration.transport ?? CQLSockets(tls: configuration.tls), report: report
        ) { opened in
            result.withLock { $0 = opened }
            monitor.withLock { monitor.wake() }
        }
        // The session ends the wait itself.
        while result.withLock({ $0 == nil }) {
            _ = monitor.withLock { monitor.wait(milliseconds: 1000) { result.withLock { $0 != nil } } }
        }
        switch result.withLock({ $0 }) {
        case .success(let opened): session = opened
        case .failure(let error):
            loop.stop()
            let isRetryable = error.code == .unreachable || error.code == .silent || error.code == .lost
            throw StoreError(
                isRetryable ? .unreachable : .io, "Cassandra at \(place): \(error)", retryable: isRetryable)
        case nil:
            loop.stop()
            throw StoreError(.unreachable, "Cassandra at \(place): no answer", retryable: true)
        }
    }

    /// Ends it; nothing may be asked afterwards. A second time it does nothing: a stopped loop answers nobody.
    func close() {
        let wasClosed = isClosed.withLock { closed in
            defer { closed = true }
            return closed
        }
        guard !wasClosed else { return }
        loop.runAndWait { [session] _ in session.closeOnLoop() }
        // Sockets close in later turns.
        loop.stop()
    }

    /// Runs a closure on the session's loop.
    func onLoop(_ body: @escaping @Sendable () -> Void) { loop.execute(body) }

    func failure(_ error: CQLRequestError, _ what: String) -> StoreError {
        let code: StoreError.Code = error.isRetryable ? .unreachable : error.code == .closed ? .closed : .io
        let hint =
            error.server?.detail == .invalid
            ? "; `tapedeck schema check` says what the tables lack, `tapedeck schema apply` makes them" : ""
        return StoreError(
            code, "Cassandra at \(place): cannot \(what): \(error.message)\(hint)", retryable: error.isRetryable)
    }

    /// What is asked, where it lies, and the statement that a node may have forgotten.
    typealias Request = (request: CQLRequest, token: Int64?, statement: CQLPrepared?)

    /// Sends all requests at once and waits for all answers, in their order.
    func ask(
        _ requests: [Request], keyspace: String? = nil, milliseconds: Int? = nil, isIdempotent: Bool = true
    ) -> [CQLCall.Outcome] {
        wait(requests.count, milliseconds, isIdempotent: isIdempotent) { index, options, done in
            let request = requests[index]
            return CQLCall(
                request.request, session.version, token: request.token, keyspace: keyspace,
                prepared: request.statement, options: options, done: done)
        }
    }

    /// Sends frames at once, each to where its token lies, and waits for all answers, in their order.
    func send(_ frames: [(frame: CQLBuffer, token: Int64)], keyspace: String) -> [CQLCall.Outcome] {
        wait(frames.count) { index, options, done in
            let (frame, token) = frames[index]
            return CQLCall(frame: frame, token: token, keyspace: keyspace, options: options, done: done)
        }
    }

    /// Values of a prepared statement.
    func bind(_ statement: CQLPrepared, _ values: [CQLValue]) throws(StoreError) -> CQLBoundValues {
        do {
            return try CQLBoundValues(values, for: statement.parameters.columns)
        } catch {
            throw StoreError(.io, "cannot bind values of \"\(statement.text)\": \(error)")
        }
    }

    /// A prepared statement with its values. `pageSize`: of what it reads, which goes on at `state`.
    func request(
        _ statement: CQLPrepared, _ values: [CQLValue], _ consistency: CQLConsistency, pageSize: Int32? = nil,
        from state: [UInt8]? = nil
    ) throws(StoreError) -> Request {
        let bound = try bind(statement, values)
        var parameters = CQLParameters(consistency: consistency, values: bound)
        parameters.pageSize = pageSize
        parameters.pagingState = state
        let id = CQLPreparedID(id: statement.id, resultMetadataID: statement.shape.metadataID)
        return (.execute(id, parameters), statement.token(bound), statement)
    }

    /// Whether every node that is asked keeps every row of the keyspace.
    func isOnEveryNode(_ keyspace: String) -> Bool {
        loop.runAndWait { [session] _ in session.isOnEveryNode(keyspace: keyspace) }
    }

    private func wait(
        _ count: Int, _ milliseconds: Int? = nil, isIdempotent: Bool = true,
        _ call: (Int, CQLCallOptions, @escaping @Sendable (CQLCall.Outcome) -> Void) -> CQLCall
    ) -> [CQLCall.Outcome] {
        let monitor = Monitor()
        let outcomes = Mutex<(left: Int, list: [CQLCall.Outcome?])>(
            (count, [CQLCall.Outcome?](repeating: nil, count: count)))
        var options = CQLCallOptions()
        options.isIdempotent = isIdempotent
        options.timeoutMilliseconds = milliseconds
        let calls = (0..<count).map { index in
            call(index, options) { outcome in
                let left = outcomes.withLock { state in
                    state.list[index] = outcome
                    state.left -= 1
                    return state.left
                }
                if left == 0 { monitor.withLock { monitor.wake() } }
            }
        }
        session.submit(calls)
        while outcomes.withLock({ $0.left > 0 }) {
            _ = monitor.withLock { monitor.wait(milliseconds: 1000) { outcomes.withLock { $0.left == 0 } } }
        }
        return outcomes.withLock { state in
            state.list.map { $0 ?? .failure(CQLRequestError.closed) }
        }
    }

    func prepare(_ text: String) throws(StoreError) -> CQLPrepared {
        let outcome = ask([(.prepare(text, keyspace: nil), nil, nil)])[0]
        switch outcome {
        case .success(let answer):
            guard case .result(.prepared(let result)) = answer.response else {
                throw StoreError(.io, "Cassandra at \(place): PREPARE was answered by \(answer.response.opcode)")
            }
            let statement = CQLPrepared(text, result)
            return loop.runAndWait { [session] _ in session.rememberOnLoop(statement) }
        case .failure(let error): throw failure(error, "prepare \"\(text)\"")
        }
    }

    /// Changes tables: carries out the statements that `left` gives, in order, each when the nodes that may be asked
    /// next know of the one before. A statement of which nobody can tell whether it was carried out is not sent again:
    /// the nodes agree first, and `left` is asked again, five times at most for one. `progress` hears of each.
    func changeSchema(
        _ progress: (String) -> Void = { _ in }, _ left: () throws(StoreError) -> [String]
    ) throws(StoreError) {
        var failures = 0
        var statements = try left()
        while let statement = statements.first {
            progress(statement)
            if let open = try changeOnce(statement) {
                failures += 1
                guard failures <= 5 else { throw open }
                progress(
                    "-- nobody can tell whether that was carried out, so what is left is asked again: \(open.message)")
                try awaitOneSchema()
                statements = try left()
            } else {
                try awaitOneSchema()
                statements.removeFirst()
                failures = 0
            }
        }
    }

    /// Returns what leaves open whether the statement was carried out; throws where it was not. Nodes flush what they
    /// have to the disk and agree, which takes a busy cluster longer than a request may.
    func changeOnce(_ statement: String) throws(StoreError) -> StoreError? {
        let request = CQLRequest.query(statement, CQLParameters(consistency: .localOne))
        switch ask([(request, nil, nil)], milliseconds: 60_000, isIdempotent: false)[0] {
        case .success: return nil
        case .failure(let error):
            let failure = failure(error, "carry out \"\(statement)\"")
            guard error.mayHaveBeenDone else { throw failure }
            return failure
        }
    }

    /// Returns when the nodes that may be asked have the same schema.
    private func awaitOneSchema() throws(StoreError) {
        let pause = Monitor()
        for _ in 0..<600 {
            if hasOneSchema() { return }
            _ = pause.withLock { pause.wait(milliseconds: 100) { false } }
        }
        throw StoreError(
            .unreachable,
            "Cassandra at \(place): after a minute its nodes do not have the same schema; "
                + "`nodetool describecluster` says which; then try again",
            retryable: true)
    }

    /// Whether all nodes that requests go to have the same. They go round: as many again as there are nodes reach all.
    private func hasOneSchema() -> Bool {
        let count = loop.runAndWait { [session] _ in session.nodesOnLoop.filter(\.isUp).count }
        let question = CQLRequest.query(
            "SELECT schema_version FROM system.local WHERE key = 'local'", CQLParameters(consistency: .one))
        var versions: Set<String> = []
        for outcome in ask(
            [Request](repeating: (question, nil, nil), count: 2 * max(1, count)))
        {
            guard case .success(let answer) = outcome, case .result(.rows(let rows)) = answer.response,
                let value = try? rows.values().first?.first
            else { return false }
            versions.insert("\(value)")
        }
        return versions.count == 1
    }

    /// Carries out a statement that is not prepared; all its rows.
    func query(
        _ text: String, _ values: [(CQLValue, CQLType)] = [], _ consistency: CQLConsistency = .localOne
    ) throws(StoreError) -> [[CQLValue]] {
        var rows: [[CQLValue]] = []
        var state: [UInt8]?
        repeat {
            guard let bound = try? CQLBoundValues(values) else {
                throw StoreError(.io, "values that are none of their types for \"\(text)\"")
            }
            var parameters = CQLParameters(consistency: consistency, values: bound)
            parameters.pageSize = 5000
            parameters.pagingState = state
            switch ask([(.query(text, parameters), nil, nil)])[0] {
            case .failure(let error): throw failure(error, "carry out \"\(text)\"")
            case .success(let answer):
                guard case .result(.rows(let page)) = answer.response else { return rows }
                do {
                    rows += try page.values()
                } catch {
                    throw StoreError(.io, "Cassandra at \(place): unreadable rows of \"\(text)\": \(error)")
                }
                state = page.metadata.pagingState
            }
        } while state != nil
        return rows
    }
}
