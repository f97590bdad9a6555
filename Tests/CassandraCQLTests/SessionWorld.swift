import CQLFrames
import EventLoop
import Simulation
import Testing

@testable import CassandraCQL

/// A session over a simulated cluster, everything by seed.
final class SessionWorld {
    let loop = SimulatedLoop()
    let cluster: SimulatedCluster
    var core: CQLSessionCore!
    private(set) var openResult: Result<Void, CQLConnectionError>?
    private(set) var events: [CQLSessionEvent] = []
    private(set) var outcomes: [Int: CQLCall.Outcome] = [:]
    private(set) var answeredTwice = 0
    private var submitted = 0
    var insert: CQLPrepared!
    var select: CQLPrepared!

    init(
        seed: UInt64, hosts: Int = 3, weather: SimulatedCluster.Weather = SimulatedCluster.Weather(),
        _ change: (inout CQLSessionOptions, SimulatedCluster) -> Void = { _, _ in }
    ) {
        cluster = SimulatedCluster(loop, seed: seed, hosts: hosts, weather: weather)
        var options = CQLSessionOptions(contactPoints: cluster.nodes.map(\.address))
        options.seed = seed
        options.backoff.initialMilliseconds = 50
        options.backoff.maxMilliseconds = 1000
        options.connection.heartbeatMilliseconds = 500
        options.connection.heartbeatTimeoutMilliseconds = 300
        options.connection.handshakeMilliseconds = 2000
        options.requestMilliseconds = 3000
        options.openMilliseconds = 20_000
        change(&options, cluster)
        core = CQLSessionCore(loop: loop, transport: cluster, options: options, seed: seed) { [weak self] in
            self?.events.append($0)
        }
    }

    /// Opens and prepares.
    func open() throws {
        core.open { [weak self] in self?.openResult = $0 }
        _ = loop.run(until: { openResult != nil })
        try #require(openResult).get()
        insert = try prepare(SimulatedCluster.insert)
        select = try prepare(SimulatedCluster.select)
    }

    private func prepare(_ text: String) throws -> CQLPrepared {
        for _ in 0..<20 {
            let number = submit(.prepare(text, keyspace: nil), isIdempotent: true)
            _ = loop.run(until: { outcomes[number] != nil })
            if case .success(let answer)? = outcomes[number], case .result(.prepared(let result)) = answer.response {
                return core.remember(CQLPrepared(text, result))
            }
            wait(300)
        }
        throw CQLConnectionError(.lost, "cannot prepare")
    }

    @discardableResult
    func submit(
        _ request: CQLRequest, isIdempotent: Bool, token: Int64? = nil, prepared: CQLPrepared? = nil,
        shape: CQLPrepared.Shape? = nil, speculative: Int? = nil, timeout: Int? = nil
    ) -> Int {
        submitted += 1
        let number = submitted
        var options = CQLCallOptions()
        options.isIdempotent = isIdempotent
        options.speculativeDelayMilliseconds = speculative
        options.timeoutMilliseconds = timeout
        let confined = LoopConfined(self)
        let call = CQLCall(
            request, core.version, token: token, keyspace: "s", prepared: prepared, shape: shape, options: options
        ) { outcome in
            if confined.value.outcomes.updateValue(outcome, forKey: number) != nil { confined.value.answeredTwice += 1 }
        }
        core.submit(call)
        return number
    }

    func write(_ key: String, _ value: Int64, isIdempotent: Bool = true, speculative: Int? = nil, timeout: Int? = nil)
        -> Int
    {
        let values = try! CQLBoundValues([.text(key), .bigint(value)], for: insert.parameters.columns)
        return submit(
            .execute(
                CQLPreparedID(id: insert.id, resultMetadataID: insert.shape.metadataID), CQLParameters(values: values)),
            isIdempotent: isIdempotent, token: insert.token(values), speculative: speculative, timeout: timeout)
    }

    func read(_ key: String) -> Int {
        let values = try! CQLBoundValues([.text(key)], for: select.parameters.columns)
        var parameters = CQLParameters(values: values)
        let shape = select.shape
        parameters.skipsMetadata = core.version >= .v5
        return submit(
            .execute(CQLPreparedID(id: select.id, resultMetadataID: shape.metadataID), parameters), isIdempotent: true,
            token: select.token(values), prepared: select, shape: parameters.skipsMetadata ? shape : nil)
    }

    func values(_ number: Int) -> [Int64]? {
        guard case .success(let answer)? = outcomes[number], case .result(.rows(let rows)) = answer.response else {
            return nil
        }
        return try? rows.values().map { $0.last?.integer ?? 0 }
    }

    /// Of the rows that came: the columns' names.
    func columns(_ number: Int) -> [String]? {
        guard case .success(let answer)? = outcomes[number], case .result(.rows(let rows)) = answer.response else {
            return nil
        }
        return rows.metadata.columns?.map(\.name)
    }

    /// What was told of the schema.
    var schemaChanges: [CQLSchemaChange] {
        events.compactMap { event in
            if case .schema(let change) = event { change } else { nil }
        }
    }

    /// How many nodes the session said that there are, each time.
    var nodeCounts: [Int] {
        events.compactMap { event in
            if case .topology(let nodes) = event { nodes.count } else { nil }
        }
    }

    func isDone(_ number: Int) -> Bool { outcomes[number] != nil }
    var openCount: Int { submitted - outcomes.count }

    /// Runs until all requests are answered.
    func finish() -> Bool { loop.run(until: { openCount == 0 }) }

    func wait(_ milliseconds: Int) {
        var isOver = false
        _ = loop.timer(afterMilliseconds: milliseconds) { isOver = true }
        _ = loop.run(until: { isOver })
    }

    func close() {
        core.close()
        wait(5000)
    }
}
