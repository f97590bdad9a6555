import CQLFrames
import EventLoop
import Synchronization

/// A cluster, from any thread. Sits on one event loop.
///
/// ```swift
/// let loop = EventLoop(name: "cql")
/// var options = CQLSessionOptions(contactPoints: [CQLAddress(host: "127.0.0.1")])
/// let session = try await CassandraSession.open(options, on: loop)
/// let insert = try await session.prepare("INSERT INTO t.q (s, n) VALUES (?, ?)")
/// try await session.execute(insert, ["AAPL", 1])
/// for row in try await session.query("SELECT s, n FROM t.q").values() { print(row) }
/// ```
public final class CassandraSession: Sendable {
    public let loop: any Loop
    /// What the connections speak, as agreed when the session was opened.
    public let version: CQLVersion
    private let core: LoopConfined<CQLSessionCore>

    private init(_ core: LoopConfined<CQLSessionCore>, loop: any Loop, version: CQLVersion) {
        self.core = core
        self.loop = loop
        self.version = version
    }

    deinit { close() }

    /// Opens a session; `done` is called once, on the loop. It is closed with ``close()``, or when nobody has it any
    /// more.
    public static func open(
        _ options: CQLSessionOptions, on loop: any Loop, transport: any CQLTransport = CQLSockets(),
        report: @escaping @Sendable (CQLSessionEvent) -> Void = { _ in },
        done: @escaping @Sendable (Result<CassandraSession, CQLConnectionError>) -> Void
    ) {
        loop.execute {
            let core = LoopConfined(
                CQLSessionCore(
                    loop: loop, transport: transport, options: options, seed: RandomSeed.make(), report: report))
            core.value.open { result in
                done(result.map { CassandraSession(core, loop: loop, version: core.value.version) })
            }
        }
    }

    /// Opens a session. Throws where no node answers in time, or none lets it in.
    public static func open(
        _ options: CQLSessionOptions, on loop: any Loop, transport: any CQLTransport = CQLSockets(),
        report: @escaping @Sendable (CQLSessionEvent) -> Void = { _ in }
    ) async throws -> CassandraSession {
        try await withCheckedThrowingContinuation { continuation in
            open(options, on: loop, transport: transport, report: report) { continuation.resume(with: $0) }
        }
    }

    /// Hands requests to the loop, all at once: what is ready together leaves in one write of each socket.
    public func submit(_ calls: [CQLCall]) {
        loop.execute { [core] in for call in calls { core.value.submit(call) } }
    }

    /// As ``submit(_:)``, of one request, on the loop only: it leaves with what else is sent in this turn.
    public func submitOnLoop(_ call: CQLCall) { core.value.submit(call) }

    /// Whether every node of the cluster keeps every row of a keyspace, as far as is known now. On the loop only.
    public func isOnEveryNode(keyspace: String) -> Bool { core.value.isOnEveryNode(keyspace) }

    /// As ``nodes()``, at once. On the loop only.
    public var nodesOnLoop: [(node: CQLNode, isUp: Bool)] { core.value.nodes }

    /// As ``close()``, at once. On the loop only.
    public func closeOnLoop() { core.value.close() }

    /// Remembers a statement that was prepared by ``send(_:token:keyspace:prepared:shape:options:)`` or a call, so that
    /// nodes that have forgotten it are given it again. On the loop only.
    public func rememberOnLoop(_ statement: CQLPrepared) -> CQLPrepared { core.value.remember(statement) }

    /// Ends all connections. Requests that are open fail.
    public func close() { loop.execute { [core] in core.value.close() } }

    /// As ``close()``, and waits until it is done.
    public func closeAndWait() async {
        await withCheckedContinuation { continuation in
            loop.execute { [core] in
                core.value.close()
                continuation.resume()
            }
        }
    }

    /// What the session did so far.
    public func counters() async -> CQLSessionCounters {
        await withCheckedContinuation { continuation in
            loop.execute { [core] in continuation.resume(returning: core.value.counters) }
        }
    }

    /// The cluster as it is known, and whether each node has a connection.
    public func nodes() async -> [(node: CQLNode, isUp: Bool)] {
        await withCheckedContinuation { continuation in
            loop.execute { [core] in continuation.resume(returning: core.value.nodes) }
        }
    }

    /// Carries a request out. When the task is cancelled the request goes on, and nobody waits for it.
    public func send(
        _ request: CQLRequest, token: Int64? = nil, keyspace: String? = nil, prepared: CQLPrepared? = nil,
        shape: CQLPrepared.Shape? = nil, options: CQLCallOptions = CQLCallOptions()
    ) async throws -> CQLAnswer {
        try await withCheckedThrowingContinuation { continuation in
            let call = CQLCall(
                request, version, token: token, keyspace: keyspace, prepared: prepared, shape: shape,
                options: options
            ) { continuation.resume(with: $0) }
            submit([call])
        }
    }
}

// MARK: Statements

