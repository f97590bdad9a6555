import CQLFrames
import EventLoop

/// The connections to one node, and when they are made again. Confined to the session's loop.
final class CQLNodePool {
    /// Numbers the session's nodes; never used again.
    let number: Int
    var node: CQLNode
    private(set) var connections: [CQLConnection] = []
    private(set) var connecting = 0
    private(set) var failures = 0
    private(set) var lastError: CQLConnectionError?
    private var timer: (any LoopTimer)?
    private var isClosed = false
    /// A connection was lost just now, and the first try to make it again is under way: worth waiting for.
    private(set) var isReturning = false
    private unowned let session: CQLSessionCore
    private var next = 0

    init(_ node: CQLNode, number: Int, session: CQLSessionCore) {
        self.node = node
        self.number = number
        self.session = session
    }

    var isUp: Bool { connections.contains { $0.isReady } }

    /// A connection with room; `isBusy` says that there are some, and all are full.
    func choose(_ isBusy: inout Bool) -> CQLConnection? {
        if connections.count == 1 {
            let only = connections[0]
            guard only.isReady else { return nil }
            if only.hasRoom { return only }
            isBusy = true
            return nil
        }
        var best: CQLConnection?
        for step in connections.indices {
            let connection = connections[(next + step) % connections.count]
            guard connection.isReady else { continue }
            guard connection.hasRoom else {
                isBusy = true
                continue
            }
            if best.map({ connection.openCalls < $0.openCalls }) ?? true { best = connection }
        }
        next = next &+ 1 & 0xffff
        return best
    }

    /// Makes what connections are missing.
    func fill() {
        guard !isClosed, timer == nil else { return }
        while connections.count + connecting < max(1, session.options.connectionsPerNode) { connect() }
    }

    /// News that the node is there: no waiting any longer.
    func hurry() {
        timer?.cancel()
        timer = nil
        failures = 0
        fill()
    }

    func close(_ reason: String) {
        isClosed = true
        timer?.cancel()
        timer = nil
        for connection in connections { connection.close(reason) }
    }

    private func connect() {
        connecting += 1
        session.connect(node.address) { [self] result in
            switch result {
            case .success(let connection):
                connecting -= 1
                guard !isClosed else { return connection.close("the node is used no more") }
                failures = 0
                isReturning = false
                lastError = nil
                connections.append(connection)
                session.poolChanged(self)
            case .failure(let error):
                connecting -= 1
                isReturning = false
                failed(error)
            }
        }
    }

    /// A connection of this pool ended.
    func ended(_ connection: CQLConnection, _ error: CQLConnectionError) {
        connections.removeAll { $0 === connection }
        isReturning = !isClosed && failures == 0
        failed(error)
    }

    private func failed(_ error: CQLConnectionError) {
        lastError = error
        guard !isClosed else { return }
        failures += 1
        session.poolChanged(self)
        guard timer == nil else { return }
        // What was lost is made again at once; what cannot be made is waited for.
        let wait = isReturning ? 0 : session.backoffMilliseconds(failures)
        timer = session.loop.timer(afterMilliseconds: wait) { [weak self] in
            guard let self else { return }
            timer = nil
            fill()
        }
    }
}
