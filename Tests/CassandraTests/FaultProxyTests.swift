import CQLFrames
import EventLoop
import Simulation
import Synchronization
import TestSupport
import Testing

@testable import CassandraCQL

/// What a faulty server does to one of its answers.
private enum Fault: String, CaseIterable {
    case unknownOpcode, otherStream, nobodysStream, dropped, twice, truncatedBody, longerBody, noise, wrongVersion
    case hugeLength, requestOpcode, warnedGarbage, halfAndCut, unknownError, unprepared

    /// Whether nothing more can be believed of its connection: the others are answers of their own, or come too late.
    var endsConnection: Bool {
        switch self {
        case .unknownOpcode, .nobodysStream, .twice, .noise, .wrongVersion, .hugeLength, .requestOpcode, .halfAndCut:
            true
        default: false
        }
    }

    /// The bytes that are sent in place of a frame; nil: the connection ends behind them.
    func bytes(_ frame: [UInt8]) -> (bytes: [UInt8], ends: Bool) {
        var changed = frame
        switch self {
        case .unknownOpcode: changed[4] = 0x77
        case .otherStream: changed[3] ^= 1
        case .nobodysStream: changed[2] = 0x7f
        case .dropped: return ([], false)
        case .twice: return (frame + frame, false)
        case .truncatedBody:
            changed.removeLast()
            changed[8] -= 1
        case .longerBody:
            changed.append(9)
            changed[8] += 1
        case .noise: return ([UInt8](repeating: 0xa5, count: 300), false)
        case .wrongVersion: changed[0] = 0x83
        case .hugeLength: changed[5] = 0x7f
        case .requestOpcode: changed[4] = CQLOpcode.query.rawValue
        case .warnedGarbage: changed[1] |= CQLFrameFlags.warning.rawValue
        case .halfAndCut: return (Array(frame[..<(frame.count / 2)]), true)
        case .unknownError: return (ProxiedFrames.error(0x6666, "x", to: frame), false)
        case .unprepared:
            // The statement's id behind it.
            changed = ProxiedFrames.error(0x2500, "x", to: frame) + [0, 2, 7, 7]
            changed[8] += 4
        }
        return (changed, false)
    }
}

/// Passes frames of protocol v4 between a driver and a node, and breaks one of the node's answers of each connection.
private final class FaultProxy: Sendable {
    /// On the proxy's loop, but for the counter.
    fileprivate final class State: Sendable {
        /// What is done to the so many-th answer of each connection; nil: nothing.
        nonisolated(unsafe) var fault: Fault?
        nonisolated(unsafe) var after = 0
        let made = Atomic<Int>(0)
    }

    private let proxy: ConnectionProxy
    private let state = State()
    var port: Int { proxy.port }

    init(to port: Int) throws {
        proxy = try ConnectionProxy(to: port) { [state] in FaultyPair($0, $1, state) }
    }

    /// How many answers were broken so far.
    var made: Int { state.made.load(ordering: .relaxed) }

    func set(_ fault: Fault?, after: Int) {
        proxy.execute { [state] in
            state.fault = fault
            state.after = after
        }
    }

    func stop() { proxy.stop() }
}

private final class FaultyPair: ProxiedConnection {
    private let state: FaultProxy.State
    private let frames = ProxiedFrames()
    private var answers = 0

    init(_ client: Socket, _ server: Socket, _ state: FaultProxy.State) {
        self.state = state
        super.init(client, server)
    }

    override func received(_ bytes: UnsafeRawBufferPointer, isFromServer: Bool) {
        guard isFromServer else { return server.write(bytes) }
        frames.read(bytes) { opcode, frame in
            answers += 1
            // The handshake and the driver's questions about the cluster are let through.
            guard let fault = state.fault, answers == state.after, opcode == .result else { return client.write(frame) }
            state.made.add(1, ordering: .relaxed)
            let broken = fault.bytes(frame)
            client.write(broken.bytes)
            if broken.ends { close() }
        }
    }
}

@Suite(.enabled(if: CassandraNode.isPresent, "../shared is absent"), .serialized, .timeLimit(.minutes(3)))
struct FaultProxyTests {
    @Test(arguments: Fault.allCases)
    fileprivate func `A broken answer costs a connection, and no row`(_ fault: Fault) async throws {
        let node = try await SharedCassandra.shared.node()
        let proxy = try FaultProxy(to: node.port)
        let table = "faults.\(fault.rawValue.lowercased())"
        try await RealSession.makeTable(node.port, table)
        let real = try await RealSession.open(node.port, transport: ProxyTransport(port: proxy.port)) {
            $0.connection.version = .v4
            $0.connection.heartbeatMilliseconds = 400
            $0.connection.heartbeatTimeoutMilliseconds = 400
        }
        let session = real.session
        let insert = try await session.prepare("INSERT INTO \(table) (k) VALUES (?)")
        proxy.set(fault, after: 60)
        var options = CassandraSession.Options()
        options.call.isIdempotent = true
        options.call.timeoutMilliseconds = 2000
        let callOptions = options
        var acknowledged: Set<Int64> = []
        var failures: [CQLRequestError] = []
        for start in stride(from: 0, to: 240, by: 20) {
            let outcomes = await withTaskGroup(of: (Int, CQLRequestError?).self) { group in
                for n in start..<(start + 20) {
                    group.addTask {
                        do {
                            try await session.execute(insert, [.int(Int32(n))], options: callOptions)
                            return (n, nil)
                        } catch {
                            return (n, error as? CQLRequestError ?? CQLRequestError.closed)
                        }
                    }
                }
                return await group.reduce(into: [(Int, CQLRequestError?)]()) { $0.append($1) }
            }
            for (n, error) in outcomes {
                if let error { failures.append(error) } else { acknowledged.insert(Int64(n)) }
            }
        }
        #expect(proxy.made > 0, "the fault was made")
        proxy.set(nil, after: 0)
        // One connection at a time is lost; the others' requests are tried again.
        let known: Set<CQLRequestError.Code> = [.timeout, .noNode, .connectionLost, .server, .overloaded]
        for error in failures { #expect(known.contains(error.code), "\(error)") }
        #expect(acknowledged.count >= 150, "\(acknowledged.count) of 240: \(failures.prefix(3))")
        var rows: Set<Int64> = []
        try await until {
            // Until the connection is back.
            guard let found = try? await session.query("SELECT k FROM \(table)") else { return false }
            rows = Set(try found.values().compactMap { $0[0].integer })
            return true
        }
        #expect(acknowledged.isSubset(of: rows), "\(acknowledged.subtracting(rows).sorted()) were acknowledged")
        // That of requests and the one that hears of the cluster are there again, and what is asked now is answered.
        var counters = await session.counters()
        await until {
            counters = await session.counters()
            return counters.connections >= counters.connectionsLost + 2
        }
        #expect(!fault.endsConnection || counters.connectionsLost > 0, "\(counters)")
        #expect(counters.connections >= counters.connectionsLost + 2, "\(counters)")
        for key in 240..<250 { try await session.execute(insert, [.int(Int32(key))], options: callOptions) }
        await real.close()
        proxy.stop()
    }
}