extension CassandraSession {
    /// What goes with a statement beside its values.
    public struct Options: Sendable {
        public var consistency = CQLConsistency.localOne
        public var serialConsistency: CQLConsistency?
        /// Rows in a page.
        public var pageSize: Int32 = 5000
        public var timestampMicroseconds: Int64?
        public var call = CQLCallOptions()

        public init() {}

        func parameters(_ values: CQLBoundValues) -> CQLParameters {
            var parameters = CQLParameters(consistency: consistency, values: values)
            parameters.pageSize = pageSize
            parameters.serialConsistency = serialConsistency
            parameters.timestampMicroseconds = timestampMicroseconds
            return parameters
        }
    }

    /// Rows of one page, and what came with them.
    public struct Page: Sendable {
        public let rows: CQLRows
        public let answer: CQLAnswer
        /// Where the next page begins; nil after the last.
        public var pagingState: [UInt8]? { rows.metadata.pagingState }
    }

    private static let noRows = CQLRowsMetadata(columnCount: 0, columns: [])

    private static func page(_ answer: CQLAnswer) throws -> Page {
        if case .result(.rows(let rows)) = answer.response { return Page(rows: rows, answer: answer) }
        guard let none = try? CQLRows(noRows, []) else {
            throw CQLRequestError(.answer, "no rows")
        }
        return Page(rows: none, answer: answer)
    }

    /// Carries out a statement that is not prepared; the first page of its rows.
    public func query(
        _ text: String, _ values: CQLBoundValues = CQLBoundValues(), options: Options = Options()
    ) async throws -> CQLRows {
        try Self.page(await send(.query(text, options.parameters(values)), options: options.call)).rows
    }

    /// Has the cluster keep a statement.
    public func prepare(_ text: String) async throws -> CQLPrepared {
        let answer = try await send(.prepare(text, keyspace: nil), options: CassandraSession.idempotent)
        guard case .result(.prepared(let result)) = answer.response else {
            throw CQLRequestError(.answer, "PREPARE was answered by \(answer.response.opcode)")
        }
        let statement = CQLPrepared(text, result)
        return await withCheckedContinuation { continuation in
            loop.execute { [core] in continuation.resume(returning: core.value.remember(statement)) }
        }
    }

    private static var idempotent: CQLCallOptions {
        var options = CQLCallOptions()
        options.isIdempotent = true
        return options
    }

    /// Carries out a prepared statement; the first page of its rows.
    @discardableResult
    public func execute(
        _ statement: CQLPrepared, _ values: [CQLValue] = [], options: Options = Options()
    ) async throws -> CQLRows {
        try await page(statement, values, options: options).rows
    }

    /// A page of a prepared statement's rows.
    public func page(
        _ statement: CQLPrepared, _ values: [CQLValue] = [], from pagingState: [UInt8]? = nil,
        options: Options = Options()
    ) async throws -> Page {
        let bound: CQLBoundValues
        do {
            bound = try CQLBoundValues(values, for: statement.parameters.columns)
        } catch {
            throw CQLRequestError(.value, error.description)
        }
        var parameters = options.parameters(bound)
        parameters.pagingState = pagingState
        let shape = statement.shape
        // v4 has no way to say that the rows became others, so there they are described each time.
        parameters.skipsMetadata = version >= .v5 && shape.columns?.isEmpty == false
        let request = CQLRequest.execute(
            CQLPreparedID(id: statement.id, resultMetadataID: shape.metadataID), parameters)
        return try Self.page(
            await send(
                request, token: statement.token(bound), keyspace: statement.keyspace, prepared: statement,
                shape: parameters.skipsMetadata ? shape : nil, options: options.call))
    }

    /// Calls `body` with each page of a prepared statement's rows, until it returns false.
    public func forEachPage(
        _ statement: CQLPrepared, _ values: [CQLValue] = [], options: Options = Options(),
        _ body: (CQLRows) async throws -> Bool
    ) async throws {
        var state: [UInt8]?
        repeat {
            let page = try await page(statement, values, from: state, options: options)
            guard try await body(page.rows) else { return }
            state = page.pagingState
        } while state != nil
    }

    /// Carries out several prepared statements as one. Routed by the first that has a token.
    @discardableResult
    public func batch(
        _ kind: CQLBatch.Kind, _ statements: [(CQLPrepared, [CQLValue])], options: Options = Options()
    ) async throws -> CQLAnswer {
        guard statements.count <= CQLBatch.entriesMax else {
            throw CQLRequestError(.value, "\(statements.count) statements in a batch")
        }
        var entries: [CQLBatch.Entry] = []
        var token: Int64?
        for (statement, values) in statements {
            do {
                let bound = try CQLBoundValues(values, for: statement.parameters.columns)
                if token == nil { token = statement.token(bound) }
                entries.append(CQLBatch.Entry(.prepared(statement.id), bound))
            } catch {
                throw CQLRequestError(.value, error.description)
            }
        }
        var batch = CQLBatch(kind, entries, consistency: options.consistency)
        batch.serialConsistency = options.serialConsistency
        batch.timestampMicroseconds = options.timestampMicroseconds
        return try await send(
            .batch(batch), token: token, keyspace: statements.first?.0.keyspace, options: options.call)
    }
}
