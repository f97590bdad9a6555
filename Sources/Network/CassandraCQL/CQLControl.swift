import CQLFrames
import EventLoop

/// The connection over which a session hears of its cluster: reads nodes and keyspaces, and asks for news of them.
/// Goes on with another node when its own is lost. Confined to the session's loop.
final class CQLControl {
    private unowned let session: CQLSessionCore
    private var connection: CQLConnection?
    private(set) var address: CQLAddress?
    private var isClosed = false
    private var failures = 0
    private var timer: (any LoopTimer)?
    private var refreshTimer: (any LoopTimer)?
    private var places: [CQLAddress] = []

    init(_ session: CQLSessionCore) { self.session = session }

    var isConnected: Bool { connection != nil }

    /// Tries one place after the other, then waits and begins again.
    func connect() {
        guard !isClosed, connection == nil else { return }
        if places.isEmpty { places = session.places() }
        guard !places.isEmpty else { return }
        let place = places.removeFirst()
        session.connect(place, isControl: true) { [self] result in
            switch result {
            case .success(let connection):
                guard !isClosed else { return connection.close("the session is closed") }
                self.connection = connection
                address = place
                places = []
                begin(connection)
            case .failure(let error): failed(error, place)
            }
        }
    }

    private func failed(_ error: CQLConnectionError, _ place: CQLAddress) {
        guard !isClosed else { return }
        session.controlFailed(error, place)
        guard !isClosed, timer == nil else { return }
        guard places.isEmpty else { return connect() }
        failures += 1
        timer = session.loop.timer(afterMilliseconds: session.backoffMilliseconds(failures)) { [weak self] in
            self?.timer = nil
            self?.connect()
        }
    }

    func ended(_ ended: CQLConnection, _ error: CQLConnectionError) {
        guard connection === ended else { return }
        connection = nil
        failed(error, address ?? CQLAddress(host: "?"))
    }

    func close() {
        isClosed = true
        timer?.cancel()
        refreshTimer?.cancel()
        connection?.close("the session is closed")
    }

    private func begin(_ connection: CQLConnection) {
        ask(connection, .register(CQLEvent.allTypes)) { [self] result in
            guard case .success = result else { return lose(connection, result) }
            read(connection)
        }
    }

    /// Reads the cluster anew a little later, with what else happens until then.
    func refreshLater() {
        guard !isClosed, refreshTimer == nil else { return }
        refreshTimer = session.loop.timer(afterMilliseconds: session.options.refreshMilliseconds) { [weak self] in
            guard let self else { return }
            refreshTimer = nil
            if let connection { read(connection) }
        }
    }

    private func read(_ connection: CQLConnection) {
        guard let address else { return }
        rows(connection, CQLTopologyReader.localQuery) { [self] local in
            peers(connection) { [self] peers in
                rows(connection, CQLTopologyReader.keyspacesQuery) { [self] keyspaces in
                    do {
                        guard let (own, hasMurmur3) = try CQLTopologyReader.local(local, at: address) else {
                            return connection.close("the node does not describe itself")
                        }
                        let others = try CQLTopologyReader.peers(peers, port: address.port)
                        failures = 0
                        session.learned(
                            CQLTopology(
                                nodes: [own] + others.filter { $0.hostID != own.hostID },
                                keyspaces: try CQLTopologyReader.keyspaces(keyspaces), hasMurmur3: hasMurmur3))
                    } catch {
                        connection.close("the node's description cannot be read: \(error)")
                    }
                }
            }
        }
    }

    private func peers(_ connection: CQLConnection, _ done: @escaping (CQLRows) -> Void) {
        let query = CQLRequest.query(CQLTopologyReader.peersQuery, CQLParameters(consistency: .one))
        ask(connection, query) { [self] result in
            if case .success(let answer) = result, case .result(.rows(let rows)) = answer.response { return done(rows) }
            guard case .failure(let error) = result, error.server?.detail == .invalid else {
                return lose(connection, result)
            }
            rows(connection, CQLTopologyReader.oldPeersQuery, done)
        }
    }

    private func rows(_ connection: CQLConnection, _ query: String, _ done: @escaping (CQLRows) -> Void) {
        ask(connection, .query(query, CQLParameters(consistency: .one))) { [self] result in
            guard case .success(let answer) = result, case .result(.rows(let rows)) = answer.response else {
                return lose(connection, result)
            }
            done(rows)
        }
    }

    private func lose(_ connection: CQLConnection, _ outcome: CQLCall.Outcome) {
        guard self.connection === connection else { return }
        if case .failure(let error) = outcome {
            connection.close("the node does not describe its cluster: \(error)")
        } else {
            connection.close("the node does not describe its cluster")
        }
    }

    private func ask(
        _ connection: CQLConnection, _ request: CQLRequest, _ done: @escaping (CQLCall.Outcome) -> Void
    ) {
        let confined = LoopConfined(done)
        let call = CQLCall(request, connection.version) { confined.value($0) }
        call.deadlineMilliseconds = session.loop.nowMilliseconds &+ UInt64(session.options.requestMilliseconds)
        if connection.send(call) {
            session.watchDeadlines()
        } else {
            call.finish(.failure(CQLRequestError(.connectionLost, "the connection takes no requests")))
        }
    }

    /// Attempts past their time.
    func expire() { connection?.expire() }
    var openCalls: Int { connection?.openCalls ?? 0 }
}
